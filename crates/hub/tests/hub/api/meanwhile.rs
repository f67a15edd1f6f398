//! Requests that decide on something which others change while they are on their way.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, header};
use orrery_core::authenticator::{Authenticator, AuthenticatorError, Credentials, Identity};
use orrery_core::{Clock as _, SystemClock, UserName};
use orrery_store::users::{self, NewUser, UserChanges};
use orrery_store::{ConnectionTrait, Store, StoreError, Transaction, groups};
use serde_json::json;
use tokio::sync::Notify;

use crate::test_hub::{Answer, TestHub};

/// Sends a request while somebody else has changed something and not committed it yet: it reads what was there
/// before, waits to write, and must look again. Should it be too slow for that, it finds what is new at once.
async fn during<F: Future<Output = Result<(), StoreError>>>(
    hub: &TestHub,
    change: impl Fn(Transaction) -> F,
    request: impl Future<Output = Answer>,
) -> Answer {
    let (changed, change) = (&Notify::new(), &change);
    let writing = hub.state.store.write(|transaction| async move {
        change(transaction).await?;
        changed.notify_one();
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok::<_, StoreError>(())
    });
    let asking = async {
        changed.notified().await;
        request.await
    };
    let (written, answer) = tokio::join!(writing, asking);
    written.expect("a change");
    answer
}

/// Deletes a user, and adds another one, who gets their id on SQLite.
async fn replace(
    transaction: &impl ConnectionTrait,
    gone: i32,
    name: &str,
) -> Result<(), StoreError> {
    users::delete(transaction, gone).await?;
    let new = NewUser {
        name: name.to_owned(),
        admin: false,
        created: SystemClock.now(),
        cookie_id: format!("cookie of {name}"),
    };
    let user = users::insert(transaction, &new).await?;
    assert_eq!(user.id, gone, "the id is not given again");
    Ok(())
}

#[tokio::test]
async fn whoever_becomes_an_administrator_meanwhile_is_not_edited_by_others() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let manager = &hub.service("manager", &["admin:users"]).await;
    for (name, body) in [
        ("ada", json!({"name": "eve"})),
        ("bob", json!({"admin": false})),
    ] {
        let id = hub.user(name).await.id;
        let promotion = |txn: Transaction| async move {
            let changes = UserChanges {
                admin: Some(true),
                ..UserChanges::default()
            };
            users::update(&txn, id, &changes).await.map(|_| ())
        };
        let path = format!("/users/{name}");
        let edit = during(&hub, promotion, hub.patch(&path, manager, body)).await;
        assert_eq!(edit.refused(403), "Only admins can modify other admins");
        assert!(hub.user(name).await.admin);
    }
}

#[tokio::test]
async fn an_edit_does_not_hit_whoever_got_the_id() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let root = &hub.token("root").await;
    let ada = hub.user("ada").await.id;
    let change = |txn: Transaction| async move { replace(&txn, ada, "eve").await };
    let edit = hub.patch("/users/ada", root, json!({"admin": true}));
    during(&hub, change, edit).await.refused(404);
    assert!(!hub.user("eve").await.admin);
}

/// Takes so long to delete somebody that they are gone and another one has their id.
#[derive(Default)]
struct Slow(OnceLock<Store>);

#[async_trait]
impl Authenticator for Slow {
    async fn authenticate(&self, _: &Credentials) -> Result<Option<Identity>, AuthenticatorError> {
        Ok(None)
    }

    async fn delete_user(&self, name: &UserName) -> Result<(), AuthenticatorError> {
        let store = self.0.get().expect("the hub's store");
        let user = users::find(store.read(), name.as_str()).await;
        let id = user.expect("an answer").expect("a user").id;
        let writing = store.write(|txn| async move { replace(&txn, id, "eve").await });
        writing.await.expect("a replacement");
        Ok(())
    }
}

#[tokio::test]
async fn a_second_deletion_does_not_hit_whoever_got_the_id() {
    let slow = Arc::new(Slow::default());
    let hub = TestHub::with_authenticator(Arc::<Slow>::clone(&slow))
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    assert!(slow.0.set(hub.state.store.clone()).is_ok());
    let root = hub.token("root").await;
    hub.delete("/users/ada", &root).await.refused(404);
    hub.user("eve").await;
}

#[tokio::test]
async fn members_do_not_come_into_a_group_that_got_the_id() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_group("staff", &[])
        .await;
    let root = &hub.token("root").await;
    let change = |txn: Transaction| async move {
        let staff = groups::find(&txn, "staff").await?.expect("a group");
        groups::delete(&txn, staff.id).await?;
        let next = groups::insert(&txn, "admins", &json!({})).await?;
        assert_eq!(next.id, staff.id, "the id is not given again");
        Ok::<_, StoreError>(())
    };
    let joining = hub.post("/groups/staff/users", root, json!({"users": ["ada"]}));
    during(&hub, change, joining).await.refused(404);
    let members = hub.get("/groups/admins", root).await.ok(200)["users"].take();
    assert_eq!(members, json!([]));
}

#[tokio::test]
async fn a_server_is_not_shared_with_whoever_got_the_id() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let root = &hub.token("root").await;
    // So that the server has its row.
    hub.post("/shares/ada/", root, json!({"user": "root"}))
        .await
        .ok(200);
    let bob = hub.user("bob").await.id;
    let change = |txn: Transaction| async move { replace(&txn, bob, "eve").await };
    let sharing = hub.post("/shares/ada/", root, json!({"user": "bob"}));
    let message = during(&hub, change, sharing).await.refused(400);
    assert_eq!(message, "No such user: bob");
    let shared = hub.get("/users/eve/shared", root).await.ok(200);
    assert_eq!(shared["items"], json!([]));
}

#[tokio::test]
async fn a_group_whose_members_change_meanwhile_is_another_state() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_group("staff", &[])
        .await;
    let root = &hub.token("root").await;
    let staff = hub.get("/groups/staff", root).await;
    let ada = hub.user("ada").await.id;
    let change = |txn: Transaction| async move {
        let staff = groups::find(&txn, "staff").await?.expect("a group");
        groups::add_members(&txn, staff.id, &[ada]).await
    };
    let deletion = Request::delete("/hub/api/groups/staff")
        .header(header::AUTHORIZATION, format!("token {root}"))
        .header(header::IF_MATCH, &staff.headers[header::ETAG])
        .body(Body::empty());
    let deletion = hub.raw(deletion.expect("a request"));
    during(&hub, change, deletion).await.refused(412);
    let members = hub.get("/groups/staff", root).await.ok(200)["users"].take();
    assert_eq!(members, json!(["ada"]));
}
