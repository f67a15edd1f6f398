//! The load generator and the servers behind the proxy, in one thread, so that both together need
//! as little as possible of the core that the proxy does not have.
//!
//! It says the address of its server in the first line, then reads one command in each line (a JSON
//! object, see [`Command`]) and answers each with one line of JSON.

mod api;
mod connection;
mod requests;
mod server;
mod summary;
mod transfers;
mod websockets;

use std::{io, net::SocketAddr, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// What the bench asks for. Times are seconds.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    /// Small answers, each connection asking again when it has its answer.
    Requests(requests::Load),
    /// Websockets that each send a small message and wait for its echo.
    Echo(websockets::Load),
    /// Opens websockets and keeps them, silent.
    Hold(websockets::Hold),
    /// Closes the websockets kept.
    Release,
    /// One large answer or one large body.
    Transfer(transfers::Load),
    /// Adds routes through the REST API of the proxy.
    Routes(api::Load),
}

/// A command may take this long beyond the time it names.
const GRACE: Duration = Duration::from_secs(120);

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run())
}

async fn run() -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address: SocketAddr = listener.local_addr()?;
    tokio::task::spawn_local(server::run(listener));

    let mut out = tokio::io::stdout();
    out.write_all(format!("{address}\n").as_bytes()).await?;
    out.flush().await?;
    let mut held = Vec::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line) {
            Ok(command) => match tokio::time::timeout(GRACE, obey(command, &mut held)).await {
                Ok(Ok(value)) => value,
                Ok(Err(error)) => serde_json::json!({ "error": error.to_string() }),
                Err(_) => serde_json::json!({ "error": "it took too long" }),
            },
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        out.write_all(format!("{answer}\n").as_bytes()).await?;
        out.flush().await?;
    }
    Ok(())
}

async fn obey(
    command: Command,
    held: &mut Vec<connection::Connection>,
) -> io::Result<serde_json::Value> {
    match command {
        Command::Requests(load) => requests::run(load).await,
        Command::Echo(load) => websockets::echo(load).await,
        Command::Hold(load) => {
            held.extend(websockets::hold(load).await?);
            Ok(serde_json::json!({ "held": held.len() }))
        }
        Command::Release => {
            held.clear();
            Ok(serde_json::json!({ "held": 0 }))
        }
        Command::Transfer(load) => transfers::run(load).await,
        Command::Routes(load) => api::run(load).await,
    }
}
