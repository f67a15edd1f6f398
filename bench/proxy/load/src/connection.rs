//! A client's connection: requests out, whole answers in.

use std::{io, net::SocketAddr};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The longest head and small body that is understood.
const BUFFER: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    filled: usize,
}

/// The head of an answer; the body is still to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length: Option<usize>,
    /// How many bytes the head has with its empty line.
    size: usize,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
        })
    }

    /// A connection that will only wait needs no buffer.
    pub(crate) fn shrink(&mut self) {
        self.buffer = Box::default();
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads one whole small answer and returns its status.
    pub(crate) async fn small_answer(&mut self) -> io::Result<u16> {
        let head = self.head().await?;
        let end = match (head.length, head.status) {
            (Some(length), _) => head.size + length,
            (None, 204) => head.size,
            (None, _) => self.end_of_chunks(head.size).await?,
        };
        if end > self.buffer.len() {
            return Err(bad("an answer that is too long"));
        }
        while self.filled < end {
            self.fill().await?;
        }
        self.consume(end);
        Ok(head.status)
    }

    /// Where a body ends that comes in chunks, of which none is looked into.
    async fn end_of_chunks(&mut self, start: usize) -> io::Result<usize> {
        const END: &[u8] = b"0\r\n\r\n";
        let head = self.buffer[..start].to_ascii_lowercase();
        if memmem::find(&head, b"\r\ntransfer-encoding: chunked\r\n").is_none() {
            return Err(bad("an answer without a length"));
        }
        loop {
            if let Some(at) = memmem::find(&self.buffer[start..self.filled], END) {
                return Ok(start + at + END.len());
            }
            if self.filled == self.buffer.len() {
                return Err(bad("an answer that is too long"));
            }
            self.fill().await?;
        }
    }

    /// Reads a head and leaves it, with what came behind it, in the buffer.
    async fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(head) = parse_head(&self.buffer[..self.filled])? {
                return Ok(head);
            }
            if self.filled == self.buffer.len() {
                return Err(bad("a head that is too long"));
            }
            self.fill().await?;
        }
    }

    /// Reads a head and takes it out of the buffer.
    pub(crate) async fn take_head(&mut self) -> io::Result<Head> {
        let head = self.head().await?;
        self.consume(head.size);
        Ok(head)
    }

    /// Reads and forgets as many bytes as said.
    pub(crate) async fn skip(&mut self, mut count: usize) -> io::Result<()> {
        let buffered = self.filled.min(count);
        self.consume(buffered);
        count -= buffered;
        let mut sink = vec![0; 256 * 1024];
        while count > 0 {
            let most = sink.len().min(count);
            match self.stream.read(&mut sink[..most]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => count -= read,
            }
        }
        Ok(())
    }

    /// Waits until exactly these bytes have come.
    pub(crate) async fn expect(&mut self, bytes: &[u8]) -> io::Result<()> {
        while self.filled < bytes.len() {
            self.fill().await?;
        }
        if &self.buffer[..bytes.len()] != bytes {
            return Err(bad("an echo that is not what was sent"));
        }
        self.consume(bytes.len());
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }

    fn consume(&mut self, count: usize) {
        if count < self.filled {
            self.buffer.copy_within(count..self.filled, 0);
        }
        self.filled -= count;
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let status = bytes
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or_else(|| bad("no status line"))?;
    Ok(Some(Head {
        status,
        length: content_length(&bytes[..end]),
        size: end + 4,
    }))
}

/// The length that a head names; a name of a header has no case.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    let mut rest = head;
    while let Some(at) = memchr::memchr(b'\n', rest) {
        rest = &rest[at + 1..];
        if let Some((name, value)) = rest.split_at_checked(b"content-length:".len())
            && name.eq_ignore_ascii_case(b"content-length:")
        {
            let end = memchr::memchr(b'\r', value).unwrap_or(value.len());
            return std::str::from_utf8(&value[..end]).ok()?.trim().parse().ok();
        }
    }
    None
}

pub(crate) fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_status_and_length() {
        let answer = b"HTTP/1.1 201 Created\r\nDate: now\r\ncontent-Length:  12\r\n\r\nbody";
        let head = parse_head(answer).unwrap().unwrap();
        assert_eq!(
            (head.status, head.length, head.size),
            (201, Some(12), answer.len() - 4)
        );
        assert!(
            parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n")
                .unwrap()
                .is_none()
        );
    }
}
