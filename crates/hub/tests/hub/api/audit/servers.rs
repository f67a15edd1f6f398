//! Events of servers: what others do with them, who opens them, and with whom they are shared.

use orrery_store::oauth_clients::{self, NewOauthClient};
use orrery_store::spawners::{self, NewSpawner, SpawnerChanges};
use serde_json::json;

use super::{events, some_people, user};
use crate::pages::Browser;
use crate::test_hub::TestHub;

#[tokio::test]
async fn what_others_do_to_a_server_is_recorded_and_what_its_owner_does_is_not() {
    let hub = some_people().await;
    let (ada, root) = (hub.token("ada").await, hub.token("root").await);
    for (token, server) in [(&ada, "own"), (&root, "lab")] {
        let path = &format!("/users/ada/servers/{server}");
        let put = hub.send("PUT", path, token, Some(json!({}))).await;
        assert_eq!(put.status, 201, "{}", put.text());
        hub.patch(path, token, json!({"display_name": "Lab"}))
            .await
            .ok(200);
        let start = hub.post(path, token, json!({})).await;
        assert!(
            [201, 202].contains(&start.status.as_u16()),
            "{}",
            start.text()
        );
        let remove = Some(json!({"remove": true}));
        let stop = hub.send("DELETE", path, token, remove).await;
        assert_eq!(stop.status, 204, "{}", stop.text());
    }
    let found = events(&hub, "server.*").await;
    let names: Vec<_> = found.iter().map(|event| &event["action"]).collect();
    assert_eq!(
        names,
        ["server.stop", "server.start", "server.edit", "server.edit"]
    );
    for event in &found {
        assert_eq!(event["actor"], user("root"));
        assert_eq!(
            (&event["owner"], &event["server"]),
            (&json!("ada"), &json!("lab"))
        );
        assert_eq!(
            event["target"],
            json!({"kind": "server", "name": "ada/lab"})
        );
    }
    assert_eq!(found[0]["details"], json!({"remove": true}));
    // By the page as well.
    let browser = Browser::of(&hub, "root").await;
    browser.get("/hub/spawn/bob").await;
    assert_eq!(events(&hub, "server.start").await.len(), 2);
}

/// Makes a server with an OAuth client, as a start does; gives the address that asks for its code.
pub(super) async fn server_client(hub: &TestHub, owner: &str) -> String {
    let identifier = format!("jupyterhub-user-{owner}");
    let client = &NewOauthClient {
        identifier: identifier.clone(),
        description: format!("Server at /user/{owner}/"),
        secret: "a hash".to_owned(),
        redirect_uri: format!("/user/{owner}/oauth_callback"),
        allowed_scopes: vec!["inherit".to_owned()],
    };
    let user_id = hub.user(owner).await.id;
    hub.state
        .store
        .write(|transaction| async move {
            oauth_clients::insert(&transaction, client).await?;
            let new = NewSpawner {
                user_id,
                ..NewSpawner::default()
            };
            let spawner = spawners::insert(&transaction, &new).await?;
            let changes = SpawnerChanges {
                oauth_client_id: Some(Some(client.identifier.clone())),
                ..SpawnerChanges::default()
            };
            spawners::update(&transaction, spawner.id, &changes)
                .await
                .map(|_| ())
        })
        .await
        .expect("a server with a client");
    format!(
        "/hub/api/oauth2/authorize?client_id={identifier}&redirect_uri=%2Fuser%2F{owner}%2Foauth_callback&response_type=code"
    )
}

#[tokio::test]
async fn opening_somebody_elses_server_is_recorded_and_its_owner_sees_it() {
    let hub = some_people().await;
    let path = server_client(&hub, "ada").await;
    // Their own: nothing to tell.
    let ada = Browser::of(&hub, "ada").await;
    assert_eq!(ada.get(&path).await.status, 302);
    let root = Browser::of(&hub, "root").await;
    assert_eq!(root.get(&path).await.status, 200, "the page that asks");
    assert!(events(&hub, "server.access").await.is_empty());
    let agreed = root.post(&path, "scopes=inherit").await;
    assert_eq!(agreed.status, 302, "{}", agreed.text());
    // Bob may not, and that is seen as well.
    let bob = Browser::of(&hub, "bob").await;
    assert_eq!(bob.get(&path).await.status, 403);

    let found = events(&hub, "server.access").await;
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(
        (&found[0]["actor"], &found[0]["outcome"]),
        (&user("bob"), &json!("denied"))
    );
    assert_eq!(
        (&found[1]["actor"], &found[1]["outcome"]),
        (&user("root"), &json!("ok"))
    );
    assert_eq!(
        (&found[1]["owner"], &found[1]["server"]),
        (&json!("ada"), &json!(""))
    );
    assert!(
        events(&hub, "denied").await.is_empty(),
        "it is recorded once"
    );

    let own = hub
        .get("/users/ada/accesses", &hub.token("ada").await)
        .await
        .ok(200);
    let own = own["items"].as_array().expect("a list");
    let who: Vec<_> = own.iter().map(|access| &access["actor"]["name"]).collect();
    assert_eq!(who, ["bob", "root"]);
    assert!(own[0].get("token_id").is_none());
    // Whoever sees servers does not see who else opens them.
    let watcher = hub
        .service("watcher", &["read:servers", "access:servers"])
        .await;
    hub.get("/users/ada/accesses", &watcher).await.refused(403);
    hub.get("/users/ada/accesses", &hub.token("bob").await)
        .await
        .refused(404);
    let auditor = hub.service("auditor", &["read:audit"]).await;
    let seen = hub.get("/users/ada/accesses", &auditor).await.ok(200);
    assert_eq!(seen["items"].as_array().map(Vec::len), Some(2));
    // On the pages.
    let home = ada.get("/hub/home").await.text();
    assert!(home.contains("Who opened your servers") && home.contains("Tried to open it"));
    let page = ada.get("/hub/accesses").await.text();
    assert!(page.contains("root") && page.contains("bob"));
    assert!(!bob.get("/hub/home").await.text().contains("Who opened"));
    assert_eq!(ada.get("/hub/audit").await.status, 403);
    let log = root.get("/hub/audit?action=server.access").await;
    assert_eq!(log.text().matches("audit-row").count(), 2, "{}", log.text());
    assert!(root.get("/hub/home").await.text().contains("/hub/audit"));
}

#[tokio::test]
async fn accesses_go_with_the_person_and_not_with_the_name() {
    let hub = some_people().await;
    let root = hub.token("root").await;
    let open = async |owner: &str, server: &str| {
        let path = format!("/users/{owner}/servers/{server}");
        let put = hub.send("PUT", &path, &root, Some(json!({}))).await;
        assert_eq!(put.status, 201, "{}", put.text());
    };
    let seen = async |user: &str| {
        let list = hub.get(&format!("/users/{user}/accesses"), &root).await;
        let list = list.ok(200)["items"].take();
        let names = list.as_array().expect("a list").iter();
        names
            .map(|row| row["server"].as_str().expect("a name").to_owned())
            .collect::<Vec<_>>()
    };
    let rename = async |from: &str, to: &str| {
        let path = format!("/users/{from}");
        hub.patch(&path, &root, json!({ "name": to })).await.ok(200);
    };
    open("ada", "first").await;
    rename("ada", "lovelace").await;
    open("lovelace", "second").await;
    assert_eq!(seen("lovelace").await, ["second", "first"]);
    // Bob, who was there all the time, gets the name that is free now.
    open("bob", "bobs").await;
    rename("bob", "ada").await;
    open("ada", "third").await;
    assert_eq!(seen("ada").await, ["third", "bobs"]);
    assert_eq!(seen("lovelace").await, ["second", "first"]);
    let page = Browser::of(&hub, "ada").await.get("/hub/accesses").await;
    let page = page.text();
    assert!(page.contains("third") && page.contains("bobs"), "{page}");
    assert!(!page.contains("first"), "{page}");
    // Somebody new of the same name.
    let answer = hub.delete("/users/ada", &root).await;
    answer.empty(204);
    hub.post("/users/ada", &root, json!({})).await.ok(201);
    assert!(seen("ada").await.is_empty());
    open("ada", "fourth").await;
    assert_eq!(seen("ada").await, ["fourth"]);
}

#[tokio::test]
async fn shares_and_codes_are_recorded_and_codes_themselves_are_not() {
    let hub = some_people().await;
    let root = hub.token("root").await;
    hub.send("PUT", "/users/ada/servers/lab", &root, Some(json!({})))
        .await
        .ok(201);
    hub.post("/shares/ada/lab", &root, json!({"user": "bob"}))
        .await
        .ok(200);
    hub.patch("/shares/ada/lab", &root, json!({"user": "bob"}))
        .await
        .ok(200);
    hub.post("/shares/ada/lab", &root, json!({"user": "bob"}))
        .await
        .ok(200);
    hub.delete("/users/bob/shared/ada/lab", &root)
        .await
        .empty(204);
    hub.delete("/shares/ada/lab", &root).await.empty(204);
    let code = hub
        .post("/share-codes/ada/lab", &root, json!({}))
        .await
        .ok(200);
    hub.delete("/share-codes/ada/lab", &root).await.empty(204);
    let mut found = events(&hub, "share.*").await;
    found.extend(events(&hub, "share_code.*").await);
    let names: Vec<_> = found.iter().map(|event| &event["action"]).collect();
    assert_eq!(
        names,
        [
            "share.revoke",
            "share.leave",
            "share.create",
            "share.revoke",
            "share.create",
            "share_code.revoke",
            "share_code.create",
        ]
    );
    for event in &found {
        assert_eq!(
            (&event["owner"], &event["server"]),
            (&json!("ada"), &json!("lab")),
            "{event}"
        );
    }
    assert_eq!(found[4]["details"]["user"], "bob");
    let text = json!(found).to_string();
    assert!(!text.contains(code["code"].as_str().expect("a code")));
}
