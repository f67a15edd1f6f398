//! `servers`: the addresses of servers that are active.

use sea_orm::ConnectionTrait;

use crate::sql::{self, Result, from_row, values};

/// A row of `servers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Key.
    pub id: i32,
    /// `http` or `https`.
    pub proto: String,
    /// Host name or address; empty means every address of the machine.
    pub ip: String,
    /// Port; 0 until the spawner has said it.
    pub port: i32,
    /// Path under which it serves, with slashes at both ends.
    pub base_url: String,
    /// The name of its cookie.
    pub cookie_name: String,
}

from_row!(Server {
    id,
    proto: or_default,
    ip: or_default,
    port: or_default,
    base_url: or_default,
    cookie_name: or_default,
});

/// A server to add, or new values for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewServer {
    /// See [`Server::proto`].
    pub proto: String,
    /// See [`Server::ip`].
    pub ip: String,
    /// See [`Server::port`].
    pub port: i32,
    /// See [`Server::base_url`].
    pub base_url: String,
    /// See [`Server::cookie_name`].
    pub cookie_name: String,
}

impl NewServer {
    fn columns(&self) -> Vec<(&'static str, sea_orm::Value)> {
        vec![
            ("proto", self.proto.as_str().into()),
            ("ip", self.ip.as_str().into()),
            ("port", self.port.into()),
            ("base_url", self.base_url.as_str().into()),
            ("cookie_name", self.cookie_name.as_str().into()),
        ]
    }
}

/// Finds a server by id.
pub async fn find(connection: &impl ConnectionTrait, id: i32) -> Result<Option<Server>> {
    sql::one(
        connection,
        "SELECT * FROM servers WHERE id = ?",
        values![id],
    )
    .await
}

/// Adds a server.
pub async fn insert(connection: &impl ConnectionTrait, new: &NewServer) -> Result<Server> {
    let id = sql::insert_upstream(connection, "servers", new.columns()).await?;
    Ok(Server {
        id,
        proto: new.proto.clone(),
        ip: new.ip.clone(),
        port: new.port,
        base_url: new.base_url.clone(),
        cookie_name: new.cookie_name.clone(),
    })
}

/// Replaces a server's values.
pub async fn update(
    connection: &impl ConnectionTrait,
    id: i32,
    values: &NewServer,
) -> Result<bool> {
    sql::update(connection, "servers", id, values.columns()).await
}

/// Deletes a server and the references to it.
pub async fn delete(connection: &impl ConnectionTrait, id: i32) -> Result<bool> {
    sql::execute(
        connection,
        "UPDATE spawners SET server_id = NULL WHERE server_id = ?",
        values![id],
    )
    .await?;
    sql::execute(
        connection,
        "UPDATE services SET _server_id = NULL WHERE _server_id = ?",
        values![id],
    )
    .await?;
    Ok(sql::execute(connection, "DELETE FROM servers WHERE id = ?", values![id]).await? > 0)
}
