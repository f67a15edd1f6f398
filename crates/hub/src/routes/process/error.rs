//! Why there is no proxy.

use std::path::PathBuf;
use std::process::ExitStatus;

use super::UP;

/// Why there is no proxy. For the operator.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The program is missing or may not be run.
    #[error("the proxy cannot be started: {program}: {why}; see ConfigurableHTTPProxy.command")]
    Program {
        /// The program.
        program: String,
        /// What the system says.
        why: String,
    },
    /// An address that the proxy needs is taken.
    #[error(
        "the proxy cannot listen on {address}: another program does already. Stop it, or choose another port \
         with {option}"
    )]
    Taken {
        /// The address.
        address: String,
        /// The option that chooses it.
        option: &'static str,
    },
    /// Something answers on the API's address, but not to our token.
    #[error(
        "another proxy, with another token, answers on {0}. Stop it, or set ConfigurableHTTPProxy.auth_token to its \
         token, or choose another ConfigurableHTTPProxy.api_url"
    )]
    Stranger(String),
    /// It ended at once.
    #[error("the proxy ended right after its start ({0}); its own message is above")]
    Ended(ExitStatus),
    /// It runs but its API does not answer.
    #[error("the proxy was started, but its API at {0} did not answer within {seconds} seconds", seconds = UP.as_secs())]
    Silent(String),
    /// The pid file cannot be written.
    #[error("the proxy's pid file {0} cannot be written: {1}; see ConfigurableHTTPProxy.pid_file")]
    PidFile(PathBuf, std::io::Error),
    /// A hub that runs looks after the proxy of this pid file.
    #[error(
        "another hub that is running has the proxy of {0}. Stop it, or start this one in another folder or with \
         another ConfigurableHTTPProxy.pid_file"
    )]
    Held(PathBuf),
}
