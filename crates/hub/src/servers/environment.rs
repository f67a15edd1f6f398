//! What a server is told when it starts: its command and environment.

use orrery_core::phase::{Cause, Failure};
use orrery_core::spawner::ServerSpec;
use orrery_core::{Secret, ServerName, UserName};
use orrery_store::json;
use serde_json::Value;

use super::{RunId, Settings};
use crate::urls::Urls;

/// Everything a spawner must know to start `server` of `user` as run `run`.
pub(super) fn spec(
    settings: &Settings,
    urls: &Urls,
    run: RunId,
    user: &UserName,
    server: &ServerName,
    user_options: Value,
    token: &Secret,
) -> Result<ServerSpec, Failure> {
    let base_url = urls.server(user, server);
    let fill = |option: &str, text: &str| {
        fill_in(text, user, server, &base_url).map_err(|placeholder| {
            Failure::new(
                Cause::Spawner,
                format!(
                    "Spawner.{option} names {{{placeholder}}}; only {{username}}, {{servername}} and {{base_url}} can be \
                     filled in."
                ),
            )
        })
    };
    let notebook_dir = match settings.notebook_dir.as_str() {
        "" => None,
        text => Some(fill("notebook_dir", text)?),
    };
    let default_url = match settings.default_url.as_str() {
        "" => None,
        text => Some(fill("default_url", text)?),
    };

    let mut environment = settings.kept_environment.clone();
    let mut set = |name: &str, value: String| {
        environment.insert(name.to_owned(), Secret::new(value));
    };
    set("JUPYTERHUB_API_TOKEN", token.expose().to_owned());
    // Servers from before JupyterHub 0.7.2 look for this name.
    set("JPY_API_TOKEN", token.expose().to_owned());
    if settings.admin_access {
        set("JUPYTERHUB_ADMIN_ACCESS", "1".to_owned());
    }
    set("JUPYTERHUB_CLIENT_ID", Urls::oauth_client_id(user, server));
    if !is_empty(&settings.cookie_options) {
        set(
            "JUPYTERHUB_COOKIE_OPTIONS",
            json::to_text(&settings.cookie_options),
        );
    }
    set(
        "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED",
        u8::from(settings.cookie_host_prefix_enabled).to_string(),
    );
    set(
        "JUPYTERHUB_HOST",
        urls.public_origin().unwrap_or_default().to_owned(),
    );
    set(
        "JUPYTERHUB_OAUTH_CALLBACK_URL",
        callback_url(urls, user, server),
    );
    let access_scopes = json::to_text(&[
        format!("access:servers!server={user}/{server}"),
        format!("access:servers!user={user}"),
    ]);
    // The first is the older name of the second; JupyterHub still sets both.
    set("JUPYTERHUB_OAUTH_SCOPES", access_scopes.clone());
    set("JUPYTERHUB_OAUTH_ACCESS_SCOPES", access_scopes);
    set(
        "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES",
        json::to_text(&settings.oauth_client_allowed_scopes),
    );
    set("JUPYTERHUB_USER", user.to_string());
    set("JUPYTERHUB_SERVER_NAME", server.to_string());
    let api = settings.hub_api_url.trim_end_matches('/');
    set("JUPYTERHUB_API_URL", api.to_owned());
    set(
        "JUPYTERHUB_ACTIVITY_URL",
        format!("{api}/users/{}/activity", user.escaped()),
    );
    set("JUPYTERHUB_BASE_URL", urls.base.clone());
    set("JUPYTERHUB_SERVICE_PREFIX", base_url.clone());
    // Empty where the site has no `public_url`, as upstream.
    let public_url = urls.public_server_url(user, server);
    set("JUPYTERHUB_PUBLIC_URL", public_url.unwrap_or_default());
    let public_hub = urls
        .public_origin()
        .map(|origin| format!("{origin}{}", urls.hub));
    set("JUPYTERHUB_PUBLIC_HUB_URL", public_hub.unwrap_or_default());
    let resources = settings.resources;
    let limits = [
        (
            "MEM_LIMIT",
            resources.mem_limit.map(|bytes| bytes.to_string()),
        ),
        (
            "MEM_GUARANTEE",
            resources.mem_guarantee.map(|bytes| bytes.to_string()),
        ),
        ("CPU_LIMIT", resources.cpu_limit.map(python_float)),
        ("CPU_GUARANTEE", resources.cpu_guarantee.map(python_float)),
    ];
    for (name, limit) in limits {
        if let Some(limit) = limit {
            set(name, limit);
        }
    }
    if let Some(folder) = &notebook_dir {
        set("JUPYTERHUB_ROOT_DIR", folder.clone());
    }
    if let Some(url) = default_url {
        set("JUPYTERHUB_DEFAULT_URL", url);
    }
    if settings.debug {
        set("JUPYTERHUB_DEBUG", "1".to_owned());
    }
    if settings.disable_user_config {
        set("JUPYTERHUB_DISABLE_USER_CONFIG", "1".to_owned());
    }
    // Last, so that the site's own values are the strongest.
    environment.extend(settings.environment.clone());

    Ok(ServerSpec {
        run_id: run.0,
        user: user.clone(),
        server: server.clone(),
        command: settings.command.clone(),
        environment,
        tls: None,
        ip: settings.ip.clone(),
        port: settings.port,
        base_url,
        notebook_dir,
        resources,
        user_options,
        start_timeout: settings.start_timeout,
    })
}

/// Where the server's OAuth login comes back to; also the client's registered redirect URI. By path
/// alone unless servers have hosts of their own.
pub(super) fn callback_url(urls: &Urls, user: &UserName, server: &ServerName) -> String {
    format!("{}oauth_callback", urls.server_url(user, server))
}

/// Fills in the format fields `{username}`, `{base_url}` and `{servername}`, of which `JupyterHub` has
/// the first two; doubled braces stand for one. The name of an unknown field is the error.
fn fill_in(
    text: &str,
    user: &UserName,
    server: &ServerName,
    base_url: &str,
) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from_brace) = rest.split_at(at);
        filled.push_str(before);
        if from_brace.starts_with("{{") || from_brace.starts_with("}}") {
            filled.push_str(&from_brace[..1]);
            rest = &from_brace[2..];
            continue;
        }
        let field = from_brace
            .strip_prefix('{')
            .and_then(|after| after.split_once('}'));
        let Some((name, after)) = field else {
            return Err(from_brace.chars().take(20).collect());
        };
        match name {
            "username" => filled.push_str(user.as_str()),
            "servername" => filled.push_str(server.as_str()),
            "base_url" => filled.push_str(base_url),
            other => return Err(other.to_owned()),
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// `str(1.0)` is `1.0` in Python.
fn python_float(number: f64) -> String {
    format!("{number:?}")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn names() -> (UserName, ServerName) {
        (
            UserName::parse("ada@x.org").expect("a name"),
            ServerName::parse("lab").expect("a name"),
        )
    }

    fn environment_of(settings: &Settings) -> BTreeMap<String, String> {
        environment_at(settings, &Urls::new("/"))
    }

    fn urls(subdomain_host: &str, public_url: &str) -> Urls {
        let mut config = crate::config::Config::with_defaults();
        subdomain_host.clone_into(&mut config.hub.subdomain_host);
        public_url.clone_into(&mut config.hub.public_url);
        Urls::from_config(&config.hub)
    }

    fn environment_at(settings: &Settings, urls: &Urls) -> BTreeMap<String, String> {
        let (user, server) = names();
        let token = Secret::new("0123");
        let spec = spec(
            settings,
            urls,
            RunId(7),
            &user,
            &server,
            Value::Null,
            &token,
        )
        .unwrap_or_else(|failure| panic!("{failure:?}"));
        spec.environment("127.0.0.1", 4567)
            .into_iter()
            .map(|(name, value)| (name, value.expose().to_owned()))
            .collect()
    }

    #[test]
    fn a_server_is_told_what_upstream_tells_it() {
        // As JupyterHub 6.1.1's `Spawner.get_env` answers for the same user and server.
        let environment = environment_of(&Settings::default());
        let expected = [
            ("JPY_API_TOKEN", "0123"),
            (
                "JUPYTERHUB_ACTIVITY_URL",
                "http://127.0.0.1:8081/hub/api/users/ada@x.org/activity",
            ),
            ("JUPYTERHUB_API_TOKEN", "0123"),
            ("JUPYTERHUB_API_URL", "http://127.0.0.1:8081/hub/api"),
            ("JUPYTERHUB_BASE_URL", "/"),
            ("JUPYTERHUB_CLIENT_ID", "jupyterhub-user-ada%40x.org-lab"),
            ("JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED", "0"),
            ("JUPYTERHUB_HOST", ""),
            (
                "JUPYTERHUB_OAUTH_ACCESS_SCOPES",
                r#"["access:servers!server=ada@x.org/lab", "access:servers!user=ada@x.org"]"#,
            ),
            (
                "JUPYTERHUB_OAUTH_CALLBACK_URL",
                "/user/ada@x.org/lab/oauth_callback",
            ),
            ("JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES", "[]"),
            (
                "JUPYTERHUB_OAUTH_SCOPES",
                r#"["access:servers!server=ada@x.org/lab", "access:servers!user=ada@x.org"]"#,
            ),
            ("JUPYTERHUB_PUBLIC_HUB_URL", ""),
            ("JUPYTERHUB_PUBLIC_URL", ""),
            ("JUPYTERHUB_SERVER_NAME", "lab"),
            ("JUPYTERHUB_SERVICE_PREFIX", "/user/ada@x.org/lab/"),
            (
                "JUPYTERHUB_SERVICE_URL",
                "http://127.0.0.1:4567/user/ada@x.org/lab/",
            ),
            ("JUPYTERHUB_USER", "ada@x.org"),
        ];
        let expected: BTreeMap<_, _> = expected
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        assert_eq!(environment, expected);
    }

    #[test]
    fn the_sites_own_values_are_the_strongest() {
        let mut settings = Settings {
            default_url: "/lab/tree/{username}".to_owned(),
            notebook_dir: "/srv/{username}/{servername}/{{x}}".to_owned(),
            debug: true,
            ..Settings::default()
        };
        settings.resources.cpu_limit = Some(2.0);
        settings.resources.mem_limit = Some(1 << 30);
        settings
            .environment
            .insert("JUPYTERHUB_DEBUG".to_owned(), Secret::new("no"));
        let urls = urls("", "https://hub.example.org/");
        let environment = environment_at(&settings, &urls);
        for (name, value) in [
            ("JUPYTERHUB_DEBUG", "no"),
            ("JUPYTERHUB_DEFAULT_URL", "/lab/tree/ada@x.org"),
            ("JUPYTERHUB_ROOT_DIR", "/srv/ada@x.org/lab/{x}"),
            (
                "JUPYTERHUB_PUBLIC_URL",
                "https://hub.example.org/user/ada@x.org/lab/",
            ),
            ("JUPYTERHUB_PUBLIC_HUB_URL", "https://hub.example.org/hub/"),
            ("JUPYTERHUB_HOST", "https://hub.example.org"),
            ("CPU_LIMIT", "2.0"),
            ("MEM_LIMIT", "1073741824"),
        ] {
            assert_eq!(environment[name], value, "{name}");
        }
    }

    #[test]
    fn a_server_on_its_users_host_is_told_so() {
        // As JupyterHub 6.1.1 tells it.
        let urls = urls("https://hub.example:8443", "https://hub.example:8443/");
        let environment = environment_at(&Settings::default(), &urls);
        let own = "https://u-adaxorg--210e59f.hub.example:8443/user/ada@x.org/lab/";
        let callback = format!("{own}oauth_callback");
        for (name, value) in [
            ("JUPYTERHUB_HOST", "https://hub.example:8443"),
            ("JUPYTERHUB_PUBLIC_URL", own),
            ("JUPYTERHUB_PUBLIC_HUB_URL", "https://hub.example:8443/hub/"),
            ("JUPYTERHUB_OAUTH_CALLBACK_URL", &callback),
            ("JUPYTERHUB_SERVICE_PREFIX", "/user/ada@x.org/lab/"),
            ("JUPYTERHUB_BASE_URL", "/"),
        ] {
            assert_eq!(environment[name], value, "{name}");
        }
    }

    #[test]
    fn an_unknown_placeholder_is_named() {
        let settings = Settings {
            default_url: "/{team}".to_owned(),
            ..Settings::default()
        };
        let (user, server) = names();
        let failure = spec(
            &settings,
            &Urls::new("/"),
            RunId(1),
            &user,
            &server,
            Value::Null,
            &Secret::new("t"),
        )
        .err()
        .expect("a failure");
        assert!(failure.message.contains("{team}"), "{}", failure.message);
    }
}
