//! A token with all that decides what it allows, as one text: as long as two are equal, what was worked
//! out from the tables still holds. One short query in place of the many that working it out takes.

use sea_orm::{ConnectionTrait, DbBackend};

use crate::sql::{self, Result, values};

/// The stamp of a token, by its id: every column of its row and its owner's, the roles of the owner and
/// of their groups, what is shared with them, what its OAuth client is, and, where its note is that of a
/// server's own token, what servers may do. `None` if there is no such
/// token, and on MySQL, where nothing is kept that could be compared.
pub async fn of_token(connection: &impl ConnectionTrait, id: i32) -> Result<Option<String>> {
    let sql = match connection.get_database_backend() {
        DbBackend::MySql => return Ok(None),
        DbBackend::Postgres => POSTGRES,
        _ => SQLITE,
    };
    match sql::rows(connection, sql, values![id]).await?.pop() {
        Some(row) => Ok(row.try_get("", "stamp")?),
        None => Ok(None),
    }
}

/// The roles of a token's owner, and of the owner's groups.
macro_rules! roles {
    () => {
        "FROM roles r WHERE r.id IN ( \
             SELECT m.role_id FROM user_role_map m WHERE m.user_id = t.user_id \
             UNION ALL SELECT m.role_id FROM group_role_map m \
             JOIN user_group_map g ON g.group_id = m.group_id WHERE g.user_id = t.user_id \
             UNION ALL SELECT m.role_id FROM service_role_map m WHERE m.service_id = t.service_id)"
    };
}

/// What is shared with a token's owner, and with the owner's groups.
macro_rules! shares {
    () => {
        "FROM shares h LEFT JOIN users o ON o.id = h.owner_id \
         LEFT JOIN spawners p ON p.id = h.spawner_id \
         WHERE h.user_id = t.user_id OR h.group_id IN ( \
             SELECT g.group_id FROM user_group_map g WHERE g.user_id = t.user_id)"
    };
}

/// The server that is a token's OAuth client.
macro_rules! servers {
    () => {
        "FROM spawners p LEFT JOIN users o ON o.id = p.user_id WHERE p.oauth_client_id = t.client_id"
    };
}

/// What servers may do bounds their own tokens, which are known by how their notes begin.
macro_rules! of_servers {
    () => {
        "FROM roles r WHERE r.name = 'server' AND t.note LIKE 'Server at %'"
    };
}

/// The token and its owner.
macro_rules! token {
    () => {
        "FROM api_tokens t LEFT JOIN users u ON u.id = t.user_id \
         LEFT JOIN services s ON s.id = t.service_id WHERE t.id = ?"
    };
}

// A row as text has all of its columns. Which of several texts is which, the positions say: a text that
// is not there is as good as an empty one, which no row is.
const POSTGRES: &str = concat!(
    "SELECT JSON_BUILD_ARRAY(CAST(t AS TEXT), CAST(u AS TEXT), CAST(s AS TEXT), \
     (SELECT STRING_AGG(CAST(r AS TEXT), ' ' ORDER BY r.id) ",
    roles!(),
    "), (SELECT STRING_AGG(CONCAT(CAST(h AS TEXT), CAST(ROW(o.name, p.name) AS TEXT)), ' ' ORDER BY h.id) ",
    shares!(),
    "), (SELECT CAST(c AS TEXT) FROM oauth_clients c WHERE c.identifier = t.client_id), \
     (SELECT STRING_AGG(CAST(ROW(p.id, p.name, o.name) AS TEXT), ' ' ORDER BY p.id) ",
    servers!(),
    "), (SELECT STRING_AGG(CAST(ROW(v.id, v.name) AS TEXT), ' ' ORDER BY v.id) \
     FROM services v WHERE v.oauth_client_id = t.client_id), \
     (SELECT STRING_AGG(CAST(r AS TEXT), ' ' ORDER BY r.id) ",
    of_servers!(),
    "))::text AS stamp ",
    token!()
);

// `quote` tells NULL, numbers and texts apart and ends texts unmistakably.
const SQLITE: &str = concat!(
    "SELECT CONCAT_WS(',', \
     quote(t.user_id), quote(t.service_id), quote(t.id), quote(t.hashed), quote(t.prefix), \
     quote(t.client_id), quote(t.session_id), quote(t.created), quote(t.expires_at), \
     quote(t.last_activity), quote(t.note), quote(t.scopes), \
     quote(u.id), quote(u.name), quote(u.user_info), quote(u.admin), quote(u.created), \
     quote(u.last_activity), quote(u.cookie_id), quote(u.state), quote(u.encrypted_auth_state), \
     quote(s.id), quote(s.name), quote(s.admin), quote(s.url), quote(s.oauth_client_allowed_scopes), \
     quote(s.info), quote(s.display), quote(s.oauth_no_confirm), quote(s.command), quote(s.cwd), \
     quote(s.environment), quote(s.\"user\"), quote(s.timeout), quote(s.from_config), \
     quote(s._server_id), quote(s.pid), quote(s.oauth_client_id), \
     quote((SELECT GROUP_CONCAT(quote(r.id) || quote(r.name) || quote(r.scopes) ORDER BY r.id) ",
    roles!(),
    ")), quote((SELECT GROUP_CONCAT(quote(h.id) || quote(h.scopes) || quote(h.expires_at) || quote(o.name) || quote(p.name) ORDER BY h.id) ",
    shares!(),
    ")), quote((SELECT c.identifier FROM oauth_clients c WHERE c.identifier = t.client_id)), \
     quote((SELECT GROUP_CONCAT(quote(p.id) || quote(p.name) || quote(o.name) ORDER BY p.id) ",
    servers!(),
    ")), quote((SELECT GROUP_CONCAT(quote(v.id) || quote(v.name) ORDER BY v.id) \
     FROM services v WHERE v.oauth_client_id = t.client_id)), \
     quote((SELECT GROUP_CONCAT(quote(r.id) || quote(r.scopes) ORDER BY r.id) ",
    of_servers!(),
    "))) AS stamp ",
    token!()
);
