//! A page of each kind, with all that can stand on it.

use std::sync::Arc;

use chrono::NaiveDate;
use minijinja::context;
use minijinja::value::{Serde, Value};
use serde_json::json;

use crate::pages::{Frame, PageServer, PageUser, ServiceLink, Stamp};

/// A page of each kind, with `text` wherever text of a person or a program can stand.
pub(super) fn pages(user: &str, text: &str) -> Vec<(&'static str, &'static str, Value)> {
    let frame = frame(user);
    let person = frame.user.clone().expect("the frame has a user");
    let me = Value::from_dyn_object(person.clone());
    let outside = Arc::new(Frame {
        user: None,
        ..(*frame).clone()
    });
    let named = |name: &str| Value::from_dyn_object(server(name, Some("spawn"), false));
    let scopes = json!([
        { "scope": "read:users:name", "description": format!("Read the name of {user}"), "filter": "" },
        { "scope": "access:servers", "description": "Access your servers", "filter": format!("to server {text}") },
    ]);
    let token = |note: &str, scopes: &[&str]| {
        context! { api_id => "a12", note, scopes => Serde(scopes), last_activity => stamp(9), created => stamp(8), expires_at => () }
    };
    let session = |browser: &str, current: bool| {
        context! { api_id => "s12", browser, user_agent => text, address => "2001:db8::17", created => stamp(7), last_activity => stamp(9), current }
    };
    let authenticator = Value::from(Serde(
        json!({ "request_otp": true, "otp_prompt": "One-time code" }),
    ));
    vec![
        (
            "login",
            "login.html",
            context! { authenticator_login_url => "/hub/login?next=%2Fhub%2Fhome", username => "", authenticator => Serde(json!({})), ..outside.value() },
        ),
        (
            "login-error",
            "login.html",
            context! { authenticator_login_url => "/hub/login?next=", username => text, login_error => format!("{text}: wrong name or password"), authenticator, login_term_url => "/terms", ..outside.value() },
        ),
        (
            "login-service",
            "login.html",
            context! { authenticator_login_url => "/hub/oauth_login", login_service => text, ..outside.value() },
        ),
        ("logout", "logout.html", outside.value()),
        (
            "home",
            "home.html",
            context! {
                url => "/user/ada/",
                default_server => Value::from_dyn_object(person.default_server.clone()),
                allow_named_servers => true,
                named_server_limit_per_user => 5,
                invalid_server_names => Serde([text]),
                accesses => vec![access("server.access", text)],
                announcement => "Maintenance on Friday, <a href='/news'>18 to 20 h</a>.",
                ..frame.value()
            },
        ),
        (
            "home-stopped",
            "home.html",
            context! {
                url => "/hub/spawn/ada",
                default_server => Value::from_dyn_object(server("", None, false)),
                allow_named_servers => false,
                named_server_limit_per_user => 0,
                ..frame.value()
            },
        ),
        (
            "spawn",
            "spawn.html",
            context! {
                for_user => context! { name => text },
                spawner_options_form => OPTIONS_FORM,
                url => "/hub/spawn/ada?_xsrf=2%7Cabc",
                error_message => format!("No such profile: {text}"),
                spawner => named(""),
                ..frame.value()
            },
        ),
        (
            "spawn-pending",
            "spawn_pending.html",
            context! { spawner => named(""), progress_url => "/hub/api/users/ada/server/progress?_xsrf=2%7Cabc", ..frame.value() },
        ),
        (
            "spawn-pending-named",
            "spawn_pending.html",
            context! { spawner => named(text), progress_url => "/hub/api/users/ada/servers/failing/progress", ..frame.value() },
        ),
        (
            "stop-pending",
            "stop_pending.html",
            context! { spawner => named(text), ..frame.value() },
        ),
        (
            "not-running",
            "not_running.html",
            context! { server_name => "", spawn_url => "/hub/spawn/ada?next=%2Fhub%2Fuser%2Fada%2Flab", implicit_spawn_seconds => 0, ..frame.value() },
        ),
        (
            "not-running-died",
            "not_running.html",
            context! {
                server_name => text,
                spawn_url => "/hub/spawn/ada/course",
                failure => context! { cause => "out of memory", message => format!("{text} was killed for memory"), exit_code => 137, log => text },
                ..frame.value()
            },
        ),
        (
            "not-running-failed",
            "not_running.html",
            context! {
                server_name => text,
                spawn_url => "/hub/spawn/ada",
                failed => true,
                failed_message => format!("The server ended before it answered: {text}"),
                failure => context! { cause => "it ended by itself", message => text, exit_code => 1, log => format!("Traceback (most recent call last):\n  File \"/usr/bin/jupyterhub-singleuser\", line 5\nModuleNotFoundError: No module named '{text}'") },
                ..frame.value()
            },
        ),
        (
            "oauth",
            "oauth.html",
            context! {
                oauth_client => Serde(json!({ "description": format!("Server at /user/{text}/"), "identifier": "x", "redirect_uri": format!("https://hub.example.org/user/{text}/oauth_callback") })),
                allowed_scopes => Serde(["access:servers!server=ada/", text]),
                scope_descriptions => Value::from(Serde(&scopes)),
                ..frame.value()
            },
        ),
        (
            "token",
            "token.html",
            context! {
                user => me,
                api_tokens => vec![token(&format!("Backup of {text}"), &["read:users!user=ada", text]), token("Server at /user/ada/", &["users:activity!user=ada"])],
                oauth_clients => vec![context! { token_id => "o7", description => format!("Server at /user/{text}/"), tokens => vec![token("", &["read:users:name", text]), token("", &["read:users:name"])], created => stamp(7), last_activity => () }],
                tokens_of => text,
                is_own => true,
                may_change => true,
                sessions => vec![session("Firefox on Linux", true), session(text, false)],
                token_scope_choices => Serde(&scopes),
                token_scopes_are_bounded => true,
                token_expires_in_options_html => "<option value=\"3600\">1 Hour</option><option value=\"\" selected=\"selected\">Never</option>",
                ..frame.value()
            },
        ),
        (
            "token-of",
            "token.html",
            context! {
                api_tokens => vec![token(text, &["read:users!user=bob"])],
                oauth_clients => Vec::<Value>::new(),
                tokens_of => text,
                is_own => false,
                may_change => true,
                sessions => vec![session(text, false)],
                ..frame.value()
            },
        ),
        (
            "accept-share",
            "accept-share.html",
            context! {
                code => text,
                owner => Serde(json!({ "name": text })),
                spawner => named(text),
                spawner_ready => false,
                spawner_url => "/user/bob/gpu/",
                scope_descriptions => Value::from(Serde(&scopes)),
                next_url => "/user/bob/gpu/",
                ..frame.value()
            },
        ),
        (
            "admin",
            "admin.html",
            context! { api_page_limit => 50, server_version => text, admin_access => true, ..frame.value() },
        ),
        (
            "audit",
            "audit.html",
            context! {
                own => false,
                rows => vec![access("server.access", text), access("login.failed", "")],
                asked => context! { action => "login", actor => text, since => "2026-11-01T00:00" },
                actions => Serde(["login", "login.failed", "server.access"]),
                older => "/hub/audit?before=7",
                is_newest => false,
                here => "/hub/audit",
                retention => 90,
                ..frame.value()
            },
        ),
        (
            "accesses",
            "audit.html",
            context! {
                own => true, rows => vec![access("server.access", text)], is_newest => true, here => "/hub/accesses",
                retention => 90, ..frame.value()
            },
        ),
        (
            "error",
            "error.html",
            context! { status_code => 403, status_message => "Forbidden", message => format!("{text} may not see this."), ..frame.value() },
        ),
        (
            "404",
            "404.html",
            context! { status_code => 404, status_message => "Not Found", message => text, ..outside.value() },
        ),
    ]
}

fn access(action: &str, text: &str) -> Value {
    context! {
        at => stamp(14),
        action,
        did => "Opened it",
        outcome => if text.is_empty() { "denied" } else { "ok" },
        repeats => if text.is_empty() { 12 } else { 1 },
        actor => text,
        via => "cookie",
        address => "2001:db8::17",
        target => text,
        owner => text,
        server => text,
        details => format!("reason: {text}; scopes: access:servers!server={text}/, read:users:name!user={text}, tokens"),
    }
}

/// What stands around every page, with the name of its user wherever that can stand.
pub(super) fn frame(user: &str) -> Arc<Frame> {
    let person = PageUser {
        name: user.to_owned(),
        url: format!("/user/{}/", orrery_core::escape::path_segment(user)),
        hub_url: "/hub/".to_owned(),
        default_server: server("", None, true),
        named_servers: vec![
            server("course-2026", None, true),
            server("gpu", Some("spawn"), false),
            server(if user == "ada" { "thesis" } else { user }, None, false),
        ],
        ..PageUser::default()
    };
    Arc::new(Frame {
        base_url: "/hub/".to_owned(),
        prefix: "/".to_owned(),
        user: Some(Arc::new(person)),
        login_url: "/hub/login".to_owned(),
        logout_url: "/hub/logout".to_owned(),
        xsrf_token: if user == "ada" {
            "2|abc".to_owned()
        } else {
            user.to_owned()
        },
        services: vec![
            ServiceLink {
                name: user.replace("ada", "Announcements"),
                href: "/services/announcements/".to_owned(),
            },
            ServiceLink {
                name: "Grader".to_owned(),
                href: "/services/grader/".to_owned(),
            },
        ],
        expanded_scopes: vec![
            "admin-ui".to_owned(),
            "read:audit".to_owned(),
            format!("access:servers!user={user}"),
        ],
        ..Frame::default()
    })
}

fn server(name: &str, pending: Option<&'static str>, ready: bool) -> Arc<PageServer> {
    Arc::new(PageServer {
        name: name.to_owned(),
        display_name: name.to_owned(),
        ready,
        active: ready || pending.is_some(),
        pending,
        last_activity: NaiveDate::from_ymd_opt(2026, 11, 21)
            .and_then(|day| day.and_hms_opt(18, 5, 0)),
        options_form: true,
        ..PageServer::default()
    })
}

fn stamp(hour: u32) -> Value {
    Stamp::value(NaiveDate::from_ymd_opt(2026, 11, 21).and_then(|day| day.and_hms_opt(hour, 5, 0)))
}

const OPTIONS_FORM: &str = r#"
<label for="size">Size</label>
<select name="size" id="size"><option>Small: 2 CPU, 4 GB</option><option>Large: 8 CPU, 32 GB</option></select>
<label for="image">Image</label>
<input name="image" id="image" value="datascience:2026.11">
<label><input type="checkbox" name="gpu"> With a GPU</label>"#;
