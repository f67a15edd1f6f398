//! `orrery_audit`.

use chrono::TimeDelta;
use orrery_store::audit::{self, AuditQuery, Row};
use serde_json::{Value, json};

use crate::harness::{at, on_each};

fn row(second: i64, action: &str, actor: &str, owner: Option<&str>) -> Row {
    Row {
        id: 0,
        at: at(second),
        action: action.to_owned(),
        outcome: "ok".to_owned(),
        repeats: 1,
        actor_kind: "user".to_owned(),
        actor: actor.to_owned(),
        via: "token".to_owned(),
        token_id: Some(7),
        oauth_client: Some("service-x".to_owned()),
        address: "192.0.2.1".to_owned(),
        target_kind: "user".to_owned(),
        target: "é 🪐".to_owned(),
        owner: owner.map(str::to_owned),
        server: owner.map(|_| String::new()),
        details: json!({"n": second, "s": "ü"}),
    }
}

fn ask(limit: u64) -> AuditQuery {
    AuditQuery {
        limit,
        ..AuditQuery::default()
    }
}

fn seconds(rows: &[Row]) -> Vec<i64> {
    rows.iter()
        .map(|row| row.details["n"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn rows_come_back_as_they_were_newest_first_and_page_by_page() {
    on_each(|store| async move {
        // More than one statement takes.
        let rows: Vec<Row> = (0..100).map(|n| row(n, "login", "ada", None)).collect();
        let rows = &rows;
        store
            .write(|txn| async move { audit::insert(&txn, rows).await })
            .await
            .unwrap();
        let first = audit::list(store.read(), &ask(60)).await.unwrap();
        assert_eq!(seconds(&first), (40..100).rev().collect::<Vec<_>>());
        let mut expected = rows[99].clone();
        expected.id = first[0].id;
        assert_eq!(first[0], expected);
        // New rows between two pages move nothing.
        let late = &[row(500, "login", "eve", None)];
        store
            .write(|txn| async move { audit::insert(&txn, late).await })
            .await
            .unwrap();
        let mut rest = ask(60);
        rest.before = Some(first[59].id);
        let rest = audit::list(store.read(), &rest).await.unwrap();
        assert_eq!(seconds(&rest), (0..40).rev().collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn every_filter_holds() {
    on_each(|store| async move {
        let mut rows = vec![
            row(1, "login", "ada", None),
            row(2, "token.create", "ada", Some("ada")),
            row(3, "server.access", "eve", Some("ada")),
            row(4, "server.access", "Eve", Some("bob")),
        ];
        rows[2].outcome = "denied".to_owned();
        rows[3].server = Some("lab".to_owned());
        rows[3].address = "192.0.2.9".to_owned();
        rows[1].target = "x".to_owned();
        rows[0].details = json!({"n": 1});
        let mut nothing = row(5, "logout", "", None);
        nothing.details = Value::Null;
        rows.push(nothing);
        let rows = &rows;
        store
            .write(|txn| async move { audit::insert(&txn, rows).await })
            .await
            .unwrap();
        let text = |text: &str| Some(text.to_owned());
        let cases: Vec<(AuditQuery, Vec<&str>)> = vec![
            (
                AuditQuery {
                    actor: text("ada"),
                    ..ask(9)
                },
                vec!["token.create", "login"],
            ),
            // Names that differ in case are different people.
            (
                AuditQuery {
                    actor: text("eve"),
                    ..ask(9)
                },
                vec!["server.access"],
            ),
            (
                AuditQuery {
                    owner: text("ada"),
                    ..ask(9)
                },
                vec!["server.access", "token.create"],
            ),
            (
                AuditQuery {
                    owner: text("ada"),
                    by_others: true,
                    ..ask(9)
                },
                vec!["server.access"],
            ),
            (
                AuditQuery {
                    outcome: text("denied"),
                    ..ask(9)
                },
                vec!["server.access"],
            ),
            (
                AuditQuery {
                    server: text("lab"),
                    ..ask(9)
                },
                vec!["server.access"],
            ),
            (
                AuditQuery {
                    address: text("192.0.2.9"),
                    ..ask(9)
                },
                vec!["server.access"],
            ),
            (
                AuditQuery {
                    target: text("x"),
                    ..ask(9)
                },
                vec!["token.create"],
            ),
            (
                AuditQuery {
                    since: Some(at(5)),
                    ..ask(9)
                },
                vec!["logout"],
            ),
            (
                AuditQuery {
                    until: Some(at(2)),
                    ..ask(9)
                },
                vec!["login"],
            ),
            (
                AuditQuery {
                    actions: vec!["login".to_owned(), "logout".to_owned()],
                    ..ask(9)
                },
                vec!["logout", "login"],
            ),
        ];
        for (query, expected) in cases {
            let found = audit::list(store.read(), &query).await.unwrap();
            let found: Vec<_> = found.iter().map(|row| row.action.as_str()).collect();
            assert_eq!(found, expected, "{query:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn only_what_is_too_old_is_deleted_and_batch_by_batch() {
    on_each(|store| async move {
        let rows: Vec<Row> = (0..10).map(|n| row(n, "login", "ada", None)).collect();
        let rows = &rows;
        store
            .write(|txn| async move { audit::insert(&txn, rows).await })
            .await
            .unwrap();
        let before = at(6) + TimeDelta::microseconds(1);
        for expected in [4, 3, 0] {
            let deleted = store
                .write(|txn| async move { audit::prune(&txn, before, 4).await })
                .await
                .unwrap();
            assert_eq!(deleted, expected);
        }
        let left = audit::list(store.read(), &ask(99)).await.unwrap();
        assert_eq!(seconds(&left), [9, 8, 7]);
    })
    .await;
}
