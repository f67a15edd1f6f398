//! Routes added through the proxy's REST API.

use std::{io, net::SocketAddr, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    connection::{Connection, bad},
    summary::Times,
};

#[derive(Debug, Deserialize)]
pub(crate) struct Load {
    address: SocketAddr,
    token: String,
    /// Route `n` is `<prefix><n>`.
    prefix: String,
    from: usize,
    count: usize,
    target: String,
    /// How many additions are sent before their answers are awaited.
    #[serde(default = "one")]
    pipeline: usize,
    /// No further addition begins after this time.
    seconds: f64,
}

fn one() -> usize {
    1
}

pub(crate) async fn run(load: Load) -> io::Result<Value> {
    let mut connection = Connection::open(load.address).await?;
    let mut times = Times::default();
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(load.seconds);
    let mut next = load.from;
    let last = load.from + load.count;
    let mut now = begun;
    while next < last && now < end {
        let many = load.pipeline.max(1).min(last - next);
        let requests: String = (next..next + many)
            .map(|number| request(&load, number))
            .collect();
        let sent = Instant::now();
        connection.send(requests.as_bytes()).await?;
        for _ in 0..many {
            if connection.small_answer().await? != 201 {
                return Err(bad("a route that was not added"));
            }
        }
        now = Instant::now();
        times.add(now - sent);
        next += many;
    }
    let added = next - load.from;
    let mut summary = times.summary(begun.elapsed());
    summary["added"] = json!(added);
    Ok(summary)
}

fn request(load: &Load, number: usize) -> String {
    let body = json!({ "target": load.target, "user": "ada", "server_name": "" }).to_string();
    format!(
        "POST /api/routes{prefix}{number} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
        prefix = load.prefix,
        token = load.token,
        length = body.len(),
    )
}
