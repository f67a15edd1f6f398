//! JupyterHub 6.1.1 itself on our databases, and we on its.

use std::{env, path::PathBuf, process::Command};

use chrono::TimeDelta;
use orrery_store::{
    DbUrl, Store, StoreError, StoreOptions, api_tokens, api_tokens::Owner, groups, oauth_clients,
    roles, services, spawners, spawners::SpawnerChanges, token_hash, token_hash::Origin, users,
    users::UserChanges,
};
use serde_json::{Value, json};

use crate::harness::{add_client, add_spawner, add_user, at, on_each_url};

/// Runs a Python script with upstream's packages; gives what it printed as JSON.
pub(crate) async fn upstream(script: &'static str, url: &str, arguments: &[&str]) -> Value {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = env::var("ORRERY_TEST_UPSTREAM_PYTHON").unwrap_or(".venv/bin/python".into());
    let python = root.join(python);
    let mut command = Command::new(&python);
    command.arg("-c").arg(script).arg(url).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap_or_else(|error| {
        panic!(
            "cannot run {}: {error}. It must be a Python with jupyterhub 6.1.1, psycopg2-binary and \
             pymysql; ORRERY_TEST_UPSTREAM_PYTHON names another",
            python.display()
        )
    });
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

const MAKE: &str = r#"
import json, sys
from datetime import datetime
from jupyterhub import orm, roles
db = orm.new_session_factory(sys.argv[1])()
for role in roles.get_default_roles():
    roles.create_role(db, role)
db.add(orm.OAuthClient(identifier="jupyterhub", description="JupyterHub", secret="", redirect_uri="/x", allowed_scopes=["inherit", "é"]))
user = orm.User(name="ada", admin=True, user_info={"name": "Ada \u00e9"}, encrypted_auth_state=b"\x00\xff")
group = orm.Group(name="crew", properties={"quota": 3})
service = orm.Service(name="cull", command=["python3", "-m", "cull"], environment={"A": "b"})
db.add_all([user, group, service])
group.users.append(user)
user.roles.append(orm.Role.find(db, "user"))
user.last_activity = datetime(2026, 11, 21, 1, 2, 3)
spawner = orm.Spawner(user=user, name="gpu", state={"pid": 7}, user_options={"image": "big"}, server=orm.Server(ip="127.0.0.1", port=1234, base_url="/user/ada/gpu/"))
db.add(spawner)
db.commit()
print(json.dumps({
    "generated": user.new_api_token(scopes=[], note="generated"),
    "chosen": user.new_api_token(token="chosen-by-hand-é", generated=False, scopes=[], expires_in=3600),
    "cookie_id": user.cookie_id,
    "created": user.created.isoformat(sep=" ", timespec="microseconds"),
}))
"#;

#[tokio::test]
async fn we_open_what_upstream_made() {
    on_each_url(
        |url| async move {
            let made = upstream(MAKE, &url, &[]).await;
            (url, made)
        },
        |(url, made)| async move {
            let store = Store::open(&DbUrl::parse(&url).unwrap(), StoreOptions::default())
                .await
                .unwrap();
            let read = store.read();
            let ada = users::find(read, "ada").await.unwrap().unwrap();
            assert!(ada.admin);
            assert_eq!(ada.cookie_id, made["cookie_id"]);
            assert_eq!(ada.user_info, json!({"name": "Ada é"}));
            assert_eq!(ada.encrypted_auth_state.as_deref(), Some(&[0, 255][..]));
            assert_eq!(ada.last_activity, Some(at(3723)));
            let created = ada.created.unwrap();
            if store.dialect() != orrery_store::Dialect::MySql {
                assert_eq!(
                    created.format("%Y-%m-%d %H:%M:%S%.6f").to_string(),
                    made["created"]
                );
            }
            for token in ["generated", "chosen"] {
                let text = made[token].as_str().unwrap();
                let now = created + TimeDelta::seconds(10);
                let found = api_tokens::find_candidates(read, token_hash::prefix(text), now)
                    .await
                    .unwrap();
                let matching: Vec<_> = found
                    .iter()
                    .filter(|row| token_hash::verify_token(&row.hashed, text))
                    .collect();
                assert_eq!(matching.len(), 1, "{token}");
                assert_eq!(matching[0].user_id, Some(ada.id));
                assert_eq!(matching[0].client_id.as_deref(), Some("jupyterhub"));
            }
            let client = oauth_clients::find(read, "jupyterhub")
                .await
                .unwrap()
                .unwrap();
            assert_eq!(client.allowed_scopes, ["inherit", "é"]);
            assert_eq!(
                groups::of_users(read, &[ada.id]).await.unwrap()[0].name,
                "crew"
            );
            assert_eq!(
                groups::find(read, "crew")
                    .await
                    .unwrap()
                    .unwrap()
                    .properties,
                json!({"quota": 3})
            );
            assert_eq!(
                roles::of_user_and_groups(read, ada.id).await.unwrap()[0].name,
                "user"
            );
            let service = services::find(read, "cull").await.unwrap().unwrap();
            assert_eq!(service.fields.command.unwrap(), ["python3", "-m", "cull"]);
            assert_eq!(service.fields.environment, json!({"A": "b"}));
            let active = spawners::list_active(read).await.unwrap();
            assert_eq!((active.len(), active[0].server.port), (1, 1234));
            assert_eq!(active[0].spawner.state, json!({"pid": 7}));
            store.close().await;
        },
    )
    .await;
}

const READ: &str = r#"
import json, sys
from jupyterhub import orm, roles
url, generated, chosen = sys.argv[1:]
db = orm.new_session_factory(url)()
orm.check_db_revision(db.get_bind())
user = orm.User.find(db, "ada")
token = orm.APIToken.find(db, generated)
by_hand = orm.APIToken.find(db, chosen)
spawner = user.orm_spawners["gpu"]
defaults = {r["name"]: (r["description"], r["scopes"]) for r in roles.get_default_roles()}
stored = {r.name: (r.description, r.scopes) for r in db.query(orm.Role) if r.name in defaults}
raw = db.connection().exec_driver_sql("select scopes from roles where name = 'server'").scalar()
result = {
    "token_user": token.user.name, "token_scopes": token.scopes, "token_note": token.note,
    "expired": token.expired, "by_hand": by_hand.user.name,
    "created": user.created.isoformat(sep=" "), "zone": user.created.tzinfo is None,
    "last_activity": user.last_activity.isoformat(sep=" "),
    "user_info": user.user_info, "auth_state": list(user.encrypted_auth_state),
    "roles_equal": {k: list(v) for k, v in stored.items()} == {k: list(v) for k, v in defaults.items()},
    "raw": raw, "groups": [g.name for g in user.groups], "roles": [r.name for r in user.roles],
    "state": spawner.state, "options": spawner.user_options, "client": spawner.oauth_client.identifier,
    "active": spawner.server is not None,
}
# Upstream can go on working with it: a new token, and a deletion with its cascades.
result["new"] = user.new_api_token(scopes=[])
db.delete(orm.User.find(db, "bob"))
db.commit()
print(json.dumps(result))
"#;

#[tokio::test]
async fn upstream_opens_what_we_made() {
    on_each_url(
        |url| async move { url },
        |url| async move {
            let store = Store::open(&DbUrl::parse(&url).unwrap(), StoreOptions::default()).await.unwrap();
            let ada = &add_user(&store, "ada").await;
            let bob = &add_user(&store, "bob").await;
            add_client(&store, "jupyterhub").await;
            add_client(&store, "jupyterhub-user-ada-gpu").await;
            let gpu = &add_spawner(&store, ada, "gpu").await;
            let bobs = &add_spawner(&store, bob, "").await;
            let generated = &token_hash::generate_token().unwrap();
            let chosen = "chosen-by-hand-é";
            store
                .write(|txn| async move {
                    let mut token = crate::tokens::new_token(Owner::User(ada.id), generated.expose());
                    // Far enough for a while.
                    token.expires_at = Some(at(100 * 365 * 86400));
                    token.scopes = vec!["self".into(), "read:users!user=ada".into()];
                    api_tokens::insert(&txn, &token).await?;
                    let mut token = crate::tokens::new_token(Owner::User(ada.id), chosen);
                    token.hashed = token_hash::hash_token(chosen, Origin::Chosen)?;
                    api_tokens::insert(&txn, &token).await?;
                    let changes = UserChanges {
                        last_activity: Some(at(3723)),
                        user_info: Some(json!({"name": "Ada é"})),
                        encrypted_auth_state: Some(Some(vec![0, 255])),
                        ..Default::default()
                    };
                    users::update(&txn, ada.id, &changes).await?;
                    let crew = groups::insert(&txn, "crew", &json!({})).await?;
                    groups::add_members(&txn, crew.id, &[ada.id]).await?;
                    let role = roles::find(&txn, "admin").await?.unwrap();
                    roles::assign(&txn, roles::Holder::User(ada.id), role.id, false).await?;
                    let changes = SpawnerChanges {
                        state: Some(json!({"pid": 7})),
                        user_options: Some(json!({"image": "big"})),
                        oauth_client_id: Some(Some("jupyterhub-user-ada-gpu".into())),
                        ..Default::default()
                    };
                    spawners::update(&txn, gpu.id, &changes).await?;
                    orrery_store::runs::insert(&txn, &crate::runs::new_run(bob, bobs, 0)).await?;
                    Ok::<_, StoreError>(())
                })
                .await
                .unwrap();

            let seen = upstream(READ, &url, &[generated.expose(), chosen]).await;
            let new = seen["new"].as_str().unwrap();
            let expected = json!({
                "token_user": "ada", "token_scopes": ["self", "read:users!user=ada"],
                "token_note": "made in a test", "expired": false, "by_hand": "ada",
                "created": "2026-11-21 00:00:00", "zone": true, "last_activity": "2026-11-21 01:02:03",
                "user_info": {"name": "Ada é"}, "auth_state": [0, 255], "roles_equal": true,
                "raw": "[\"users:activity!user\", \"access:servers!server\"]",
                "groups": ["crew"], "roles": ["admin"], "state": {"pid": 7},
                "options": {"image": "big"}, "client": "jupyterhub-user-ada-gpu", "active": false,
                "new": new,
            });
            assert_eq!(seen, expected);

            // What upstream changed meanwhile is seen here, while we still hold it open.
            let read = store.read();
            assert!(users::find(read, "bob").await.unwrap().is_none());
            let run = orrery_store::runs::list_owned(read, "hub-1").await.unwrap().pop().unwrap();
            assert_eq!((run.user_id, run.spawner_id), (None, None));
            let found = api_tokens::find_candidates(read, token_hash::prefix(new), at(0)).await.unwrap();
            assert!(found.iter().any(|row| token_hash::verify_token(&row.hashed, new)));
            store.close().await;
        },
    )
    .await;
}

const DESCRIBE: &str = r#"
import json, sys
from sqlalchemy import create_engine, inspect
from jupyterhub import orm
url, make = sys.argv[1:]
if make == "make":
    orm.new_session_factory(url)
i = inspect(create_engine(url))
out = {}
for t in sorted(i.get_table_names()):
    if t.startswith("orrery_"):
        continue
    out[t] = {
        "columns": [[c["name"], str(c["type"]), c["nullable"], str(c.get("autoincrement")), str(c["default"]).replace(t, "T")] for c in i.get_columns(t)],
        "primary": i.get_pk_constraint(t)["name"],
        "unique": sorted([u["name"], u["column_names"]] for u in i.get_unique_constraints(t)),
        "foreign": sorted([f["name"], f["constrained_columns"], f["referred_table"], f["referred_columns"], f["options"]] for f in i.get_foreign_keys(t)),
        "indexes": sorted([x["name"], x["column_names"], bool(x["unique"])] for x in i.get_indexes(t) if not x["name"].startswith("orrery_")),
        "options": {k: v for k, v in i.get_table_options(t).items()},
    }
print(json.dumps(out))
"#;

#[tokio::test]
async fn the_tables_are_the_same_in_every_detail() {
    let theirs = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = theirs.clone();
    on_each_url(
        |url| async move { upstream(DESCRIBE, &url, &["make"]).await },
        move |described| {
            let keep = keep.clone();
            async move { keep.lock().unwrap().push(described) }
        },
    )
    .await;
    let theirs = std::sync::Mutex::new(std::mem::take(&mut *theirs.lock().unwrap()).into_iter());
    on_each_url(
        |url| {
            let described = theirs.lock().unwrap().next().unwrap();
            async move { (url, described) }
        },
        |(url, theirs)| async move {
            Store::open(&DbUrl::parse(&url).unwrap(), StoreOptions::default())
                .await
                .unwrap()
                .close()
                .await;
            let ours = upstream(DESCRIBE, &url, &["look"]).await;
            assert_eq!(ours.as_object().unwrap().len(), 16);
            for (table, described) in theirs.as_object().unwrap() {
                assert_eq!(&ours[table], described, "{table}");
            }
        },
    )
    .await;
}
