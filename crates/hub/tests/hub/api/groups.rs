//! `/hub/api/groups`.

use serde_json::{Value, json};

use crate::test_hub::TestHub;

#[tokio::test]
async fn groups_are_made_filled_and_deleted() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let root = hub.token("root").await;
    let group = |users: Value, properties: Value| json!({"kind": "group", "name": "staff", "roles": [], "users": users, "properties": properties});
    let made = hub
        .post("/groups/staff", &root, json!({"users": ["Ada"]}))
        .await
        .ok(201);
    assert_eq!(made, group(json!(["ada"]), json!({})));
    assert_eq!(
        hub.send("POST", "/groups/staff", &root, None)
            .await
            .refused(409),
        "Group staff already exists"
    );
    let filled = hub
        .post(
            "/groups/staff/users",
            &root,
            json!({"users": ["bob", "ada"]}),
        )
        .await
        .ok(200);
    assert_eq!(filled["users"], json!(["ada", "bob"]));
    let emptied = hub
        .send(
            "DELETE",
            "/groups/staff/users",
            &root,
            Some(json!({"users": ["ada"]})),
        )
        .await
        .ok(200);
    assert_eq!(emptied["users"], json!(["bob"]));
    let changed = hub
        .send(
            "PUT",
            "/groups/staff/properties",
            &root,
            Some(json!({"a": 1})),
        )
        .await
        .ok(200);
    assert_eq!(changed["properties"], json!({"a": 1}));
    assert_eq!(
        hub.get("/groups/staff", &root).await.ok(200),
        group(json!(["bob"]), json!({"a": 1}))
    );
    hub.delete("/groups/staff", &root).await.empty(204);
    for method in ["GET", "DELETE"] {
        assert_eq!(
            hub.send(method, "/groups/staff", &root, None)
                .await
                .refused(404),
            "No such group: staff"
        );
    }
}

#[tokio::test]
async fn several_groups_are_made_or_none() {
    let hub = TestHub::new().await.with_admin("root").await;
    let root = hub.token("root").await;
    let made = hub
        .post("/groups", &root, json!({"groups": ["a", "b"]}))
        .await
        .ok(201);
    assert_eq!(
        (&made[0]["name"], &made[1]["name"]),
        (&json!("a"), &json!("b"))
    );
    for (body, status, message) in [
        (json!({"groups": ["c", "a"]}), 409, "Group a already exists"),
        (json!({"groups": ["c", "c"]}), 409, "Group c already exists"),
        (
            json!({"groups": ["c"], "users": ["nobody"]}),
            400,
            "No such user: nobody",
        ),
        (
            json!({"groups": "c"}),
            400,
            "groups must be a list, not <class 'str'>",
        ),
        (
            json!({"groups": [1]}),
            400,
            "group names must be str, not <class 'int'>",
        ),
        (json!({"groups": [""]}), 400, "Invalid group name: ''"),
        (json!({}), 400, "Must specify at least one group to create"),
    ] {
        assert_eq!(
            hub.post("/groups", &root, body).await.refused(status),
            message
        );
    }
    let all = hub.get("/groups", &root).await.ok(200);
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    let message = hub
        .post("/groups/a/users", &root, json!({}))
        .await
        .refused(400);
    assert_eq!(message, "Must specify users to add");
    let message = hub
        .send("PUT", "/groups/a/properties", &root, Some(json!([1])))
        .await
        .refused(400);
    assert_eq!(message, "Must specify properties");
}

#[tokio::test]
async fn groups_are_listed_as_far_as_scopes_reach() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_group("staff", &["ada"])
        .await
        .with_group("other", &[])
        .await;
    let part = hub.service("part", &["list:groups!group=staff"]).await;
    assert_eq!(
        hub.get("/groups", &part).await.ok(200),
        json!([{"kind": "group", "name": "staff"}])
    );
    let odd = hub.service("odd", &["list:groups!user=ada"]).await;
    hub.get("/groups", &odd).await.refused(403);
    let ada = hub.token("ada").await;
    hub.get("/groups", &ada).await.refused(403);
    hub.get("/groups/staff", &ada).await.refused(403);
    hub.get("/groups/other", &part).await.refused(404);
}
