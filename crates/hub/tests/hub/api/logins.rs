//! How logins begin and end where something stands in the way.

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use orrery_core::{Clock as _, SystemClock};
use orrery_hub::auth::sessions::{self, LoginCookie, Sighting, Standing};
use orrery_hub::auth::{Browser as Place, LOGIN_COOKIE};
use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::token_hash::{self, Origin};
use orrery_store::{ConnectionTrait as _, StoreError};

use crate::pages::Browser;
use crate::test_hub::TestHub;

#[tokio::test]
async fn a_logout_that_cannot_be_written_leaves_nobody_logged_in_at_the_browser() {
    let hub = TestHub::new().await.with_user("ada").await;
    let browser = Browser::of(&hub, "ada").await;
    hub.state
        .store
        .write(|transaction| async move {
            let full = "CREATE TRIGGER full BEFORE UPDATE ON orrery_sessions \
                        BEGIN SELECT RAISE(ABORT, 'full'); END";
            transaction.execute_unprepared(full).await?;
            Ok::<_, StoreError>(())
        })
        .await
        .expect("a trigger");
    let answer = browser.get("/hub/logout").await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    for cookie in [LOGIN_COOKIE, "jupyterhub-session-id"] {
        assert_eq!(browser.cookie(cookie).as_deref(), Some(""), "{cookie}");
    }
    assert_eq!(browser.get("/hub/home").await.status, 302);
}

/// A login cookie as JupyterHub signs it.
fn unmarked(hub: &TestHub, user: &str) -> String {
    let (value, now) = (format!("cookie of {user}"), hub.state.unix_time());
    hub.state.signer.sign(LOGIN_COOKIE, value.as_bytes(), now)
}

#[tokio::test]
async fn a_cookie_that_becomes_worthless_while_it_is_first_seen_is_refused() {
    let hub = TestHub::new().await.with_user("ada").await;
    let value = unmarked(&hub, "ada");
    let cookie = LoginCookie::read(&hub.state, LOGIN_COOKIE, &value).expect("a cookie");
    let read_before = hub.user("ada").await;
    sessions::end_all(&hub.state, &read_before)
        .await
        .expect("all ended");
    let sighting = Sighting {
        headers: &HeaderMap::new(),
        browser: &Place {
            scheme: "http".to_owned(),
            host: "hub.example".to_owned(),
            address: "192.0.2.7".to_owned(),
        },
    };
    let standing = sessions::standing(&hub.state, &cookie, &read_before, Some(&sighting)).await;
    assert!(matches!(standing, Ok(Standing::Refused)));
}

/// As `docs/sessions-and-tokens.md` says.
#[tokio::test]
async fn all_but_the_current_session_end_by_its_token_and_unseen_cookies_by_its_cookie() {
    let hub = TestHub::new().await.with_user("ada").await;
    let (browser, other) = (
        Browser::of(&hub, "ada").await,
        Browser::of(&hub, "ada").await,
    );
    let path = "/users/ada/sessions?except=current";
    let secret = token_hash::generate_token().expect("a token");
    let new = &NewApiToken {
        owner: Owner::User(hub.user("ada").await.id),
        hashed: token_hash::hash_token(secret.expose(), Origin::Generated).expect("a hash"),
        prefix: token_hash::prefix(secret.expose()).to_owned(),
        client_id: "jupyterhub".to_owned(),
        session_id: browser.cookie("jupyterhub-session-id"),
        created: SystemClock.now(),
        expires_at: None,
        note: String::new(),
        scopes: vec!["inherit".to_owned()],
    };
    let writing = hub
        .state
        .store
        .write(|transaction| async move { api_tokens::insert(&transaction, new).await });
    writing.await.expect("a token");
    hub.delete(path, secret.expose()).await.empty(204);
    assert_eq!(other.get("/hub/home").await.status, 302);
    assert_eq!(browser.get("/hub/home").await.status, 200);
    let unseen = unmarked(&hub, "ada");
    let show = async || {
        let request = Request::get("/hub/api/user")
            .header(header::COOKIE, format!("{LOGIN_COOKIE}=\"{unseen}\""))
            .body(Body::empty());
        hub.raw(request.expect("a request")).await.status.as_u16()
    };
    assert_eq!(show().await, 200);
    browser
        .api("DELETE", &format!("/hub/api{path}"))
        .await
        .empty(204);
    assert_eq!(show().await, 403);
    assert_eq!(browser.get("/hub/home").await.status, 200);
}
