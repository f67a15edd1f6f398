//! The pages, as a browser that keeps its cookies sees them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::body::Body;
use axum::http::{Request, header};
use orrery_core::ServerName;
use orrery_core::phase::Phase;
use orrery_hub::config::FormReading;

use crate::test_hub::{Answer, PASSWORD, PATIENCE, TestHub};

/// One person's browser.
pub(crate) struct Browser<'a> {
    hub: &'a TestHub,
    cookies: Mutex<BTreeMap<String, String>>,
}

impl<'a> Browser<'a> {
    pub(crate) fn new(hub: &'a TestHub) -> Self {
        Self {
            hub,
            cookies: Mutex::default(),
        }
    }

    pub(crate) async fn of(hub: &'a TestHub, name: &str) -> Self {
        let browser = Self::new(hub);
        browser.log_in(name).await;
        browser
    }

    /// Logs somebody in, whoever was before.
    pub(crate) async fn log_in(&self, name: &str) {
        self.get("/hub/login").await;
        let form = format!("username={name}&password={}", PASSWORD.replace(' ', "+"));
        let answer = self.post("/hub/login", &form).await;
        assert_eq!(answer.status, 302, "{}", answer.text());
    }

    /// Asks the API as the pages' scripts do.
    pub(crate) async fn api(&self, method: &str, path: &str) -> Answer {
        let token = self.cookie("_xsrf").unwrap_or_default();
        let separator = if path.contains('?') { '&' } else { '?' };
        self.send(
            method,
            &format!("{path}{separator}_xsrf={token}"),
            "application/json",
            None,
        )
        .await
    }

    /// The value of a cookie.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.lock().expect("no panics").get(name).cloned()
    }

    /// All cookies, as a browser sends them.
    pub(crate) fn cookie_header(&self) -> String {
        let cookies = self.cookies.lock().expect("no panics");
        let pairs: Vec<String> = cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("; ")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "text/html", None).await
    }

    /// Posts a form with the token that the browser's cookie asks for.
    pub(crate) async fn post(&self, path: &str, form: &str) -> Answer {
        let token = self
            .cookies
            .lock()
            .expect("no panics")
            .get("_xsrf")
            .cloned()
            .unwrap_or_default();
        self.send(
            "POST",
            path,
            "text/html",
            Some(format!("{form}&_xsrf={token}")),
        )
        .await
    }

    async fn send(&self, method: &str, path: &str, accept: &str, form: Option<String>) -> Answer {
        let cookies: Vec<String> = self
            .cookies
            .lock()
            .expect("no panics")
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "hub.example")
            .header(header::ACCEPT, accept)
            .header("sec-fetch-mode", "navigate")
            .header(header::COOKIE, cookies.join("; "))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.map_or_else(Body::empty, Body::from))
            .expect("a request");
        let answer = self.hub.raw(request).await;
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let pair = cookie
                .to_str()
                .expect("text")
                .split(';')
                .next()
                .expect("a pair");
            let (name, value) = pair.split_once('=').expect("a name and a value");
            self.cookies
                .lock()
                .expect("no panics")
                .insert(name.to_owned(), value.trim_matches('"').to_owned());
        }
        answer
    }

    /// Waits until a server's start came to its end.
    pub(crate) async fn settled(&self, user: &str, server: &str) -> Phase {
        let user = self.hub.user(user).await;
        let server = ServerName::parse(server).expect("a name");
        let view = self
            .hub
            .state
            .servers
            .view(&user, &server)
            .await
            .expect("an answer")
            .expect("a server");
        let run = view.run.expect("a run");
        self.hub
            .state
            .servers
            .wait(run, PATIENCE)
            .await
            .expect("an answer")
    }
}

#[track_caller]
fn to(answer: &Answer) -> &str {
    assert!(
        answer.status.is_redirection(),
        "{} {}",
        answer.status,
        answer.text()
    );
    answer.headers[header::LOCATION].to_str().expect("text")
}

#[track_caller]
fn page(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    assert_eq!(
        answer.headers[header::CONTENT_TYPE],
        "text/html; charset=utf-8"
    );
    answer.text()
}

#[tokio::test]
async fn strangers_are_sent_to_the_login_page_and_back() {
    let hub = TestHub::new().await.with_user("ada").await;
    let browser = Browser::new(&hub);
    for path in [
        "/hub/home",
        "/hub/spawn",
        "/hub/spawn/ada/lab?x=1",
        "/hub/spawn-pending/ada",
        "/hub/token",
        "/hub/admin",
        "/hub/user/ada/lab?x=1",
    ] {
        let answer = browser.get(path).await;
        let encoded = path
            .replace('/', "%2F")
            .replace('?', "%3F")
            .replace('=', "%3D");
        assert_eq!(to(&answer), format!("/hub/login?next={encoded}"), "{path}");
    }
    assert_eq!(browser.post("/hub/spawn", "").await.status, 403);
}

#[tokio::test]
async fn a_server_is_started_from_home_and_found_again() {
    let hub = TestHub::new().await.with_user("ada").await;
    let browser = Browser::of(&hub, "ada").await;
    let home = page(&browser.get("/hub/home").await, 200);
    assert!(
        home.contains("href=\"/hub/spawn/ada\"") && home.contains("Start My Server"),
        "{home}"
    );

    let started = browser
        .get("/hub/spawn/ada?next=%2Fuser%2Fada%2Flab%2Ftree")
        .await;
    assert_eq!(
        to(&started),
        "/hub/spawn-pending/ada?next=%2Fuser%2Fada%2Flab%2Ftree"
    );
    assert_eq!(browser.settled("ada", "").await, Phase::Ready);

    // Ready: each of these leads to the server, and nowhere else.
    assert_eq!(
        to(&browser
            .get("/hub/spawn-pending/ada?next=%2Fuser%2Fada%2Flab%2Ftree")
            .await),
        "/user/ada/lab/tree"
    );
    assert_eq!(
        to(&browser
            .get("/hub/spawn-pending/ada?next=%2F%2Fevil.example")
            .await),
        "/user/ada/"
    );
    assert_eq!(to(&browser.get("/hub/spawn/ada").await), "/user/ada/");
    assert_eq!(
        to(&browser.get("/hub/user/ada/lab?x=1").await),
        "/user/ada/lab?x=1&redirects=1"
    );
    let home = page(&browser.get("/hub/home").await, 200);
    assert!(
        home.contains("href=\"/user/ada/\"")
            && home.contains("Running")
            && !home.contains("Start My Server"),
        "{home}"
    );
    assert_eq!(browser.post("/hub/spawn/ada", "").await.status, 400);
}

#[tokio::test]
async fn a_redirect_loop_ends_with_a_sentence() {
    let hub = TestHub::new().await.with_user("ada").await;
    let browser = Browser::of(&hub, "ada").await;
    browser.get("/hub/spawn").await;
    assert_eq!(browser.settled("ada", "").await, Phase::Ready);
    let answer = browser.get("/hub/user/ada/lab?redirects=4").await;
    assert!(page(&answer, 500).contains("Redirect loop detected."));
}

#[tokio::test]
async fn a_stopped_server_has_a_page_for_people_and_json_for_programs() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let browser = Browser::of(&hub, "ada").await;
    let html = page(&browser.get("/hub/user/ada/lab/tree?x=1").await, 424);
    assert!(
        html.contains("href=\"/hub/spawn/ada?next=%2Fhub%2Fuser%2Fada%2Flab%2Ftree%3Fx%3D1\""),
        "{html}"
    );

    let sentence = "JupyterHub server no longer running at /user/ada/api/contents. Restart the server at http://hub.example/hub/spawn/ada";
    for (accept, path) in [
        ("application/json", "/hub/user/ada/api/contents"),
        ("text/html", "/hub/user/ada/api/contents"),
    ] {
        let answer = browser.send("GET", path, accept, None).await;
        assert_eq!(answer.ok(424)["message"], sentence, "{accept}");
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    }
    assert_eq!(
        browser
            .post("/hub/user/ada/api/contents", "x=1")
            .await
            .ok(424)["message"],
        sentence
    );
    // What is not ours and what is not there answer alike.
    let (theirs, missing) = (
        browser.get("/hub/user/bob/lab").await,
        browser.get("/hub/user/nobody/lab").await,
    );
    assert_eq!(
        (theirs.status.as_u16(), missing.status.as_u16()),
        (404, 404)
    );
}

/// What a tab's script asks of its server, without a route of its own and so of the hub.
async fn poll(hub: &TestHub, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).header(header::ACCEPT, "*/*");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    hub.raw(request.body(Body::empty()).expect("a request"))
        .await
}

#[tokio::test]
async fn forgotten_tabs_are_told_at_once_and_so_that_the_proxy_can_repeat_it() {
    let hub = TestHub::configured(|config| config.hub.allow_named_servers = true)
        .await
        .with_user("ada")
        .await;
    let browser = Browser::of(&hub, "ada").await;
    browser.get("/hub/spawn/ada/lab").await;
    assert_eq!(browser.settled("ada", "lab").await, Phase::Ready);

    let answer = poll(&hub, "/user/ada/api/kernels?1", &[]).await;
    let expected = serde_json::json!({
        "message": "JupyterHub server no longer running at /user/ada/. Restart the server at /hub/home"
    });
    assert_eq!(answer.ok(424), expected);
    assert_eq!(answer.headers["x-orrery-stopped"], "300");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert!(!answer.headers.contains_key(header::SET_COOKIE));

    // The same for everybody, for each path of the server, and whatever else the request says.
    let cookies = browser.cookie_header();
    let token = format!("token {}", hub.token("ada").await);
    for (path, headers) in [
        ("/user/ada/api/kernels", vec![("cookie", cookies.as_str())]),
        (
            "/user/ada/api/kernels",
            vec![("authorization", token.as_str())],
        ),
        (
            "/user/ada/api/sessions/x?y=z",
            vec![
                ("host", "elsewhere.example"),
                ("x-forwarded-host", "elsewhere.example"),
                ("x-forwarded-proto", "https"),
            ],
        ),
        (
            "/user/ada/terminals/websocket/1",
            vec![("upgrade", "WebSocket"), ("connection", "upgrade")],
        ),
        // Another server that does not run.
        ("/user/ada/other/api/kernels", vec![]),
        ("/user/ada/lab2/tree", vec![("accept", "application/json")]),
    ] {
        let again = poll(&hub, path, &headers).await;
        assert_eq!(again.ok(424), expected, "{path} {headers:?}");
        assert_eq!(again.headers, answer.headers, "{path} {headers:?}");
    }
    // Whether a name is somebody's is not told.
    let nobody = poll(&hub, "/user/nobody/api/kernels", &[]).await;
    assert_eq!(
        nobody.text().replace("nobody", "ada"),
        answer.text(),
        "{}",
        nobody.status
    );
    assert_eq!(nobody.headers.len(), answer.headers.len());

    // People go where they can log in and start it, and who has a server that runs goes to it.
    for (path, accept) in [
        ("/user/ada/api/kernels", "text/html,*/*;q=0.8"),
        ("/user/ada/lab", "*/*"),
        ("/user/ada/", "application/json"),
        ("/user/ada/lab/api/kernels", "*/*"),
        ("/user-redirect/api/x", "*/*"),
    ] {
        let answer = poll(&hub, path, &[("accept", accept)]).await;
        assert_eq!(to(&answer), format!("/hub{path}"), "{path}");
        assert!(!answer.headers.contains_key("x-orrery-stopped"));
    }
}

#[tokio::test]
async fn older_tabs_are_told_503_at_once() {
    let hub = TestHub::configured(|config| {
        config.hub.use_legacy_stopped_server_status_code = true;
        config.hub.base_url = orrery_core::config::UrlPrefix::new("/some/where/");
    })
    .await;
    let answer = poll(&hub, "/some/where/user/a%40b/api/kernels", &[]).await;
    assert_eq!(
        answer.ok(503)["message"],
        "JupyterHub server no longer running at /some/where/user/a@b/. Restart the server at /some/where/hub/home"
    );
    assert_eq!(answer.headers["x-orrery-stopped"], "300");
}

#[tokio::test]
async fn older_programs_can_be_told_503() {
    let hub = TestHub::configured(|config| config.hub.use_legacy_stopped_server_status_code = true)
        .await
        .with_user("ada")
        .await;
    let browser = Browser::of(&hub, "ada").await;
    assert_eq!(browser.get("/hub/user/ada/lab").await.status, 503);
    assert_eq!(browser.get("/hub/user/ada/api/x").await.status, 503);
}

#[tokio::test]
async fn the_options_form_is_shown_read_and_shown_again() {
    let hub = TestHub::configured(|config| {
        config.spawner.options_form = "<input name=\"behave\" id=\"ours\">".to_owned();
        config.spawner.options_from_form = FormReading::Simple;
    })
    .await
    .with_user("ada")
    .await;
    let browser = Browser::of(&hub, "ada").await;
    let form = page(
        &browser.get("/hub/spawn?next=%2Fuser%2Fada%2Flab").await,
        200,
    );
    assert!(
        form.contains("<input name=\"behave\" id=\"ours\">"),
        "{form}"
    );
    assert!(
        form.contains("action=\"/hub/spawn?next=%2Fuser%2Fada%2Flab&amp;_xsrf="),
        "{form}"
    );

    let answer = browser
        .post(
            "/hub/spawn?next=%2Fuser%2Fada%2Flab",
            "behave=fail&gpu=on&tag=a&tag=b",
        )
        .await;
    assert_eq!(
        to(&answer),
        "/hub/spawn-pending/ada?next=%2Fuser%2Fada%2Flab"
    );
    assert_eq!(browser.settled("ada", "").await, Phase::Failed);
    let view = hub
        .state
        .servers
        .view(&hub.user("ada").await, &ServerName::default_server())
        .await
        .expect("an answer");
    assert_eq!(
        view.expect("a server").user_options,
        serde_json::json!({ "behave": "fail", "gpu": true, "tag": ["a", "b"] })
    );

    // The failure is told, and nothing is started again by itself.
    let failed = page(&browser.get("/hub/spawn-pending/ada").await, 500);
    assert!(
        failed.contains("There is no room for this server.") && failed.contains("a quota or limit"),
        "{failed}"
    );
    assert_eq!(
        to(&browser.get("/hub/user/ada/lab").await),
        "/hub/spawn-pending/ada?next=%2Fhub%2Fuser%2Fada%2Flab"
    );
    assert!(page(&browser.get("/hub/spawn/ada").await, 200).contains("id=\"ours\""));
}

#[tokio::test]
async fn options_may_come_in_the_query() {
    let hub = TestHub::configured(|config| config.spawner.options_from_form = FormReading::Simple)
        .await
        .with_user("ada")
        .await;
    let browser = Browser::of(&hub, "ada").await;
    assert_eq!(
        to(&browser.get("/hub/spawn?opt-size=large&ignored=1").await),
        "/hub/spawn-pending/ada?opt-size=large&ignored=1"
    );
    let view = hub
        .state
        .servers
        .view(&hub.user("ada").await, &ServerName::default_server())
        .await
        .expect("an answer");
    assert_eq!(
        view.expect("a server").user_options,
        serde_json::json!({ "size": "large" })
    );
    assert_eq!(
        browser.get("/hub/spawn/ada/lab?opt-=1").await.status,
        400,
        "named servers are off"
    );
}

#[tokio::test]
async fn a_pending_page_says_so_and_streams_progress() {
    let hub = TestHub::configured(|config| config.spawner.options_from_form = FormReading::Simple)
        .await
        .with_user("ada")
        .await;
    let browser = Browser::of(&hub, "ada").await;
    browser.get("/hub/spawn?opt-behave=hang").await;
    let html = page(&browser.get("/hub/spawn-pending/ada").await, 200);
    assert!(
        html.contains("data-progress-url=\"/hub/api/users/ada/server/progress?_xsrf="),
        "{html}"
    );
    assert!(html.contains("id=\"stop-server-btn\""), "{html}");
    assert_eq!(
        to(&browser.get("/hub/user/ada/lab").await),
        "/hub/spawn-pending/ada?next=%2Fhub%2Fuser%2Fada%2Flab"
    );
    // Asking again starts nothing new.
    assert_eq!(
        to(&browser.get("/hub/spawn/ada").await),
        "/hub/spawn-pending/ada"
    );
}

#[tokio::test]
async fn named_servers_have_pages_of_their_own() {
    let hub = TestHub::configured(|config| config.hub.allow_named_servers = true)
        .await
        .with_user("ada")
        .await;
    let browser = Browser::of(&hub, "ada").await;
    assert_eq!(browser.get("/hub/spawn-pending/ada/lab").await.status, 404);
    assert_eq!(
        browser.get("/hub/spawn/ada/No%20Such%20Name").await.status,
        400
    );
    assert_eq!(
        to(&browser.get("/hub/spawn/ada/lab").await),
        "/hub/spawn-pending/ada/lab"
    );
    assert_eq!(browser.settled("ada", "lab").await, Phase::Ready);
    assert_eq!(
        to(&browser.get("/hub/user/ada/lab/tree").await),
        "/user/ada/lab/tree?redirects=1"
    );
    let home = page(&browser.get("/hub/home").await, 200);
    assert!(
        home.contains("data-server-name=\"lab\"") && home.contains("href=\"/user/ada/lab/\""),
        "{home}"
    );
}

#[tokio::test]
async fn only_admins_reach_other_peoples_pages() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let ada = Browser::of(&hub, "ada").await;
    for path in [
        "/hub/spawn/bob",
        "/hub/spawn-pending/bob",
        "/hub/spawn/nobody",
    ] {
        assert_eq!(ada.get(path).await.status, 404, "{path}");
    }
    assert_eq!(ada.get("/hub/admin").await.status, 403);
    let root = Browser::of(&hub, "root").await;
    assert!(page(&root.get("/hub/admin").await, 200).contains("id=\"admin-table\""));
    assert_eq!(
        to(&root.get("/hub/spawn/bob").await),
        "/hub/spawn-pending/bob"
    );
    assert_eq!(root.settled("bob", "").await, Phase::Ready);
    assert!(page(&root.get("/hub/spawn/nobody").await, 404).contains("No such user: nobody"));
}

#[tokio::test]
async fn the_token_page_lists_what_can_be_revoked() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    hub.token_with("ada", &["read:users!user=ada"]).await;
    hub.token("bob").await;
    let html = page(&Browser::of(&hub, "ada").await.get("/hub/token").await, 200);
    assert_eq!(html.matches("class=\"token-row\"").count(), 1, "{html}");
    assert!(
        html.contains("read:users!user=ada")
            && html.contains(">of a test<")
            && html.contains(">Never</option>"),
        "{html}"
    );
}

#[tokio::test]
async fn links_to_ones_own_server_and_the_proxys_errors_have_pages() {
    let hub = TestHub::new().await.with_user("ada").await;
    let browser = Browser::of(&hub, "ada").await;
    assert_eq!(
        to(&browser
            .get("/hub/user-redirect/lab/tree/a%20b.ipynb?x=1")
            .await),
        "/hub/spawn/ada?next=%2Fuser%2Fada%2Flab%2Ftree%2Fa%2520b.ipynb%3Fx%3D1"
    );
    let lost = page(&browser.get("/hub/error/503").await, 200);
    assert!(
        lost.contains("Service Unavailable") && lost.contains("<a href=\"/hub/home\">"),
        "{lost}"
    );
    assert_eq!(browser.get("/hub/error/x").await.status, 404);
    let nothing = page(&browser.get("/hub/%3Cscript%3E").await, 404);
    assert!(nothing.contains("Not Found"), "{nothing}");
    for (path, kind) in [
        ("/hub/logo", "image/svg+xml"),
        ("/hub/static/css/style.css", "text/css; charset=utf-8"),
        ("/hub/favicon.ico", "image/x-icon"),
    ] {
        let answer = browser.get(path).await;
        assert_eq!(
            (
                answer.status.as_u16(),
                &answer.headers[header::CONTENT_TYPE]
            ),
            (200, &kind.parse().expect("a header")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_failed_start_is_told_while_it_still_comes_down_and_a_new_one_is_not_lost() {
    let hub = TestHub::configured(|config| {
        config.spawner.http_timeout = 1;
        config.spawner.options_from_form = FormReading::Simple;
    })
    .await
    .with_user("ada")
    .await;
    let browser = Browser::of(&hub, "ada").await;
    let user = hub.user("ada").await;
    browser.get("/hub/spawn?opt-behave=linger").await;
    let server = ServerName::default_server();
    let coming_down = async {
        loop {
            let view = hub.state.servers.view(&user, &server).await;
            let view = view.expect("an answer").expect("a server");
            if view.phase == Phase::Stopping {
                return view.run;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let failed_run = tokio::time::timeout(PATIENCE, coming_down)
        .await
        .expect("it is given up");
    let failed = page(&browser.get("/hub/spawn-pending/ada").await, 500);
    assert!(
        failed.contains("did not answer") && !failed.contains("is stopping"),
        "{failed}"
    );

    let answer = browser.get("/hub/spawn?opt-behave=fine").await;
    assert!(
        to(&answer).starts_with("/hub/spawn-pending/ada"),
        "{}",
        to(&answer)
    );
    assert_eq!(browser.settled("ada", "").await, Phase::Ready);
    let view = hub.state.servers.view(&user, &server).await;
    assert_ne!(view.expect("an answer").expect("a server").run, failed_run);
}
