//! What JupyterHub changed in its tables from one revision to the next, since 1.0.
//!
//! Each step leads to the tables that upstream's own migration leads to: a column that was added
//! stands at the end and has the default and the length that upstream's migration gives, even where
//! a new database has others. Tables that a database lacks are left out: they are made, as they are
//! today, when it is opened.

/// A step from one alembic revision to the next.
#[derive(Debug)]
pub struct Step {
    /// The revision that it begins at.
    pub from: &'static str,
    /// The revision that it ends at.
    pub to: &'static str,
    /// What it does, for operators.
    pub summary: &'static str,
    pub(super) changes: &'static [Change],
}

impl Step {
    /// The columns that it adds, each with its table.
    pub(super) fn added(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.changes.iter().filter_map(|change| match change {
            Change::Add(table, column, _) => Some((*table, *column)),
            Change::AddClient(table) => Some((*table, "oauth_client_id")),
            _ => None,
        })
    }
}

/// One change of a table or of its rows. Each can be done a second time without harm.
#[derive(Debug)]
pub(super) enum Change {
    /// Adds a column.
    Add(&'static str, &'static str, Kind),
    /// Adds the column `oauth_client_id`, which refers to the OAuth client of a service or server.
    AddClient(&'static str),
    /// Removes a table with all its rows.
    Drop(&'static str),
    /// Sets a flag in every row.
    SetTrue(&'static str, &'static str),
    /// Gives each token the scopes of its roles.
    ScopesOfTokens,
    /// Gives each OAuth client the scopes of its roles and the right to reach what it stands for.
    ScopesOfClients,
}

/// The type of an added column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Text of at most so many characters.
    Text(u16),
    /// JSON as text.
    Json,
    /// True, false or nothing.
    Flag,
    /// True or false; what exists gets false.
    FalseFlag,
    /// Seconds; what exists gets 30.
    Seconds30,
}

use Change::{Add, AddClient, Drop, ScopesOfClients, ScopesOfTokens, SetTrue};
use Kind::{FalseFlag, Flag, Json, Seconds30, Text};

/// The steps, oldest first.
pub(super) const STEPS: &[Step] = &[
    Step {
        from: "4dc2d5a8c53c",
        to: "833da8570507",
        summary: "services and servers refer to their OAuth clients; all tokens end (JupyterHub 2.0)",
        changes: &[
            AddClient("services"),
            AddClient("spawners"),
            // Tokens of before roles say nothing of what they may do. Upstream ends them all.
            Drop("api_tokens"),
            Drop("oauth_access_tokens"),
        ],
    },
    Step {
        from: "833da8570507",
        to: "651f5419b74d",
        summary: "tokens and OAuth clients have scopes in place of roles (JupyterHub 3.0)",
        changes: &[
            Drop("oauth_code_role_map"),
            Add("oauth_codes", "scopes", Json),
            Add("api_tokens", "scopes", Json),
            ScopesOfTokens,
            Drop("api_token_role_map"),
            Add("oauth_clients", "allowed_scopes", Json),
            ScopesOfClients,
            Drop("oauth_client_role_map"),
        ],
    },
    Step {
        from: "651f5419b74d",
        to: "0eee8c825d24",
        summary: "groups have properties (JupyterHub 4.0)",
        changes: &[Add("groups", "properties", Json)],
    },
    Step {
        from: "0eee8c825d24",
        to: "3c2384c5aae1",
        summary: "services keep their settings (JupyterHub 5.0)",
        changes: &[
            Add("services", "from_config", Flag),
            SetTrue("services", "from_config"),
            Add("services", "url", Text(2047)),
            Add("services", "oauth_client_allowed_scopes", Json),
            Add("services", "info", Json),
            Add("services", "display", Flag),
            Add("services", "oauth_no_confirm", Flag),
            Add("services", "command", Json),
            Add("services", "cwd", Text(2047)),
            Add("services", "environment", Json),
            Add("services", "user", Text(255)),
        ],
    },
    Step {
        from: "3c2384c5aae1",
        to: "4621fec11365",
        summary: "roles and who holds them may come from the authenticator (JupyterHub 5.0)",
        changes: &[
            Add("group_role_map", "managed_by_auth", FalseFlag),
            Add("roles", "managed_by_auth", FalseFlag),
            Add("service_role_map", "managed_by_auth", FalseFlag),
            Add("user_role_map", "managed_by_auth", FalseFlag),
        ],
    },
    Step {
        from: "4621fec11365",
        to: "be8ecf03ddac",
        summary: "services have a time to start in (JupyterHub 6.0)",
        changes: &[Add("services", "timeout", Seconds30)],
    },
    Step {
        from: "be8ecf03ddac",
        to: "afd65840b69e",
        summary: "OAuth codes are bound to who asked for them, by PKCE (JupyterHub 6.0)",
        changes: &[
            Add("oauth_codes", "code_challenge", Text(255)),
            Add("oauth_codes", "code_challenge_method", Text(64)),
        ],
    },
    Step {
        from: "afd65840b69e",
        to: "ff1860e38070",
        summary: "users have public information (JupyterHub 6.0)",
        changes: &[Add("users", "user_info", Json)],
    },
    Step {
        from: "ff1860e38070",
        to: "f460b0348206",
        summary: "servers have a name to show (JupyterHub 6.0)",
        changes: &[Add("spawners", "display_name", Text(255))],
    },
];

/// Revisions of JupyterHub before 1.0.
const ANCIENT: [&str; 9] = [
    "19c0846f6344",
    "eeb276e51423",
    "af4cbdb2d13c",
    "3ec6993fe20c",
    "1cebaf56856c",
    "56cc5a70207e",
    "99a28a4418e1",
    "d68c98b66cd4",
    "896818069c98",
];

/// The steps from a revision to the newest: none if it is the newest, `None` if it is not known.
pub(super) fn from(revision: &str) -> Option<&'static [Step]> {
    if STEPS.last().is_some_and(|last| last.to == revision) {
        return Some(&[]);
    }
    let first = STEPS.iter().position(|step| step.from == revision)?;
    Some(&STEPS[first..])
}

/// Whether JupyterHub before 1.0 made it.
pub(super) fn is_ancient(revision: &str) -> bool {
    ANCIENT.contains(&revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_one_chain_to_the_newest_revision() {
        for pair in STEPS.windows(2) {
            assert_eq!(pair[0].to, pair[1].from);
        }
        assert_eq!(STEPS.last().unwrap().to, crate::ALEMBIC_REVISION);
        assert_eq!(from(crate::ALEMBIC_REVISION).unwrap().len(), 0);
        assert_eq!(from("4dc2d5a8c53c").unwrap().len(), STEPS.len());
        assert!(from("ffffffffffff").is_none());
        assert!(from(ANCIENT[0]).is_none() && is_ancient(ANCIENT[0]));
    }
}
