//! Named servers of older versions, whose names JupyterHub 6 does not give any more.

use orrery_hub::config::{Config, InvalidNamedServers};
use orrery_store::spawners::{self, NewSpawner};
use serde_json::json;

use crate::test_hub::TestHub;

const OLD: &str = "$p~c|a! ch@rs";
const PATH: &str = "/users/ada/servers/%24p~c%7Ca%21%20ch@rs";

/// A hub where Ada has a server of that name, and her token.
async fn hub(change: impl FnOnce(&mut Config)) -> (TestHub, String) {
    let hub = TestHub::configured(|config| {
        config.hub.allow_named_servers = true;
        change(config);
    });
    let hub = hub.await.with_user("ada").await;
    let new = &NewSpawner {
        user_id: hub.user("ada").await.id,
        name: OLD.to_owned(),
        ..NewSpawner::default()
    };
    hub.state
        .store
        .write(|transaction| async move { spawners::insert(&transaction, new).await })
        .await
        .expect("an old server");
    let ada = hub.token("ada").await;
    (hub, ada)
}

#[tokio::test]
async fn a_server_with_an_old_name_starts_stops_and_goes() {
    let (hub, ada) = hub(|_| {}).await;
    hub.post(PATH, &ada, json!({})).await.empty(201);
    let server = hub.get(PATH, &ada).await.ok(200);
    assert_eq!(
        (&server["name"], &server["full_name"], &server["ready"]),
        (&json!(OLD), &json!(format!("ada/{OLD}")), &json!(true))
    );
    assert_eq!(server["url"], "/user/ada/%24p~c%7Ca%21%20ch@rs/");
    assert_eq!(server["progress_url"], format!("/hub/api{PATH}/progress"));
    let routes = hub.state.routes.routes().await.expect("routes");
    let mut servers = routes.values().map(|route| &route.data["server_name"]);
    assert!(servers.any(|name| name == OLD), "{routes:?}");
    hub.delete(PATH, &ada).await.empty(204);
    assert_eq!(hub.get(PATH, &ada).await.ok(200)["stopped"], true);
    hub.send("DELETE", PATH, &ada, Some(json!({"remove": true})))
        .await
        .empty(204);
    hub.get(PATH, &ada).await.refused(404);
    // There will be no new one.
    let why = hub.post(PATH, &ada, json!({})).await.refused(400);
    assert_eq!(why, format!("Invalid server_name: '{OLD}'"));
}

#[tokio::test]
async fn a_server_with_an_old_name_only_goes_where_its_start_is_disabled() {
    // Upstream's `test_start_invalid_named_server_disabled`.
    let (hub, ada) = hub(|config| {
        config.hub.allow_existing_invalid_named_servers = InvalidNamedServers::AllowDelete;
    })
    .await;
    let why = hub.post(PATH, &ada, json!({})).await.refused(400);
    assert_eq!(
        why,
        format!("Starting invalid server_name '{OLD}' is disabled, contact your administrator")
    );
    assert_eq!(hub.get(PATH, &ada).await.ok(200)["stopped"], true);
    hub.delete(PATH, &ada).await.empty(204);
    hub.send("DELETE", PATH, &ada, Some(json!({"remove": true})))
        .await
        .empty(204);
    hub.get(PATH, &ada).await.refused(404);
}

#[tokio::test]
async fn a_server_with_an_old_name_is_only_seen_where_named_servers_are_disabled() {
    let (hub, ada) = hub(|config| config.hub.allow_named_servers = false).await;
    let remove = Some(json!({"remove": true}));
    for answer in [
        hub.post(PATH, &ada, json!({})).await,
        hub.delete(PATH, &ada).await,
        hub.send("DELETE", PATH, &ada, remove).await,
    ] {
        assert_eq!(answer.refused(400), "Named servers are not enabled.");
    }
    assert_eq!(hub.get(PATH, &ada).await.ok(200)["name"], OLD);
}
