//! People log in with their password on this machine, which the session helper has PAM check.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use orrery_core::UserName;
use orrery_core::access::NameLookup;
use orrery_core::authenticator::{
    AddUserError, Authenticator, AuthenticatorError, Credentials, Identity,
};
use orrery_core::escape::for_log;
use orrery_session::client::Helper;
use orrery_session::encoding::{self, Encoding};
use orrery_session::protocol::{Answer, Authenticate, Request, Secret};
use tokio::sync::Semaphore;

use crate::config::{LocalAuthenticator, PAMAuthenticator};
use crate::local::{self, LocalUsers};

/// How long PAM may take: less than the hub waits, so that the log says who was slow.
const PATIENCE: Duration = Duration::from_secs(55);
/// Characters of a name and an address that are logged.
const SHOWN: usize = 64;
/// What PAM said is logged up to so many characters.
const REASON: usize = 400;
/// Where PAM's services are described.
const SERVICES: [&str; 2] = ["/etc/pam.d", "/usr/lib/pam.d"];

/// Asks PAM.
pub struct Pam {
    helper: Helper,
    users: LocalUsers,
    service: String,
    encoding: String,
    check_account: bool,
    admin_groups: BTreeSet<String>,
    normalizes: bool,
    /// `executor_threads` of them: so many logins are checked at once.
    turns: Semaphore,
}

impl Pam {
    /// An authenticator with these options, or what is wrong with them.
    pub fn new(
        options: PAMAuthenticator,
        local: LocalAuthenticator,
        helper: Helper,
    ) -> Result<Self, AuthenticatorError> {
        let refuse = |why: String| Err(AuthenticatorError(format!("PAMAuthenticator.{why}")));
        if Encoding::named(&options.encoding).is_none() {
            return refuse(format!(
                "encoding {:?} is not supported: use one of {}",
                options.encoding,
                encoding::NAMES
            ));
        }
        let service = &options.service;
        if service.is_empty() || service.contains('/') || service.contains(char::is_control) {
            return refuse(format!("service {service:?} is no PAM service's name"));
        }
        let turns = match usize::try_from(options.executor_threads) {
            Ok(turns) if (1..=Semaphore::MAX_PERMITS).contains(&turns) => turns,
            _ => return refuse("executor_threads must be at least 1".to_owned()),
        };
        Ok(Self {
            helper,
            users: LocalUsers::new(local),
            service: options.service,
            encoding: options.encoding,
            check_account: options.check_account,
            admin_groups: options.admin_groups,
            normalizes: options.pam_normalize_username,
            turns: Semaphore::new(turns),
        })
    }

    /// What to tell the operator at start.
    pub fn warnings(&self) -> Vec<String> {
        let mut folders = SERVICES.iter().map(Path::new).filter(|path| path.is_dir());
        let has_folder = folders.clone().next().is_some();
        // Without such a folder, all services stand in one file.
        if !has_folder || folders.any(|folder| folder.join(&self.service).exists()) {
            return Vec::new();
        }
        vec![format!(
            "PAMAuthenticator.service is {:?}, which this machine does not describe in {}: PAM takes \
             the service 'other' instead, which lets nobody in as a rule",
            self.service, SERVICES[0]
        )]
    }

    async fn ask(&self, credentials: &Credentials) -> Result<Answer, AuthenticatorError> {
        let secret = |secret: &orrery_core::Secret| Secret::new(secret.expose());
        let otp = credentials.fields.iter().find(|(name, _)| name == "otp");
        let request = Request::Authenticate(Authenticate {
            service: self.service.clone(),
            user: credentials.username.clone(),
            password: secret(&credentials.password),
            otp: otp.map(|(_, otp)| secret(otp)),
            remote_host: Some(credentials.remote_address.clone())
                .filter(|address| !address.is_empty() && !address.contains(char::is_control)),
            encoding: self.encoding.clone(),
            check_account: self.check_account,
        });
        let _turn = self.turns.acquire().await.expect("it is never closed");
        self.helper
            .ask(&request, PATIENCE)
            .await
            .map_err(|error| AuthenticatorError(error.to_string()))
    }

    /// The name of somebody whose password is right; `None` if the hub would take them for another.
    async fn name(&self, typed: &str) -> Result<Option<String>, AuthenticatorError> {
        let lower = typed.to_lowercase();
        if !self.normalizes && lower != typed && local::are_different(typed, &lower).await? {
            tracing::warn!(
                user = %for_log(typed, SHOWN),
                "refused: the hub writes names in lower case, and that is another user's here \
                 (PAMAuthenticator.pam_normalize_username = True tells them apart)"
            );
            return Ok(None);
        }
        Ok(Some(typed.to_owned()))
    }
}

#[async_trait]
impl Authenticator for Pam {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthenticatorError> {
        match self.ask(credentials).await? {
            Answer::Authenticated { user } => {
                let typed = match user {
                    Some(user) if self.normalizes => user,
                    _ => credentials.username.clone(),
                };
                Ok(self.name(&typed).await?.map(Identity::named))
            }
            Answer::Denied { reason } => {
                tracing::warn!(
                    user = %for_log(&credentials.username, SHOWN),
                    address = %for_log(&credentials.remote_address, SHOWN),
                    reason = %for_log(&reason, REASON),
                    "PAM refused a login"
                );
                Ok(None)
            }
            Answer::Failed { message, .. } => Err(AuthenticatorError(for_log(&message, REASON))),
            _ => Err(AuthenticatorError(
                "the session helper's answer does not belong to a login".to_owned(),
            )),
        }
    }

    async fn check(&self) -> Result<(), AuthenticatorError> {
        let why = match self.helper.ask(&Request::Check, PATIENCE).await {
            Ok(Answer::Able) => return Ok(()),
            Ok(Answer::Failed { message, .. }) => message,
            Ok(_) => "The session helper's answer was not understood.".to_owned(),
            Err(error) => error.to_string(),
        };
        // Tokens and services work all the same.
        tracing::error!(
            reason = %for_log(&why, REASON),
            "nobody can log in by PAM: the session helper cannot do its work"
        );
        Ok(())
    }

    fn name_lookup(&self) -> Option<NameLookup> {
        self.normalizes.then_some(local::system_name)
    }

    fn has_allow_rules(&self) -> bool {
        self.users.has_allowed_groups()
    }

    async fn allows(&self, name: &UserName) -> Result<bool, AuthenticatorError> {
        self.users.allows(name).await
    }

    async fn is_admin(&self, name: &UserName) -> Result<Option<bool>, AuthenticatorError> {
        if self.admin_groups.is_empty() {
            return Ok(None);
        }
        let answer = self.users.is_member(name, &self.admin_groups).await;
        answer.map(Some).map_err(|AuthenticatorError(why)| {
            AuthenticatorError(format!(
                "PAMAuthenticator.admin_groups cannot be looked at: {why}"
            ))
        })
    }

    async fn add_user(&self, name: &UserName) -> Result<(), AddUserError> {
        self.users.add_user(name).await
    }
}

#[cfg(test)]
mod tests {
    use orrery_core::config::ConfigClass as _;

    use super::*;

    fn pam(change: impl FnOnce(&mut PAMAuthenticator)) -> Result<Pam, AuthenticatorError> {
        let mut options = PAMAuthenticator::with_defaults();
        change(&mut options);
        let helper = Helper::new(vec!["/nonexistent/orrery-session".to_owned()]);
        Pam::new(options, LocalAuthenticator::with_defaults(), helper)
    }

    #[test]
    fn options_that_cannot_be_followed_are_refused() {
        let refused = |change: fn(&mut PAMAuthenticator)| {
            let error = pam(change).err().expect("unsound options");
            error.to_string()
        };
        assert!(refused(|options| options.encoding = "utf-16".into()).contains("latin-1"));
        assert!(refused(|options| options.service = "../shadow".into()).contains("service"));
        assert!(refused(|options| options.executor_threads = 0).contains("executor_threads"));
        assert!(pam(|_| ()).is_ok());
    }

    #[test]
    fn a_service_that_nobody_described_is_warned_of() {
        let odd = pam(|options| options.service = "zz-orrery-none".into()).expect("sound");
        assert_eq!(odd.warnings().len(), 1);
    }

    #[tokio::test]
    async fn without_a_helper_logins_fail_for_a_reason_that_is_not_the_users() {
        let pam = pam(|_| ()).expect("sound");
        let error = pam.authenticate(&crate::typed("ada", "sesame")).await;
        let error = error.err().expect("there is no helper").to_string();
        assert!(error.contains("cannot be run"), "{error}");
        assert_eq!(pam.check().await, Ok(()));
    }
}
