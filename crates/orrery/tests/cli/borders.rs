//! Which crate may use which: the borders that ARCHITECTURE.md draws, read from the manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Each crate with those of our crates that it uses, development dependencies aside.
const BORDERS: &[(&str, &[&str])] = &[
    ("orrery-core", &[]),
    ("orrery-bench-load", &[]),
    ("orrery-store", &["orrery-core"]),
    ("orrery-bridge", &["orrery-core"]),
    ("orrery-session", &[]),
    ("orrery-spawners", &["orrery-core", "orrery-session"]),
    ("orrery-authenticators", &["orrery-core", "orrery-session"]),
    ("orrery-proxy", &[]),
    ("orrery-hub", &["orrery-core", "orrery-store"]),
    (
        "orrery",
        &[
            "orrery-authenticators",
            "orrery-bridge",
            "orrery-core",
            "orrery-hub",
            "orrery-proxy",
            "orrery-session",
            "orrery-spawners",
            "orrery-store",
        ],
    ),
];

#[test]
fn crates_use_each_other_only_as_drawn() {
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let found: BTreeMap<&str, BTreeSet<&str>> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let used = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"] != "dev" && dependency["path"].is_string())
                .filter_map(|dependency| dependency["name"].as_str());
            (package["name"].as_str().expect("a name"), used.collect())
        })
        .collect();
    let drawn: BTreeMap<&str, BTreeSet<&str>> = BORDERS
        .iter()
        .map(|(name, used)| (*name, used.iter().copied().collect()))
        .collect();
    assert_eq!(found, drawn);
}
