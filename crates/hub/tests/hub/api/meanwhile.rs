//! Requests that decide on something which others change while they are on their way.

use std::future::Future;
use std::time::Duration;

use orrery_store::users::{self, UserChanges};
use orrery_store::{StoreError, Transaction};
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
