//! Defaults that follow from other options, compared with what JupyterHub 6.1.1 makes of the same
//! settings, and the inner forms of services, roles and groups.

use std::collections::BTreeMap;

use orrery_core::config::{OptionValue as _, Origin, Setting, Value};

use super::*;

fn tree(settings: &[(&str, Value)]) -> Tree {
    let mut tree = Tree::default();
    for (name, value) in settings {
        let (class, option) = name.split_once('.').unwrap();
        tree.set(
            class,
            option,
            Setting::Value(value.clone()),
            Origin::CommandLine,
        )
        .unwrap();
    }
    tree
}

fn load(settings: &[(&str, Value)]) -> Result<Config, Vec<String>> {
    Config::load(&tree(settings), &[Spawner::SPEC], &[Authenticator::SPEC])
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn config(settings: &[(&str, Value)]) -> Config {
    load(settings).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn refused(settings: &[(&str, Value)]) -> String {
    match load(settings) {
        Ok(_) => panic!("it must be refused"),
        Err(problems) => problems.join("\n"),
    }
}

fn json(text: &str) -> Value {
    Value::from_json(&serde_json::from_str(text).unwrap())
}

#[test]
fn public_addresses_as_upstream_makes_them() {
    // Settings of the hub, then upstream's address without its path, base_url and hub_routespec.
    let cases: &[(&str, [&str; 3])] = &[
        ("{}", ["http://:8000", "/", "/"]),
        (
            r#"{"ip": "127.0.0.1"}"#,
            ["http://127.0.0.1:8000", "/", "/"],
        ),
        (r#"{"ip": "::1"}"#, ["http://[::1]:8000", "/", "/"]),
        (r#"{"port": 9000}"#, ["http://:9000", "/", "/"]),
        (r#"{"base_url": "/jh"}"#, ["http://:8000", "/jh/", "/jh/"]),
        (
            r#"{"bind_url": "http://10.0.0.1:80/x"}"#,
            ["http://10.0.0.1:80", "/x/", "/x/"],
        ),
        (
            r#"{"bind_url": "http://10.0.0.1/x"}"#,
            ["http://10.0.0.1:80", "/x/", "/x/"],
        ),
        (
            r#"{"bind_url": "http://10.0.0.1:8080/x", "port": 9000}"#,
            ["http://:9000", "/x/", "/x/"],
        ),
        (
            r#"{"bind_url": "http://10.0.0.1:8080/x", "ip": "1.1.1.1"}"#,
            ["http://1.1.1.1:8000", "/x/", "/x/"],
        ),
        (
            r#"{"bind_url": "http://:8000/x/", "base_url": "y"}"#,
            ["http://:8000", "/y/", "/y/"],
        ),
        (
            r#"{"base_url": "/jh", "hub_routespec": "hub"}"#,
            ["http://:8000", "/jh/", "/hub/"],
        ),
    ];
    for (settings, [address, base_url, routespec]) in cases {
        let settings: BTreeMap<String, serde_json::Value> = serde_json::from_str(settings).unwrap();
        let settings: Vec<(String, Value)> = settings
            .iter()
            .map(|(name, value)| (format!("JupyterHub.{name}"), Value::from_json(value)))
            .collect();
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        let config = config(&settings);
        assert_eq!(config.hub.bind_url, format!("{address}{base_url}"));
        assert_eq!(config.hub.base_url.as_str(), *base_url);
        assert_eq!(config.hub.hub_routespec, *routespec);
        assert_eq!(config.hub_prefix(), format!("{base_url}hub/"));
        let public = config.public_address();
        assert_eq!(
            (public.host, i64::from(public.port)),
            (config.hub.ip, config.hub.port)
        );
    }
}

#[test]
fn defaults_that_follow_from_others() {
    let defaults = config(&[]);
    assert_eq!(defaults.hub.oauth_token_expires_in, 1_209_600);
    assert_eq!(defaults.chp.api_url, "http://127.0.0.1:8001");
    assert!(!defaults.foreign_proxy);
    assert_eq!(defaults.application.log_level, LogLevel::Info);
    assert!(!defaults.authenticator.allow_all && !defaults.authenticator.any_allow_config);

    assert_eq!(
        config(&[("JupyterHub.cookie_max_age_days", Value::Float(0.5))])
            .hub
            .oauth_token_expires_in,
        43_200
    );
    assert_eq!(
        config(&[("JupyterHub.db_url", "my.sqlite".into())])
            .hub
            .db_url,
        "sqlite:///my.sqlite"
    );
    assert_eq!(
        config(&[("JupyterHub.proxy_api_port", 9001.into())])
            .chp
            .api_url,
        "http://127.0.0.1:9001"
    );
    assert_eq!(
        config(&[("JupyterHub.proxy_api_ip", "10.0.0.1".into())])
            .chp
            .api_url,
        "http://10.0.0.1:8001"
    );
    assert!(config(&[("ConfigurableHTTPProxy.command", "traefik".into())]).foreign_proxy);
    assert_eq!(
        config(&[("JupyterHub.log_level", "debug".into())])
            .application
            .log_level,
        LogLevel::Debug
    );
    let named = config(&[(
        "Authenticator.allowed_users",
        Value::Set(vec!["ada".into()]),
    )]);
    assert!(named.authenticator.allow_existing_users && named.authenticator.any_allow_config);
}

#[test]
fn how_servers_reach_the_hub() {
    let url = |settings: &[(&str, Value)]| config(settings).hub_connect_url("node7");
    assert_eq!(url(&[]), "http://127.0.0.1:8081/hub/");
    for everywhere in ["", "0.0.0.0", "::"] {
        assert_eq!(
            url(&[("JupyterHub.hub_ip", everywhere.into())]),
            "http://node7:8081/hub/"
        );
    }
    let ip = ("JupyterHub.hub_ip", "0.0.0.0".into());
    assert_eq!(
        url(&[ip, ("JupyterHub.hub_connect_ip", "hub".into())]),
        "http://hub:8081/hub/"
    );
    assert_eq!(
        url(&[("JupyterHub.hub_bind_url", "http://10.0.0.1:9".into())]),
        "http://10.0.0.1:9/hub/"
    );
    assert_eq!(
        url(&[
            ("JupyterHub.hub_connect_url", "http://hub:80".into()),
            ("JupyterHub.base_url", "/jh/".into())
        ]),
        "http://hub:80/jh/hub/"
    );
}

#[test]
fn public_urls() {
    let url = |url: &str| {
        config(&[
            ("JupyterHub.base_url", "/jh".into()),
            ("JupyterHub.public_url", url.into()),
        ])
        .hub
        .public_url
    };
    assert_eq!(
        url("https://hub.example.org"),
        "https://hub.example.org/jh/"
    );
    assert_eq!(
        url("https://hub.example.org/jh"),
        "https://hub.example.org/jh/"
    );
    assert_eq!(
        refused(&[
            ("JupyterHub.base_url", "/jh".into()),
            ("JupyterHub.public_url", "https://hub.example.org/x".into())
        ]),
        "JupyterHub.public_url must end in base_url /jh/, but is https://hub.example.org/x/"
    );
}

#[test]
fn unix_sockets() {
    let site = config(&[
        (
            "JupyterHub.bind_url",
            "unix+http://%2Frun%2Fproxy.sock/jh".into(),
        ),
        (
            "JupyterHub.hub_bind_url",
            "http+unix://%2Frun%2Fhub.sock".into(),
        ),
    ]);
    assert_eq!(site.hub.bind_url, "http+unix://%2Frun%2Fproxy.sock/jh/");
    assert_eq!(site.hub.base_url.as_str(), "/jh/");
    let socket = |address: super::HttpAddress| address.socket.expect("a socket");
    assert_eq!(
        socket(site.public_address()),
        std::path::Path::new("/run/proxy.sock")
    );
    assert_eq!(
        socket(site.hub_address()),
        std::path::Path::new("/run/hub.sock")
    );
    assert_eq!(
        site.hub_connect_url("host"),
        "http+unix://%2Frun%2Fhub.sock/jh/hub/"
    );
    assert!(
        site.warnings
            .iter()
            .any(|text| text.contains("hub_connect_url is not set"))
    );
    for (settings, sentence) in [
        (
            vec![
                ("JupyterHub.bind_url", "http+unix://%2Fs".into()),
                ("JupyterHub.port", Value::from(8000_i64)),
            ],
            "ip and port do not go with it",
        ),
        (
            vec![("JupyterHub.hub_socket_mode", Value::from(0o1777_i64))],
            "JupyterHub.hub_socket_mode must be permissions",
        ),
    ] {
        let refusal = refused(&settings);
        assert!(refusal.contains(sentence), "{refusal}");
    }
}

#[test]
fn hosts_for_users() {
    let with = |more: &[(&str, Value)]| {
        let mut all = vec![("JupyterHub.subdomain_host", "hub.example:8443/".into())];
        all.extend(more.iter().cloned());
        config(&all)
    };
    let site = with(&[("JupyterHub.base_url", "/jh".into())]);
    assert_eq!(site.hub.subdomain_host, "https://hub.example:8443");
    assert_eq!(site.hub.public_url, "https://hub.example:8443/jh/");
    assert_eq!(site.hub.hub_routespec, "/");
    assert!(
        site.warnings
            .iter()
            .any(|text| text.contains("names no protocol"))
    );
    let routespec = |spec: &str| {
        with(&[("JupyterHub.hub_routespec", spec.into())])
            .hub
            .hub_routespec
    };
    assert_eq!(routespec("hub.example"), "hub.example/");
    assert_eq!(routespec("/hub"), "/hub/");
    let legacy = with(&[("JupyterHub.subdomain_hook", "legacy".into())]);
    assert!(legacy.warnings.iter().any(|text| text.contains("'legacy'")));
    for (option, value, sentence) in [
        (
            "JupyterHub.subdomain_hook",
            "punycode",
            "JupyterHub.subdomain_hook must be 'idna' or 'legacy', but is \"punycode\"",
        ),
        (
            "JupyterHub.subdomain_host",
            "https://hub.example/path",
            "JupyterHub.subdomain_host must be a protocol and a host",
        ),
        (
            "JupyterHub.subdomain_host",
            "https://",
            "JupyterHub.subdomain_host must be a protocol and a host",
        ),
    ] {
        let refusal = refused(&[(option, value.into())]);
        assert!(refusal.starts_with(sentence), "{refusal}");
    }
}

#[test]
fn addresses_that_cannot_be_used() {
    for (option, value, sentence) in [
        (
            "JupyterHub.bind_url",
            "localhost:8000",
            "JupyterHub.bind_url must be a URL",
        ),
        (
            "JupyterHub.hub_bind_url",
            "http+unix:///srv/hub.sock",
            "JupyterHub.hub_bind_url must be a URL",
        ),
        (
            "JupyterHub.hub_connect_url",
            "hub",
            "JupyterHub.hub_connect_url must be a URL",
        ),
        (
            "ConfigurableHTTPProxy.api_url",
            "ftp://x",
            "ConfigurableHTTPProxy.api_url must be a URL",
        ),
    ] {
        assert!(
            refused(&[(option, value.into())]).starts_with(sentence),
            "{option} {value}"
        );
    }
    for option in ["JupyterHub.port", "JupyterHub.hub_port", "Spawner.port"] {
        assert!(refused(&[(option, 65_536.into())]).contains("must be a port from 0 to 65535"));
        assert!(refused(&[(option, Value::Int(-1))]).contains("must be a port from 0 to 65535"));
    }
    assert!(
        refused(&[("Spawner.cmd", Value::List(vec![]))])
            .contains("Spawner.cmd must name a program")
    );
}

#[test]
fn tls() {
    let pair = |more: &[(&str, Value)]| {
        let mut settings = vec![
            ("JupyterHub.ssl_key", "/site.key".into()),
            ("JupyterHub.ssl_cert", "/site.crt".into()),
        ];
        settings.extend_from_slice(more);
        config(&settings).hub.bind_url
    };
    assert_eq!(pair(&[]), "https://:8000/");
    assert_eq!(
        pair(&[("JupyterHub.bind_url", "http://127.0.0.1:9000/jh/".into())]),
        "https://127.0.0.1:9000/jh/"
    );
    assert_eq!(pair(&[("JupyterHub.port", 443.into())]), "https://:443/");
    // As upstream: without a certificate there is no https, whatever the URL says.
    let bare = config(&[("JupyterHub.bind_url", "https://:8000".into())]);
    assert_eq!(bare.hub.bind_url, "http://:8000/");
    assert!(bare.warnings[0].contains("the proxy serves http"));
    for half in ["JupyterHub.ssl_key", "JupyterHub.ssl_cert"] {
        assert!(refused(&[(half, "/x".into())]).contains("need each other"));
    }

    let plain = config(&[]);
    assert_eq!(plain.hub_connect_url("here"), "http://127.0.0.1:8081/hub/");
    let inside = config(&[
        ("JupyterHub.internal_ssl", true.into()),
        ("JupyterHub.hub_bind_url", "http://127.0.0.1:8082".into()),
        (
            "JupyterHub.trusted_alt_names",
            Value::texts(["DNS:hub.example.org"]),
        ),
    ]);
    assert_eq!(
        inside.hub_connect_url("here"),
        "https://127.0.0.1:8082/hub/"
    );
    assert_eq!(inside.chp.api_url, "https://127.0.0.1:8001");
    assert_eq!(inside.spawner.ssl_alt_names, ["DNS:hub.example.org"]);
}

#[test]
fn services() {
    let services = |text: &str| config(&[("JupyterHub.services", json(text))]).hub.services;
    let [bare, full]: [ServiceSpec; 2] = services(
        r#"[{"name": "bare"}, {"name": "full", "url": "http://127.0.0.1:1", "api_token": "t", "admin": true,
            "display": false, "oauth_no_confirm": true, "oauth_client_allowed_scopes": ["a"], "info": {"k": 1},
            "oauth_client_id": "service-x", "oauth_redirect_uri": "/cb", "command": [], "environment": {"A": "1"}}]"#,
    )
    .try_into()
    .unwrap_or_else(|_| panic!("two services"));
    assert_eq!(bare.oauth_client_id, "service-bare");
    assert!(
        bare.display
            && !bare.admin
            && !bare.oauth_specified
            && bare.url.is_none()
            && bare.api_token.is_none()
    );
    assert_eq!(full.oauth_client_id, "service-x");
    assert!(
        !full.display && full.admin && full.oauth_specified && full.api_token.unwrap().matches("t")
    );

    let refuse = |text: &str, sentence: &str| {
        let found = refused(&[("JupyterHub.services", json(text))]);
        assert!(found.starts_with(sentence), "{found}");
    };
    refuse(
        "[{}]",
        "JupyterHub.services[0] must be a dictionary with the key 'name'",
    );
    refuse(
        r#"[{"name": "a/b"}]"#,
        "JupyterHub.services[0]['name'] must be a name without '/'",
    );
    refuse(
        r#"[{"name": ".."}]"#,
        "JupyterHub.services[0]['name'] must be a name that is more than dots",
    );
    refuse(
        r#"[{"name": "a", "ulr": "x"}]"#,
        "JupyterHub.services[0] must be a dictionary with the keys name, ",
    );
    refuse(
        r#"[{"name": "a", "command": "x"}]"#,
        "JupyterHub.services[0]['command'] must be left out",
    );
    refuse(
        r#"[{"name": "a", "oauth_client_id": "x"}]"#,
        "JupyterHub.services[0]['oauth_client_id'] must be a text that",
    );
}

#[test]
fn roles_and_groups() {
    let hub = config(&[
        (
            "JupyterHub.load_roles",
            json(r#"[{"name": "teacher", "scopes": ["self"], "users": ["ada"]}]"#),
        ),
        (
            "JupyterHub.load_groups",
            json(r#"{"a": ["ada"], "b": {"users": ["bob"], "properties": {"k": 1}}, "c": {}}"#),
        ),
    ])
    .hub;
    let teacher = &hub.load_roles[0];
    assert_eq!(
        (teacher.scopes.as_deref(), &teacher.groups),
        (Some(&["self".to_owned()][..]), &None)
    );
    assert_eq!(
        hub.load_groups["a"],
        GroupSpec {
            users: vec!["ada".into()],
            properties: None
        }
    );
    assert_eq!(hub.load_groups["b"].properties.as_ref().unwrap()["k"], 1);
    assert_eq!(hub.load_groups["c"], GroupSpec::default());
    assert!(
        refused(&[("JupyterHub.load_roles", json(r#"[{"name": 1}]"#))])
            .starts_with("JupyterHub.load_roles[0]['name']")
    );
    assert!(
        refused(&[("JupyterHub.load_groups", json(r#"{"a": 1}"#))])
            .starts_with("JupyterHub.load_groups[\"a\"]")
    );
}

#[test]
fn cookie_secrets() {
    let secret =
        |value: Value| CookieSecret::from_value(&value).map(|secret| secret.expose().to_vec());
    assert_eq!(secret("00fF".into()), Ok(vec![0, 255]));
    assert_eq!(secret(Value::Bytes(vec![1, 2])), Ok(vec![1, 2]));
    for wrong in ["0", "zz", "ß0"] {
        let misfit = secret(wrong.into()).unwrap_err();
        assert!(!misfit.found.contains(wrong), "the value is not shown");
    }
}

#[test]
fn written_forms_read_back() {
    let text = r#"[{"name": "a", "url": "http://b", "api_token": "t", "oauth_no_confirm": true}]"#;
    let services = Vec::<ServiceSpec>::from_value(&json(text)).unwrap();
    let again = Vec::<ServiceSpec>::from_value(&services.to_value()).unwrap();
    assert_eq!(again[0].url, services[0].url);
    assert!(again[0].oauth_specified && again[0].api_token.as_ref().unwrap().matches("t"));
}
