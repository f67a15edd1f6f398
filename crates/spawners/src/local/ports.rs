//! Free ports for servers that start.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use orrery_core::phase::Failure;
use orrery_core::spawner::spawner_failure;

/// How often a port is asked for before giving up.
const TRIES: usize = 100;

/// The ports that this hub's servers were given. A server listens only a while after it was told its
/// port; until then the system would give the same port to the next.
#[derive(Clone, Default)]
pub(super) struct Ports(Arc<Mutex<HashSet<u16>>>);

/// A port that no other server is given until this is dropped.
pub(super) struct Reserved {
    number: u16,
    ports: Ports,
}

impl Ports {
    /// A port that is free on `ip` now. Somebody else may take it before the server does: then the
    /// server does not start, and says so in its log.
    pub(super) fn choose(&self, ip: &str) -> Result<Reserved, Failure> {
        let ip = match ip {
            "" | "*" => "0.0.0.0",
            ip => ip,
        };
        let fail = |error: std::io::Error| {
            spawner_failure(format!("There is no free port on {ip}: {error}."))
        };
        for _ in 0..TRIES {
            let listener = TcpListener::bind((ip, 0)).map_err(fail)?;
            let number = listener.local_addr().map_err(fail)?.port();
            if self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(number)
            {
                return Ok(Reserved {
                    number,
                    ports: self.clone(),
                });
            }
        }
        Err(spawner_failure(format!(
            "There is no free port on {ip}: all that were tried are given to other servers."
        )))
    }
}

impl Reserved {
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.ports
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.number);
    }
}

/// The address by which a server that listens on `ip` is reached from this machine.
pub(super) fn reachable(ip: &str) -> String {
    match ip {
        "" | "*" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        ip if ip.contains(':') => format!("[{ip}]"),
        ip => ip.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_servers_get_the_same_port_at_once() {
        let ports = Ports::default();
        let given: Vec<Reserved> = (0..500)
            .map(|_| ports.choose("127.0.0.1").expect("there are free ports"))
            .collect();
        let distinct: HashSet<u16> = given.iter().map(Reserved::number).collect();
        assert_eq!(distinct.len(), given.len());
        drop(given);
        assert!(ports.0.lock().expect("not poisoned").is_empty());
    }
}
