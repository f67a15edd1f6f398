//! Signals to servers, and finding them.

use std::collections::HashMap;
use std::io;

use nix::unistd::User;
use orrery_session::proc::{self, Stat};
use orrery_session::protocol::{Answer, Fault, Find, Signal};

use crate::policy::Policy;
use crate::process::Handle;

/// The largest number that a signal has on Linux.
const LAST_SIGNAL: i32 = 64;

/// Signals a server's process, and all of its session if asked. Another process that has its id by now
/// is never touched.
pub(crate) fn signal(policy: &Policy, request: &Signal) -> Answer {
    // 1 and below would signal whole groups, or the machine's first process.
    if request.pid <= 1 || !(0..=LAST_SIGNAL).contains(&request.signal) {
        return Answer::failed(
            Fault::Request,
            format!(
                "Signal {} to process {} makes no sense.",
                request.signal, request.pid
            ),
        );
    }
    match try_signal(policy, request) {
        Ok(answer) => answer,
        Err(error) => Answer::failed(
            Fault::System,
            format!("Process {} cannot be signalled: {error}.", request.pid),
        ),
    }
}

fn try_signal(policy: &Policy, request: &Signal) -> io::Result<Answer> {
    let pid = request.pid;
    // First the handle, then the questions: what they tell is of the process that the handle holds,
    // or of a later one, and then the handle signals nobody.
    let Some(handle) = Handle::open(pid)? else {
        return Ok(Answer::Gone);
    };
    let (Some(stat), Some(owner)) = (Stat::read(pid), proc::owner(pid)) else {
        return Ok(Answer::Gone);
    };
    let is_another = |start_time| stat.start_time != start_time;
    if stat.has_ended() || request.start_time.is_some_and(is_another) {
        return Ok(Answer::Gone);
    }
    if let Some(name) = &request.user
        // An account that was removed while its server runs must not keep the server alive.
        && let Some(account) = User::from_name(name)?
        && account.uid != owner
    {
        return Ok(Answer::Gone);
    }
    if !policy.covers(owner) {
        return Ok(Answer::failed(
            Fault::Refused,
            format!("The session helper does nothing to process {pid}, which is user {owner}'s."),
        ));
    }
    // Only now: nobody else's process is looked into.
    if request.start_time.is_none() && !was_given(request) {
        return Ok(Answer::Gone);
    }
    let leads = stat.session == pid || stat.group == pid;
    if request.group && leads && request.signal != 0 {
        signal_others(pid, request.signal)?;
    }
    Ok(if handle.signal(request.signal)? {
        Answer::Signalled
    } else {
        Answer::Gone
    })
}

/// Whether the process was given what its server was given. What every process has is no sign.
fn was_given(request: &Signal) -> bool {
    let entries: Vec<&str> = request.given.iter().map(String::as_str).collect();
    !entries.is_empty() && proc::was_given(request.pid, &entries)
}

/// Signals what else is in the session or group that `leader` leads. While the leader lives they are
/// its descendants: nobody joins a session from outside.
fn signal_others(leader: i32, signal: i32) -> io::Result<()> {
    let belongs = |stat: &Stat| stat.group == leader;
    for pid in proc::all()? {
        if pid == leader || !Stat::read(pid).is_some_and(|stat| belongs(&stat)) {
            continue;
        }
        // Asked again with the handle in hand, for the same reason as above.
        if let Some(handle) = Handle::open(pid)?
            && Stat::read(pid).is_some_and(|stat| belongs(&stat))
        {
            handle.signal(signal)?;
        }
    }
    Ok(())
}

/// Finds the process that was started with a variable. Its children mostly inherit that: of several,
/// the first that none of the others started.
pub(crate) fn find(policy: &Policy, request: &Find) -> Answer {
    match try_find(policy, request) {
        Ok(answer) => answer,
        Err(error) => Answer::failed(
            Fault::System,
            format!("The processes cannot be looked through: {error}."),
        ),
    }
}

fn try_find(policy: &Policy, request: &Find) -> io::Result<Answer> {
    let wanted = format!("{}={}", request.variable, request.value);
    let account = User::from_name(&request.user)?;
    let is_owners = |uid| match &account {
        Some(account) => account.uid == uid,
        // It was removed while its server runs.
        None => matches!(User::from_uid(uid), Ok(None)),
    };
    let mut found = HashMap::new();
    for pid in proc::all()? {
        // Whose it is comes first: anybody can make the look into their own process last for ever. A
        // process that ends meanwhile is none that is looked for.
        if pid > 1
            && let Some(owner) = proc::owner(pid)
            && is_owners(owner)
            && policy.covers(owner)
            && proc::was_given(pid, &[&wanted])
            && let Some(stat) = Stat::read(pid)
            && !stat.has_ended()
        {
            found.insert(pid, (stat, owner));
        }
    }
    let first = found
        .iter()
        .filter(|(_, (stat, _))| !found.contains_key(&stat.parent))
        .min_by_key(|(pid, (stat, _))| (stat.start_time, **pid));
    let Some((pid, (stat, owner))) = first else {
        return Ok(Answer::Gone);
    };
    Ok(Answer::Found {
        pid: *pid,
        start_time: stat.start_time,
        user: User::from_uid(*owner)?.map(|account| account.name),
    })
}
