//! Servers that are held to their limits by whatever this machine offers.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ChildStdout;

use orrery_session::protocol::{Abilities, Answer, Limits, Request, Secret, Start, heard};
use orrery_session::testing::{Account, is_root};

use crate::asking::{By, ask, begin, eventually, helper, read};

/// More than the limit of the tests, in bytes.
const TOO_MUCH: u32 = 150_000_000;
const LIMIT: u64 = 64 << 20;

fn abilities() -> Abilities {
    match ask(&Request::Abilities) {
        Answer::Abilities(abilities) => abilities,
        answer => panic!("{answer:?}"),
    }
}

struct Server {
    output: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
    limits: Limits,
}

impl Server {
    fn start(account: &Account, script: &str, limits: &Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let limits = Limits {
            name: format!("orrery-test-{}", Account::free_name()),
            ..limits.clone()
        };
        let start = Start {
            user: account.name.clone(),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            environment: BTreeMap::from([("PATH".to_owned(), Secret::new("/usr/bin:/bin"))]),
            folder: Some("/".to_owned()),
            umask: None,
            session: None,
            limits: Some(limits.clone()),
            files: Vec::new(),
        };
        let request = Request::Start(Box::new(start));
        let (mut child, output) = begin(helper(By::Root), &request, log.into());
        let mut output = BufReader::new(output);
        let answer = read(&mut output);
        assert!(matches!(answer, Answer::Started { .. }), "{answer:?}");
        child.wait().unwrap();
        Self {
            output,
            folder,
            limits,
        }
    }

    fn ended(&mut self) -> (i32, bool) {
        match read(&mut self.output) {
            Answer::Ended {
                exit_code,
                out_of_memory,
            } => (exit_code, out_of_memory),
            answer => panic!("{answer:?}"),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The groups of the server that are left in any hierarchy.
    fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        look_for(Path::new("/sys/fs/cgroup"), &self.limits.name, &mut found);
        found
    }
}

fn look_for(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(name) {
            found.push(entry.path());
        }
        look_for(&entry.path(), name, found);
    }
}

fn memory(limit: u64) -> Limits {
    Limits {
        mem_limit: Some(limit),
        ..Limits::default()
    }
}

/// Keeps so many bytes in memory.
fn hog(bytes: u32) -> String {
    format!("head -c {bytes} /dev/zero | tail -c {bytes} >/dev/null")
}

#[test]
fn a_server_that_takes_too_much_memory_is_ended_and_nothing_of_its_group_is_left() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let able = abilities().memory;
    for (limit, expected) in [(LIMIT, true), (4 * u64::from(TOO_MUCH), false)] {
        let mut server = Server::start(&ada, &hog(TOO_MUCH), &memory(limit));
        let (code, out_of_memory) = server.ended();
        // A machine that cannot hold servers to limits lets them be.
        assert_eq!(out_of_memory, expected && able, "{}", server.log());
        assert_eq!(code, if out_of_memory { 137 } else { 0 });
        eventually("the groups to go", || {
            server.groups().is_empty().then_some(())
        });
    }
}

#[test]
fn a_server_that_was_killed_otherwise_was_not_killed_for_memory() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    for (script, expected) in [("kill -9 $$", 137), ("exit 3", 3)] {
        let mut server = Server::start(&ada, script, &memory(LIMIT));
        assert_eq!(server.ended(), (expected, false));
    }
    // Nor when it lived on after a process of its own was.
    let script = format!("({}); echo lives", hog(TOO_MUCH));
    let mut server = Server::start(&ada, &script, &memory(LIMIT));
    assert_eq!(server.ended(), (0, false));
    assert!(server.log().contains("lives"));
}

#[test]
fn the_kernel_knows_all_limits_of_a_server() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let abilities = abilities();
    let limits = Limits {
        cpu_limit: Some(0.5),
        cpu_guarantee: Some(0.25),
        mem_guarantee: Some(LIMIT / 2),
        ..memory(LIMIT)
    };
    let mut server = Server::start(
        &ada,
        "while [ ! -e /tmp/none ]; do sleep 0.02; done",
        &limits,
    );
    let groups = server.groups();
    let values: String = groups
        .iter()
        .flat_map(|group| fs::read_dir(group).unwrap().flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let value = fs::read_to_string(entry.path()).ok()?;
            Some(format!("{name}={}\n", value.trim()))
        })
        .collect();
    let has_any = |lines: &[&str]| {
        let is_there = |line: &&str| values.lines().any(|found| found == *line);
        assert!(
            lines.iter().any(is_there),
            "{lines:?}\n{groups:?}\n{values}"
        );
    };
    if abilities.memory {
        has_any(&["memory.max=67108864", "memory.limit_in_bytes=67108864"]);
        has_any(&["memory.low=33554432", "memory.soft_limit_in_bytes=33554432"]);
    }
    if abilities.processor {
        has_any(&["cpu.max=50000 100000", "cpu.cfs_quota_us=50000"]);
        has_any(&["cpu.weight=25", "cpu.shares=256"]);
    }
    assert_eq!(groups.is_empty(), abilities == Abilities::default());
    for pid in ada.processes() {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
    }
    assert_eq!(server.ended(), (137, false));
    eventually("the groups to go", || {
        server.groups().is_empty().then_some(())
    });
}

#[test]
fn a_hub_that_was_away_learns_from_the_log_how_a_server_ended() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let able = abilities().memory;
    for (script, expected) in [
        ("exit 3", (3, false)),
        (
            hog(TOO_MUCH).as_str(),
            if able { (137, true) } else { (0, false) },
        ),
    ] {
        let go = tempfile::tempdir().unwrap();
        let wait = format!("while [ -e {} ]; do sleep 0.02; done", go.path().display());
        let server = Server::start(&ada, &format!("{wait}; {script}"), &memory(LIMIT));
        let (folder, output) = (server.folder, server.output);
        drop(output);
        drop(go);
        let found = eventually("the last words", || {
            let log = fs::read_to_string(folder.path().join("log")).unwrap();
            let lines: Vec<String> = log.lines().map(str::to_owned).collect();
            heard(&lines)
        });
        assert_eq!(found, expected);
    }
}
