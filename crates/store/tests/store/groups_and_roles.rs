use orrery_store::groups::GroupQuery;
use orrery_store::{
    StoreError, groups, roles,
    roles::{Holder, HolderKind},
    services,
};
use serde_json::json;

use crate::harness::{add_user, on_each};

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[tokio::test]
async fn groups_and_their_members() {
    on_each(|store| async move {
        let (ada, bob) = (
            add_user(&store, "ada").await.id,
            add_user(&store, "bob").await.id,
        );
        let properties = &json!({"quota": {"gb": 3}});
        let (crew, team) = store
            .write(|txn| async move {
                let crew = groups::insert(&txn, "crew", properties).await?;
                let team = groups::insert(&txn, "team", &json!({})).await?;
                groups::add_members(&txn, crew.id, &[ada, bob]).await?;
                groups::add_members(&txn, crew.id, &[bob, 999]).await?;
                groups::add_members(&txn, team.id, &[bob]).await?;
                Ok::<_, StoreError>((crew, team))
            })
            .await
            .unwrap();
        let read = store.read();
        assert_eq!(
            groups::find(read, "crew").await.unwrap(),
            Some(crew.clone())
        );
        assert_eq!(
            groups::find_by_id(read, team.id).await.unwrap(),
            Some(team.clone())
        );
        assert_eq!(groups::find(read, "none").await.unwrap(), None);
        let second = GroupQuery {
            offset: 1,
            limit: 10,
            ..GroupQuery::default()
        };
        assert_eq!(
            groups::count(read, &GroupQuery::default()).await.unwrap(),
            2
        );
        assert_eq!(
            groups::list(read, &second).await.unwrap(),
            vec![team.clone()]
        );
        let of_bob: Vec<_> = groups::of_users(read, &[bob])
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.name)
            .collect();
        assert_eq!(of_bob, ["crew", "team"]);
        let members: Vec<_> = groups::members_of(read, &[crew.id, team.id]).await.unwrap();
        let members: Vec<_> = members
            .iter()
            .map(|row| (row.group_id, row.name.as_str()))
            .collect();
        assert_eq!(
            members,
            [(crew.id, "ada"), (crew.id, "bob"), (team.id, "bob")]
        );

        store
            .write(|txn| async move {
                groups::remove_members(&txn, crew.id, &[bob, 999]).await?;
                groups::set_properties(&txn, team.id, &json!({"a": 1})).await?;
                let role = roles::find(&txn, "user").await?.unwrap();
                roles::assign(&txn, Holder::Group(crew.id), role.id, false).await?;
                groups::delete(&txn, crew.id).await
            })
            .await
            .unwrap();
        assert_eq!(groups::find(read, "crew").await.unwrap(), None);
        assert_eq!(
            groups::find(read, "team")
                .await
                .unwrap()
                .unwrap()
                .properties,
            json!({"a": 1})
        );
        assert_eq!(groups::of_users(read, &[ada, bob]).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_new_database_has_the_four_roles() {
    on_each(|store| async move {
        let found = roles::list(store.read()).await.unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|role| {
                (
                    role.id,
                    role.name.as_str(),
                    role.description.as_deref().unwrap(),
                    role.scopes.len(),
                    role.managed_by_auth,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (1, "user", "Standard user privileges", 1, false),
                (
                    2,
                    "admin",
                    "Elevated privileges (can do anything)",
                    16,
                    false
                ),
                (3, "server", "Post activity only", 2, false),
                (
                    4,
                    "token",
                    "Token with same permissions as its owner",
                    1,
                    false
                ),
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn roles_are_given_taken_and_found() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await.id;
        let bob = add_user(&store, "bob").await.id;
        let (grader, viewer, crew, service) = store
            .write(|txn| async move {
                let grader = roles::upsert(
                    &txn,
                    "grader",
                    Some("Grades"),
                    &texts(&["read:users", "groups"]),
                    false,
                )
                .await?;
                let again =
                    roles::upsert(&txn, "grader", None, &texts(&["read:users"]), true).await?;
                assert_eq!(again.id, grader.id);
                let viewer = roles::upsert(&txn, "viewer", None, &[], false).await?;
                let crew = groups::insert(&txn, "crew", &json!({})).await?;
                groups::add_members(&txn, crew.id, &[ada]).await?;
                let fields = services::ServiceFields {
                    name: "cull".into(),
                    ..Default::default()
                };
                let service = services::insert(&txn, &fields).await?;
                assert!(roles::assign(&txn, Holder::User(ada), viewer.id, true).await?);
                assert!(!roles::assign(&txn, Holder::User(ada), viewer.id, true).await?);
                assert!(roles::assign(&txn, Holder::Group(crew.id), grader.id, false).await?);
                // The same role by two ways comes once.
                assert!(roles::assign(&txn, Holder::Group(crew.id), viewer.id, false).await?);
                assert!(roles::assign(&txn, Holder::Service(service.id), grader.id, false).await?);
                Ok::<_, StoreError>((again, viewer, crew, service))
            })
            .await
            .unwrap();
        let read = store.read();
        let stored = roles::find(read, "grader").await.unwrap().unwrap();
        assert_eq!(stored, grader);
        assert_eq!((stored.description, stored.managed_by_auth), (None, true));
        assert_eq!(
            roles::of_user_and_groups(read, ada).await.unwrap(),
            [grader.clone(), viewer.clone()]
        );
        assert_eq!(roles::of_user_and_groups(read, bob).await.unwrap(), []);
        assert_eq!(
            roles::of(read, Holder::User(ada)).await.unwrap(),
            vec![viewer.clone()]
        );
        assert_eq!(
            roles::of(read, Holder::Service(service.id)).await.unwrap(),
            vec![grader.clone()]
        );
        let names = roles::names_of_many(read, HolderKind::User, &[ada, bob])
            .await
            .unwrap();
        assert_eq!(names.len(), 1);
        assert_eq!(
            (
                names[0].holder_id,
                names[0].name.as_str(),
                names[0].managed_by_auth
            ),
            (ada, "viewer", true)
        );
        let holders = async |kind, role| {
            let found = roles::holders(read, kind, role).await.unwrap();
            found
                .into_iter()
                .map(|holder| holder.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(holders(HolderKind::User, viewer.id).await, ["ada"]);
        assert_eq!(holders(HolderKind::Group, grader.id).await, ["crew"]);
        assert_eq!(holders(HolderKind::Service, grader.id).await, ["cull"]);
        store
            .write(|txn| async move {
                assert!(roles::strip(&txn, Holder::User(ada), viewer.id).await?);
                assert!(!roles::strip(&txn, Holder::User(ada), viewer.id).await?);
                roles::delete(&txn, grader.id).await
            })
            .await
            .unwrap();
        assert_eq!(
            roles::of_user_and_groups(read, ada).await.unwrap(),
            [viewer]
        );
        assert_eq!(
            roles::of(read, Holder::Group(crew.id)).await.unwrap().len(),
            1
        );
    })
    .await;
}
