//! The paths of the hub, its users and their servers.

use orrery_core::{ServerName, UserName, escape};

/// Paths under the site's `base_url`, each with slashes at both ends.
#[derive(Clone, Debug)]
pub struct Urls {
    /// `JupyterHub.base_url`: `/` or `/some/prefix/`.
    pub base: String,
    /// The hub's own prefix: `/hub/` under the base.
    pub hub: String,
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
        }
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
