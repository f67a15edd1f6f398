use chrono::NaiveDateTime;
use orrery_store::{
    DbUrl, Dialect, Store, StoreError, StoreOptions,
    api_tokens::{self, NewApiToken, Owner, TokenQuery},
    groups, services,
    sessions::{self, NewSession, Seen, Session, SessionQuery},
    token_hash::{self, Origin},
    users::{self, Visible},
};

use crate::harness::{TestDatabase, add_client, add_user, at, on_each};

async fn add_session(store: &Store, user_id: i32, session_id: &str, created: i64) -> Session {
    let key = token_hash::generate_token().unwrap();
    let new = &NewSession {
        user_id,
        cookie_key: format!("{:0>64}", key.expose()),
        session_id: session_id.to_owned(),
        created: at(created),
        last_seen: at(created),
        address: Some("192.0.2.7".into()),
        user_agent: Some("é".repeat(300)),
    };
    let session = store
        .write(|txn| async move { sessions::insert(&txn, new).await })
        .await
        .unwrap();
    let found = sessions::find_by_key(store.read(), &new.cookie_key)
        .await
        .unwrap();
    assert_eq!(found.as_ref(), Some(&session));
    assert_eq!(
        sessions::find_by_id(store.read(), session.id)
            .await
            .unwrap(),
        found
    );
    let twice = store
        .write(|txn| async move { sessions::insert(&txn, new).await })
        .await
        .unwrap_err();
    assert!(twice.is_duplicate(), "{twice:?}");
    session
}

async fn add_token(
    store: &Store,
    owner: Owner,
    session_id: Option<&str>,
    note: &str,
    end: Option<NaiveDateTime>,
) -> i32 {
    let token = token_hash::generate_token().unwrap();
    let new = &NewApiToken {
        owner,
        hashed: token_hash::hash_token(token.expose(), Origin::Generated).unwrap(),
        prefix: token_hash::prefix(token.expose()).to_owned(),
        client_id: "jupyterhub".into(),
        session_id: session_id.map(str::to_owned),
        created: at(0),
        expires_at: end,
        note: note.into(),
        scopes: vec!["inherit".into()],
    };
    let write = store.write(|txn| async move { api_tokens::insert(&txn, new).await });
    write.await.unwrap().id
}

#[tokio::test]
async fn a_session_is_seen_ends_and_is_thrown_away() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await.id;
        let (one, two) = (
            add_session(&store, ada, "one", 10).await,
            add_session(&store, ada, "two", 20).await,
        );
        assert_eq!(one.user_agent.as_ref().unwrap().chars().count(), 255);
        let live = async |since| {
            let found = sessions::of_user(store.read(), ada, at(since))
                .await
                .unwrap();
            found
                .into_iter()
                .map(|session| session.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(live(0).await, [two.id, one.id]);
        assert_eq!(live(11).await, [two.id], "expired");
        let seen = &[
            Seen {
                id: one.id,
                at: at(100),
                address: Some("2001:db8::1".into()),
            },
            Seen {
                id: two.id,
                at: at(5),
                address: None,
            },
        ];
        store
            .write(|txn| async move { sessions::touch(&txn, seen).await })
            .await
            .unwrap();
        assert_eq!(live(0).await, [one.id, two.id]);
        let found = sessions::find_by_id(store.read(), two.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found, two, "older news change nothing");
        let found = sessions::find_by_id(store.read(), one.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.address.as_deref(), Some("2001:db8::1"));

        let end = async |id, time| {
            store
                .write(|txn| async move { sessions::end(&txn, id, at(time)).await })
                .await
                .unwrap()
        };
        assert!(end(one.id, 200).await && !end(one.id, 300).await);
        assert_eq!(live(0).await, [two.id]);
        let found = sessions::find_by_id(store.read(), one.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.ended_at, Some(at(200)));

        let purge = async |time| {
            store
                .write(|txn| async move { sessions::purge(&txn, at(time)).await })
                .await
                .unwrap()
        };
        assert_eq!(
            (purge(10).await, purge(11).await, purge(11).await),
            (0, 1, 0)
        );
        assert_eq!(
            sessions::find_by_id(store.read(), one.id).await.unwrap(),
            None
        );
        store
            .write(|txn| async move { users::delete(&txn, ada).await })
            .await
            .unwrap();
        assert_eq!(
            sessions::find_by_id(store.read(), two.id).await.unwrap(),
            None
        );
    })
    .await;
}

#[tokio::test]
async fn what_has_ended_goes_before_its_cookie_expires_unless_the_cookie_were_good_again() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await.id;
        let add = async |start: &str, ended: Option<i64>| {
            let new = &NewSession {
                user_id: ada,
                cookie_key: format!("{start}{:063}", ended.unwrap_or_default()),
                session_id: "one".to_owned(),
                created: at(0),
                last_seen: at(0),
                address: None,
                user_agent: None,
            };
            store
                .write(|txn| async move {
                    let id = sessions::insert(&txn, new).await?.id;
                    if let Some(ended) = ended {
                        sessions::end(&txn, id, at(ended)).await?;
                    }
                    Ok::<_, StoreError>(id)
                })
                .await
                .unwrap()
        };
        let all = [
            add("0", Some(9)).await,
            add("f", Some(10)).await,
            add("a", None).await,
            add(sessions::UNMARKED, Some(9)).await,
        ];
        let purged = store
            .write(|txn| async move { sessions::purge_ended(&txn, at(10)).await })
            .await
            .unwrap();
        assert_eq!(purged, 1);
        let mut left = Vec::new();
        for id in all {
            let found = sessions::find_by_id(store.read(), id).await.unwrap();
            left.push(found.is_some());
        }
        assert_eq!(left, [false, true, true, true]);
    })
    .await;
}

#[tokio::test]
async fn logging_out_takes_the_tokens_of_that_browser_and_user_alone() {
    on_each(|store| async move {
        let (ada, bob) = (add_user(&store, "ada").await, add_user(&store, "bob").await);
        add_client(&store, "jupyterhub").await;
        let one = &add_session(&store, ada.id, "one", 1).await;
        let two = add_session(&store, ada.id, "two", 1).await;
        for (user, session) in [
            (&ada, Some("one")),
            (&ada, Some("two")),
            (&ada, None),
            (&bob, Some("one")),
        ] {
            add_token(&store, Owner::User(user.id), session, "", None).await;
        }
        let over = async |session: &'static str| {
            store
                .write(|txn| async move { sessions::is_over(&txn, ada.id, session).await })
                .await
                .unwrap()
        };
        assert!(!over("one").await && !over("never known").await);
        let log_out = async || {
            store
                .write(|txn| async move { sessions::log_out(&txn, one, at(5)).await })
                .await
                .unwrap()
        };
        assert_eq!((log_out().await, log_out().await), (Some(1), None));
        assert!(over("one").await && !over("two").await && !over("ONE").await);
        let left = async |user| {
            let tokens = api_tokens::list(store.read(), Owner::User(user))
                .await
                .unwrap();
            tokens
                .into_iter()
                .map(|token| token.session_id)
                .collect::<Vec<_>>()
        };
        assert_eq!(left(ada.id).await, [Some("two".to_owned()), None]);
        assert_eq!(left(bob.id).await.len(), 1);

        let two = &two;
        let others = store
            .write(
                |txn| async move { sessions::end_all(&txn, ada.id, Some(two), None, at(6)).await },
            )
            .await
            .unwrap();
        assert_eq!((others, left(ada.id).await.len()), (0, 2));
        let all =
            store
                .write(|txn| async move {
                    sessions::end_all(&txn, ada.id, None, Some("new"), at(6)).await
                })
                .await
                .unwrap();
        assert_eq!((all, left(ada.id).await), (1, vec![None]));
        let ada = users::find(store.read(), "ada").await.unwrap().unwrap();
        assert_eq!(ada.cookie_id, "new");
        assert_eq!(left(bob.id).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn everybodys_sessions_and_tokens_come_by_id_and_filtered() {
    on_each(|store| async move {
        let (ada, bob, jose) = (
            add_user(&store, "ada").await.id,
            add_user(&store, "bob").await.id,
            add_user(&store, "jose").await.id,
        );
        add_client(&store, "jupyterhub").await;
        let service = store
            .write(|txn| async move {
                let class = groups::insert(&txn, "class", &serde_json::json!({})).await?;
                groups::add_members(&txn, class.id, &[bob, jose]).await?;
                let fields = services::ServiceFields {
                    name: "cull".into(),
                    ..Default::default()
                };
                Ok::<_, StoreError>(services::insert(&txn, &fields).await?.id)
            })
            .await
            .unwrap();
        let mut ids = Vec::new();
        for (number, user) in [ada, bob, jose, ada].into_iter().enumerate() {
            let begun = i64::try_from(number).unwrap() * 10;
            ids.push(
                add_session(&store, user, &format!("s{number}"), begun)
                    .await
                    .id,
            );
        }
        let list = async |query: SessionQuery| {
            let found = sessions::list(store.read(), &query).await.unwrap();
            found
                .into_iter()
                .map(|session| session.id)
                .collect::<Vec<_>>()
        };
        let all = || SessionQuery {
            limit: 10,
            since: at(0),
            ..SessionQuery::default()
        };
        let class = || {
            Some(Visible {
                users: Vec::new(),
                groups: vec!["class".into()],
            })
        };
        assert_eq!(list(all()).await, ids);
        assert_eq!(
            list(SessionQuery {
                limit: 2,
                after: ids[0],
                ..all()
            })
            .await,
            ids[1..3]
        );
        assert_eq!(
            list(SessionQuery {
                since: at(10),
                ..all()
            })
            .await,
            ids[1..]
        );
        assert_eq!(
            list(SessionQuery {
                unused_since: Some(at(20)),
                ..all()
            })
            .await,
            ids[..2]
        );
        assert_eq!(
            list(SessionQuery {
                user_id: Some(ada),
                ..all()
            })
            .await,
            [ids[0], ids[3]]
        );
        assert_eq!(
            list(SessionQuery {
                visible: class(),
                ..all()
            })
            .await,
            ids[1..3]
        );
        let by_name = |name: &str| {
            Some(Visible {
                users: vec![name.into()],
                groups: Vec::new(),
            })
        };
        assert_eq!(
            list(SessionQuery {
                visible: by_name("jose"),
                ..all()
            })
            .await,
            [ids[2]]
        );
        assert_eq!(
            list(SessionQuery {
                visible: by_name("josé"),
                ..all()
            })
            .await,
            [0_i64; 0]
        );
        assert_eq!(
            list(SessionQuery {
                visible: Some(Visible::default()),
                ..all()
            })
            .await,
            [0_i64; 0]
        );

        let mut tokens = Vec::new();
        for (owner, note, end) in [
            (Owner::User(ada), "Back up 50%!", Some(at(50))),
            (Owner::User(bob), "back UP", None),
            (Owner::Service(service), "cull_", None),
        ] {
            tokens.push(add_token(&store, owner, None, note, end).await);
        }
        let first = tokens[0];
        store
            .write(|txn| async move { api_tokens::touch(&txn, first, at(40)).await })
            .await
            .unwrap();
        let page = async |query: TokenQuery| {
            let found = api_tokens::page(store.read(), &query).await.unwrap();
            found.into_iter().map(|token| token.id).collect::<Vec<_>>()
        };
        let all = || TokenQuery {
            limit: 10,
            services: true,
            ..TokenQuery::default()
        };
        let noted = |note: &str| TokenQuery {
            note: Some(note.into()),
            ..all()
        };
        assert_eq!(page(all()).await, tokens);
        assert_eq!(
            page(TokenQuery {
                limit: 1,
                after: tokens[0],
                ..all()
            })
            .await,
            [tokens[1]]
        );
        assert_eq!(
            page(TokenQuery {
                services: false,
                ..all()
            })
            .await,
            tokens[..2]
        );
        assert_eq!(
            page(TokenQuery {
                owner: Some(Owner::Service(service)),
                ..all()
            })
            .await,
            [tokens[2]]
        );
        assert_eq!(page(noted("back up")).await, tokens[..2]);
        assert_eq!(page(noted("50%!")).await, tokens[..1]);
        assert_eq!(page(noted("l_")).await, tokens[2..]);
        assert_eq!(
            page(TokenQuery {
                expired: Some((true, at(60))),
                ..all()
            })
            .await,
            tokens[..1]
        );
        assert_eq!(
            page(TokenQuery {
                expired: Some((false, at(60))),
                ..all()
            })
            .await,
            tokens[1..]
        );
        assert_eq!(
            page(TokenQuery {
                unused_since: Some(at(40)),
                ..all()
            })
            .await,
            tokens[1..]
        );
        let of_class = TokenQuery {
            services: false,
            visible: class(),
            note: Some("up".into()),
            ..all()
        };
        assert_eq!(page(of_class).await, [tokens[1]]);
    })
    .await;
}

#[tokio::test]
async fn many_sessions_are_seen_with_one_statement() {
    for dialect in crate::harness::dialects() {
        let database = TestDatabase::create(dialect).await;
        let url = DbUrl::parse(&database.url).unwrap();
        let store = Store::open(&url, StoreOptions::default()).await.unwrap();
        let ada = add_user(&store, "ada").await.id;
        let mut ids = Vec::new();
        for number in 0..5 {
            ids.push(add_session(&store, ada, "one", number).await.id);
        }
        if dialect == Dialect::Postgres {
            // The second statement fails.
            database
                .run(
                    "CREATE TABLE touched (once INT UNIQUE); \
                     CREATE FUNCTION note_once() RETURNS trigger LANGUAGE plpgsql AS \
                     'BEGIN INSERT INTO touched VALUES (1); RETURN NULL; END'; \
                     CREATE TRIGGER note_once AFTER UPDATE ON orrery_sessions \
                     FOR EACH STATEMENT EXECUTE FUNCTION note_once()",
                )
                .await;
        }
        let seen = |id, seconds, address: Option<&str>| Seen {
            id,
            at: at(seconds),
            address: address.map(str::to_owned),
        };
        let all = &[
            seen(ids[4], 104, Some("2001:db8::4")),
            seen(ids[2], 102, None),
            seen(ids[0], 50, Some("192.0.2.50")),
            seen(ids[0], 100, Some("192.0.2.100")),
            seen(ids[0], 70, Some("192.0.2.70")),
            seen(ids[3], 1, Some("192.0.2.1")),
            seen(ids[1], 101, Some(&"é".repeat(100))),
            seen(999_999, 100, None),
        ];
        store
            .write(|txn| async move { sessions::touch(&txn, all).await })
            .await
            .unwrap();
        let long = "é".repeat(sessions::MAX_ADDRESS);
        for (number, at_second, address) in [
            (0, 100, Some("192.0.2.100")),
            (1, 101, Some(long.as_str())),
            (2, 102, None),
            (3, 3, Some("192.0.2.7")),
            (4, 104, Some("2001:db8::4")),
        ] {
            let found = sessions::find_by_id(store.read(), ids[number])
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                (found.last_seen, found.address.as_deref()),
                (at(at_second), address),
                "{number} on {dialect:?}"
            );
        }
        store.close().await;
        database.remove().await;
    }
}
