//! `roles` and the maps that give roles to users, groups and services.

use sea_orm::{ConnectionTrait, DbBackend};

use crate::{
    json,
    sql::{self, CHUNK, Result, from_row, marks, values},
};

/// A row of `roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Key.
    pub id: i32,
    /// Unique name.
    pub name: String,
    /// What the role is for.
    pub description: Option<String>,
    /// Its scopes, unexpanded.
    pub scopes: Vec<String>,
    /// Whether the authenticator keeps it.
    pub managed_by_auth: bool,
}

from_row!(Role {
    id,
    name,
    description,
    scopes: list,
    managed_by_auth
});

/// Somebody or something that holds roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A user, by id.
    User(i32),
    /// A group, by id.
    Group(i32),
    /// A service, by id.
    Service(i32),
}

/// A role's name and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The id of the user, group or service.
    pub holder_id: i32,
    /// The role's name.
    pub name: String,
    /// Whether the authenticator gave it.
    pub managed_by_auth: bool,
}

from_row!(Assignment {
    holder_id,
    name,
    managed_by_auth
});

/// A holder of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Key of the user, group or service.
    pub id: i32,
    /// Its name.
    pub name: String,
}

from_row!(Named { id, name });

/// A kind of holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HolderKind {
    /// Users.
    User,
    /// Groups.
    Group,
    /// Services.
    Service,
}

impl HolderKind {
    /// Map table, its column, and the holders' table.
    fn tables(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::User => ("user_role_map", "user_id", "users"),
            Self::Group => ("group_role_map", "group_id", "\"groups\""),
            Self::Service => ("service_role_map", "service_id", "services"),
        }
    }
}

impl Holder {
    fn parts(self) -> (&'static str, &'static str, i32) {
        let (kind, id) = match self {
            Self::User(id) => (HolderKind::User, id),
            Self::Group(id) => (HolderKind::Group, id),
            Self::Service(id) => (HolderKind::Service, id),
        };
        let (map, column, _) = kind.tables();
        (map, column, id)
    }
}

/// Finds a role by name.
pub async fn find(connection: &impl ConnectionTrait, name: &str) -> Result<Option<Role>> {
    sql::one_exact(
        connection,
        "SELECT * FROM roles WHERE name = ?",
        values![name],
        |row: &Role| row.name == name,
    )
    .await
}

/// Every role, by id.
pub async fn list(connection: &impl ConnectionTrait) -> Result<Vec<Role>> {
    sql::all(connection, "SELECT * FROM roles ORDER BY id", vec![]).await
}

/// Adds the role, or gives the role of that name these values.
pub async fn upsert(
    connection: &impl ConnectionTrait,
    name: &str,
    description: Option<&str>,
    scopes: &[String],
    managed_by_auth: bool,
) -> Result<Role> {
    let columns = vec![
        ("description", description.map(str::to_owned).into()),
        ("scopes", json::list(scopes)),
        ("managed_by_auth", managed_by_auth.into()),
    ];
    let id = sql::upsert(connection, "roles", ("name", name), columns).await?;
    Ok(Role {
        id,
        name: name.to_owned(),
        description: description.map(str::to_owned),
        scopes: scopes.to_vec(),
        managed_by_auth,
    })
}

/// Deletes a role and takes it from everybody.
pub async fn delete(connection: &impl ConnectionTrait, id: i32) -> Result<bool> {
    for kind in [HolderKind::User, HolderKind::Group, HolderKind::Service] {
        let (map, _, _) = kind.tables();
        let sql = format!("DELETE FROM {map} WHERE role_id = ?");
        sql::execute(connection, &sql, values![id]).await?;
    }
    Ok(sql::execute(connection, "DELETE FROM roles WHERE id = ?", values![id]).await? > 0)
}

/// Gives a role; says whether it was not held before.
pub async fn assign(
    connection: &impl ConnectionTrait,
    holder: Holder,
    role_id: i32,
    managed_by_auth: bool,
) -> Result<bool> {
    let (map, column, id) = holder.parts();
    let sql = format!("SELECT COUNT(*) AS n FROM {map} WHERE {column} = ? AND role_id = ?");
    if sql::count(connection, &sql, values![id, role_id]).await? > 0 {
        return Ok(false);
    }
    // Somebody else may give it at the same moment; then it is held, which is what was wanted.
    let ignore = ignore(connection);
    let sql =
        format!("INSERT INTO {map} ({column}, role_id, managed_by_auth) VALUES (?, ?, ?) {ignore}");
    sql::execute(connection, &sql, values![id, role_id, managed_by_auth]).await?;
    Ok(true)
}

/// Lets an insert pass over rows that are there.
fn ignore(connection: &impl ConnectionTrait) -> &'static str {
    match connection.get_database_backend() {
        DbBackend::MySql => "ON DUPLICATE KEY UPDATE role_id = role_id",
        _ => "ON CONFLICT DO NOTHING",
    }
}

/// Gives a role to many users who have just been made.
pub async fn assign_to_new_users(
    connection: &impl ConnectionTrait,
    user_ids: &[i32],
    role_id: i32,
) -> Result<()> {
    for chunk in user_ids.chunks(CHUNK) {
        let rows = vec!["(?, ?, ?)"; chunk.len()].join(", ");
        let ignore = ignore(connection);
        let sql = format!(
            "INSERT INTO user_role_map (user_id, role_id, managed_by_auth) VALUES {rows} {ignore}"
        );
        let mut values = Vec::with_capacity(chunk.len() * 3);
        for id in chunk {
            values.extend(values![*id, role_id, false]);
        }
        sql::execute(connection, &sql, values).await?;
    }
    Ok(())
}

/// Gives a role to every user who lacks it, but for some. Says how many rows that made.
pub async fn assign_to_all_users(
    connection: &impl ConnectionTrait,
    role_id: i32,
    but_for: &[i32],
) -> Result<u64> {
    // Numbers, and maybe more of them than a statement takes parameters.
    let but_for: Vec<String> = but_for.iter().map(ToString::to_string).collect();
    let but_for = if but_for.is_empty() {
        String::new()
    } else {
        format!("u.id NOT IN ({}) AND ", but_for.join(", "))
    };
    let sql = format!(
        "INSERT INTO user_role_map (user_id, role_id, managed_by_auth) \
         SELECT u.id, r.id, FALSE FROM users u JOIN roles r ON r.id = ? \
         WHERE {but_for}NOT EXISTS (SELECT 1 FROM user_role_map m \
         WHERE m.user_id = u.id AND m.role_id = r.id)"
    );
    sql::execute(connection, &sql, values![role_id]).await
}

/// What makes somebody an administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminBy {
    /// The column `admin`.
    Flag,
    /// The role `admin`.
    Role,
}

/// The users or services that are administrators by only this one of the two, by id. Groups have no
/// flag.
pub async fn half_admins(
    connection: &impl ConnectionTrait,
    kind: HolderKind,
    by: AdminBy,
    admin_role_id: i32,
) -> Result<Vec<Named>> {
    if kind == HolderKind::Group {
        return Ok(Vec::new());
    }
    let (map, column, table) = kind.tables();
    let (flag, role) = match by {
        AdminBy::Flag => ("", "NOT "),
        AdminBy::Role => ("NOT ", ""),
    };
    let sql = format!(
        "SELECT h.id, h.name FROM {table} h WHERE {flag}COALESCE(h.admin, FALSE) \
         AND {role}EXISTS (SELECT 1 FROM {map} m WHERE m.{column} = h.id AND m.role_id = ?) \
         ORDER BY h.id"
    );
    sql::all(connection, &sql, values![admin_role_id]).await
}

/// Takes a role away; says whether it was held.
pub async fn strip(
    connection: &impl ConnectionTrait,
    holder: Holder,
    role_id: i32,
) -> Result<bool> {
    let (map, column, id) = holder.parts();
    let sql = format!("DELETE FROM {map} WHERE {column} = ? AND role_id = ?");
    Ok(sql::execute(connection, &sql, values![id, role_id]).await? > 0)
}

/// The roles that a user, group or service holds itself, by id.
pub async fn of(connection: &impl ConnectionTrait, holder: Holder) -> Result<Vec<Role>> {
    let (map, column, id) = holder.parts();
    let sql = format!(
        "SELECT r.* FROM roles r JOIN {map} m ON m.role_id = r.id WHERE m.{column} = ? ORDER BY r.id"
    );
    sql::all(connection, &sql, values![id]).await
}

/// The roles of a user, its own and through its groups, each once, by id; one query.
pub async fn of_user_and_groups(
    connection: &impl ConnectionTrait,
    user_id: i32,
) -> Result<Vec<Role>> {
    sql::all(
        connection,
        "SELECT r.* FROM roles r WHERE r.id IN ( \
             SELECT m.role_id FROM user_role_map m WHERE m.user_id = ? \
             UNION SELECT g.role_id FROM group_role_map g \
             JOIN user_group_map u ON u.group_id = g.group_id WHERE u.user_id = ?) \
         ORDER BY r.id",
        values![user_id, user_id],
    )
    .await
}

/// The names of the roles that each of many users, groups or services holds itself.
pub async fn names_of_many(
    connection: &impl ConnectionTrait,
    kind: HolderKind,
    ids: &[i32],
) -> Result<Vec<Assignment>> {
    let (map, column, _) = kind.tables();
    let mut found = Vec::new();
    for chunk in ids.chunks(CHUNK) {
        let sql = format!(
            "SELECT m.{column} AS holder_id, r.name, m.managed_by_auth FROM {map} m \
             JOIN roles r ON r.id = m.role_id WHERE m.{column} IN ({}) ORDER BY m.{column}, r.id",
            marks(chunk.len())
        );
        let ids = chunk.iter().map(|id| (*id).into()).collect();
        found.extend(sql::all(connection, &sql, ids).await?);
    }
    Ok(found)
}

/// The users, groups or services that hold a role themselves, by id.
pub async fn holders(
    connection: &impl ConnectionTrait,
    kind: HolderKind,
    role_id: i32,
) -> Result<Vec<Named>> {
    let (map, column, table) = kind.tables();
    let sql = format!(
        "SELECT h.id, h.name FROM {table} h JOIN {map} m ON m.{column} = h.id \
         WHERE m.role_id = ? ORDER BY h.id"
    );
    sql::all(connection, &sql, values![role_id]).await
}
