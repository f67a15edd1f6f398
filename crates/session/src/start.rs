//! A server's start: what is checked before anything is made of it.

use std::path::Path;

use nix::unistd::{Gid, User};
use orrery_session::protocol::{Answer, Fault, Start};

use crate::keeper;
use crate::policy::{self, Policy};

/// A start that was found to be sound.
pub(crate) struct Plan {
    pub(crate) account: User,
    /// All groups of the account.
    pub(crate) groups: Vec<Gid>,
    pub(crate) request: Start,
}

/// Starts a server. `None` when the keeper has answered itself.
pub(crate) fn start(policy: &Policy, request: Start) -> Option<Answer> {
    match plan(policy, request) {
        Ok(plan) => keeper::launch(plan),
        Err(answer) => Some(answer),
    }
}

fn plan(policy: &Policy, request: Start) -> Result<Plan, Answer> {
    check(&request).map_err(|(fault, message)| Answer::failed(fault, message))?;
    let account = policy.account(&request.user)?;
    let groups = policy::groups_of(&account).map_err(|error| {
        Answer::failed(
            Fault::System,
            format!(
                "The groups of {} cannot be looked up: {error}.",
                account.name
            ),
        )
    })?;
    Ok(Plan {
        account,
        groups,
        request,
    })
}

/// Refuses what cannot be done for anybody.
fn check(request: &Start) -> Result<(), (Fault, String)> {
    if request.command.is_empty() || request.command[0].is_empty() {
        let message = "There is no command to start servers with.";
        return Err((Fault::Command, message.to_owned()));
    }
    if request.command.iter().any(|word| word.contains('\0')) {
        let message = "The server's command cannot be run: an argument contains a zero byte.";
        return Err((Fault::Command, message.to_owned()));
    }
    for (name, value) in &request.environment {
        if name.is_empty() || name.contains(['=', '\0']) || value.expose().contains('\0') {
            let message = format!(
                "The server's environment cannot hold {name:?}: a name may hold neither '=' nor a \
                 zero byte, a value no zero byte."
            );
            return Err((Fault::Command, message));
        }
    }
    if let Some(folder) = &request.folder
        && !is_path(folder)
    {
        let message = format!("The folder {folder:?} is no absolute path.");
        return Err((Fault::Command, message));
    }
    if request.umask.is_some_and(|umask| umask > 0o777) {
        let message = "The umask is larger than 0o777.";
        return Err((Fault::Request, message.to_owned()));
    }
    if let Some(file) = request
        .files
        .iter()
        .find(|file| !is_path(&file.path) || file.mode > 0o777)
    {
        let message = format!("The file {:?} cannot be written.", file.path);
        return Err((Fault::Request, message));
    }
    if let Some(session) = &request.session
        && !is_service(&session.service)
    {
        let message = format!("{:?} is no name of a PAM service.", session.service);
        return Err((Fault::Request, message));
    }
    Ok(())
}

fn is_path(path: &str) -> bool {
    Path::new(path).is_absolute() && !path.contains('\0')
}

/// Whether a PAM service may have this name, which is that of a file.
pub(crate) fn is_service(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
