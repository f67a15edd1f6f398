//! `oauth_codes`: authorization codes, each good for one exchange.

use std::fmt;

use sea_orm::ConnectionTrait;

use crate::{
    json,
    sql::{self, Result, from_row, values},
};

/// A row of `oauth_codes`. `Debug` leaves out the code, the session and the challenge.
#[derive(Clone, PartialEq, Eq)]
pub struct OauthCode {
    /// Key.
    pub id: i32,
    /// Whom it was issued to.
    pub client_id: Option<String>,
    /// The code itself.
    pub code: String,
    /// When it ends, in seconds since 1970.
    pub expires_at: Option<i32>,
    /// The address that the exchange must repeat.
    pub redirect_uri: Option<String>,
    /// The browser session.
    pub session_id: Option<String>,
    /// Who logged in.
    pub user_id: Option<i32>,
    /// The scopes granted.
    pub scopes: Vec<String>,
    /// The PKCE challenge.
    pub code_challenge: Option<String>,
    /// The PKCE method.
    pub code_challenge_method: Option<String>,
}

impl fmt::Debug for OauthCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OauthCode")
            .field("id", &self.id)
            .field("client_id", &self.client_id)
            .field("user_id", &self.user_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

from_row!(OauthCode {
    id,
    client_id,
    code: or_default,
    expires_at,
    redirect_uri,
    session_id,
    user_id,
    scopes: list,
    code_challenge,
    code_challenge_method,
});

/// A code to add.
#[derive(Clone)]
pub struct NewOauthCode {
    /// Whom it is issued to; the client must exist.
    pub client_id: String,
    /// The code itself, at most 36 characters.
    pub code: String,
    /// When it ends, in seconds since 1970.
    pub expires_at: i64,
    /// The address that the exchange must repeat.
    pub redirect_uri: String,
    /// The browser session.
    pub session_id: String,
    /// Who logged in.
    pub user_id: i32,
    /// The scopes granted.
    pub scopes: Vec<String>,
    /// The PKCE challenge.
    pub code_challenge: Option<String>,
    /// The PKCE method.
    pub code_challenge_method: Option<String>,
}

/// Adds a code.
pub async fn insert(connection: &impl ConnectionTrait, new: &NewOauthCode) -> Result<i32> {
    let columns = vec![
        ("client_id", new.client_id.as_str().into()),
        ("code", new.code.as_str().into()),
        ("expires_at", seconds(new.expires_at).into()),
        ("redirect_uri", new.redirect_uri.as_str().into()),
        ("session_id", new.session_id.as_str().into()),
        ("user_id", new.user_id.into()),
        ("scopes", json::list(&new.scopes)),
        ("code_challenge", new.code_challenge.clone().into()),
        (
            "code_challenge_method",
            new.code_challenge_method.clone().into(),
        ),
    ];
    sql::insert_upstream(connection, "oauth_codes", columns).await
}

/// Takes a code out: whoever comes second, in this process or another, finds nothing. An expired
/// code is gone after this too, but not given.
pub async fn take(
    connection: &impl ConnectionTrait,
    code: &str,
    now: i64,
) -> Result<Option<OauthCode>> {
    let found: Option<OauthCode> = sql::one(
        connection,
        "SELECT * FROM oauth_codes WHERE code = ?",
        values![code],
    )
    .await?;
    // MySQL's usual collations compare without regard to case; a secret must match exactly.
    let Some(found) = found.filter(|row| row.code == code) else {
        return Ok(None);
    };
    let deleted = sql::execute(
        connection,
        "DELETE FROM oauth_codes WHERE id = ?",
        values![found.id],
    )
    .await?;
    let valid = found.expires_at.is_none_or(|end| i64::from(end) >= now);
    Ok((deleted == 1 && valid).then_some(found))
}

/// Deletes the codes that one user got for a client; gives their number.
pub async fn delete_of_user_and_client(
    connection: &impl ConnectionTrait,
    user_id: i32,
    client_id: &str,
) -> Result<u64> {
    let client = sql::exactly(connection.get_database_backend(), "client_id");
    let sql = format!("DELETE FROM oauth_codes WHERE user_id = ? AND {client} = ?");
    sql::execute(connection, &sql, values![user_id, client_id]).await
}

/// Deletes the codes that have expired; gives their number.
pub async fn purge_expired(connection: &impl ConnectionTrait, now: i64) -> Result<u64> {
    sql::execute(
        connection,
        "DELETE FROM oauth_codes WHERE expires_at < ?",
        values![seconds(now)],
    )
    .await
}

/// The column is 32 bits wide in upstream's schema.
fn seconds(time: i64) -> i32 {
    i32::try_from(time).unwrap_or(i32::MAX)
}
