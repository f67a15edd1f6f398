//! `/hub/api/sessions` and `/hub/api/users/{user}/sessions`, and what ends with a session.

use axum::body::Body;
use axum::http::{Request, header};
use orrery_core::{Clock as _, SystemClock};
use orrery_hub::auth::LOGIN_COOKIE;
use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::oauth_codes::{self, NewOauthCode};
use orrery_store::token_hash::{self, Origin};
use orrery_store::{ConnectionTrait as _, StoreError, sessions};
use serde_json::{Value, json};

use crate::pages::Browser;
use crate::test_hub::{Answer, TestHub};

async fn hub() -> TestHub {
    TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await
}

/// Asks the API as a browser's script does that shows no XSRF token, which reading by address needs not.
async fn ask(hub: &TestHub, cookies: &str, path: &str) -> Answer {
    let request = Request::get(format!("/hub/api{path}"))
        .header(header::COOKIE, cookies)
        .body(Body::empty())
        .expect("a request");
    hub.raw(request).await
}

async fn sessions_of(hub: &TestHub, user: &str) -> Vec<Value> {
    let root = hub.token("root").await;
    let path = format!("/users/{user}/sessions");
    let list = hub.get(&path, &root).await.ok(200)["sessions"].take();
    list.as_array().expect("a list").clone()
}

/// A token that a server got in a browser session.
async fn token_of_session(hub: &TestHub, user: &str, session_id: &str) -> String {
    let secret = token_hash::generate_token().expect("a token");
    let new = NewApiToken {
        owner: Owner::User(hub.user(user).await.id),
        hashed: token_hash::hash_token(secret.expose(), Origin::Generated).expect("a hash"),
        prefix: token_hash::prefix(secret.expose()).to_owned(),
        client_id: "jupyterhub".to_owned(),
        session_id: Some(session_id.to_owned()),
        created: SystemClock.now(),
        expires_at: None,
        note: String::new(),
        scopes: vec!["inherit".to_owned()],
    };
    let new = &new;
    hub.state
        .store
        .write(|transaction| async move { api_tokens::insert(&transaction, new).await })
        .await
        .expect("a token");
    secret.expose().to_owned()
}

/// A cookie as JupyterHub signs it.
fn upstreams_cookie(hub: &TestHub, user: &str) -> String {
    let value = format!("cookie of {user}");
    let now = hub.state.unix_time();
    let signed = hub.state.signer.sign(LOGIN_COOKIE, value.as_bytes(), now);
    format!("{LOGIN_COOKIE}=\"{signed}\"")
}

#[tokio::test]
async fn each_login_is_a_session_even_in_the_same_second() {
    let hub = hub().await;
    let (one, two) = (
        Browser::of(&hub, "ada").await,
        Browser::of(&hub, "ada").await,
    );
    assert_ne!(one.cookie(LOGIN_COOKIE), two.cookie(LOGIN_COOKIE));
    let list = ask(&hub, &one.cookie_header(), "/users/ada/sessions")
        .await
        .ok(200);
    let list = list["sessions"].as_array().expect("a list");
    assert_eq!(list.len(), 2);
    let current: Vec<_> = list
        .iter()
        .filter(|session| session["current"] == true)
        .collect();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0]["kind"], "session");
    assert_eq!(current[0]["user"], "ada");
    let shown = json!(list).to_string();
    for secret in [LOGIN_COOKIE, "jupyterhub-session-id"] {
        let value = one.cookie(secret).expect("a cookie");
        assert!(!shown.contains(&value), "{secret} is shown");
    }
    // Looking at the login page again makes none.
    assert_eq!(one.get("/hub/login").await.status, 302);
    assert_eq!(sessions_of(&hub, "ada").await.len(), 2);
}

#[tokio::test]
async fn an_ended_session_is_refused_at_once_with_its_tokens_and_no_other() {
    let hub = hub().await;
    let (one, two) = (
        Browser::of(&hub, "ada").await,
        Browser::of(&hub, "ada").await,
    );
    let id_of = |browser: &Browser<'_>| browser.cookie("jupyterhub-session-id").expect("an id");
    let of_one = token_of_session(&hub, "ada", &id_of(&one)).await;
    let of_two = token_of_session(&hub, "ada", &id_of(&two)).await;
    let by_hand = hub.token("ada").await;
    let list = ask(&hub, &one.cookie_header(), "/users/ada/sessions")
        .await
        .ok(200);
    let list = list["sessions"].as_array().expect("a list").clone();
    let this = list
        .iter()
        .find(|session| session["current"] == true)
        .expect("one")["id"]
        .clone();
    let this = this.as_str().expect("text");

    // By a token of the other session, which is then the current one.
    let seen = hub.get("/users/ada/sessions", &of_two).await.ok(200);
    let current = seen["sessions"].as_array().expect("a list").iter();
    let current: Vec<_> = current
        .filter(|session| session["current"] == true)
        .collect();
    assert!(current.len() == 1 && current[0]["id"] != this);
    let path = format!("/users/ada/sessions/{this}");
    hub.delete(&path, &of_two).await.empty(204);

    ask(&hub, &one.cookie_header(), "/user").await.refused(403);
    assert_eq!(one.get("/hub/home").await.status, 302);
    hub.get("/user", &of_one).await.refused(403);
    ask(&hub, &two.cookie_header(), "/user").await.ok(200);
    hub.get("/user", &of_two).await.ok(200);
    hub.get("/user", &by_hand).await.ok(200);
    hub.delete(&path, &by_hand).await.refused(404);
}

#[tokio::test]
async fn logging_out_ends_this_session_and_a_copy_of_its_cookie_is_worthless() {
    let hub = hub().await;
    let (one, two) = (
        Browser::of(&hub, "ada").await,
        Browser::of(&hub, "ada").await,
    );
    let copy = one.cookie_header();
    ask(&hub, &copy, "/user").await.ok(200);
    one.get("/hub/logout").await;
    ask(&hub, &copy, "/user").await.refused(403);
    assert_eq!(one.cookie(LOGIN_COOKIE).as_deref(), Some(""));
    // Not by another session id either.
    let login = copy
        .split("; ")
        .find(|pair| pair.starts_with(LOGIN_COOKIE))
        .expect("it");
    ask(
        &hub,
        &format!("{login}; jupyterhub-session-id=another"),
        "/user",
    )
    .await
    .refused(403);
    ask(&hub, &two.cookie_header(), "/user").await.ok(200);
    assert_eq!(sessions_of(&hub, "ada").await.len(), 1);
}

#[tokio::test]
async fn a_cookie_signed_by_jupyterhub_becomes_a_session_at_first_sight_and_can_be_ended() {
    let hub = hub().await;
    let cookie = upstreams_cookie(&hub, "ada");
    assert_eq!(sessions_of(&hub, "ada").await.len(), 0);
    // Five tabs at once are one session.
    let tabs = (0..5).map(|_| ask(&hub, &cookie, "/user"));
    for answer in futures_util::future::join_all(tabs).await {
        answer.ok(200);
    }
    let list = sessions_of(&hub, "ada").await;
    assert_eq!(list.len(), 1);
    let root = hub.token("root").await;
    let path = format!("/sessions/{}", list[0]["id"].as_str().expect("text"));
    hub.delete(&path, &root).await.empty(204);
    ask(&hub, &cookie, "/user").await.refused(403);
    let other = format!("{cookie}; jupyterhub-session-id=another");
    ask(&hub, &other, "/user").await.refused(403);
    assert_eq!(sessions_of(&hub, "ada").await.len(), 0);
}

#[tokio::test]
async fn an_ended_cookie_of_jupyterhub_does_not_come_back_in_another_spelling() {
    let hub = hub().await;
    let cookie = upstreams_cookie(&hub, "ada");
    ask(&hub, &cookie, "/user").await.ok(200);
    let root = hub.token("root").await;
    let id = sessions_of(&hub, "ada").await[0]["id"].clone();
    let path = format!("/sessions/{}", id.as_str().expect("text"));
    hub.delete(&path, &root).await.empty(204);
    let (start, signature) = cookie.rsplit_once('|').expect("a signature");
    let mut half = signature.to_owned();
    let at = signature
        .find(|digit: char| digit.is_ascii_lowercase())
        .expect("a letter");
    half[at..=at].make_ascii_uppercase();
    for spelt in [signature.to_uppercase(), half] {
        let other = format!("{start}|{spelt}");
        ask(&hub, &other, "/user").await.refused(403);
    }
    // Without the quotes, and with the digits that percent signs stand for.
    for other in [cookie.replace('"', ""), cookie.replace('|', "%7C")] {
        ask(&hub, &other, "/user").await.refused(403);
    }
    assert_eq!(sessions_of(&hub, "ada").await.len(), 0);
}

#[tokio::test]
async fn cookies_of_jupyterhub_make_no_more_sessions_than_logins_do() {
    let hub = hub().await;
    let now = hub.state.unix_time();
    for second in 0..203 {
        let value = b"cookie of ada";
        let signed = hub.state.signer.sign(LOGIN_COOKIE, value, now - second);
        ask(&hub, &format!("{LOGIN_COOKIE}=\"{signed}\""), "/user")
            .await
            .ok(200);
    }
    let since = hub.state.sessions_since();
    let user = hub.user("ada").await.id;
    let live = sessions::of_user(hub.state.store.read(), user, since).await;
    assert_eq!(live.expect("a list").len(), 200);
}

#[tokio::test]
async fn a_login_beside_an_end_of_all_sessions_signs_what_the_user_has_then() {
    let hub = hub().await;
    let browser = Browser::of(&hub, "ada").await;
    let before = browser.cookie_header();
    // While the second login writes, all sessions are ended: the user's cookies carry another id.
    hub.state
        .store
        .write(|transaction| async move {
            let trigger = "CREATE TRIGGER others AFTER UPDATE OF ended_at ON orrery_sessions BEGIN \
                 UPDATE users SET cookie_id = 'another id' WHERE id = NEW.user_id; END";
            transaction.execute_unprepared(trigger).await?;
            Ok::<_, StoreError>(())
        })
        .await
        .expect("a trigger");
    browser.log_in("ada").await;
    ask(&hub, &browser.cookie_header(), "/user").await.ok(200);
    assert_eq!(browser.get("/hub/home").await.status, 200);
    ask(&hub, &before, "/user").await.refused(403);
}

#[tokio::test]
async fn a_cookie_of_ours_without_its_row_is_refused() {
    let hub = hub().await;
    let browser = Browser::of(&hub, "ada").await;
    let far = SystemClock.now() + chrono::TimeDelta::days(1);
    let purged = hub
        .state
        .store
        .write(|transaction| async move { sessions::purge(&transaction, far).await })
        .await
        .expect("a deletion");
    assert_eq!(purged, 1);
    ask(&hub, &browser.cookie_header(), "/user")
        .await
        .refused(403);
}

#[tokio::test]
async fn everywhere_means_cookies_that_were_never_seen_here_too() {
    let hub = hub().await;
    let browser = Browser::of(&hub, "ada").await;
    let unseen = upstreams_cookie(&hub, "ada");
    let by_hand = hub.token("ada").await;
    let of_session = token_of_session(&hub, "ada", "of a session never seen").await;
    let root = hub.token("root").await;
    hub.delete("/users/ada/sessions", &root).await.empty(204);
    ask(&hub, &browser.cookie_header(), "/user")
        .await
        .refused(403);
    ask(&hub, &unseen, "/user").await.refused(403);
    hub.get("/user", &of_session).await.refused(403);
    hub.get("/user", &by_hand).await.ok(200);
    assert_eq!(sessions_of(&hub, "ada").await.len(), 0);
    // Who comes back, comes back.
    let again = Browser::of(&hub, "ada").await;
    ask(&hub, &again.cookie_header(), "/user").await.ok(200);
}

#[tokio::test]
async fn all_others_can_be_ended_from_the_browser_that_stays() {
    let hub = hub().await;
    let (one, two) = (
        Browser::of(&hub, "ada").await,
        Browser::of(&hub, "ada").await,
    );
    let unseen = upstreams_cookie(&hub, "ada");
    let of_one = token_of_session(
        &hub,
        "ada",
        &one.cookie("jupyterhub-session-id").expect("it"),
    )
    .await;
    let before = one.cookie_header();
    let answer = one
        .api("DELETE", "/hub/api/users/ada/sessions?except=current")
        .await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    ask(&hub, &one.cookie_header(), "/user").await.ok(200);
    hub.get("/user", &of_one).await.ok(200);
    // Its cookie was renewed along with all others.
    for gone in [before, two.cookie_header(), unseen] {
        ask(&hub, &gone, "/user").await.refused(403);
    }
    assert_eq!(one.get("/hub/home").await.status, 200);
    assert_eq!(sessions_of(&hub, "ada").await.len(), 1);

    let root = hub.token("root").await;
    let path = "/users/ada/sessions?except=current";
    hub.delete(path, &root).await.refused(400);
    hub.delete("/users/ada/sessions?except=some", &root)
        .await
        .refused(400);
}

#[tokio::test]
async fn a_tab_that_comes_back_after_the_logout_gets_no_token() {
    let hub = hub().await;
    let browser = Browser::of(&hub, "ada").await;
    let session_id = browser.cookie("jupyterhub-session-id").expect("an id");
    let user_id = hub.user("ada").await.id;
    let service = json!({
        "oauth_client_id": "service-slow", "oauth_redirect_uri": "https://slow.example/callback",
        "api_token": "the-token-of-the-slow-one-0123456789",
    });
    let root = hub.token("root").await;
    hub.post("/services/slow", &root, service).await.ok(201);
    let code = |code: &str| NewOauthCode {
        client_id: "service-slow".to_owned(),
        code: code.to_owned(),
        expires_at: hub.state.unix_time() + 300,
        redirect_uri: "https://slow.example/callback".to_owned(),
        session_id: session_id.clone(),
        user_id,
        scopes: Vec::new(),
        code_challenge: None,
        code_challenge_method: None,
    };
    let give = async |new: NewOauthCode| {
        let new = &new;
        let write = hub.state.store.write(|transaction| async move {
            oauth_codes::insert(&transaction, new).await?;
            Ok::<_, StoreError>(())
        });
        write.await.expect("a code");
    };
    let exchange = async |code: &str| {
        let form = format!(
            "grant_type=authorization_code&code={code}&client_id=service-slow\
             &client_secret=the-token-of-the-slow-one-0123456789\
             &redirect_uri=https%3A%2F%2Fslow.example%2Fcallback"
        );
        let request = Request::post("/hub/api/oauth2/token")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(form))
            .expect("a request");
        hub.raw(request).await.status
    };
    give(code("in-time")).await;
    assert_eq!(exchange("in-time").await, 200);
    give(code("given-before")).await;
    browser.get("/hub/logout").await;
    // One that was given before the logout is gone with it; one that was just being given is refused.
    assert_eq!(exchange("given-before").await, 400);
    give(code("given-meanwhile")).await;
    assert_eq!(exchange("given-meanwhile").await, 400);
    let left = api_tokens::list(hub.state.store.read(), Owner::User(user_id)).await;
    assert_eq!(left.expect("a list").len(), 0);
}

#[tokio::test]
async fn another_person_at_the_same_browser_ends_the_first_ones_session() {
    let hub = hub().await;
    let browser = Browser::of(&hub, "ada").await;
    let of_ada = browser.cookie_header();
    let session_id = browser.cookie("jupyterhub-session-id").expect("an id");
    let token = token_of_session(&hub, "ada", &session_id).await;
    browser.log_in("bob").await;
    ask(&hub, &of_ada, "/user").await.refused(403);
    hub.get("/user", &token).await.refused(403);
    assert_ne!(browser.cookie("jupyterhub-session-id"), Some(session_id));
    // The same person again has one session, and keeps what servers were given.
    let session_id = browser.cookie("jupyterhub-session-id").expect("an id");
    let token = token_of_session(&hub, "bob", &session_id).await;
    browser.log_in("bob").await;
    assert_eq!(sessions_of(&hub, "bob").await.len(), 1);
    hub.get("/user", &token).await.ok(200);
}

#[tokio::test]
async fn everybodys_sessions_come_in_pages_and_filtered_scopes_see_theirs() {
    let hub = hub().await.with_group("class", &["bob"]).await;
    for user in ["ada", "bob", "ada"] {
        Browser::of(&hub, user).await;
    }
    let root = hub.token("root").await;
    let first = hub.get("/sessions?limit=2", &root).await.ok(200);
    assert_eq!(first["items"].as_array().expect("a list").len(), 2);
    let next = first["_pagination"]["next"]["url"]
        .as_str()
        .expect("an address");
    let (_, next) = next.split_once("/hub/api").expect("a path");
    let second = hub.get(next, &root).await.ok(200);
    assert_eq!(second["items"].as_array().expect("a list").len(), 1);
    assert_eq!(second["_pagination"], json!({"limit": 2, "next": null}));

    let count = async |path: &str, token: &str| {
        let page = hub.get(path, token).await.ok(200);
        page["items"].as_array().expect("a list").len()
    };
    assert_eq!(count("/sessions?user=ada", &root).await, 2);
    assert_eq!(count("/sessions?user=nobody", &root).await, 0);
    assert_eq!(count("/sessions?unused_since=2020-01-01", &root).await, 0);
    assert_eq!(count("/sessions?unused_since=2999-01-01", &root).await, 3);
    for bad in ["after=x", "unused_since=never", "limit=x"] {
        hub.get(&format!("/sessions?{bad}"), &root)
            .await
            .refused(400);
    }
    let teacher = hub.service("teacher", &["tokens!group=class"]).await;
    let page = hub.get("/sessions", &teacher).await.ok(200);
    let items = page["items"].as_array().expect("a list");
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["user"], "bob");
    let adas = sessions_of(&hub, "ada").await[0]["id"]
        .as_str()
        .expect("text")
        .to_owned();
    let bobs = items[0]["id"].as_str().expect("text");
    hub.delete(&format!("/sessions/{adas}"), &teacher)
        .await
        .refused(404);
    hub.delete(&format!("/users/ada/sessions/{adas}"), &teacher)
        .await
        .refused(404);
    hub.delete(&format!("/sessions/{bobs}"), &teacher)
        .await
        .empty(204);
    let reader = hub.service("reader", &["read:tokens"]).await;
    assert_eq!(count("/sessions", &reader).await, 2);
    hub.delete(&format!("/sessions/{adas}"), &reader)
        .await
        .refused(403);
    let nobody = hub.service("nobody", &["list:users"]).await;
    hub.get("/sessions", &nobody).await.refused(403);
    hub.get("/users/ada/sessions", &nobody).await.refused(403);
}

#[tokio::test]
async fn a_lost_or_changed_session_cookie_does_not_part_tokens_from_their_session() {
    let hub = hub().await;
    let browser = Browser::of(&hub, "ada").await;
    let session_id = browser.cookie("jupyterhub-session-id").expect("an id");
    let login = browser.cookie(LOGIN_COOKIE).expect("it");
    for changed in ["", "; jupyterhub-session-id=another"] {
        let request = Request::get("/hub/api/user")
            .header(
                header::COOKIE,
                format!("{LOGIN_COOKIE}=\"{login}\"{changed}"),
            )
            .body(Body::empty())
            .expect("a request");
        let answer = hub.raw(request).await;
        let set: Vec<_> = answer.headers.get_all(header::SET_COOKIE).iter().collect();
        let again = format!("jupyterhub-session-id={session_id};");
        assert!(
            set.iter()
                .any(|cookie| cookie.to_str().is_ok_and(|text| text.starts_with(&again))),
            "{set:?}"
        );
    }
}
