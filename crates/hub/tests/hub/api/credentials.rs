//! What is remembered of a token counts only as long as the database says the same, whoever changes it.

use chrono::TimeDelta;
use orrery_core::{Clock as _, SystemClock};
use orrery_store::roles::{self, Holder};
use orrery_store::users::UserChanges;
use orrery_store::{
    ConnectionTrait as _, Store, StoreError, StoreOptions, api_tokens, groups, users,
};
use serde_json::json;

use crate::test_hub::TestHub;

/// Another program with the hub's database open.
async fn another_program(hub: &TestHub) -> Store {
    let url = orrery_store::DbUrl::parse(&hub.state.config.hub.db_url).expect("a URL");
    Store::open(&url, StoreOptions::default())
        .await
        .expect("the same database")
}

#[tokio::test]
async fn a_token_that_another_program_deletes_is_refused_from_then_on() {
    let hub = TestHub::new().await.with_user("ada").await;
    let other = another_program(&hub).await;
    let ada = hub.user("ada").await;
    for _ in 0..20 {
        let token = hub.token("ada").await;
        for _ in 0..3 {
            hub.get("/user", &token).await.ok(200);
        }
        // Of no matter for the token, so that it is looked at again, and found the same.
        other
            .write(|txn| async move {
                let name = orrery_core::random::hex::<8>();
                groups::insert(&txn, &name, &json!({})).await
            })
            .await
            .expect("written");
        hub.get("/user", &token).await.ok(200);
        let all = api_tokens::list(other.read(), api_tokens::Owner::User(ada.id)).await;
        let newest = all.expect("tokens").pop().expect("a token").id;
        other
            .write(|txn| async move { api_tokens::delete(&txn, newest).await })
            .await
            .expect("deleted");
        hub.get("/user", &token).await.refused(403);
    }
}

#[tokio::test]
async fn roles_and_groups_that_another_program_changes_count_from_then_on() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let other = another_program(&hub).await;
    let ada = hub.user("ada").await.id;
    let token = hub.token("ada").await;
    hub.get("/users", &token).await.refused(403);
    let group = other
        .write(|txn| async move {
            let scopes = ["list:users".to_owned(), "read:users:name".to_owned()];
            let crew = roles::upsert(&txn, "crew", None, &scopes, false).await?;
            let group = groups::insert(&txn, "crew", &json!({})).await?;
            roles::assign(&txn, Holder::Group(group.id), crew.id, false).await?;
            Ok::<_, StoreError>(group.id)
        })
        .await
        .expect("written");
    for _ in 0..5 {
        hub.get("/users", &token).await.refused(403);
        other
            .write(|txn| async move { groups::add_members(&txn, group, &[ada]).await })
            .await
            .expect("written");
        hub.get("/users", &token).await.ok(200);
        hub.get("/users", &token).await.ok(200);
        other
            .write(|txn| async move { groups::remove_members(&txn, group, &[ada]).await })
            .await
            .expect("written");
    }
    // A user under another name is still the token's owner.
    let changes = &UserChanges {
        name: Some("lovelace".to_owned()),
        ..UserChanges::default()
    };
    other
        .write(|txn| async move { users::update(&txn, ada, changes).await })
        .await
        .expect("written");
    let model = hub.get("/user", &token).await.ok(200);
    assert_eq!(model["name"], "lovelace");
    hub.get("/users/ada", &token).await.refused(404);
}

/// Also while many ask at once, and while something is written all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_refused_in_the_middle_of_a_crowd() {
    let hub = std::sync::Arc::new(TestHub::new().await.with_user("ada").await);
    let ada = hub.user("ada").await.id;
    let busy = {
        let store = hub.state.store.clone();
        tokio::spawn(async move {
            loop {
                let name = orrery_core::random::hex::<8>();
                let name = &name;
                store
                    .write(|txn| async move { groups::insert(&txn, name, &json!({})).await })
                    .await
                    .expect("written");
            }
        })
    };
    for _ in 0..10 {
        let token = hub.token("ada").await;
        let crowd: Vec<_> = (0..4)
            .map(|_| {
                let (hub, token) = (std::sync::Arc::clone(&hub), token.clone());
                tokio::spawn(async move {
                    for _ in 0..25 {
                        hub.get("/user", &token).await;
                    }
                })
            })
            .collect();
        hub.get("/user", &token).await.ok(200);
        let all = api_tokens::list(hub.state.store.read(), api_tokens::Owner::User(ada)).await;
        let newest = all.expect("tokens").pop().expect("a token").id;
        hub.state
            .store
            .write(|txn| async move { api_tokens::delete(&txn, newest).await })
            .await
            .expect("deleted");
        hub.get("/user", &token).await.refused(403);
        for task in crowd {
            task.await.expect("no panic");
        }
        hub.get("/user", &token).await.refused(403);
    }
    busy.abort();
}

/// A list is asked for again and again here, so that it would be answered from memory if it could.
#[tokio::test]
async fn a_list_is_never_older_than_what_was_changed_before_it_was_asked_for() {
    let hub = TestHub::new().await.with_admin("root").await;
    let hub = hub
        .with_user("ada")
        .await
        .with_group("staff", &["ada"])
        .await;
    let root = hub.token("root").await;
    let some = hub
        .service("some", &["list:users!user=ada", "read:users:name"])
        .await;
    let other = another_program(&hub).await;
    let list = async |token: &str| {
        let first = hub.get("/users", token).await;
        let again = hub.get("/users", token).await;
        assert_eq!(first.text(), again.text());
        assert_eq!(first.headers["etag"], again.headers["etag"]);
        assert_eq!(first.headers["content-type"], "application/json");
        again.ok(200).as_array().expect("a list").clone()
    };
    assert_eq!(list(&root).await.len(), 2);
    assert_eq!(list(&some).await.len(), 1);
    assert!(list(&root).await[1].get("groups").is_some());
    assert!(list(&some).await[0].get("groups").is_none());

    // Another program adds somebody.
    let new = users::NewUser {
        name: "eve".to_owned(),
        admin: false,
        created: SystemClock.now(),
        cookie_id: "cookie of eve".to_owned(),
    };
    let adding = &new;
    other
        .write(|transaction| async move { users::insert(&transaction, adding).await.map(drop) })
        .await
        .expect("a user");
    assert_eq!(list(&root).await.len(), 3);
    assert_eq!(list(&some).await.len(), 1);

    // Activity shows before it is written.
    let seen = list(&root).await[1]["last_activity"].clone();
    let at = SystemClock.now() + chrono::TimeDelta::minutes(5);
    hub.state
        .servers
        .record_user_activity(hub.user("ada").await.id, at);
    let now = list(&root).await[1]["last_activity"].clone();
    assert_ne!(now, seen);
    assert!(now.as_str().expect("a time") > "2026", "{now}");

    // What was kept for one question is no answer to another.
    let page = hub.get("/users?limit=1", &root).await.ok(200);
    assert_eq!(page.as_array().expect("a list").len(), 1);
    assert_eq!(list(&root).await.len(), 3);
    let groups = hub.get("/groups", &root).await.ok(200);
    assert_eq!(groups[0]["name"], "staff");

    // A token that is deleted gets nothing from memory.
    let id = hub.get("/user", &root).await.ok(200)["token_id"].clone();
    let id: i32 = id.as_str().expect("an id")[1..].parse().expect("a number");
    other
        .write(|transaction| async move { api_tokens::delete(&transaction, id).await.map(drop) })
        .await
        .expect("a deletion");
    hub.get("/users", &root).await.refused(403);
}

#[tokio::test]
async fn a_share_that_ends_by_itself_counts_no_longer_though_nothing_is_written() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await
        .with_admin("root")
        .await;
    let root = hub.token("root").await;
    let token = hub.token("bob").await;
    let started = hub.post("/users/ada/server", &root, json!({})).await;
    assert!(started.status.is_success(), "{}", started.text());
    let share = json!({"user": "bob", "scopes": ["read:servers!server=ada/"]});
    hub.post("/shares/ada/", &root, share).await.ok(200);
    let end = SystemClock.now() + TimeDelta::seconds(2);
    let end_it = format!(
        "UPDATE shares SET expires_at = '{}'",
        end.format("%Y-%m-%d %H:%M:%S%.6f")
    );
    let end_it = end_it.as_str();
    let ended = hub.state.store.write(|txn| async move {
        txn.execute_unprepared(end_it).await?;
        Ok::<_, StoreError>(())
    });
    ended.await.expect("written");
    let may_read = async || {
        let answer = hub.get("/users/ada/server/progress", &token).await;
        !matches!(answer.status.as_u16(), 403 | 404)
    };
    assert!(may_read().await);
    assert!(may_read().await);
    while SystemClock.now() <= end {
        may_read().await;
    }
    assert!(!may_read().await);
}
