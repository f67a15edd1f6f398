//! Websockets that play ping-pong, and websockets that only stay open.

use std::{io, net::SocketAddr, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    connection::{Connection, bad},
    requests::finish,
    summary::Times,
};

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    address: SocketAddr,
    /// Websocket `n` is one of `paths[n % paths.len()]`.
    paths: Vec<String>,
    connections: usize,
    /// Each sends one message and has its echo, then falls silent for good.
    #[serde(default)]
    idle: bool,
}

/// A masked text frame of 32 bytes and its echo.
fn message() -> (Vec<u8>, Vec<u8>) {
    const TEXT: &[u8; 32] = b"{\"msg_type\":\"status\",\"n\":123456}";
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut sent = vec![0x81, 0x80 | 32];
    sent.extend(mask);
    sent.extend(TEXT.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    let mut echoed = vec![0x81, 32];
    echoed.extend(TEXT);
    (sent, echoed)
}

async fn handshake(address: SocketAddr, path: &str) -> io::Result<Connection> {
    let mut connection = Connection::open(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: hub.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    connection.send(request.as_bytes()).await?;
    match connection.take_head().await?.status {
        101 => Ok(connection),
        _ => Err(bad("a websocket that was refused")),
    }
}

/// Gives the websockets back when all have had their last echo.
pub(crate) async fn echo(
    connections: Vec<Connection>,
    seconds: f64,
) -> io::Result<(Vec<Connection>, Value)> {
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn_local(play_until(end, connection));
    }
    finish(begun, tasks).await
}

async fn play_until(end: Instant, mut connection: Connection) -> io::Result<(Connection, Times)> {
    let (sent, echoed) = message();
    let mut times = Times::default();
    let mut now = Instant::now();
    while now < end {
        connection.send(&sent).await?;
        connection.expect(&echoed).await?;
        let then = std::mem::replace(&mut now, Instant::now());
        times.add(now - then);
    }
    Ok((connection, times))
}

pub(crate) async fn open(wanted: Wanted) -> io::Result<Vec<Connection>> {
    let (sent, echoed) = message();
    let mut opened = Vec::with_capacity(wanted.connections);
    for number in 0..wanted.connections {
        let mut connection = handshake(wanted.address, path(&wanted.paths, number)?).await?;
        if wanted.idle {
            connection.send(&sent).await?;
            connection.expect(&echoed).await?;
            connection.shrink();
        }
        opened.push(connection);
    }
    Ok(opened)
}

fn path(paths: &[String], number: usize) -> io::Result<&str> {
    paths
        .get(number % paths.len().max(1))
        .map(String::as_str)
        .ok_or_else(|| bad("no paths"))
}
