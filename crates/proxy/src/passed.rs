//! Listening sockets that somebody else opened: systemd, or the proxy whose place this one takes.

use std::{env, io, os::fd::OwnedFd, path::PathBuf};

use listenfd::ListenFd;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    listen::{Bound, Listener, Place},
};

/// What a socket is for. The names are those of systemd's `FileDescriptorName=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Proxy,
    Api,
    Metrics,
    Redirect,
}

impl Role {
    /// In the order in which sockets without a name of these are taken.
    const ALL: [Self; 4] = [Self::Proxy, Self::Api, Self::Metrics, Self::Redirect];

    fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Api => "api",
            Self::Metrics => "metrics",
            Self::Redirect => "redirect",
        }
    }

    /// For errors.
    fn purpose(self) -> &'static str {
        match self {
            Self::Proxy => "the proxy",
            Self::Api => "its API",
            Self::Metrics => "metrics",
            Self::Redirect => "redirects",
        }
    }
}

/// Sockets that listen already, until they are taken for what they are for.
#[derive(Debug, Default)]
pub(crate) struct PassedSockets(Vec<Passed>);

#[derive(Debug)]
struct Passed {
    role: Role,
    listener: Listener,
    /// The unix socket's, if it is ours to remove.
    file: Option<PathBuf>,
}

impl PassedSockets {
    /// Those of systemd's protocol: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`.
    pub(crate) fn from_systemd() -> Result<Self, Error> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut sockets = ListenFd::from_env();
        let roles = roles(&names, sockets.len()).map_err(Error::BadOption)?;
        let mut passed = Vec::new();
        for (index, role) in roles.into_iter().enumerate() {
            let listener = match sockets.take_tcp_listener(index) {
                Ok(listener) => listener.map(Listener::Tcp),
                Err(_) => sockets
                    .take_unix_listener(index)
                    .map_err(|source| Error::System {
                        action: "use a socket that systemd passed",
                        source,
                    })?
                    .map(Listener::Unix),
            };
            if let Some(listener) = listener {
                let file = None;
                passed.push(Passed {
                    role,
                    listener,
                    file,
                });
            }
        }
        Ok(Self(passed))
    }

    /// One that another proxy passed. `is_unix` says of which kind it is.
    pub(crate) fn add(
        &mut self,
        role: Role,
        descriptor: OwnedFd,
        is_unix: bool,
        file: Option<PathBuf>,
    ) {
        let listener = if is_unix {
            Listener::Unix(descriptor.into())
        } else {
            Listener::Tcp(descriptor.into())
        };
        self.0.push(Passed {
            role,
            listener,
            file,
        });
    }

    /// The sockets for this, or new ones at `place`.
    pub(crate) fn open(&mut self, role: Role, place: &Place) -> Result<Bound, Error> {
        match self.take(role)? {
            Some(bound) => Ok(bound),
            None => place.bind(role.purpose()),
        }
    }

    /// The sockets for this, if there are any.
    pub(crate) fn take(&mut self, role: Role) -> Result<Option<Bound>, Error> {
        let mut listeners = Vec::new();
        let mut file = None;
        for passed in self.0.extract_if(.., |passed| passed.role == role) {
            listeners.push(passed.listener);
            file = file.or(passed.file);
        }
        if listeners.is_empty() {
            return Ok(None);
        }
        let bound = Bound::passed(listeners, file).map_err(|source| Error::Listen {
            address: format!("the socket named {}", role.name()),
            purpose: role.purpose(),
            source,
        })?;
        Ok(Some(bound))
    }

    /// What is left belongs to nothing that the options ask for.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.0.first() {
            None => Ok(()),
            Some(passed) => Err(Error::BadOption(format!(
                "a socket named {} was passed, but the options ask for none; give \
                 --redirect-port, or take it from the socket unit",
                passed.role.name()
            ))),
        }
    }
}

/// What each of `count` sockets is for. Names that are none of ours (systemd takes the unit's when
/// `FileDescriptorName=` is missing) are taken in order for what no socket is named for.
fn roles(names: &str, count: usize) -> Result<Vec<Role>, String> {
    let names: Vec<&str> = names.split(':').collect();
    let named = |index: usize| {
        let name = names.get(index)?;
        Role::ALL.into_iter().find(|role| role.name() == *name)
    };
    let mut free = Role::ALL
        .into_iter()
        .filter(|role| (0..count).all(|index| named(index) != Some(*role)));
    (0..count)
        .map(|index| {
            named(index).or_else(|| free.next()).ok_or_else(|| {
                format!(
                    "{count} sockets were passed, more than there is use for; name them proxy, \
                     api, metrics or redirect (FileDescriptorName=)"
                )
            })
        })
        .collect()
}

/// Raises the soft limit of open files to the hard one. Returns the limit, `None` for none.
pub(crate) fn raise_file_limit() -> io::Result<Option<u64>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(getrlimit(Resource::Nofile).current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_roles_by_name_and_by_order() {
        let of = |names, count| roles(names, count).unwrap();
        assert_eq!(of("", 2), [Role::Proxy, Role::Api]);
        assert_eq!(of("api:proxy", 2), [Role::Api, Role::Proxy]);
        assert_eq!(
            of("proxy:proxy:x.socket", 3),
            [Role::Proxy, Role::Proxy, Role::Api]
        );
        assert_eq!(
            of("x:proxy:metrics", 3),
            [Role::Api, Role::Proxy, Role::Metrics]
        );
        assert_eq!(of("", 0), []);
        assert!(roles("", 5).is_err());
    }
}
