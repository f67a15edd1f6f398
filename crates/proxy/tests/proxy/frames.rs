//! A client of HTTP/2 that writes its frames itself, and so can write wrong ones.
use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

const DEADLINE: Duration = Duration::from_secs(20);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) type Field = (&'static str, &'static str);

/// The fields of a request that nothing is wrong with.
pub(crate) fn get(path: &'static str) -> Vec<Field> {
    vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "h"),
        (":path", path),
    ]
}

pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
}

/// What an exchange ends with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Answer,
    Reset(u32),
    /// The whole connection ends.
    Goaway(u32),
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frames {
    pub(crate) async fn start(mut stream: TlsStream<TcpStream>) -> Self {
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let mut frames = Self { stream };
        frames.write(SETTINGS, 0, 0, &[]).await;
        frames
    }

    /// Fields as they are, without index and without Huffman's code (RFC 7541 section 6.2.2).
    pub(crate) async fn headers(&mut self, stream: u32, end: bool, fields: &[Field]) {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                assert!(text.len() < 127);
                block.extend_from_slice(text.as_bytes());
            }
        }
        let end = if end { END_STREAM } else { 0 };
        self.write(HEADERS, END_HEADERS | end, stream, &block).await;
    }

    pub(crate) async fn data(&mut self, stream: u32, end: bool, data: &[u8]) {
        let end = if end { END_STREAM } else { 0 };
        self.write(DATA, end, stream, data).await;
    }

    pub(crate) async fn reset(&mut self, stream: u32) {
        self.write(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
            .await;
    }

    pub(crate) async fn ping(&mut self) {
        self.write(PING, 0, 0, b"abcdefgh").await;
    }

    /// How the exchange ends.
    pub(crate) async fn end_of(&mut self, stream: u32) -> End {
        loop {
            let frame = self.read().await.expect("the connection closed");
            if frame.kind == GOAWAY {
                return End::Goaway(number(&frame.payload[4..]));
            }
            if frame.stream != stream {
                continue;
            }
            if frame.kind == RST_STREAM {
                return End::Reset(number(&frame.payload));
            }
            let is_end = frame.flags & END_STREAM > 0;
            if (frame.kind == HEADERS || frame.kind == DATA) && is_end {
                return End::Answer;
            }
        }
    }

    /// The error that the connection closes with; `None` when a ping is answered first.
    pub(crate) async fn goaway_or_pong(&mut self) -> Option<u32> {
        loop {
            let frame = self
                .read()
                .await
                .expect("a connection does not close without a word");
            match frame.kind {
                GOAWAY => return Some(number(&frame.payload[4..])),
                PING if frame.flags & ACK > 0 => return None,
                _ => {}
            }
        }
    }

    /// Fails silently: what the proxy has to say then is in its frames.
    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        let _ = timeout(DEADLINE, self.stream.write_all(&frame))
            .await
            .unwrap();
        let _ = self.stream.flush().await;
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = timeout(DEADLINE, self.stream.read_exact(&mut head)).await;
        read.expect("the proxy is silent").ok()?;
        let mut payload = vec![0; number(&[0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: number(&head[5..]) & 0x7fff_ffff,
            payload,
        })
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}
