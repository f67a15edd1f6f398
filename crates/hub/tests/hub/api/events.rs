//! `/hub/api/events`: the changes of users and servers, to whom they may be shown.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use orrery_hub::changes::{Busy, Feed, Pauses, Reach};
use orrery_store::users::{self, NewUser};
use orrery_store::{StoreError, api_tokens, events};
use serde_json::{Value, json};

use crate::test_hub::{Open, PATIENCE, TestHub, fake_proxy, setup};

/// The events in what came so far, without their times.
pub(super) fn told(open: &Open) -> Vec<Value> {
    open.text()
        .split("\n\n")
        .filter_map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")))
        .map(|data| {
            let mut event: Value = serde_json::from_str(data).expect("JSON");
            event.as_object_mut().expect("an object").remove("at");
            event
        })
        .collect()
}

pub(super) fn last_id(open: &Open) -> String {
    let ids = open.text().lines();
    let id = ids.filter_map(|line| line.strip_prefix("id: ")).next_back();
    id.expect("an id").to_owned()
}

pub(super) async fn with_named_servers() -> TestHub {
    TestHub::configured(|config| config.hub.allow_named_servers = true).await
}

pub(super) async fn follow(hub: &TestHub, token: &str) -> Open {
    let mut open = hub.open("/events", token).await;
    open.until("\"open\"").await;
    open
}

pub(super) async fn follow_after(hub: &TestHub, token: &str, id: &str) -> Open {
    let request = Request::get("/hub/api/events")
        .header(header::AUTHORIZATION, format!("token {token}"))
        .header("last-event-id", id);
    hub.open_raw(request.body(Body::empty()).expect("a request"))
        .await
}

#[tokio::test]
async fn an_admin_is_told_all_that_changes_in_order() {
    let hub = with_named_servers().await.with_admin("root").await;
    let root = hub.token("root").await;
    let mut open = follow(&hub, &root).await;
    hub.post("/users/ada", &root, json!({})).await.ok(201);
    hub.patch("/users/ada", &root, json!({"admin": true}))
        .await
        .ok(200);
    hub.patch("/users/ada", &root, json!({"name": "lovelace"}))
        .await
        .ok(200);
    hub.post("/groups/staff", &root, json!({"users": ["lovelace"]}))
        .await
        .ok(201);
    // Who is in it already does not change.
    hub.post("/groups/staff/users", &root, json!({"users": ["lovelace"]}))
        .await
        .ok(200);
    hub.delete("/groups/staff", &root).await.empty(204);
    let started = hub
        .post("/users/lovelace/servers/lab", &root, json!({}))
        .await;
    assert!(started.status.is_success(), "{}", started.text());
    open.until("server.ready").await;
    let stopped = hub
        .send(
            "DELETE",
            "/users/lovelace/servers/lab",
            &root,
            Some(json!({"remove": true})),
        )
        .await;
    assert!(stopped.status.is_success(), "{}", stopped.text());
    open.until("server.deleted").await;
    hub.delete("/users/lovelace", &root).await.empty(204);
    open.until("user.deleted").await;
    let server = |kind: &str| json!({"type": kind, "user": "lovelace", "server": "lab"});
    assert_eq!(
        told(&open),
        [
            json!({"type": "open"}),
            json!({"type": "user.created", "user": "ada"}),
            json!({"type": "user.changed", "user": "ada", "admin": true}),
            json!({"type": "user.changed", "user": "lovelace", "old_name": "ada"}),
            json!({"type": "user.changed", "user": "lovelace", "groups_added": ["staff"]}),
            json!({"type": "user.changed", "user": "lovelace", "groups_removed": ["staff"]}),
            server("server.queued"),
            server("server.starting"),
            server("server.ready"),
            server("server.stopping"),
            server("server.stopped"),
            server("server.deleted"),
            json!({"type": "user.deleted", "user": "lovelace"}),
        ]
    );
    let ids: Vec<i64> = open
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("id: ")?.parse().ok())
        .collect();
    assert!(ids.is_sorted(), "{ids:?}");
}

#[tokio::test]
async fn a_failed_start_says_its_cause() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let root = hub.token("root").await;
    let mut open = follow(&hub, &root).await;
    hub.post("/users/ada/server", &root, json!({"behave": "fail"}))
        .await;
    open.until("server.failed").await;
    let failed = told(&open).pop().expect("an event");
    assert_eq!(failed["type"], "server.failed");
    assert!(failed["cause"].is_string(), "{failed}");
}

#[tokio::test]
async fn everybody_is_told_what_their_scopes_show_and_no_more() {
    let hub = with_named_servers()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await
        .with_group("staff", &["bob"])
        .await;
    let root = hub.token("root").await;
    let of_ada = hub.token("ada").await;
    let names_only = hub.service("names", &["read:users:name"]).await;
    let staff = hub
        .service(
            "of-staff",
            &["read:users!group=staff", "read:servers!group=staff"],
        )
        .await;
    let servers = hub.service("servers", &["read:servers"]).await;
    let one_server = hub.service("one", &["read:servers!server=ada/lab"]).await;
    let mut streams = Vec::new();
    for token in [&of_ada, &names_only, &staff, &servers, &one_server] {
        streams.push(follow(&hub, token).await);
    }
    for user in ["ada", "bob"] {
        // Bob has no token that would become as strong.
        if user == "bob" {
            hub.patch("/users/bob", &root, json!({"admin": true}))
                .await
                .ok(200);
        }
        hub.post(&format!("/users/{user}/servers/lab"), &root, json!({}))
            .await;
        hub.post(&format!("/users/{user}/server"), &root, json!({}))
            .await;
        hub.delete(&format!("/users/{user}/servers/lab"), &root)
            .await;
        hub.delete(&format!("/users/{user}/server"), &root).await;
    }
    let has = |parts: &'static [&'static str]| {
        move |told: &str| {
            told.lines()
                .any(|line| parts.iter().all(|part| line.contains(part)))
        }
    };
    // What is shown goes by who is in which group when it is told.
    streams[2]
        .until_told(has(&["server.stopped", "bob", "lab"]))
        .await;
    hub.post("/groups/staff/users", &root, json!({"users": ["ada"]}))
        .await
        .ok(200);
    hub.send(
        "DELETE",
        "/groups/staff/users",
        &root,
        Some(json!({"users": ["bob"]})),
    )
    .await
    .ok(200);
    streams[0].until("groups_added").await;
    streams[2].until("groups_added").await;
    streams[2].until("groups_removed").await;
    hub.delete("/users/bob", &root).await.empty(204);
    hub.delete("/users/ada", &root).await.empty(204);
    for open in &mut streams[1..4] {
        open.until_told(has(&["user.deleted", "\"ada\""])).await;
    }
    streams[4].until("server.deleted").await;
    let seen: Vec<_> = streams.iter().map(told).collect();
    let is_about = |events: &[Value], user: &str, kind: &str| {
        events.iter().any(|event| {
            event["user"] == user && event["type"].as_str().is_some_and(|t| t.starts_with(kind))
        })
    };
    let [ada, names, staff, servers, one] = &seen[..] else {
        panic!("five streams")
    };
    assert!(is_about(ada, "ada", "user.changed") && is_about(ada, "ada", "server."));
    assert!(
        ada.iter()
            .all(|event| event["type"] == "open" || event["user"] == "ada")
    );
    // The names' fields are the name and whether somebody is an administrator: no groups, no servers.
    assert!(is_about(names, "bob", "user.changed") && is_about(names, "bob", "user.deleted"));
    assert!(names.iter().all(|event| {
        event.get("groups_added").is_none()
            && event.get("groups_removed").is_none()
            && !event["type"]
                .as_str()
                .expect("a text")
                .starts_with("server.")
    }));
    // Bob until he left the group, and that he left; Ada from when she came.
    assert!(is_about(staff, "bob", "server.ready"));
    assert!(
        staff
            .contains(&json!({"type": "user.changed", "user": "bob", "groups_removed": ["staff"]}))
    );
    assert!(!is_about(staff, "bob", "user.deleted"));
    assert!(
        staff.contains(&json!({"type": "user.changed", "user": "ada", "groups_added": ["staff"]}))
    );
    assert!(is_about(staff, "ada", "user.deleted"));
    // A service that may read servers sees of users that they are there.
    assert!(is_about(servers, "ada", "server.ready") && is_about(servers, "bob", "server.ready"));
    assert!(!is_about(servers, "ada", "user.changed"));
    assert!(
        one.iter()
            .all(|event| event["type"] == "open"
                || event["server"] == "lab" && event["user"] == "ada")
    );
    assert!(is_about(one, "ada", "server.ready"));
}

#[tokio::test]
async fn whoever_may_see_nothing_gets_no_stream() {
    let hub = TestHub::new().await;
    let groups = hub.service("groups", &["list:groups"]).await;
    hub.get("/events", &groups).await.refused(403);
    hub.get("/events", "").await.refused(403);
}

#[tokio::test]
async fn a_revoked_token_ends_its_stream_and_is_told_nothing_more() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let root = hub.token("root").await;
    let of_root = hub.token("root").await;
    let mut open = follow(&hub, &of_root).await;
    let mut role = follow(&hub, &hub.token("ada").await).await;
    let id = {
        let found = api_tokens::find_candidates(
            hub.state.store.read(),
            orrery_store::token_hash::prefix(&of_root),
            hub.state.clock.now(),
        );
        found.await.expect("an answer")[0].id
    };
    hub.delete(&format!("/users/root/tokens/a{id}"), &root)
        .await
        .empty(204);
    hub.post("/users/late", &root, json!({})).await.ok(201);
    open.end().await;
    assert_eq!(told(&open), [json!({"type": "open"})]);
    // So does a user who is deleted.
    hub.delete("/users/ada", &root).await.empty(204);
    role.end().await;
}

#[tokio::test]
async fn a_stream_that_broke_goes_on_where_it_ended_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = fake_proxy().await;
    let start = async || {
        let setup = setup(folder.path(), &proxy, |_| {});
        let (state, _) = Box::pin(orrery_hub::build(setup)).await.expect("a hub");
        TestHub::of_state(state)
    };
    let hub = start().await.with_admin("root").await;
    let root = hub.token("root").await;
    let mut open = follow(&hub, &root).await;
    hub.post("/users/one", &root, json!({})).await.ok(201);
    open.until("\"one\"").await;
    let id = last_id(&open);
    drop(open);
    hub.post("/users/two", &root, json!({})).await.ok(201);
    drop(hub);
    let hub = start().await;
    hub.post("/users/three", &root, json!({})).await.ok(201);
    let mut open = follow_after(&hub, &root, &id).await;
    open.until("\"three\"").await;
    assert_eq!(
        told(&open),
        [
            json!({"type": "open"}),
            json!({"type": "user.created", "user": "two"}),
            json!({"type": "user.created", "user": "three"}),
        ]
    );
}

#[tokio::test]
async fn two_hubs_on_one_database_tell_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = fake_proxy().await;
    let start = async || {
        let setup = setup(folder.path(), &proxy, |_| {});
        let (state, _) = Box::pin(orrery_hub::build(setup)).await.expect("a hub");
        TestHub::of_state(state)
    };
    let first = start().await.with_admin("root").await;
    let second = start().await;
    let root = first.token("root").await;
    let mut here = follow(&first, &root).await;
    let mut there = follow(&second, &root).await;
    first.post("/users/one", &root, json!({})).await.ok(201);
    second.post("/users/two", &root, json!({})).await.ok(201);
    here.until("\"two\"").await;
    there.until("\"two\"").await;
    assert_eq!(told(&here), told(&there));
    assert_eq!(told(&here).len(), 3);
}

#[tokio::test]
async fn what_is_not_known_any_more_is_a_reset() {
    let hub = TestHub::new().await.with_admin("root").await;
    let root = hub.token("root").await;
    let mut open = follow(&hub, &root).await;
    let old = last_id(&open);
    hub.post("/users/one", &root, json!({})).await.ok(201);
    open.until("\"one\"").await;
    let now = hub.state.clock.now() + chrono::TimeDelta::hours(2);
    let pruned = hub
        .state
        .store
        .write(|transaction| async move { events::prune(&transaction, now, 1000).await })
        .await
        .expect("pruned");
    assert!(pruned > 0);
    let unknown = [old.as_str(), "999999999", "no number", "-1"];
    for (number, id) in unknown.into_iter().enumerate() {
        let mut again = follow_after(&hub, &root, id).await;
        again.until("\"reset\"").await;
        // It goes on from here.
        let name = format!("after-{number}");
        hub.post(&format!("/users/{name}"), &root, json!({}))
            .await
            .ok(201);
        again.until(&name).await;
    }
    let mut fresh = follow_after(&hub, &root, &last_id(&open)).await;
    fresh.until("\"open\"").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_goes_on_later() {
    let hub = TestHub::with_pauses(Pauses {
        look: Duration::from_millis(10),
        write: Duration::from_millis(100),
        ..Pauses::default()
    })
    .await
    .with_admin("root")
    .await;
    let root = hub.token("root").await;
    let mut open = follow(&hub, &root).await;
    let names: Vec<String> = (0..9000)
        .map(|n| format!("user-with-a-longer-name-{n}"))
        .collect();
    for names in names.chunks(500) {
        let names = names.to_vec();
        let names = &names;
        let now = hub.state.clock.now();
        hub.state
            .store
            .write(|transaction| async move {
                for name in names {
                    let new = NewUser {
                        name: name.clone(),
                        admin: false,
                        created: now,
                        cookie_id: format!("cookie of {name}"),
                    };
                    users::insert(&transaction, &new).await?;
                }
                Ok::<_, StoreError>(())
            })
            .await
            .expect("users");
    }
    // Not one byte was read: the hub gives the stream up.
    tokio::time::timeout(PATIENCE, async {
        while hub.state.changes.is_looking() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the stream is given up");
    open.end().await;
    let first = told(&open);
    assert!(
        first.len() < 9000,
        "all was kept for a client that did not read"
    );
    let mut rest = follow_after(&hub, &root, &last_id(&open)).await;
    rest.until("user-with-a-longer-name-8999").await;
    assert_eq!(first.len() - 1 + told(&rest).len() - 1, 9000);
}

#[tokio::test]
async fn nothing_is_looked_at_while_nobody_watches() {
    let hub = TestHub::new().await.with_admin("root").await;
    let root = hub.token("root").await;
    assert!(!hub.state.changes.is_looking());
    let open = follow(&hub, &root).await;
    assert!(hub.state.changes.is_looking());
    drop(open);
    tokio::time::timeout(PATIENCE, async {
        while hub.state.changes.is_looking() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the looking ends");
}

#[tokio::test]
async fn silence_is_filled_and_the_use_of_servers_is_told() {
    let hub = TestHub::with_pauses(Pauses {
        activity: Duration::from_millis(20),
        silence: Duration::from_millis(50),
        ..Pauses::default()
    })
    .await
    .with_admin("root")
    .await
    .with_user("ada")
    .await;
    let root = hub.token("root").await;
    let ada = hub.token("ada").await;
    hub.post("/users/ada/server", &root, json!({})).await;
    let mut open = follow(&hub, &root).await;
    let mut own = follow(&hub, &ada).await;
    open.until(":\n\n").await;
    let before = last_id(&own);
    // What others do moves the id on, and says nothing.
    hub.post("/users/bob", &root, json!({})).await.ok(201);
    own.until_told(|text| {
        text.lines()
            .filter_map(|line| line.strip_prefix("id: "))
            .next_back()
            .is_some_and(|id| id != before)
    })
    .await;
    assert_eq!(told(&own), [json!({"type": "open"})]);
    let used = hub.state.clock.now();
    let posted = json!({"servers": {"": {"last_activity": used.and_utc().to_rfc3339()}}});
    let answer = hub.post("/users/ada/activity", &ada, posted).await;
    assert!(answer.status.is_success(), "{}", answer.text());
    hub.state.servers.flush_activity().await.expect("written");
    open.until("server.activity").await;
    own.until("server.activity").await;
    let event = told(&own).pop().expect("an event");
    assert_eq!(
        (&event["user"], &event["server"]),
        (&json!("ada"), &json!(""))
    );
}

#[tokio::test]
async fn one_requester_has_a_bounded_number_of_streams() {
    let hub = TestHub::new().await.with_user("ada").await;
    let feed: &Arc<Feed> = &hub.state.changes;
    let watchers: Vec<_> = (0..4)
        .map(|_| feed.watch("user ada", Reach::Own).expect("a place"))
        .collect();
    let ada = hub.token("ada").await;
    let refused = hub.get("/events", &ada).await;
    refused.refused(429);
    assert_eq!(refused.headers[header::RETRY_AFTER], "10");
    drop(watchers);
    follow(&hub, &ada).await;
    let of_some: Vec<_> = (0..20)
        .map_while(|_| feed.watch("service staff", Reach::Some).ok())
        .collect();
    assert_eq!(of_some.len(), 16);
}

#[tokio::test]
async fn those_who_see_themselves_do_not_take_the_places_of_those_who_see_all() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let (root, ada) = (hub.token("root").await, hub.token("ada").await);
    let feed: &Arc<Feed> = &hub.state.changes;
    let mut watchers = Vec::new();
    let busy = (0..)
        .find_map(
            |number| match feed.watch(&format!("user u{}", number / 4), Reach::Own) {
                Ok(watcher) => {
                    watchers.push(watcher);
                    None
                }
                Err(busy) => Some(busy),
            },
        )
        .expect("an end");
    assert_eq!(busy, Busy::Hub);
    assert_eq!(watchers.len(), feed.places() - feed.places() / 4);
    let some = feed.watch("service staff", Reach::Some).err();
    assert_eq!(some, Some(Busy::Hub));
    hub.get("/events", &ada).await.refused(503);
    let open = follow(&hub, &root).await;
    let servers = hub.service("servers", &["read:servers"]).await;
    let also = follow(&hub, &servers).await;
    // A place that becomes free is anybody's again.
    watchers.pop();
    follow(&hub, &ada).await;
    drop((open, also));
}

#[tokio::test]
async fn a_changed_configuration_ends_the_streams_and_holds_for_those_that_come_after() {
    let hub = TestHub::new().await.with_admin("root").await;
    let root = hub.token("root").await;
    let mut open = follow(&hub, &root).await;
    let refused = hub
        .reload(|config| config.authenticator.username_pattern = "(".to_owned())
        .await;
    assert!(refused.is_err());
    hub.post("/users/ada", &root, json!({})).await.ok(201);
    open.until("ada").await;
    hub.reload(|_| {}).await.expect("a configuration");
    open.end().await;
    hub.post("/users/bob", &root, json!({})).await.ok(201);
    let mut rest = follow_after(&hub, &root, &last_id(&open)).await;
    rest.until("bob").await;
    hub.reload(|_| {}).await.expect("a configuration");
    rest.end().await;
}

#[tokio::test]
async fn a_hub_that_stops_ends_the_streams() {
    let hub = TestHub::new().await.with_admin("root").await;
    let mut open = follow(&hub, &hub.token("root").await).await;
    hub.state.changes.close();
    open.end().await;
}
