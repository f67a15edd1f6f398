//! A server's life when all goes well, and what may be asked of it when.

use axum::http::StatusCode;
use orrery_core::phase::Phase;
use orrery_hub::servers::{
    DeleteError, NamedServerError, StartError, StartRequest, StopError, StopOutcome,
};
use orrery_store::{oauth_clients, servers, spawners, token_hash, users};
use serde_json::json;

use super::bench::{Bench, SOON, named, start, until, view};
use super::fakes::Start;

#[tokio::test]
async fn a_server_starts_and_its_rows_are_upstreams() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let ada = bench.user("ada@x.org").await;
    let request = StartRequest {
        options: Some(json!({"size": "L"})),
        display_name: None,
    };
    let run = engine
        .start(&ada, &named(""), request)
        .await
        .expect("a start");
    assert_eq!(engine.wait(run, SOON).await.expect("a phase"), Phase::Ready);

    let server = view(&engine, &ada, "").await;
    assert!(server.ready() && server.pending().is_none());
    assert_eq!(server.url, "/user/ada@x.org/");
    assert_eq!(server.user_options, json!({"size": "L"}));
    assert!(server.started.is_some());

    let read = bench.store.read();
    let row = spawners::find(read, ada.id, "")
        .await
        .expect("a database")
        .expect("a row");
    assert!(row.state["pid"].is_i64(), "{}", row.state);
    assert_eq!(
        row.oauth_client_id.as_deref(),
        Some("jupyterhub-user-ada%40x.org")
    );
    let address = servers::find(read, row.server_id.expect("an address"))
        .await
        .expect("a database")
        .expect("an address");
    assert_eq!(
        (address.proto.as_str(), address.base_url.as_str()),
        ("http", "/user/ada@x.org/")
    );
    assert_eq!(
        (address.ip.as_str(), address.cookie_name.as_str()),
        ("127.0.0.1", "cookie")
    );
    let target = format!("http://127.0.0.1:{}", address.port);
    assert_eq!(bench.table.target("/user/ada@x.org/"), Some(target));

    let environment = bench
        .spawner
        .environments
        .lock()
        .expect("no panic under a lock")[0]
        .clone();
    let token = &environment["JUPYTERHUB_API_TOKEN"];
    let tokens = bench.tokens(&ada).await;
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].note.as_deref(),
        Some("Server at /user/ada@x.org/")
    );
    assert_eq!(
        tokens[0].scopes,
        ["access:servers!server=ada@x.org/", "users:activity!user"]
    );
    assert!(token_hash::verify_token(&tokens[0].hashed, token));
    let client = oauth_clients::find(read, "jupyterhub-user-ada%40x.org")
        .await
        .expect("a database")
        .expect("a client");
    assert!(token_hash::verify_token(
        client.secret.as_deref().unwrap_or_default(),
        token
    ));
    assert_eq!(
        client.redirect_uri.as_deref(),
        Some("/user/ada@x.org/oauth_callback")
    );
    assert_eq!(client.allowed_scopes, ["access:servers!server=ada@x.org/"]);
    assert!(
        users::find_by_id(read, ada.id)
            .await
            .expect("a database")
            .expect("ada")
            .last_activity
            .is_some()
    );

    assert_eq!(
        engine.stop(&ada, &named("")).await.expect("a stop"),
        StopOutcome::Stopping(run)
    );
    let stopped = until(&engine, &ada, "", Phase::Stopped).await;
    assert_eq!((stopped.failure, stopped.started), (None, None));
    assert_eq!(stopped.user_options, json!({"size": "L"}));
    let row = spawners::find(read, ada.id, "")
        .await
        .expect("a database")
        .expect("a row");
    assert_eq!(
        (row.server_id, row.oauth_client_id, row.state),
        (None, None, json!({}))
    );
    assert!(bench.tokens(&ada).await.is_empty());
    assert!(
        oauth_clients::find(read, "jupyterhub-user-ada%40x.org")
            .await
            .expect("a database")
            .is_none()
    );
    assert_eq!(bench.table.target("/user/ada@x.org/"), None);
    assert_eq!(bench.spawner.running(), 0);
    assert_eq!(
        engine.stop(&ada, &named("")).await.expect("a stop"),
        StopOutcome::NotRunning
    );
}

#[tokio::test]
async fn what_runs_or_is_pending_is_not_started_again() {
    let bench = Bench::new(Start::WaitsForGate).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    let run = start(&engine, &ada, "lab").await;
    let again = engine
        .start(&ada, &named("lab"), StartRequest::default())
        .await
        .expect_err("pending");
    assert!(
        matches!(&again, StartError::Pending { pending: "spawn", run: same, .. } if *same == run)
    );
    assert_eq!(again.to_string(), "ada:lab is pending spawn");

    bench.spawner.gate.add_permits(1);
    engine.wait(run, SOON).await.expect("a phase");
    let again = engine
        .start(&ada, &named("lab"), StartRequest::default())
        .await
        .expect_err("running");
    assert_eq!(again.to_string(), "ada:lab is already running");
    assert_eq!(again.status(), StatusCode::BAD_REQUEST);

    bench.spawner.stop_hangs.set(true);
    engine.stop(&ada, &named("lab")).await.expect("a stop");
    let again = engine
        .start(&ada, &named("lab"), StartRequest::default())
        .await
        .expect_err("stopping");
    assert_eq!(again.to_string(), "ada:lab is pending stop");
    assert_eq!(
        engine.stop(&ada, &named("lab")).await.expect("a stop"),
        StopOutcome::AlreadyStopping(run)
    );
}

#[tokio::test]
async fn two_requests_at_once_start_one_server() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    let server = named("");
    let requests = (0..8).map(|_| engine.start(&ada, &server, StartRequest::default()));
    let answers = futures_util::future::join_all(requests).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    until(&engine, &ada, "", Phase::Ready).await;
    assert_eq!(
        bench
            .spawner
            .started
            .lock()
            .expect("no panic under a lock")
            .len(),
        1
    );
}

#[tokio::test]
async fn active_server_limit_counts_all_that_are_not_stopped() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.active_server_limit = 1;
    let engine = bench.life().await;
    let (ada, bob) = (bench.user("ada").await, bench.user("bob").await);
    start(&engine, &ada, "").await;
    let refused = engine
        .start(&bob, &named(""), StartRequest::default())
        .await
        .expect_err("the limit");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        refused.to_string(),
        "Active user limit exceeded. Try again in a few minutes."
    );
    engine.stop(&ada, &named("")).await.expect("a stop");
    until(&engine, &ada, "", Phase::Stopped).await;
    start(&engine, &bob, "").await;
}

#[tokio::test]
async fn named_servers_follow_upstreams_rules() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.named_server_limit_per_user = 1;
    let engine = bench.idle_engine();
    let ada = bench.user("ada").await;
    let check = async |name: &str, display: Option<&str>| {
        engine
            .check_named_server(&ada, &named(name), display, true)
            .await
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        check("Lab", None).await,
        Err("Invalid server_name: 'Lab'".to_owned())
    );
    assert_eq!(
        check("lab", Some(" x")).await,
        Err("Invalid display_name: ' x'".to_owned())
    );
    assert_eq!(check("lab", Some("My lab")).await, Ok(()));
    engine
        .create_server(&ada, &named("lab"), Some("My lab"), None)
        .await
        .expect("a server");
    assert!(
        engine
            .create_server(&ada, &named("lab"), None, None)
            .await
            .is_err()
    );
    assert_eq!(check("lab", None).await, Ok(()));
    assert_eq!(
        check("other", None).await,
        Err("User ada already has the maximum of 1 named servers.  One must be deleted before a new server can \
             be created"
            .to_owned())
    );
    assert_eq!(view(&engine, &ada, "lab").await.display_name, "My lab");

    bench.settings.allow_named_servers = false;
    let refused = bench
        .idle_engine()
        .check_named_server(&ada, &named("lab"), None, true)
        .await;
    assert!(matches!(refused, Err(NamedServerError::Disabled)));
}

#[tokio::test]
async fn a_server_is_removed_only_when_it_has_stopped() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "lab").await;
    until(&engine, &ada, "lab", Phase::Ready).await;
    let refused = engine.delete_server(&ada, &named("lab")).await;
    assert!(matches!(refused, Err(DeleteError::Active(name)) if name == "ada:lab"));

    let run = engine
        .stop_and_delete(&ada, &named("lab"))
        .await
        .expect("a stop")
        .run()
        .expect("a run");
    engine.wait(run, SOON).await.expect("a phase");
    let gone = async {
        while engine
            .view(&ada, &named("lab"))
            .await
            .expect("a database")
            .is_some()
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, gone)
        .await
        .expect("the row is removed");
    assert!(matches!(
        engine.stop(&ada, &named("lab")).await,
        Err(StopError::NoSuchServer { .. })
    ));
    assert!(matches!(
        engine.delete_server(&ada, &named("lab")).await,
        Err(DeleteError::NoSuchServer { .. })
    ));
}

#[tokio::test]
async fn lists_show_the_servers_of_many_users() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let (ada, bob, eve) = (
        bench.user("ada").await,
        bench.user("bob").await,
        bench.user("eve").await,
    );
    engine
        .create_server(&ada, &named("lab"), None, None)
        .await
        .expect("a server");
    for user in [&ada, &bob] {
        start(&engine, user, "").await;
        until(&engine, user, "", Phase::Ready).await;
    }
    let mut lists = std::collections::HashMap::new();
    for user in [&ada, &bob, &eve] {
        lists.insert(user.id, engine.views(user).await.expect("a list"));
    }
    let names = |user: i32| -> Vec<(String, bool)> {
        let views = lists.get(&user).into_iter().flatten();
        views.map(|view| (view.full_name(), view.ready())).collect()
    };
    assert_eq!(
        names(ada.id),
        [("ada/".to_owned(), true), ("ada/lab".to_owned(), false)]
    );
    assert_eq!(names(bob.id), [("bob/".to_owned(), true)]);
    assert!(names(eve.id).is_empty());
    assert_eq!(engine.counts().await.expect("counts").ready, 2);
}

#[tokio::test]
async fn activity_only_moves_forward() {
    use orrery_core::{Clock as _, SystemClock};
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.idle_engine();
    let ada = bench.user("ada").await;
    engine
        .create_server(&ada, &named("lab"), None, None)
        .await
        .expect("a server");
    let now = SystemClock.now();
    let earlier = now - std::time::Duration::from_mins(1);
    engine.record_user_activity(ada.id, now);
    engine.record_user_activity(ada.id, earlier);
    engine.record_server_activity(ada.id, &named("lab"), now);
    engine.flush_activity().await.expect("a database");
    engine.record_server_activity(ada.id, &named("lab"), earlier);
    engine.flush_activity().await.expect("a database");
    assert_eq!(view(&engine, &ada, "lab").await.last_activity, Some(now));
    let ada = users::find_by_id(bench.store.read(), ada.id)
        .await
        .expect("a database")
        .expect("ada");
    assert_eq!(ada.last_activity, Some(now));
}
