//! `/hub/api/oauth2`: codes and tokens, where the site's options change what is asked of clients. All
//! else is compared with JupyterHub in `tests/twin`.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};

use crate::test_hub::{Answer, TestHub};

const SECRET: &str = "the-secret-of-the-shop";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A hub that wants challenges, and a service that people need not agree to.
async fn strict_hub() -> TestHub {
    let hub = TestHub::configured(|config| config.hub.oauth_require_pkce = true)
        .await
        .with_admin("root")
        .await;
    let shop = json!({
        "api_token": SECRET,
        "oauth_client_id": "service-shop",
        "oauth_redirect_uri": "http://shop.example/callback",
        "oauth_no_confirm": true,
    });
    let root = hub.token("root").await;
    hub.post("/services/shop", &root, shop).await.ok(201);
    hub
}

/// What the browser of an administrator is sent back with.
async fn ask(hub: &TestHub, more: &str) -> String {
    let name = orrery_hub::auth::LOGIN_COOKIE;
    let now = hub.state.unix_time();
    let cookie = hub.state.signer.sign(name, b"cookie of root", now);
    let path = format!(
        "/hub/api/oauth2/authorize?client_id=service-shop&response_type=code&state=s{more}"
    );
    let request = Request::get(path)
        .header(header::COOKIE, format!("{name}={cookie}"))
        .body(Body::empty())
        .expect("a request");
    let answer = hub.raw(request).await;
    assert_eq!(answer.status.as_u16(), 302, "{}", answer.text());
    let place = answer.headers[header::LOCATION].to_str().expect("a text");
    let answer = place.strip_prefix("http://shop.example/callback?");
    answer.expect("the client's own address").to_owned()
}

fn code(answer: &str) -> &str {
    let code = answer.strip_prefix("code=").expect("a code");
    code.strip_suffix("&state=s").expect("the state")
}

async fn exchange(hub: &TestHub, code: &str, more: &str) -> Answer {
    let form = format!(
        "grant_type=authorization_code&client_id=service-shop&client_secret={SECRET}&code={code}{more}"
    );
    let request = Request::post("/hub/api/oauth2/token")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form))
        .expect("a request");
    hub.raw(request).await
}

#[tokio::test]
async fn a_site_may_want_a_challenge_of_every_client() {
    let hub = strict_hub().await;
    assert_eq!(
        ask(&hub, "").await,
        "error=invalid_request&error_description=Code+challenge+required.&state=s"
    );
    let challenge = format!("&code_challenge={CHALLENGE}&code_challenge_method=S256");

    let answer = ask(&hub, &challenge).await;
    let refused = exchange(&hub, code(&answer), "").await.ok(400);
    assert_eq!(
        refused,
        json!({"error": "invalid_request", "error_description": "Code verifier required."})
    );

    let answer = ask(&hub, &challenge).await;
    let verifier = format!("&code_verifier={VERIFIER}");
    let granted = exchange(&hub, code(&answer), &verifier).await.ok(200);
    let token = granted["access_token"].as_str().expect("a token");
    assert_eq!(hub.get("/user", token).await.ok(200)["name"], "root");
    // A code is good once.
    let again = exchange(&hub, code(&answer), &verifier).await.ok(400);
    assert_eq!(again, json!({"error": "invalid_grant"}));
}

#[tokio::test]
async fn two_exchanges_of_one_code_give_one_token() {
    let hub = strict_hub().await;
    let challenge = format!("&code_challenge={VERIFIER}&code_challenge_method=plain");
    let answer = ask(&hub, &challenge).await;
    let verifier = format!("&code_verifier={VERIFIER}");
    let (one, two) = tokio::join!(
        exchange(&hub, code(&answer), &verifier),
        exchange(&hub, code(&answer), &verifier)
    );
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
    let root = hub.token("root").await;
    let tokens = hub.get("/users/root/tokens", &root).await.ok(200);
    let of_shop = |token: &&Value| token["oauth_client"] == "JupyterHub service shop";
    let tokens = tokens["api_tokens"].as_array().expect("a list");
    assert_eq!(tokens.iter().filter(of_shop).count(), 1);
}

#[tokio::test]
async fn a_revoked_application_gets_no_token_by_a_code_that_it_has_still() {
    let hub = strict_hub().await;
    let challenge = format!("&code_challenge={VERIFIER}&code_challenge_method=plain");
    let verifier = format!("&code_verifier={VERIFIER}");
    let (first, second) = (ask(&hub, &challenge).await, ask(&hub, &challenge).await);
    exchange(&hub, code(&first), &verifier).await.ok(200);
    let root = hub.token("root").await;
    let tokens = hub.get("/users/root/tokens", &root).await.ok(200);
    let mut tokens = tokens["api_tokens"].as_array().expect("a list").iter();
    let of_shop = tokens.find(|token| token["oauth_client"] == "JupyterHub service shop");
    let id = of_shop.expect("the shop's")["id"].as_str().expect("a text");
    hub.delete(&format!("/users/root/tokens/{id}"), &root)
        .await
        .empty(204);
    exchange(&hub, code(&second), &verifier).await.ok(400);
    // Whoever logs in to it again is let in again.
    let third = ask(&hub, &challenge).await;
    exchange(&hub, code(&third), &verifier).await.ok(200);
}
