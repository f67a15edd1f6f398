use std::collections::BTreeSet;

use orrery_core::phase::{Cause, Failure, Phase};
use orrery_store::user_pages::{self, ListedRun};
use orrery_store::users::{UserChanges, UserQuery, UserSort, UserState};
use orrery_store::{
    DbUrl, Dialect, Store, StoreError, StoreOptions, api_tokens, groups, roles, runs, servers,
    spawners, users,
};
use serde_json::json;

use crate::harness::{TestDatabase, add_spawner, add_user, at, on_each};

#[tokio::test]
async fn a_page_has_what_the_tables_have() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await;
        let bob = add_user(&store, "bob \"the\" builder é").await;
        let first = add_spawner(&store, &ada, "").await;
        let lab = add_spawner(&store, &ada, "lab").await;
        let (ada_id, bob_id) = (ada.id, bob.id);
        let run = store
            .write(|txn| async move {
                // By id, not by name.
                for name in ["zoo", "ark"] {
                    let group = groups::insert(&txn, name, &json!({})).await?;
                    groups::add_members(&txn, group.id, &[ada_id]).await?;
                }
                for name in ["user", "admin"] {
                    let role = roles::find(&txn, name).await?.unwrap();
                    roles::assign(&txn, roles::Holder::User(ada_id), role.id, false).await?;
                }
                let changes = UserChanges {
                    last_activity: Some(at(7)),
                    user_info: Some(json!({"mail": "ada@example.org"})),
                    admin: Some(true),
                    ..UserChanges::default()
                };
                users::update(&txn, ada_id, &changes).await?;
                let run = runs::insert(&txn, &new_run(ada_id, lab.id, "lab")).await?;
                runs::append_event(&txn, run, &json!({"progress": 5, "message": "x"}), 9).await?;
                runs::transition(&txn, run, Phase::Queued, Phase::Starting, at(1), None).await?;
                let address = servers::insert(&txn, &address("/user/ada/lab/")).await?;
                let changes = spawners::SpawnerChanges {
                    server_id: Some(Some(address.id)),
                    state: Some(json!({"pid": 5})),
                    user_options: Some(json!({"size": "é"})),
                    started: Some(Some(at(1))),
                    ..Default::default()
                };
                spawners::update(&txn, lab.id, &changes).await?;
                Ok::<_, StoreError>(run)
            })
            .await
            .unwrap();
        let read = store.read();
        let page = user_pages::of(read, &[bob_id, ada_id]).await.unwrap();
        let [bob_listed, ada_listed] = page.as_slice() else {
            panic!("{page:?}")
        };
        let ada = users::find_by_id(read, ada_id).await.unwrap().unwrap();
        assert_eq!(ada_listed.name, "ada");
        assert_eq!(ada_listed.admin, ada.admin);
        assert_eq!(ada_listed.created, ada.created);
        assert_eq!(ada_listed.last_activity, ada.last_activity);
        assert_eq!(ada_listed.user_info, ada.user_info);
        assert_eq!(ada_listed.groups, ["zoo", "ark"]);
        let in_order = roles::of(read, roles::Holder::User(ada_id)).await.unwrap();
        let in_order: Vec<_> = in_order.into_iter().map(|role| role.name).collect();
        assert_eq!(ada_listed.roles, in_order);
        assert_eq!(bob_listed.name, bob.name);
        assert!(bob_listed.groups.is_empty() && bob_listed.roles.is_empty());
        assert!(bob_listed.servers.is_empty());
        assert_eq!(bob_listed.last_activity, None);

        let [default, named] = ada_listed.servers.as_slice() else {
            panic!("{:?}", ada_listed.servers)
        };
        assert_eq!((default.id, default.name.as_str()), (first.id, ""));
        assert_eq!(default.run, None);
        let lab = spawners::find_by_id(read, lab.id).await.unwrap().unwrap();
        assert_eq!((named.id, &named.name), (lab.id, &lab.name));
        assert_eq!(named.state, lab.state);
        assert_eq!(named.user_options, lab.user_options);
        assert_eq!(named.started, lab.started);
        let expected = ListedRun {
            id: run,
            phase: Phase::Starting,
            events: vec![json!({"progress": 5, "message": "x"})],
            failure: None,
        };
        assert_eq!(named.run.as_ref(), Some(&expected));

        // What ended is no active run; a failure is told while the rest is being stopped.
        let failure = &Failure {
            cause: Cause::Exited,
            message: "It \"ended\".".to_owned(),
            exit_code: Some(1),
            log_tail: vec!["é".to_owned()],
            left_running: None,
        };
        let phase_of = |page: Vec<user_pages::Listed>| {
            let run = page[0].servers[1].run.clone();
            run.map(|run| (run.phase, run.failure, run.events.len()))
        };
        step(&store, run, Phase::Starting, Phase::Stopping).await;
        store
            .write(|txn| async move { runs::set_failure(&txn, run, failure).await })
            .await
            .unwrap();
        let page = user_pages::of(read, &[ada_id]).await.unwrap();
        assert_eq!(
            phase_of(page),
            Some((Phase::Stopping, Some(failure.clone()), 1))
        );
        step(&store, run, Phase::Stopping, Phase::Stopped).await;
        let page = user_pages::of(read, &[ada_id]).await.unwrap();
        assert_eq!(phase_of(page), None);
    })
    .await;
}

async fn step(store: &Store, run: i64, from: Phase, to: Phase) {
    let moved = store
        .write(|txn| async move { runs::transition(&txn, run, from, to, at(2), None).await })
        .await
        .unwrap();
    assert!(moved);
}

fn new_run(user_id: i32, spawner_id: i32, server: &str) -> runs::NewRun {
    runs::NewRun {
        user_id,
        spawner_id,
        user_name: "ada".to_owned(),
        server_name: server.to_owned(),
        options: json!({}),
        owner: None,
        lease_until: None,
        deadline: None,
        queued_at: at(0),
    }
}

fn address(base_url: &str) -> servers::NewServer {
    servers::NewServer {
        proto: "http".to_owned(),
        ip: "127.0.0.1".to_owned(),
        port: 1,
        base_url: base_url.to_owned(),
        cookie_name: String::new(),
    }
}

#[tokio::test]
async fn pages_are_those_of_the_plain_list_in_every_order() {
    on_each(|store| async move {
        for number in 0..25 {
            // Names are not in the order of the ids.
            let user = add_user(&store, &format!("user-{:02}", number * 7 % 25)).await;
            let seen = at(i64::from(number * 11 % 25));
            if number % 4 != 0 {
                store
                    .write(
                        |txn| async move { users::touch_activity(&txn, &[(user.id, seen)]).await },
                    )
                    .await
                    .unwrap();
            }
        }
        for sort in [UserSort::Id, UserSort::Name, UserSort::LastActivity] {
            for descending in [false, true] {
                let whole = UserQuery {
                    sort,
                    descending,
                    ..UserQuery::default()
                };
                let all = users::list(store.read(), &whole).await.unwrap();
                let all: Vec<_> = all.into_iter().map(|user| user.name).collect();
                let mut paged = Vec::new();
                for offset in (0..30).step_by(6) {
                    let query = UserQuery {
                        offset,
                        limit: Some(6),
                        ..whole.clone()
                    };
                    let page = user_pages::list(store.read(), &query).await.unwrap();
                    paged.extend(page.into_iter().map(|user| user.name));
                }
                assert_eq!(paged, all, "{sort:?} {descending}");
            }
        }
        let by_activity = UserQuery {
            sort: UserSort::LastActivity,
            ..UserQuery::default()
        };
        let page = user_pages::list(store.read(), &by_activity).await.unwrap();
        let never = page.iter().take_while(|user| user.last_activity.is_none());
        assert_eq!(never.count(), 7, "who was never seen comes first");
        assert!(page[7..].is_sorted_by_key(|user| user.last_activity));
    })
    .await;
}

/// New users come after all others, so that whoever goes from page to page meets everybody once.
#[tokio::test]
async fn paging_by_id_is_stable_while_users_are_added() {
    on_each(|store| async move {
        let mut before = BTreeSet::new();
        for number in 0..20 {
            let name = format!("old-{:02}", number * 3 % 20);
            add_user(&store, &name).await;
            before.insert(name);
        }
        let mut met = Vec::new();
        loop {
            let query = UserQuery {
                offset: met.len() as u64,
                limit: Some(4),
                ..UserQuery::default()
            };
            let page = user_pages::list(store.read(), &query).await.unwrap();
            if page.is_empty() {
                break;
            }
            met.extend(page.into_iter().map(|user| user.name));
            if met.len() < 20 {
                // Before all others by name.
                add_user(&store, &format!("a-new-one-{}", met.len())).await;
            }
        }
        let unique: BTreeSet<_> = met.iter().cloned().collect();
        assert_eq!(unique.len(), met.len(), "nobody twice");
        assert!(before.is_subset(&unique), "nobody left out");
        assert_eq!(met.len(), 24);
    })
    .await;
}

#[tokio::test]
async fn whoever_has_an_address_is_active() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await;
        let bob = add_user(&store, "bob").await;
        let spawner = add_spawner(&store, &ada, "").await.id;
        add_spawner(&store, &bob, "").await;
        let names = async |state| {
            let query = UserQuery {
                state: Some(state),
                ..UserQuery::default()
            };
            let page = user_pages::list(store.read(), &query).await.unwrap();
            assert_eq!(
                users::count(store.read(), &query).await.unwrap(),
                page.len() as u64
            );
            page.into_iter().map(|user| user.name).collect::<Vec<_>>()
        };
        assert!(names(UserState::Active).await.is_empty());
        store
            .write(|txn| async move {
                let address = servers::insert(&txn, &address("/user/ada/")).await?;
                let changes = spawners::SpawnerChanges {
                    server_id: Some(Some(address.id)),
                    ..Default::default()
                };
                spawners::update(&txn, spawner, &changes).await
            })
            .await
            .unwrap();
        assert_eq!(names(UserState::Active).await, ["ada"]);
        assert_eq!(names(UserState::Inactive).await, ["bob"]);
    })
    .await;
}

/// SQLite keeps anything in a column of times.
#[tokio::test]
async fn a_time_that_is_none_is_left_out_and_costs_nobody_else() {
    let database = TestDatabase::create(Dialect::Sqlite).await;
    let url = DbUrl::parse(&database.url).unwrap();
    let store = Store::open(&url, StoreOptions::default()).await.unwrap();
    for name in ["ada", "bob", "cleo", "dora"] {
        let user = add_user(&store, name).await;
        add_spawner(&store, &user, "").await;
    }
    database
        .run(
            "UPDATE users SET last_activity = '2026-01-02 03:39:60.000000' WHERE name = 'ada'; \
             UPDATE users SET last_activity = '-0100-01-01 00:00:00.000000' WHERE name = 'bob'; \
             UPDATE users SET last_activity = 'a \"quoted\" day', created = 5 WHERE name = 'cleo'; \
             UPDATE users SET last_activity = '2026-01-02 03:39:59.000000' WHERE name = 'dora'; \
             UPDATE spawners SET started = 'soon', last_activity = '2026-01-02 03:39:60.000000'",
        )
        .await;
    let page = user_pages::list(store.read(), &UserQuery::default())
        .await
        .unwrap();
    let seen: Vec<_> = page
        .iter()
        .map(|user| (user.name.as_str(), user.last_activity.is_some()))
        .collect();
    assert_eq!(
        seen,
        [
            ("ada", false),
            ("bob", false),
            ("cleo", false),
            ("dora", true)
        ]
    );
    assert_eq!(page[2].created, None);
    for user in &page {
        assert_eq!(
            (user.servers[0].started, user.servers[0].last_activity),
            (None, None)
        );
        let found = users::find(store.read(), &user.name).await.unwrap();
        let found = found.expect("it is there");
        assert_eq!(found.last_activity, user.last_activity, "{}", user.name);
        let servers = spawners::list_of_user(store.read(), user.id).await.unwrap();
        assert_eq!(
            (servers[0].started, servers[0].last_activity),
            (None, None),
            "{}",
            user.name
        );
    }
    let plain = users::list(store.read(), &UserQuery::default()).await;
    assert_eq!(plain.unwrap().len(), 4);
    store.close().await;
    database.remove().await;
}

#[tokio::test]
async fn a_filter_longer_than_any_name_finds_nothing() {
    on_each(|store| async move {
        add_user(&store, "ada").await;
        let group = |txn| async move { groups::insert(&txn, "staff", &json!({})).await };
        store.write(group).await.unwrap();
        let filter = Some("a".repeat(60_000));
        let query = UserQuery {
            name_filter: filter.clone(),
            ..UserQuery::default()
        };
        let read = store.read();
        assert_eq!(user_pages::list(read, &query).await.unwrap(), []);
        assert_eq!(users::count(read, &query).await.unwrap(), 0);
        let query = groups::GroupQuery {
            limit: 10,
            name_filter: filter.clone(),
            ..groups::GroupQuery::default()
        };
        assert_eq!(groups::count(read, &query).await.unwrap(), 0);
        assert!(groups::list(read, &query).await.unwrap().is_empty());
        let query = api_tokens::TokenQuery {
            limit: 10,
            note: filter,
            ..api_tokens::TokenQuery::default()
        };
        assert!(api_tokens::page(read, &query).await.unwrap().is_empty());
    })
    .await;
}

/// PostgreSQL refuses statements with such a text; nobody is called so there.
#[tokio::test]
async fn a_name_with_a_nul_is_nobodys() {
    on_each(|store| async move {
        add_user(&store, "x").await;
        let read = store.read();
        assert_eq!(users::find(read, "x\0").await.unwrap(), None);
        assert_eq!(groups::find(read, "x\0").await.unwrap(), None);
        let query = UserQuery {
            name_filter: Some("x\0".to_owned()),
            ..UserQuery::default()
        };
        users::count(read, &query).await.unwrap();
        user_pages::list(read, &query).await.unwrap();
    })
    .await;
}
