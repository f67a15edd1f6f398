//! The servers behind the proxy: small answers, websocket echo, large bodies in both directions.

use std::{io, time::Duration};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    connection::{bad, content_length},
    transfers::CHUNK,
};

/// As a single-user server answers when it is asked for its kernels.
const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\nServer: TornadoServer/6.4.1\r\nContent-Type: application/json\r\n\
    Date: Sun, 01 Jun 2025 12:00:00 GMT\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Content-Security-Policy: frame-ancestors 'self'; report-uri /api/security/csp-report\r\n\
    Content-Length: 61\r\n\r\n\
    {\"started\": \"2025-06-01T12:00:00Z\", \"kernels\": 1, \"n\": 12345}";

/// The answer to the key of RFC 6455, which is what the load sends.
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const BUFFER: usize = 16 * 1024;

pub(crate) async fn run(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(async move {
                    // A client that leaves is the usual end of a connection.
                    let _ = serve(stream).await;
                });
            }
            // Out of file descriptors: some come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let mut start = 0;
        while let Some(end) = memmem::find(&buffer[start..filled], b"\r\n\r\n") {
            let head = &buffer[start..start + end];
            let body = start + end + 4;
            start = match kind(head) {
                Kind::Small => {
                    stream.write_all(SMALL).await?;
                    body
                }
                Kind::Websocket => {
                    stream.write_all(SWITCHING).await?;
                    drop(buffer);
                    return echo(stream).await;
                }
                Kind::Download => {
                    let count = bytes_asked_for(head).ok_or_else(|| bad("no X-Bytes"))?;
                    download(&mut stream, count).await?;
                    body
                }
                Kind::Upload => {
                    let chunked = memmem::find(head, b"hunked").is_some();
                    if chunked {
                        return Err(bad("a body in chunks, though the client gave a length"));
                    }
                    let length = content_length(head).ok_or_else(|| bad("no length"))?;
                    let here = length.min(filled - body);
                    upload(&mut stream, length - here).await?;
                    body + here
                }
            };
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        if filled == buffer.len() {
            return Err(bad("a head that is too long"));
        }
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            read => filled += read,
        }
    }
}

enum Kind {
    Small,
    Websocket,
    Download,
    Upload,
}

/// What is asked for, by the path's end.
fn kind(head: &[u8]) -> Kind {
    let line = &head[..memchr::memchr(b'\r', head).unwrap_or(head.len())];
    let path = line.strip_suffix(b" HTTP/1.1").unwrap_or(line);
    if path.ends_with(b"/channels") {
        Kind::Websocket
    } else if path.ends_with(b"/download") {
        Kind::Download
    } else if path.ends_with(b"/upload") {
        Kind::Upload
    } else {
        Kind::Small
    }
}

fn bytes_asked_for(head: &[u8]) -> Option<usize> {
    let head = head.to_ascii_lowercase();
    let at = memmem::find(&head, b"\r\nx-bytes:")? + b"\r\nx-bytes:".len();
    let value = &head[at..];
    let end = memchr::memchr(b'\r', value).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()?.trim().parse().ok()
}

async fn download(stream: &mut TcpStream, mut count: usize) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {count}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let chunk = vec![b'x'; CHUNK];
    while count > 0 {
        let part = count.min(chunk.len());
        stream.write_all(&chunk[..part]).await?;
        count -= part;
    }
    Ok(())
}

async fn upload(stream: &mut TcpStream, mut left: usize) -> io::Result<()> {
    let mut sink = vec![0; CHUNK];
    while left > 0 {
        let most = sink.len().min(left);
        match stream.read(&mut sink[..most]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read,
        }
    }
    stream.write_all(SMALL).await
}

/// Sends back each frame, unmasked; only frames below 126 bytes are understood.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 512];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut start = 0;
        while let Some(frame) = buffer[start..filled].get(..2) {
            let length = usize::from(frame[1] & 0x7f);
            let size = 6 + length;
            if frame[1] & 0x80 == 0 || length > 125 {
                return Err(bad("a frame that no client of ours sends"));
            }
            if filled - start < size {
                break;
            }
            let frame = &mut buffer[start..start + size];
            let mask = [frame[2], frame[3], frame[4], frame[5]];
            let mut answer = [0; 127];
            answer[0] = frame[0];
            answer[1] = frame[1] & 0x7f;
            for (index, byte) in frame[6..].iter().enumerate() {
                answer[2 + index] = byte ^ mask[index % 4];
            }
            stream.write_all(&answer[..2 + length]).await?;
            start += size;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}
