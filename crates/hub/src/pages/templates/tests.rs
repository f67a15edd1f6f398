//! Every built-in template, rendered with values that mean harm; and a site's own templates on top.
//!
//! With `ORRERY_PREVIEW_DIR` set, the pages are also written there, for `web/preview/shoot.mjs`.

mod samples;

use axum::http::StatusCode;
use minijinja::context;
use serde_json::json;

use self::samples::{frame, pages};
use super::super::error_page;
use super::*;

const HOSTILE: &str = "<script>alert('x')</script>\"><b>&";

fn templates() -> Templates {
    Templates::new(&[], &Map::new()).expect("the built-in templates compile")
}

#[test]
fn every_template_is_rendered_and_escapes_what_it_shows() {
    let templates = templates();
    let mut left: Vec<String> = Templates::built_in()
        .filter(|name| name != "page.html")
        .collect();
    for (page, template, context) in pages(HOSTILE, HOSTILE) {
        let html = templates
            .render(template, context)
            .unwrap_or_else(|error| panic!("{page}: {error:#}"));
        left.retain(|name| name != template);
        assert!(
            !html.contains("<script>alert"),
            "{page} lets a script through:\n{html}"
        );
        assert!(
            !html.contains("\"><b>"),
            "{page} lets an attribute be left:\n{html}"
        );
        assert!(
            html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&gt;&lt;b&gt;&amp;"),
            "{page} does not show the text"
        );
        assert!(html.trim_end().ends_with("</html>"), "{page} is whole");
    }
    assert!(left.is_empty(), "templates without a test: {left:?}");
}

#[test]
fn pages_hold_what_scripts_and_tests_look_for() {
    let templates = templates();
    for (page, template, context) in pages("ada", "course") {
        let html = templates.render(template, context).expect(page);
        if let Some(directory) = std::env::var_os("ORRERY_PREVIEW_DIR") {
            std::fs::write(
                std::path::Path::new(&directory).join(format!("{page}.html")),
                &html,
            )
            .expect("the directory can be written");
        }
        let expected: &[&str] = match page {
            "login" => &[
                "id=\"username_input\"",
                "id=\"password_input\"",
                "id=\"login_submit\"",
                "name=\"_xsrf\" value=\"2|abc\"",
                "action=\"/hub/login?next=%2Fhub%2Fhome\"",
                "method=\"post\"",
            ],
            "home" => &[
                "id=\"start\"",
                "id=\"stop\"",
                "href=\"/user/ada/\"",
                "new-server-name",
                "id=\"stop-course-2026\"",
                "href=\"/hub/spawn/ada/thesis\"",
                "id=\"logout\"",
                "/services/announcements/",
                "href=\"/hub/admin\"",
            ],
            "home-stopped" => &["Start My Server", "href=\"/hub/spawn/ada\""],
            "spawn" => &[
                "id=\"spawn_form\"",
                "enctype=\"multipart/form-data\"",
                "name=\"_xsrf\"",
                "<select name=\"size\"",
            ],
            "spawn-pending" => &[
                "id=\"progress-bar\"",
                "id=\"progress-message\"",
                "id=\"progress-log\"",
                "data-progress-url=\"/hub/api/users/ada/server/progress?_xsrf=2%7Cabc\"",
            ],
            "not-running-failed" => &["ModuleNotFoundError", "Exit code"],
            "oauth" => &[
                "name=\"scopes\" value=\"access:servers!server=ada/\"",
                "name=\"_xsrf\"",
            ],
            "token" => &[
                "id=\"request-token-form\"",
                "id=\"api-tokens-table\"",
                "data-token-id=\"a12\"",
                "datetime=\"2026-11-21T09:05:00Z\"",
            ],
            _ => &[],
        };
        for text in expected {
            assert!(html.contains(text), "{page} lacks {text}:\n{html}");
        }
        assert!(
            html.contains("\"xsrf_token\": \"2|abc\""),
            "{page} gives scripts the token"
        );
        assert!(
            !html.contains("http://") && !html.contains("src=\"//"),
            "{page} reaches for another host"
        );
        assert!(!html.contains(" onclick="), "{page} has an inline handler");
    }
}

#[test]
fn static_urls_stand_under_the_base_url_with_their_version() {
    let templates = templates();
    let render = |text: &str| {
        templates
            .render_text(text, context! { base_url => "/jhub/hub/" })
            .expect(text)
    };
    let versioned = render("{{ static_url('css/style.css') }}");
    let (path, version) = versioned.split_once("?v=").expect("a version");
    assert_eq!(path, "/jhub/hub/static/css/style.css");
    assert_eq!(version.len(), 16);
    assert_eq!(
        render("{{ static_url('css/style.css', include_version=False) }}"),
        "/jhub/hub/static/css/style.css"
    );
    assert_eq!(
        render("{{ static_url('mine.css') }}"),
        "/jhub/hub/static/mine.css"
    );
}

#[test]
fn a_site_extends_the_templates_it_replaces() {
    let site = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| {
        std::fs::write(site.path().join(name), text).expect("the directory is ours");
    };
    write(
        "page.html",
        r#"{% extends "templates/page.html" %}
{% set announcement = "<i>from the site</i>" %}
{% block title %}{{ lab }}{% endblock %}
{% block stylesheet %}{{ super() }}<link rel="stylesheet" href="{{ static_url("css/style.min.css") }}">{% endblock %}
{% block nav_bar_left_items %}{{ super() }}<li><a href="{{ base_url }}help">Help</a></li>{% endblock %}
{% block login_widget %}<i>{{ user.name if user else "nobody" }}</i>{% endblock %}
{% block footer %}<footer>Ours</footer>{% endblock %}"#,
    );
    write(
        "home.html",
        r#"{% extends "templates/home.html" %}{% block main %}<h1>Hello {{ user.name }}</h1>{{ super() }}{% endblock %}{% block script %}{{ super() }}<script>hello()</script>{% endblock %}"#,
    );
    write(
        "login.html",
        r#"{% extends "templates/login.html" %}{% block login_container %}<p>Before</p>{{ super() }}{% endblock %}{% block login_terms %}agreed{% endblock %}"#,
    );
    write(
        "404.html",
        r#"{% extends "templates/404.html" %}{% block error_detail %}Lost at {{ lab }}{% endblock %}"#,
    );
    write("broken.html", "{% if %}");

    let vars = json!({ "lab": "Moon & Lab", "announcement_home": "<b>home only</b>" });
    let templates = Templates::new(
        &[site.path().to_owned()],
        vars.as_object().expect("an object"),
    )
    .expect("a broken page of the site does not stop the hub");
    let render = |page: &str| {
        let (_, template, context) = pages("ada", "x")
            .into_iter()
            .find(|(name, ..)| *name == page)
            .expect("such a page");
        templates
            .render(template, context)
            .unwrap_or_else(|error| panic!("{page}: {error:#}"))
    };

    let home = render("home-stopped");
    for text in [
        "<h1>Hello ada</h1>",
        "id=\"start\"",
        "Moon &amp; Lab",
        "<i>ada</i>",
        "<footer>Ours</footer>",
        "<script>hello()</script>",
        "js/home.js",
        "/hub/help",
        "/hub/token",
        "css/style.min.css?v=",
    ] {
        assert!(home.contains(text), "home lacks {text}:\n{home}");
    }
    let login = render("login");
    assert!(
        login.contains("<p>Before</p>")
            && login.contains("id=\"login_submit\"")
            && login.contains("agreed"),
        "{login}"
    );
    let lost = error_page(&templates, &frame("ada"), StatusCode::NOT_FOUND, "gone")
        .expect("the site's 404 page");
    assert!(
        lost.contains("Lost at Moon &amp; Lab")
            && lost.contains("Not Found")
            && !lost.contains("gone"),
        "{lost}"
    );
    assert!(templates.render("broken.html", context! {}).is_err());
    let teapot = error_page(
        &templates,
        &frame("ada"),
        StatusCode::IM_A_TEAPOT,
        "short and stout",
    )
    .expect("the general error page");
    assert!(
        teapot.contains("short and stout") && teapot.contains("418"),
        "{teapot}"
    );
}

#[test]
fn announcements_of_one_page_stand_in_for_the_general_one() {
    let vars =
        json!({ "announcement": "<b>everywhere</b>", "announcement_login": "<b>at the door</b>" });
    let templates = Templates::new(&[], vars.as_object().expect("an object"))
        .expect("the built-in templates compile");
    let frame = frame("ada");
    let login = templates
        .render(
            "login.html",
            context! { authenticator_login_url => "/hub/login", ..frame.value() },
        )
        .expect("login");
    assert!(
        login.contains("<b>at the door</b>") && !login.contains("everywhere"),
        "{login}"
    );
    let logout = templates
        .render("logout.html", frame.value())
        .expect("logout");
    assert!(logout.contains("<b>everywhere</b>"), "{logout}");
}

#[test]
fn a_changed_or_new_template_is_seen_without_a_restart() {
    let site = tempfile::tempdir().expect("a temporary directory");
    let templates = Templates::new(&[site.path().to_owned()], &Map::new())
        .expect("the built-in templates compile");
    let render = || {
        templates
            .render("logout.html", frame("ada").value())
            .expect("logout")
    };
    assert!(render().contains("id=\"logout-main\""));
    std::fs::write(site.path().join("logout.html"), "Bye").expect("the directory is ours");
    assert_eq!(render(), "Bye");
    std::fs::write(site.path().join("logout.html"), "So long").expect("the directory is ours");
    assert_eq!(render(), "So long");
}
