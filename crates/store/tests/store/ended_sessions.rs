//! What was ended meanwhile stays so, whoever acts on what they read before.

use orrery_store::{
    Store,
    sessions::{self, NewSession, Renewal, Session},
    token_hash,
    users::{self, User},
};

use crate::harness::{add_user, at, on_each};

fn new_session(user: &User) -> NewSession {
    let key = token_hash::generate_token().unwrap();
    NewSession {
        user_id: user.id,
        cookie_key: format!("{:0>64}", key.expose()),
        session_id: "of a browser".to_owned(),
        created: at(0),
        last_seen: at(0),
        address: None,
        user_agent: None,
    }
}

async fn begin(store: &Store, user: &User) -> Session {
    let new = &new_session(user);
    store
        .write(|txn| async move { sessions::insert(&txn, new).await })
        .await
        .unwrap()
}

async fn live(store: &Store, user: &User) -> Vec<i64> {
    let found = sessions::of_user(store.read(), user.id, at(0)).await;
    found.unwrap().iter().map(|session| session.id).collect()
}

async fn cookie_id(store: &Store, user: &User) -> String {
    let found = users::find_by_id(store.read(), user.id).await.unwrap();
    found.unwrap().cookie_id
}

/// Ends all other sessions, by cookie or by token, as of what was read of user and session before.
async fn end_others(store: &Store, user: &User, current: &Session, by_cookie: bool) -> Option<u64> {
    let new = &new_session(user);
    store
        .write(|txn| async move {
            let renewal = by_cookie.then_some(Renewal {
                session: new,
                cookie_id: "renewed",
            });
            sessions::end_others(&txn, current, &user.cookie_id, renewal, at(9)).await
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_session_that_was_ended_does_not_come_back_by_ending_the_others() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let (current, other) = (&begin(&store, ada).await, begin(&store, ada).await);
        store
            .write(|txn| async move { sessions::log_out(&txn, current, at(5)).await })
            .await
            .unwrap();
        for by_cookie in [true, false] {
            assert_eq!(end_others(&store, ada, current, by_cookie).await, None);
        }
        assert_eq!(live(&store, ada).await, [other.id]);
        assert_eq!(cookie_id(&store, ada).await, ada.cookie_id);

        assert_eq!(end_others(&store, ada, &other, false).await, Some(0));
        begin(&store, ada).await;
        assert_eq!(end_others(&store, ada, &other, true).await, Some(1));
        assert_eq!(live(&store, ada).await.len(), 1);
        assert!(!live(&store, ada).await.contains(&other.id));
        assert_eq!(cookie_id(&store, ada).await, "renewed");
    })
    .await;
}

#[tokio::test]
async fn nothing_begins_by_a_cookie_that_became_worthless() {
    on_each(|store| async move {
        let before = &add_user(&store, "ada").await;
        let admit = async || {
            let new = &new_session(before);
            let writing = store
                .write(|txn| async move { sessions::admit(&txn, new, &before.cookie_id).await });
            writing.await.unwrap()
        };
        let current = &admit().await.unwrap();
        // Another browser's session, begun just after everybody was logged out.
        store
            .write(|txn| async move {
                sessions::end_all(&txn, before.id, None, Some("another"), at(5)).await
            })
            .await
            .unwrap();
        let after = &begin(&store, before).await;
        assert_eq!(admit().await, None);
        for by_cookie in [true, false] {
            assert_eq!(end_others(&store, before, after, by_cookie).await, None);
            assert_eq!(end_others(&store, before, current, by_cookie).await, None);
        }
        assert_eq!(live(&store, before).await, [after.id]);
    })
    .await;
}
