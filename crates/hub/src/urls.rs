//! The paths of the hub, its users and their servers.

mod hosts;

use std::sync::Arc;

use orrery_core::{ServerName, UserName, escape};

use crate::config::JupyterHub;

pub use hosts::{Hosts, SubdomainHook};

/// Paths under the site's `base_url`, each with slashes at both ends, and the hosts before them.
#[derive(Clone, Debug)]
pub struct Urls {
    /// `JupyterHub.base_url`: `/` or `/some/prefix/`.
    pub base: String,
    /// The hub's own prefix: `/hub/` under the base.
    pub hub: String,
    /// Hosts of users and services, if they have their own (`JupyterHub.subdomain_host`).
    hosts: Option<Arc<Hosts>>,
    /// Protocol and host of `JupyterHub.public_url`, if that is set.
    public_origin: Option<String>,
}

impl Urls {
    /// `base_url` with or without its slashes.
    pub fn new(base_url: &str) -> Self {
        let trimmed = base_url.trim_matches('/');
        let base = if trimmed.is_empty() {
            "/".to_owned()
        } else {
            format!("/{trimmed}/")
        };
        Self {
            hub: format!("{base}hub/"),
            base,
            hosts: None,
            public_origin: None,
        }
    }

    /// As the configuration wants it.
    pub fn from_config(options: &JupyterHub) -> Self {
        let hook = SubdomainHook::named(&options.subdomain_hook).unwrap_or(SubdomainHook::Idna);
        let public_origin = options.public_url.split_once("://").map(|(scheme, rest)| {
            format!("{scheme}://{}", rest.split('/').next().unwrap_or_default())
        });
        Self {
            hosts: Hosts::new(&options.subdomain_host, &options.public_url, hook).map(Arc::new),
            public_origin,
            ..Self::new(options.base_url.as_str())
        }
    }

    /// Hosts of users and services, if they have their own.
    pub fn hosts(&self) -> Option<&Hosts> {
        self.hosts.as_deref()
    }

    /// Protocol and host that people reach the hub by, when the configuration tells it.
    pub fn public_origin(&self) -> Option<&str> {
        self.public_origin.as_deref()
    }

    /// The hub's path `path` for browsers: on the hub's own host, if that is configured.
    pub fn public(&self, path: &str) -> String {
        format!(
            "{}{path}",
            self.public_origin.as_deref().unwrap_or_default()
        )
    }

    /// A page of the hub: `hub_path("home")` is `/hub/home`.
    pub fn hub_path(&self, page: &str) -> String {
        format!("{}{page}", self.hub)
    }

    /// `/user/<name>/`.
    pub fn user(&self, user: &UserName) -> String {
        format!("{}user/{}/", self.base, user.escaped())
    }

    /// `/user/<name>/` or `/user/<name>/<server>/`.
    pub fn server(&self, user: &UserName, server: &ServerName) -> String {
        if server.is_default() {
            self.user(user)
        } else {
            format!("{}{}/", self.user(user), server.escaped())
        }
    }

    /// The address of a user's default server for browsers: with its host, if users have their own.
    pub fn user_url(&self, user: &UserName) -> String {
        self.at_user(user, &self.user(user))
    }

    /// The address of a server for browsers: with its host, if users have their own.
    pub fn server_url(&self, user: &UserName, server: &ServerName) -> String {
        self.at_user(user, &self.server(user, server))
    }

    /// A path on the host of `user`, if users have their own.
    pub fn at_user(&self, user: &UserName, path: &str) -> String {
        match &self.hosts {
            Some(hosts) => format!("{}{path}", hosts.user_origin(user.as_str())),
            None => path.to_owned(),
        }
    }

    /// A server's public address with its protocol; `None` where the configuration does not tell it.
    pub fn public_server_url(&self, user: &UserName, server: &ServerName) -> Option<String> {
        let url = self.server_url(user, server);
        if url.contains("://") {
            return Some(url);
        }
        Some(format!("{}{url}", self.public_origin.as_deref()?))
    }

    /// A server's route: its host, if users have their own, and its path.
    pub fn server_spec(&self, user: &UserName, server: &ServerName) -> String {
        let path = self.server(user, server);
        match &self.hosts {
            Some(hosts) => format!("{}{path}", hosts.user_domain(user.as_str())),
            None => path,
        }
    }

    /// `/services/<name>/`.
    pub fn service(&self, name: &str) -> String {
        format!("{}services/{}/", self.base, escape::path_segment(name))
    }

    /// The address of a service for browsers: with its host, if services have their own.
    pub fn service_url(&self, name: &str) -> String {
        let path = self.service(name);
        match &self.hosts {
            Some(hosts) => format!("{}{path}", hosts.service_origin(name)),
            None => path,
        }
    }

    /// A service's route: its host, if services have their own, and its path.
    pub fn service_spec(&self, name: &str) -> String {
        let path = self.service(name);
        match &self.hosts {
            Some(hosts) => format!("{}{path}", hosts.service_domain(name)),
            None => path,
        }
    }

    /// Where logins at a service come back to.
    pub fn service_callback(&self, name: &str) -> String {
        format!("{}oauth_callback", self.service_url(name))
    }

    /// Where the progress of a start is streamed.
    pub fn progress(&self, user: &UserName, server: &ServerName) -> String {
        let user = user.escaped();
        if server.is_default() {
            format!("{}api/users/{user}/server/progress", self.hub)
        } else {
            format!(
                "{}api/users/{user}/servers/{}/progress",
                self.hub,
                server.escaped()
            )
        }
    }

    /// The page that waits for a start.
    pub fn spawn_pending(&self, user: &UserName, server: &ServerName) -> String {
        self.with_server("spawn-pending", user, server)
    }

    /// The page that starts a server.
    pub fn spawn(&self, user: &UserName, server: &ServerName) -> String {
        self.with_server("spawn", user, server)
    }

    fn with_server(&self, page: &str, user: &UserName, server: &ServerName) -> String {
        let mut path = format!("{}{page}/{}", self.hub, user.escaped());
        if !server.is_default() {
            path.push('/');
            path.push_str(&server.escaped());
        }
        path
    }

    /// The login page, leading on to `next`.
    pub fn login(&self, next: &str) -> String {
        format!("{}login?next={}", self.hub, escape::query_value(next))
    }

    /// The OAuth client id of a user's server.
    pub fn oauth_client_id(user: &UserName, server: &ServerName) -> String {
        let user = escape::client_id_part(user.as_str());
        if server.is_default() {
            format!("jupyterhub-user-{user}")
        } else {
            format!(
                "jupyterhub-user-{user}-{}",
                escape::client_id_part(server.as_str())
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_under_the_base_url() {
        let ada = UserName::parse("ada@x.org").expect("a name");
        let lab = ServerName::parse("lab").expect("a name");
        for (base_url, expected) in [
            ("", "/"),
            ("/", "/"),
            ("jhub", "/jhub/"),
            ("/a/b/", "/a/b/"),
        ] {
            assert_eq!(Urls::new(base_url).base, expected);
        }
        let urls = Urls::new("/jhub");
        assert_eq!(urls.server(&ada, &lab), "/jhub/user/ada@x.org/lab/");
        assert_eq!(
            urls.progress(&ada, &ServerName::default_server()),
            "/jhub/hub/api/users/ada@x.org/server/progress"
        );
        assert_eq!(
            Urls::oauth_client_id(&ada, &lab),
            "jupyterhub-user-ada%40x.org-lab"
        );
    }
}
