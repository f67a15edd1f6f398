//! One large body, in either direction.

use std::{io, net::SocketAddr};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::connection::{Connection, bad};

#[derive(Debug, Deserialize)]
pub(crate) struct Load {
    address: SocketAddr,
    path: String,
    bytes: usize,
    upload: bool,
}

/// What is sent of a large body at a time.
pub(crate) const CHUNK: usize = 256 * 1024;

pub(crate) async fn run(load: Load) -> io::Result<Value> {
    let mut connection = Connection::open(load.address).await?;
    let begun = Instant::now();
    let Load { path, bytes, .. } = load;
    let host = format!("HTTP/1.1\r\nHost: hub.example.org\r\nX-Bytes: {bytes}\r\n");
    let (head, length) = if load.upload {
        (
            format!("PUT {path} {host}Content-Length: {bytes}\r\n\r\n"),
            bytes,
        )
    } else {
        (format!("GET {path} {host}\r\n"), 0)
    };
    connection.send(head.as_bytes()).await?;
    let chunk = vec![b'x'; CHUNK];
    let mut left = length;
    while left > 0 {
        let part = left.min(chunk.len());
        connection.send(&chunk[..part]).await?;
        left -= part;
    }
    let head = connection.take_head().await?;
    if head.status != 200 {
        return Err(bad("an answer that is not 200"));
    }
    let length = head
        .length
        .ok_or_else(|| bad("an answer without a length"))?;
    if !load.upload && length != bytes {
        return Err(bad("an answer of another length"));
    }
    connection.skip(length).await?;
    let elapsed = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a size of some gigabytes")]
    let rate = bytes as f64 / elapsed / f64::from(1 << 20);
    Ok(json!({ "bytes": bytes, "seconds": elapsed, "mib_per_second": rate }))
}
