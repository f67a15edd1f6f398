use orrery_store::{
    NaiveDateTime, StoreError, api_tokens, groups, roles, runs, servers, spawners,
    spawners::SpawnerChanges,
    users,
    users::{UserChanges, UserQuery, UserSort, UserState, Visible},
};
use serde_json::json;

use crate::harness::{add_client, add_spawner, add_user, at, on_each};

#[tokio::test]
async fn a_user_is_found_by_name_id_and_cookie() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await;
        add_user(&store, "bob").await;
        let read = store.read();
        assert_eq!(users::find(read, "ada").await.unwrap().as_ref(), Some(&ada));
        assert_eq!(
            users::find_by_id(read, ada.id).await.unwrap().as_ref(),
            Some(&ada)
        );
        let by_cookie = users::find_by_cookie_id(read, &ada.cookie_id)
            .await
            .unwrap();
        assert_eq!(by_cookie.as_ref(), Some(&ada));
        let upper = ada.cookie_id.to_uppercase();
        if upper != ada.cookie_id {
            assert!(
                users::find_by_cookie_id(read, &upper)
                    .await
                    .unwrap()
                    .is_none()
            );
        }
        assert!(users::find(read, "eve").await.unwrap().is_none());
        let many = users::find_many(read, &[ada.id, 999]).await.unwrap();
        assert_eq!(many, [ada]);
    })
    .await;
}

#[tokio::test]
async fn a_name_is_taken_once() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await;
        let again = &users::NewUser {
            name: "ada".into(),
            admin: false,
            created: at(0),
            cookie_id: "another".into(),
        };
        let error = store
            .write(|txn| async move { users::insert(&txn, again).await })
            .await
            .unwrap_err();
        assert!(error.is_duplicate(), "{error:?}");
        assert!(!error.is_unavailable());
        assert_eq!(
            users::count(store.read(), &UserQuery::default())
                .await
                .unwrap(),
            1
        );
        drop(ada);
    })
    .await;
}

#[tokio::test]
async fn changes_are_kept_and_the_rest_stays() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await;
        let changes = &UserChanges {
            name: Some("ada2".into()),
            admin: Some(true),
            last_activity: Some(at(60)),
            state: Some(json!({"pid": 1})),
            encrypted_auth_state: Some(Some(vec![0, 255, b'\'', b'"'])),
            user_info: Some(json!({"name": "Ada é 😀"})),
            ..UserChanges::default()
        };
        let found = store
            .write(|txn| async move { users::update(&txn, ada.id, changes).await })
            .await
            .unwrap();
        assert!(found);
        let changed = users::find_by_id(store.read(), ada.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(changed.name, "ada2");
        assert!(changed.admin);
        assert_eq!(changed.created, ada.created);
        assert_eq!(changed.cookie_id, ada.cookie_id);
        assert_eq!(changed.last_activity, Some(at(60)));
        assert_eq!(changed.state, json!({"pid": 1}));
        assert_eq!(
            changed.encrypted_auth_state.as_deref(),
            Some(&[0, 255, b'\'', b'"'][..])
        );
        assert_eq!(changed.user_info, json!({"name": "Ada é 😀"}));

        let clear = &UserChanges {
            state: Some(json!(null)),
            encrypted_auth_state: Some(None),
            ..UserChanges::default()
        };
        store
            .write(|txn| async move {
                assert!(users::update(&txn, ada.id, clear).await?);
                // The same values again, and nothing at all: the user is there all the same.
                assert!(users::update(&txn, ada.id, clear).await?);
                assert!(users::update(&txn, ada.id, &UserChanges::default()).await?);
                assert!(!users::update(&txn, 999, clear).await?);
                assert!(!users::update(&txn, 999, &UserChanges::default()).await?);
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let cleared = users::find_by_id(store.read(), ada.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(cleared.state, json!(null));
        assert_eq!(cleared.encrypted_auth_state, None);
        assert_eq!(cleared.name, "ada2");
    })
    .await;
}

#[tokio::test]
async fn the_list_filters_sorts_and_pages_as_upstream() {
    on_each(|store| async move {
        for name in ["carol", "Ada", "bob", "adam"] {
            add_user(&store, name).await;
        }
        let read = store.read();
        let id_of = async |name: &str| users::find(read, name).await.unwrap().unwrap().id;
        let (carol, bob) = (id_of("carol").await, id_of("bob").await);
        store
            .write(|txn| async move {
                users::touch_activity(&txn, &[(carol, at(10)), (bob, at(20))]).await?;
                // Earlier than what is known: nothing changes.
                users::touch_activity(&txn, &[(bob, at(5))]).await
            })
            .await
            .unwrap();
        let names = async |query: UserQuery| {
            let total = users::count(read, &query).await.unwrap();
            let found = users::list(read, &query).await.unwrap();
            let names: Vec<_> = found.into_iter().map(|user| user.name).collect();
            (names.join(" "), total)
        };
        let all = UserQuery::default;
        assert_eq!(names(all()).await, ("carol Ada bob adam".into(), 4));
        let page = UserQuery {
            offset: 1,
            limit: Some(2),
            ..all()
        };
        assert_eq!(names(page).await, ("Ada bob".into(), 4));
        let tail = UserQuery { offset: 3, ..all() };
        assert_eq!(names(tail).await, ("adam".into(), 4));
        let filter = UserQuery {
            name_filter: Some("AD".into()),
            ..all()
        };
        assert_eq!(names(filter).await, ("Ada adam".into(), 2));
        let active = UserQuery {
            sort: UserSort::LastActivity,
            ..all()
        };
        assert_eq!(names(active).await, ("Ada adam carol bob".into(), 4));
        let latest = UserQuery {
            sort: UserSort::LastActivity,
            descending: true,
            ..all()
        };
        assert_eq!(names(latest).await, ("bob carol adam Ada".into(), 4));
        let by_name = UserQuery {
            sort: UserSort::Name,
            descending: true,
            limit: Some(2),
            ..all()
        };
        assert_eq!(names(by_name).await, ("carol bob".into(), 4));

        let group = &store
            .write(|txn| async move {
                let group = groups::insert(&txn, "crew", &json!({})).await?;
                groups::add_members(&txn, group.id, &[bob]).await?;
                Ok::<_, StoreError>(group)
            })
            .await
            .unwrap();
        let visible = |users: &[&str], groups: &[&str]| UserQuery {
            visible: Some(Visible {
                users: users.iter().map(|name| (*name).to_owned()).collect(),
                groups: groups.iter().map(|name| (*name).to_owned()).collect(),
            }),
            ..UserQuery::default()
        };
        assert_eq!(
            names(visible(&["carol"], &[&group.name])).await,
            ("carol bob".into(), 2)
        );
        assert_eq!(names(visible(&["carol"], &[])).await, ("carol".into(), 1));
        assert_eq!(names(visible(&[], &["crew"])).await, ("bob".into(), 1));
        assert_eq!(names(visible(&[], &[])).await, (String::new(), 0));
        assert_eq!(users::count_active_since(read, at(15)).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_state_filter_tells_active_ready_and_inactive() {
    on_each(|store| async move {
        let (ada, bob) = (add_user(&store, "ada").await, add_user(&store, "bob").await);
        add_user(&store, "carol").await;
        for user in [&ada, &bob] {
            // A second server that is off must not hide or double the user.
            add_spawner(&store, user, "off").await;
            let spawner = &add_spawner(&store, user, "").await;
            store
                .write(|txn| async move {
                    let server = servers::insert(&txn, &server()).await?;
                    let changes = SpawnerChanges {
                        server_id: Some(Some(server.id)),
                        ..Default::default()
                    };
                    spawners::update(&txn, spawner.id, &changes).await?;
                    let run = runs::insert(&txn, &crate::runs::new_run(user, spawner, 0)).await?;
                    runs::transition(&txn, run, Queued, Starting, at(1), None).await?;
                    if user.name == "ada" {
                        runs::transition(&txn, run, Starting, Ready, at(2), None).await?;
                    }
                    Ok::<_, StoreError>(())
                })
                .await
                .unwrap();
        }
        let names = async |state| {
            let query = UserQuery {
                state: Some(state),
                ..UserQuery::default()
            };
            let found = users::list(store.read(), &query).await.unwrap();
            assert_eq!(
                users::count(store.read(), &query).await.unwrap(),
                found.len() as u64
            );
            found
                .into_iter()
                .map(|user| user.name)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(names(UserState::Active).await, "ada bob");
        assert_eq!(names(UserState::Ready).await, "ada");
        assert_eq!(names(UserState::Inactive).await, "carol");
    })
    .await;
}

#[tokio::test]
async fn deleting_a_user_deletes_what_upstream_deletes() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let bob = &add_user(&store, "bob").await;
        add_client(&store, "jupyterhub").await;
        add_client(&store, "jupyterhub-user-ada").await;
        let spawner = &add_spawner(&store, ada, "").await;
        let kept = &add_spawner(&store, bob, "").await;
        store
            .write(|txn| async move {
                let server = servers::insert(&txn, &server()).await?;
                let changes = SpawnerChanges {
                    server_id: Some(Some(server.id)),
                    oauth_client_id: Some(Some("jupyterhub-user-ada".into())),
                    ..Default::default()
                };
                spawners::update(&txn, spawner.id, &changes).await?;
                for owner in [ada, bob] {
                    let token = crate::tokens::new_token(
                        api_tokens::Owner::User(owner.id),
                        &format!("{:4}token", owner.name),
                    );
                    api_tokens::insert(&txn, &token).await?;
                }
                let role = roles::find(&txn, "user").await?.unwrap();
                roles::assign(&txn, roles::Holder::User(ada.id), role.id, false).await?;
                let group = groups::insert(&txn, "crew", &json!({})).await?;
                groups::add_members(&txn, group.id, &[ada.id, bob.id]).await?;
                runs::insert(&txn, &crate::runs::new_run(ada, spawner, 0)).await?;
                crate::services_and_shares::add_share(&txn, Some(bob.id), None, ada.id, spawner.id)
                    .await;
                crate::services_and_shares::add_share(&txn, Some(ada.id), None, bob.id, kept.id)
                    .await;
                crate::oauth::add_code(&txn, ada.id, "jupyterhub", "code").await;
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();

        // The run must end first, or nobody would ever stop what it started.
        let refused = store
            .write(|txn| async move { users::delete(&txn, ada.id).await })
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, StoreError::StillActive(server) if server == "ada/"),
            "{refused:?}"
        );
        assert_eq!(count(&store, "users").await, 2);
        let run = runs::active(store.read(), ada.id, "").await.unwrap();
        let run = run.unwrap().id;
        store
            .write(
                |txn| async move { runs::transition(&txn, run, Queued, Failed, at(1), None).await },
            )
            .await
            .unwrap();

        assert!(
            store
                .write(|txn| async move { users::delete(&txn, ada.id).await })
                .await
                .unwrap()
        );
        assert!(
            !store
                .write(|txn| async move { users::delete(&txn, ada.id).await })
                .await
                .unwrap()
        );

        for (table, rows) in [
            ("users", 1),
            ("spawners", 1),
            ("servers", 0),
            ("oauth_clients", 1),
            ("api_tokens", 1),
            ("user_role_map", 0),
            ("user_group_map", 1),
            ("oauth_codes", 0),
            ("shares", 0),
            ("orrery_runs", 1),
        ] {
            assert_eq!(count(&store, table).await, rows, "{table}");
        }
        let run = runs::list(store.read(), &[Failed])
            .await
            .unwrap()
            .pop()
            .unwrap();
        assert_eq!(
            (run.user_id, run.spawner_id, run.user_name.as_str()),
            (None, None, "ada")
        );
    })
    .await;
}

use orrery_core::phase::Phase::{Failed, Queued, Ready, Starting};

pub(crate) async fn count(store: &orrery_store::Store, table: &str) -> i64 {
    use orrery_store::ConnectionTrait;
    let backend = store.read().get_database_backend();
    let sql = format!("SELECT COUNT(*) AS n FROM {table}");
    let row = store
        .read()
        .query_one_raw(sea_orm::Statement::from_string(backend, sql))
        .await
        .unwrap()
        .unwrap();
    row.try_get("", "n").unwrap()
}

pub(crate) fn server() -> servers::NewServer {
    servers::NewServer {
        proto: "http".into(),
        ip: "127.0.0.1".into(),
        port: 4321,
        base_url: "/user/ada/".into(),
        cookie_name: "cookie".into(),
    }
}

#[tokio::test]
async fn many_users_are_added_at_once() {
    on_each(|store| async move {
        add_user(&store, "known").await;
        let new = &(0..1234)
            .map(|number| users::NewUser {
                name: format!("user-{:04}", number * 7 % 1234),
                admin: number % 5 == 0,
                created: at(number),
                cookie_id: format!("cookie {number}"),
            })
            .collect::<Vec<_>>();
        let made = store
            .write(|txn| async move { users::insert_many(&txn, new).await })
            .await
            .unwrap();
        assert_eq!(made.len(), new.len());
        assert!(made.is_sorted_by_key(|user| user.id));
        for (user, new) in made.iter().zip(new) {
            assert_eq!(
                (&user.name, user.admin, user.created, &user.cookie_id),
                (&new.name, new.admin, Some(new.created), &new.cookie_id)
            );
        }
        let ids: &Vec<i32> = &made.iter().map(|user| user.id).collect();
        store
            .write(|txn| async move {
                let role = roles::find(&txn, "user").await?.unwrap();
                roles::assign_to_new_users(&txn, ids, role.id).await?;
                roles::assign_to_new_users(&txn, &ids[..3], role.id).await
            })
            .await
            .unwrap();
        assert_eq!(count(&store, "user_role_map").await, 1234);
        // One name that is taken, and none of them comes.
        let taken = &["new", "known"].map(|name| users::NewUser {
            name: name.to_owned(),
            admin: false,
            created: at(0),
            cookie_id: format!("another {name}"),
        });
        let error = store
            .write(|txn| async move { users::insert_many(&txn, taken).await })
            .await
            .unwrap_err();
        assert!(error.is_duplicate(), "{error:?}");
        let both = users::find_by_names(store.read(), &["new", "known", "known"]).await;
        let both: Vec<_> = both.unwrap().into_iter().map(|user| user.name).collect();
        assert_eq!(both, ["known"]);
    })
    .await;
}

#[tokio::test]
async fn activity_of_many_goes_forward_only() {
    on_each(|store| async move {
        let mut ids = Vec::new();
        for number in 0..700 {
            ids.push((
                number,
                add_user(&store, &format!("user-{number:03}")).await.id,
            ));
        }
        let ids = &ids;
        let seen = async |at_of: &(dyn Fn(i64) -> NaiveDateTime + Sync)| {
            let seen = &ids
                .iter()
                .rev()
                .map(|(number, id)| (*id, at_of(*number)))
                .collect::<Vec<_>>();
            store
                .write(|txn| async move { users::touch_activity(&txn, seen).await })
                .await
                .unwrap();
        };
        seen(&|number| at(100 + number)).await;
        // Half of them earlier, half of them later.
        seen(&|number| if number % 2 == 0 { at(1) } else { at(5000) }).await;
        for user in users::list(store.read(), &UserQuery::default())
            .await
            .unwrap()
        {
            let number: i64 = user.name[5..].parse().unwrap();
            let expected = if number % 2 == 0 {
                at(100 + number)
            } else {
                at(5000)
            };
            assert_eq!(user.last_activity, Some(expected), "{}", user.name);
        }
        // The same one twice: the later.
        let id = ids[0].1;
        store
            .write(|txn| async move {
                users::touch_activity(&txn, &[(id, at(9000)), (id, at(8000))]).await?;
                users::touch_activity(&txn, &[]).await
            })
            .await
            .unwrap();
        let user = users::find_by_id(store.read(), id).await.unwrap().unwrap();
        assert_eq!(user.last_activity, Some(at(9000)));
    })
    .await;
}
