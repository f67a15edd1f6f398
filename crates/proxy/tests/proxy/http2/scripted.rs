//! A server whose answers the test writes.
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::within;

/// A request at a server whose answers the test writes.
pub(super) struct Scripted {
    pub(super) stream: TcpStream,
    pub(super) head: String,
}

impl Scripted {
    pub(super) async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// What comes until `text` has come.
    pub(super) async fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(text.as_bytes()) {
            seen.push(within(self.stream.read_u8()).await.unwrap());
        }
        String::from_utf8(seen).unwrap()
    }
}

/// A server that hands out each connection when the head of its first request has come. Each answer
/// ends its connection.
pub(super) async fn scripted() -> (String, tokio::sync::mpsc::Receiver<Scripted>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, received) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut request = Scripted {
                stream,
                head: String::new(),
            };
            request.head = request.until("\r\n\r\n").await;
            if requests.send(request).await.is_err() {
                break;
            }
        }
    });
    (url, received)
}
