use orrery_store::{
    StoreError, oauth_clients, servers, spawners,
    spawners::{NewSpawner, SpawnerChanges},
};
use serde_json::json;

use crate::{
    harness::{add_client, add_spawner, add_user, at, on_each},
    users::server,
};

#[tokio::test]
async fn a_server_starts_is_listed_and_stops() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        add_client(&store, "jupyterhub-user-ada").await;
        let new = &NewSpawner {
            user_id: ada.id,
            name: "gpu".into(),
            display_name: Some("GPU ✨".into()),
            user_options: json!({"image": "big"}),
            state: json!({}),
        };
        let gpu = &store
            .write(|txn| async move { spawners::insert(&txn, new).await })
            .await
            .unwrap();
        let default = &add_spawner(&store, ada, "").await;
        let read = store.read();
        assert_eq!(
            spawners::find(read, ada.id, "gpu").await.unwrap().as_ref(),
            Some(gpu)
        );
        assert_eq!(
            spawners::find(read, ada.id, "").await.unwrap().as_ref(),
            Some(default)
        );
        assert_eq!(spawners::find(read, ada.id, "none").await.unwrap(), None);
        assert_eq!(
            spawners::list_of_user(read, ada.id).await.unwrap(),
            [gpu.clone(), default.clone()]
        );
        assert_eq!(
            spawners::list_of_users(read, &[ada.id, 999])
                .await
                .unwrap()
                .len(),
            2
        );
        assert_eq!(spawners::list_active(read).await.unwrap(), []);

        let address = &store
            .write(|txn| async move {
                let address = servers::insert(&txn, &server()).await?;
                let changes = SpawnerChanges {
                    server_id: Some(Some(address.id)),
                    state: Some(json!({"pid": 42})),
                    started: Some(Some(at(3))),
                    oauth_client_id: Some(Some("jupyterhub-user-ada".into())),
                    ..Default::default()
                };
                assert!(spawners::update(&txn, gpu.id, &changes).await?);
                spawners::touch_activity(&txn, &[(gpu.id, at(9)), (gpu.id, at(8))]).await?;
                Ok::<_, StoreError>(address)
            })
            .await
            .unwrap();
        let active = spawners::list_active(read).await.unwrap();
        assert_eq!(active.len(), 1);
        assert_eq!(active[0].server, *address);
        assert_eq!(active[0].user_name, "ada");
        assert_eq!(active[0].spawner.state, json!({"pid": 42}));
        assert_eq!(active[0].spawner.last_activity, Some(at(9)));
        assert_eq!(active[0].spawner.user_options, json!({"image": "big"}));
        let found = spawners::find_by_client(read, "jupyterhub-user-ada")
            .await
            .unwrap();
        assert_eq!(found.map(|row| row.id), Some(gpu.id));

        let moved = &servers::NewServer {
            port: 5555,
            ..server()
        };
        store
            .write(|txn| async move {
                assert!(servers::update(&txn, address.id, moved).await?);
                assert_eq!(servers::find(&txn, address.id).await?.unwrap().port, 5555);
                assert!(servers::delete(&txn, address.id).await?);
                assert!(!servers::delete(&txn, address.id).await?);
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        assert_eq!(
            spawners::find_by_id(read, gpu.id)
                .await
                .unwrap()
                .unwrap()
                .server_id,
            None
        );

        let renamed = store
            .write(|txn| async move { spawners::rename(&txn, gpu.id, "den").await })
            .await;
        assert!(renamed.unwrap());
        let den = spawners::find(read, ada.id, "den").await.unwrap();
        assert_eq!(den.map(|row| row.id), Some(gpu.id));
        assert!(
            store
                .write(|txn| async move { spawners::delete(&txn, gpu.id).await })
                .await
                .unwrap()
        );
        assert!(
            !store
                .write(|txn| async move { spawners::delete(&txn, gpu.id).await })
                .await
                .unwrap()
        );
        assert_eq!(
            oauth_clients::find(read, "jupyterhub-user-ada")
                .await
                .unwrap(),
            None
        );
        assert_eq!(
            spawners::list_of_user(read, ada.id).await.unwrap(),
            vec![default.clone()]
        );
    })
    .await;
}
