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

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|group| group["name"].as_str().expect("a name"))
        .collect()
}

#[tokio::test]
async fn groups_are_searched_and_sorted() {
    let mut hub = TestHub::new().await.with_admin("root").await;
    for name in ["Physics-2", "art", "physics-1"] {
        hub = hub.with_group(name, &[]).await;
    }
    let root = hub.token("root").await;
    let found = hub.get("/groups?name_filter=PHYS", &root).await.ok(200);
    assert_eq!(names(&found), ["Physics-2", "physics-1"]);
    let found = hub.get("/groups?sort=-id", &root).await.ok(200);
    assert_eq!(names(&found), ["physics-1", "art", "Physics-2"]);
    let found = hub.get("/groups?sort=name&limit=2&offset=1", &root).await;
    assert_eq!(names(&found.ok(200)), ["art", "physics-1"]);
    let refused = hub.get("/groups?sort=size", &root).await.refused(400);
    assert_eq!(refused, "sort must be 'id' or 'name', not 'size'");
    // A filter does not open what a scope does not.
    let service = hub
        .service(
            "of-art",
            &["list:groups!group=art", "list:groups!group=none"],
        )
        .await;
    let found = hub.get("/groups?name_filter=phys", &service).await.ok(200);
    assert_eq!(names(&found), Vec::<&str>::new());
    let found = hub.get("/groups?sort=-name", &service).await.ok(200);
    assert_eq!(names(&found), ["art"]);
}

#[tokio::test]
async fn pages_by_cursor_neither_leave_out_nor_repeat() {
    let mut hub = TestHub::new().await.with_admin("root").await;
    for name in ["g-b", "g-d", "g-f", "g-h"] {
        hub = hub.with_group(name, &[]).await.with_user(name).await;
    }
    let root = hub.token("root").await;
    for (list, skipped) in [("groups", ""), ("users", "&name_filter=g-")] {
        for (sort, expected) in [
            ("name", ["g-b", "g-d", "g-f", "g-h"]),
            ("-name", ["g-h", "g-f", "g-d", "g-b"]),
            ("id", ["g-b", "g-d", "g-f", "g-h"]),
            ("-id", ["g-h", "g-f", "g-d", "g-b"]),
            ("last_activity", ["g-b", "g-d", "g-f", "g-h"]),
            ("-last_activity", ["g-h", "g-f", "g-d", "g-b"]),
        ] {
            if list == "groups" && sort.ends_with("activity") {
                continue;
            }
            let mut seen = Vec::new();
            let mut path = format!("/{list}?sort={sort}&limit=2&cursor={skipped}");
            loop {
                let page = hub.get(&path, &root).await.ok(200);
                seen.extend(names(&page["items"]).into_iter().map(str::to_owned));
                let next = &page["_pagination"]["next"];
                if next.is_null() {
                    break;
                }
                assert_eq!(next["limit"], 2);
                // What was on a page already goes, with offsets one would be left out.
                if seen.len() == 2 {
                    hub.delete(&format!("/{list}/{}", seen[0]), &root)
                        .await
                        .empty(204);
                }
                let url = next["url"].as_str().expect("an address");
                path = url
                    .split_once("/hub/api")
                    .expect("our address")
                    .1
                    .to_owned();
            }
            assert_eq!(seen, expected, "{list} by {sort}");
            // It is made again, at its old place by name only: by id it is the newest.
            for name in expected {
                hub.delete(&format!("/{list}/{name}"), &root).await;
            }
            for name in ["g-b", "g-d", "g-f", "g-h"] {
                hub.post(&format!("/{list}/{name}"), &root, json!({}))
                    .await
                    .ok(201);
            }
        }
        for cursor in ["x", "W10", "bnVsbA"] {
            hub.get(&format!("/{list}?cursor={cursor}"), &root)
                .await
                .refused(400);
        }
        // A cursor of one order is none of another.
        let page = hub
            .get(&format!("/{list}?sort=name&limit=1&cursor="), &root)
            .await
            .ok(200);
        let cursor = page["_pagination"]["next"]["cursor"].as_str().expect("one");
        hub.get(&format!("/{list}?sort=-name&cursor={cursor}"), &root)
            .await
            .refused(400);
    }
}
