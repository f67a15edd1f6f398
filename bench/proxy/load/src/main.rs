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

use std::{collections::HashMap, io, net::SocketAddr, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::connection::{Connection, bad};

/// What the bench asks for. Times are seconds.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    /// Opens connections and keeps them under a name.
    Open {
        set: String,
        address: SocketAddr,
        connections: usize,
    },
    /// Opens websockets and keeps them under a name.
    OpenWebsockets {
        set: String,
        #[serde(flatten)]
        wanted: websockets::Wanted,
    },
    /// Small answers, each connection of a set asking again when it has its answer.
    Requests {
        set: String,
        #[serde(flatten)]
        load: requests::Load,
    },
    /// Websockets of a set that each send a small message and wait for its echo.
    Echo { set: String, seconds: f64 },
    /// Closes the connections of a set.
    Close { set: String },
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
    let mut sets = HashMap::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line) {
            Ok(command) => match tokio::time::timeout(GRACE, obey(command, &mut sets)).await {
                Ok(Ok(value)) => value,
                Ok(Err(error)) => json!({ "error": error.to_string() }),
                Err(_) => json!({ "error": "it took too long" }),
            },
            Err(error) => json!({ "error": error.to_string() }),
        };
        out.write_all(format!("{answer}\n").as_bytes()).await?;
        out.flush().await?;
    }
    Ok(())
}

async fn obey(command: Command, sets: &mut HashMap<String, Vec<Connection>>) -> io::Result<Value> {
    let done = || json!({});
    let open = |sets: &mut HashMap<_, _>, set: &str| {
        sets.remove(set)
            .ok_or_else(|| bad("no connections of that name"))
    };
    Ok(match command {
        Command::Open {
            set,
            address,
            connections,
        } => {
            let mut opened = Vec::with_capacity(connections);
            for _ in 0..connections {
                opened.push(Connection::open(address).await?);
            }
            sets.insert(set, opened);
            done()
        }
        Command::OpenWebsockets { set, wanted } => {
            sets.insert(set, websockets::open(wanted).await?);
            done()
        }
        Command::Requests { set, load } => {
            let (connections, summary) = requests::run(open(sets, &set)?, load).await?;
            sets.insert(set, connections);
            summary
        }
        Command::Echo { set, seconds } => {
            let (connections, summary) = websockets::echo(open(sets, &set)?, seconds).await?;
            sets.insert(set, connections);
            summary
        }
        Command::Close { set } => {
            sets.remove(&set);
            done()
        }
        Command::Transfer(load) => transfers::run(load).await?,
        Command::Routes(load) => api::run(load).await?,
    })
}
