//! Small answers over many connections.

use std::{io, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    connection::{Connection, bad},
    summary::Times,
};

#[derive(Debug, Deserialize)]
pub(crate) struct Load {
    /// Connection `n` asks for `paths[n % paths.len()]`.
    paths: Vec<String>,
    seconds: f64,
    /// With the headers a browser sends, instead of `Host` alone.
    #[serde(default)]
    browser: bool,
    /// How many requests are under way on each connection.
    #[serde(default = "one")]
    pipeline: usize,
}

fn one() -> usize {
    1
}

/// What Chromium sends to JupyterLab, with the cookies of a session.
pub(crate) const BROWSER: &str = "Connection: keep-alive\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n\
    sec-ch-ua: \"Chromium\";v=\"131\", \"Not_A Brand\";v=\"24\"\r\n\
    Content-Type: application/json\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    Accept: */*\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: cors\r\n\
    Sec-Fetch-Dest: empty\r\n\
    Referer: http://hub.example.org/user/ada/lab\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Cookie: jupyterhub-session-id=5d6c8a0f3c1d4f0e9b7a6d5c4b3a2f1e; _xsrf=2|1a2b3c4d|0123456789abcdef0123456789abcdef|1700000000; jupyterhub-user-ada=2|1:0|10:1700000000|19:jupyterhub-user-ada|40:0123456789abcdef0123456789abcdef01234567|0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n";

/// Gives the connections back when all have had their last answers.
pub(crate) async fn run(
    connections: Vec<Connection>,
    load: Load,
) -> io::Result<(Vec<Connection>, Value)> {
    if load.paths.is_empty() || load.pipeline == 0 {
        return Err(bad("no paths, or nothing under way"));
    }
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(load.seconds);
    let mut tasks = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let path = &load.paths[number % load.paths.len()];
        let headers = if load.browser { BROWSER } else { "" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: hub.example.org\r\n{headers}\r\n");
        let requests = request.repeat(load.pipeline).into_bytes();
        tasks.spawn_local(ask_until(end, connection, requests, load.pipeline));
    }
    finish(begun, tasks).await
}

/// Waits for all connections, and sums up.
pub(crate) async fn finish(
    begun: Instant,
    mut tasks: JoinSet<io::Result<(Connection, Times)>>,
) -> io::Result<(Vec<Connection>, Value)> {
    let mut all = Times::default();
    let mut connections = Vec::with_capacity(tasks.len());
    while let Some(done) = tasks.join_next().await {
        let (connection, times) = done.map_err(io::Error::other)??;
        connections.push(connection);
        all.merge(times);
    }
    Ok((connections, all.summary(begun.elapsed())))
}

async fn ask_until(
    end: Instant,
    mut connection: Connection,
    requests: Vec<u8>,
    pipeline: usize,
) -> io::Result<(Connection, Times)> {
    let mut times = Times::default();
    let mut now = Instant::now();
    while now < end {
        connection.send(&requests).await?;
        for _ in 0..pipeline {
            if connection.small_answer().await? != 200 {
                return Err(bad("an answer that is not 200"));
            }
        }
        let then = std::mem::replace(&mut now, Instant::now());
        for _ in 0..pipeline {
            times.add(now - then);
        }
    }
    Ok((connection, times))
}
