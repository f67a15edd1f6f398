//! A host for each user and service, and what one host may do to another.

use axum::body::Body;
use axum::http::{Request, header};
use orrery_hub::config::Config;
use serde_json::json;

use crate::pages::Browser;
use crate::test_hub::{Answer, TestHub};

fn subdomains(config: &mut Config) {
    "http://hub.example".clone_into(&mut config.hub.subdomain_host);
    "http://hub.example/".clone_into(&mut config.hub.public_url);
}

async fn hub() -> TestHub {
    TestHub::configured(subdomains).await.with_user("ada").await
}

fn service_spec(json: &serde_json::Value) -> orrery_hub::config::ServiceSpec {
    use orrery_core::config::{OptionValue as _, Value};
    orrery_hub::config::ServiceSpec::from_value(&Value::from_json(json))
        .unwrap_or_else(|_| panic!("a service"))
}

fn location(answer: &Answer) -> &str {
    assert!(answer.status.is_redirection(), "{}", answer.text());
    answer.headers[header::LOCATION].to_str().expect("text")
}

async fn get_on(hub: &TestHub, host: &str, path: &str, cookies: &str) -> Answer {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::COOKIE, cookies)
        .header(header::ACCEPT, "text/html");
    hub.raw(request.body(Body::empty()).expect("a request"))
        .await
}

#[tokio::test]
async fn a_server_is_on_its_users_host() {
    let hub = hub().await;
    let token = hub.token("ada").await;
    let started = hub
        .post("/users/ada/server", &token, json!({}))
        .await
        .status
        .as_u16();
    assert!([201, 202].contains(&started), "{started}");
    let browser = Browser::of(&hub, "ada").await;
    browser.settled("ada", "").await;

    let model = hub.get("/users/ada", &token).await.ok(200);
    let server = &model["servers"][""];
    assert_eq!(server["url"], "http://ada.hub.example/user/ada/");
    assert_eq!(server["full_url"], "http://ada.hub.example/user/ada/");
    assert_eq!(
        server["full_progress_url"],
        "http://hub.example/hub/api/users/ada/server/progress"
    );
    assert_eq!(model["server"], "http://ada.hub.example/user/ada/");
    let routes = hub.state.routes.routes().await.expect("routes");
    assert!(
        routes.contains_key("ada.hub.example/user/ada/"),
        "{routes:?}"
    );
    let client = orrery_store::oauth_clients::find(hub.state.store.read(), "jupyterhub-user-ada")
        .await
        .expect("an answer")
        .expect("a client");
    assert_eq!(
        client.redirect_uri.as_deref(),
        Some("http://ada.hub.example/user/ada/oauth_callback")
    );

    // From the hub's host to the user's, and from there to the hub's where the hub must answer.
    let there = browser.get("/hub/user/ada/lab?x=1").await;
    assert_eq!(
        location(&there),
        "http://ada.hub.example/user/ada/lab?x=1&redirects=1"
    );
    let back = get_on(&hub, "ada.hub.example", "/user/ada/lab?x=1", "").await;
    assert_eq!(location(&back), "http://hub.example/hub/user/ada/lab?x=1");
    let home = browser.get("/hub/home").await;
    assert!(home.text().contains("http://ada.hub.example/user/ada/"));
    assert_eq!(
        location(&browser.get("/hub/login").await),
        "http://ada.hub.example/user/ada/"
    );

    // The code goes to the server's own host and to no other.
    let ask =
        "/hub/api/oauth2/authorize?client_id=jupyterhub-user-ada&response_type=code&redirect_uri=";
    let answer = browser
        .get(&format!(
            "{ask}http://ada.hub.example/user/ada/oauth_callback"
        ))
        .await;
    assert!(location(&answer).starts_with("http://ada.hub.example/user/ada/oauth_callback?code="));
    for elsewhere in [
        "http://eve.hub.example/user/ada/oauth_callback",
        "http://hub.example/user/ada/oauth_callback",
        "/user/ada/oauth_callback",
    ] {
        let answer = browser.get(&format!("{ask}{elsewhere}")).await;
        assert_eq!(answer.status, 400, "{elsewhere}");
    }
}

#[tokio::test]
async fn the_hubs_pages_and_logins_are_on_the_hubs_host_alone() {
    let hub = hub().await;
    let browser = Browser::of(&hub, "ada").await;
    let cookies = browser.cookie_header();
    for page in [
        "/hub/home",
        "/hub/login",
        "/hub/spawn",
        "/hub/token?x=1",
        "/hub/",
    ] {
        let answer = get_on(&hub, "ada.hub.example", page, &cookies).await;
        assert_eq!(location(&answer), format!("http://hub.example{page}"));
        assert!(!answer.headers.contains_key(header::SET_COOKIE));
    }
    // What a script of a server could try on its own host, even if it had the hub's cookies.
    let own = get_on(&hub, "ada.hub.example", "/hub/api/user", &cookies).await;
    assert_eq!(own.status, 403);
    let token = browser.cookie("_xsrf").expect("a token");
    let post = Request::post(format!("/hub/api/users/ada/server?_xsrf={token}"))
        .header(header::HOST, "ada.hub.example")
        .header(header::COOKIE, &cookies);
    let answer = hub.raw(post.body(Body::empty()).expect("a request")).await;
    assert_eq!(answer.status, 403);
    // And from there with the browser's help: another origin, though of the same site.
    for (mode, site) in [("cors", "same-site"), ("no-cors", "same-site")] {
        let get = Request::get("/hub/api/user")
            .header(header::HOST, "hub.example")
            .header(header::COOKIE, &cookies)
            .header(header::ORIGIN, "http://ada.hub.example")
            .header("sec-fetch-mode", mode)
            .header("sec-fetch-site", site);
        let answer = hub.raw(get.body(Body::empty()).expect("a request")).await;
        assert_eq!(answer.status, 403, "{mode}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
    // Tokens are no matter of hosts.
    let token = hub.token("ada").await;
    let request = Request::get("/hub/api/user")
        .header(header::HOST, "ada.hub.example")
        .header(header::AUTHORIZATION, format!("token {token}"));
    let answer = hub
        .raw(request.body(Body::empty()).expect("a request"))
        .await;
    answer.ok(200);
}

#[tokio::test]
async fn hosts_share_the_session_and_nothing_else() {
    let hub = hub().await;
    let browser = Browser::new(&hub);
    let mut set = Vec::new();
    set.push(browser.get("/hub/login").await);
    set.push(
        browser
            .post("/hub/login", "username=ada&password=open+sesame")
            .await,
    );
    set.push(browser.get("/hub/logout").await);
    let cookies: Vec<String> = set
        .iter()
        .flat_map(|answer| answer.headers.get_all(header::SET_COOKIE))
        .map(|cookie| cookie.to_str().expect("text").to_owned())
        .collect();
    let of = |name: &str| {
        let found: Vec<&String> = cookies
            .iter()
            .filter(|cookie| cookie.starts_with(name))
            .collect();
        assert!(!found.is_empty(), "{name} in {cookies:?}");
        found
    };
    assert!(
        of("jupyterhub-session-id=")
            .iter()
            .all(|cookie| cookie.contains("; Domain=hub.example;"))
    );
    assert!(
        of("jupyterhub-hub-login=")
            .iter()
            .all(|cookie| !cookie.contains("Domain"))
    );
    assert!(of("_xsrf=").iter().all(|cookie| !cookie.contains("Domain")));
}

#[tokio::test]
async fn a_login_leads_to_hosts_of_users_and_to_nobody_elses() {
    let hub = hub().await;
    let browser = Browser::of(&hub, "ada").await;
    for (next, expected) in [
        ("http://ada.hub.example/user/ada/lab", "/user/ada/lab"),
        ("//ada.hub.example/user/ada/lab", "/user/ada/lab"),
        ("http://hub.example/hub/home", "/hub/home"),
        ("http://evil.example/", "/hub/spawn"),
        ("http://hub.example.evil.example/", "/hub/spawn"),
        ("http://evilhub.example/", "/hub/spawn"),
        ("http://ada.hub.example@evil.example/", "/hub/spawn"),
        ("http://evil.example/?.hub.example", "/hub/spawn"),
        ("http://evil.example%23.hub.example", "/hub/spawn"),
        ("//evil.example", "/hub/spawn"),
        ("http:evil.example", "/hub/spawn"),
    ] {
        let next = orrery_core::escape::query_value(next);
        let answer = browser.get(&format!("/hub/login?next={next}")).await;
        assert_eq!(location(&answer), expected, "{next}");
    }
}

#[tokio::test]
async fn services_have_hosts_too() {
    let hub = TestHub::configured(|config| {
        subdomains(config);
        let service = json!({"name": "grader", "url": "http://127.0.0.1:9", "api_token": "a-token-of-the-grader-0123456789"});
        config.hub.services = vec![service_spec(&service)];
        config.hub.load_roles = Vec::new();
    })
    .await
    .with_user("ada")
    .await;
    hub.state.routes.check().await.expect("a check");
    let routes = hub.state.routes.routes().await.expect("routes");
    let route = routes.get("grader--service.hub.example/services/grader/");
    assert_eq!(
        route.map(|route| route.target.as_str()),
        Some("http://127.0.0.1:9"),
        "{routes:?}"
    );
    assert!(routes.contains_key("/"), "{routes:?}");
    let client = orrery_store::oauth_clients::find(hub.state.store.read(), "service-grader")
        .await
        .expect("an answer")
        .expect("a client");
    assert_eq!(
        client.redirect_uri.as_deref(),
        Some("http://grader--service.hub.example/services/grader/oauth_callback")
    );
}

#[tokio::test]
async fn a_login_cookie_with_the_host_prefix_logs_in() {
    let hub = TestHub::configured(|config| config.hub.cookie_host_prefix_enabled = true)
        .await
        .with_user("ada")
        .await;
    let browser = Browser::of(&hub, "ada").await;
    assert!(browser.cookie("jupyterhub-hub-login").is_none());
    let value = browser
        .cookie("__Host-jupyterhub-hub-login")
        .expect("a cookie");
    assert_eq!(browser.get("/hub/home").await.status, 200);
    // The name is signed along with the value: one kind cannot be sent as the other.
    let old = format!("jupyterhub-hub-login={value}");
    let answer = get_on(&hub, "hub.example", "/hub/home", &old).await;
    assert!(
        location(&answer).starts_with("/hub/login"),
        "{}",
        answer.text()
    );
    let answer = browser.get("/hub/logout").await;
    let cleared = answer
        .headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|cookie| cookie.to_str().ok())
        .find(|cookie| cookie.starts_with("__Host-jupyterhub-hub-login="))
        .expect("a cleared cookie");
    assert!(cleared.contains("; Path=/; Secure"), "{cleared}");
}

#[tokio::test]
async fn a_proxy_that_rewrites_the_host_tells_the_public_one_in_a_header() {
    let hub = TestHub::configured(|config| {
        config.hub.forwarded_host_header = "X-Forwarded-Host".to_owned();
    })
    .await
    .with_user("ada")
    .await;
    let cookies = Browser::of(&hub, "ada").await.cookie_header();
    let ask = |next: &'static str, forwarded: Option<&'static str>| {
        let mut request = Request::get(format!("/hub/login?next={next}"))
            .header(header::HOST, "inside:8000")
            .header(header::COOKIE, &cookies);
        if let Some(host) = forwarded {
            request = request.header("x-forwarded-host", host);
        }
        let request = request.body(Body::empty()).expect("a request");
        let hub = &hub;
        async move { location(&hub.raw(request).await).to_owned() }
    };
    assert_eq!(
        ask("http://hub.example/hub/home", Some("hub.example")).await,
        "/hub/home"
    );
    assert_eq!(ask("http://hub.example/hub/home", None).await, "/hub/spawn");
    assert_eq!(ask("http://inside:8000/hub/home", None).await, "/hub/home");
}
