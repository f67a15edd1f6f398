//! Databases of older versions of `JupyterHub`: refused, described, upgraded by command or at start.

use std::path::PathBuf;

use super::life::{Hub, Site, eventually};
use super::{Folder, SIMPLE, python};

const OLD: [(&str, &str); 2] = [
    (
        "1.0",
        include_str!("../../../store/tests/fixtures/jupyterhub-1.0-sqlite.sql"),
    ),
    (
        "2.3",
        include_str!("../../../store/tests/fixtures/jupyterhub-2.3-sqlite.sql"),
    ),
];

/// A folder with a configuration and the database of an older version.
fn folder_of(version: &str) -> Folder {
    let (_, dump) = OLD.iter().find(|(name, _)| *name == version).unwrap();
    let folder = Folder::new().with("jupyterhub_config.py", SIMPLE);
    load(&folder, dump);
    folder
}

fn load(folder: &Folder, dump: &str) {
    std::fs::write(folder.path("old.sql"), dump).unwrap();
    let script = "import sqlite3; sqlite3.connect('jupyterhub.sqlite').executescript(open('old.sql').read())";
    ask(folder, script);
}

fn ask(folder: &Folder, script: &str) -> String {
    let mut command = folder.command(PathBuf::from(python()), &["-c", script]);
    folder.finish(&mut command).ok()
}

fn revision(folder: &Folder) -> String {
    let script = "import sqlite3; print(sqlite3.connect('jupyterhub.sqlite')\
                  .execute('select version_num from alembic_version').fetchone()[0])";
    ask(folder, script).trim_end().to_owned()
}

fn files(folder: &Folder) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("jupyterhub.sqlite") && !name.ends_with("-lock"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_dry_run_tells_and_the_run_does() {
    let folder = folder_of("1.0");
    let before = std::fs::read(folder.path("jupyterhub.sqlite")).unwrap();
    let told = folder.run(&["upgrade-db", "--dry-run"]).ok();
    for expected in [
        "has revision 4dc2d5a8c53c; it would get f460b0348206:\n",
        "  833da8570507 services and servers refer",
        "  f460b0348206 servers have a name to show",
        "6 tokens would end",
        "A copy of the file would be made first",
        "Nothing was changed.",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert_eq!(files(&folder), ["jupyterhub.sqlite"]);
    assert!(std::fs::read(folder.path("jupyterhub.sqlite")).unwrap() == before);

    let done = folder.run(&["upgrade-db"]).ok();
    assert!(done.starts_with("Copied to "), "{done}");
    assert!(done.contains("\nf460b0348206 servers have"), "{done}");
    assert!(done.contains("6 tokens ended"), "{done}");
    assert!(done.ends_with("The database is up to date.\n"), "{done}");
    assert_eq!(revision(&folder), "f460b0348206");
    assert_eq!(files(&folder).len(), 2, "the database and its copy");
    for arguments in [&["upgrade-db"][..], &["upgrade-db", "--dry-run"]] {
        assert_eq!(folder.run(arguments).ok(), "The database is up to date.\n");
    }
    assert_eq!(files(&folder).len(), 2, "nothing to do is nothing to copy");
    // The users of then are users of now.
    folder.run(&["token", "bob"]).ok();
}

#[test]
fn without_the_command_an_older_one_is_refused() {
    let site = Site::new();
    load(&site.folder, OLD[1].1);
    let refused = site.refused(&[]);
    assert!(
        refused.contains("run `orrery upgrade-db`")
            && refused.contains("has schema version 833da8570507"),
        "{refused}"
    );
    let folder = &site.folder;
    std::fs::write(folder.path("jupyterhub_config.py"), SIMPLE).unwrap();
    // Making a token is no start.
    let run = folder.run(&["token", "bob", "--JupyterHub.upgrade_db=True"]);
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert_eq!(revision(folder), "833da8570507");
    assert!(files(folder).iter().all(|name| !name.contains(".sqlite.")));
}

#[test]
fn a_newer_one_is_refused() {
    let folder = Folder::new().with("jupyterhub_config.py", SIMPLE);
    for _ in 0..2 {
        assert_eq!(
            folder.run(&["upgrade-db"]).ok(),
            "The database is up to date.\n"
        );
    }
    let script = "import sqlite3; c = sqlite3.connect('jupyterhub.sqlite'); \
                  c.execute(\"update alembic_version set version_num = 'ffffffffffff'\"); c.commit()";
    ask(&folder, script);
    for arguments in [
        &["upgrade-db"][..],
        &["upgrade-db", "--dry-run"],
        // On a port that is free: the address is taken before the database is opened.
        &["--upgrade-db", "--JupyterHub.hub_port=0"],
    ] {
        let run = folder.run(arguments);
        assert_eq!(run.code, Some(1), "{}", run.stdout);
        assert!(
            run.stderr.contains("ffffffffffff") && run.stderr.contains("a newer JupyterHub"),
            "{}",
            run.stderr
        );
    }
    assert_eq!(revision(&folder), "ffffffffffff");
}

#[test]
fn the_disk_had_no_room_for_the_copy() {
    let folder = folder_of("2.3");
    let before = std::fs::read(folder.path("jupyterhub.sqlite")).unwrap();
    assert!(before.len() > 50 * 1024);
    // No file may become longer than 20 kB, which the copy's would.
    let script = format!(
        "trap '' XFSZ; ulimit -f 20; exec {} upgrade-db",
        env!("CARGO_BIN_EXE_orrery")
    );
    let run = folder.finish(&mut folder.command("bash", &["-c", &script]));
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert!(
        run.stderr.contains("the backup copy") && run.stderr.contains("nothing was changed"),
        "{}",
        run.stderr
    );
    assert!(std::fs::read(folder.path("jupyterhub.sqlite")).unwrap() == before);
    assert_eq!(files(&folder), ["jupyterhub.sqlite"]);
}

#[test]
fn a_hub_upgrades_when_it_starts_if_that_is_wished() {
    for (version, dump) in OLD {
        let site = Site::new();
        load(&site.folder, dump);
        let _hub = Hub(site.command(&["--upgrade-db"]).spawn().unwrap());
        eventually("the hub is up", || site.is_up());
        assert_eq!(revision(&site.folder), "f460b0348206", "{version}");
        assert_eq!(site.ask("GET", "/hub/api/users/bob"), Some(200));
        let copies = files(&site.folder)
            .into_iter()
            .filter(|name| name.starts_with("jupyterhub.sqlite.2"))
            .count();
        assert_eq!(copies, 1, "{version}");
        // Tokens of roles go on working, and are allowed what their roles were.
        let bobs = site.ask_as("bob-0123456789abcdef", "GET", "/hub/api/user");
        assert_eq!(
            bobs,
            Some(if version == "1.0" { 403 } else { 200 }),
            "{version}"
        );
    }
}
