//! Notices request heads with both `Content-Length` and `Transfer-Encoding`.
//!
//! hyper follows RFC 9112 section 6.1 with such a request: the chunked coding counts, the length is
//! dropped, and the connection closes afterwards. So nothing is smuggled through us; but a client
//! that sends both is attacking or broken, and we refuse it. hyper does not tell that there was a
//! length, hence this look at the bytes. Only heads are looked at: a saved notebook may well speak
//! of these headers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

/// What one connection's byte stream, its request handler and its worker tell each other. All run
/// on one thread, but hyper moves streams only when they could change threads.
#[derive(Debug, Default)]
pub(crate) struct ConnectionFlags {
    head: AtomicU8,
    write_blocked: AtomicBool,
}

const LENGTH: u8 = 1;
const CODING: u8 = 2;
const RESTART: u8 = 4;

impl ConnectionFlags {
    /// Whether the head just received has both headers.
    pub(crate) fn has_both_lengths(&self) -> bool {
        self.head.load(Ordering::Relaxed) & (LENGTH | CODING) == LENGTH | CODING
    }

    /// The next bytes read begin a new head.
    pub(crate) fn expect_head(&self) {
        self.head.store(RESTART, Ordering::Relaxed);
    }

    /// Whether bytes wait for the peer to take them. Such a connection is not idle, even when its
    /// last answer is complete on our side.
    pub(crate) fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Ordering::Relaxed)
    }

    pub(crate) fn set_write_blocked(&self, blocked: bool) {
        self.write_blocked.store(blocked, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct HeadScan {
    flags: Arc<ConnectionFlags>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// In the name of a header, of which this much has been seen. It may span several reads.
    Name { start: [u8; LONGEST], len: usize },
    /// Behind the name, or in a name too long to matter.
    RestOfLine,
    /// Behind the head.
    Body,
}

const LONGEST: usize = b"transfer-encoding".len();

impl HeadScan {
    pub(crate) fn new(flags: Arc<ConnectionFlags>) -> Self {
        Self {
            flags,
            place: Place::RestOfLine,
        }
    }

    pub(crate) fn flags(&self) -> &ConnectionFlags {
        &self.flags
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.flags.head.load(Ordering::Relaxed) & RESTART != 0 {
            self.flags.head.store(0, Ordering::Relaxed);
            self.place = Place::RestOfLine;
        }
        let mut rest = bytes;
        loop {
            match &mut self.place {
                Place::Body => return,
                Place::RestOfLine => {
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        return;
                    };
                    rest = &rest[end + 1..];
                    self.place = Place::Name {
                        start: [0; LONGEST],
                        len: 0,
                    };
                }
                Place::Name { start, len } => {
                    let Some((byte, tail)) = rest.split_first() else {
                        return;
                    };
                    match byte {
                        b'\n' if *len == 0 => {
                            self.place = Place::Body;
                            return;
                        }
                        b'\r' => {}
                        // A line without a colon; hyper refuses it.
                        b'\n' => *len = 0,
                        b':' => {
                            let flag = match &start[..*len] {
                                b"content-length" => LENGTH,
                                b"transfer-encoding" => CODING,
                                _ => 0,
                            };
                            if flag != 0 {
                                self.flags.head.fetch_or(flag, Ordering::Relaxed);
                            }
                            self.place = Place::RestOfLine;
                        }
                        _ if *len == LONGEST => self.place = Place::RestOfLine,
                        byte => {
                            start[*len] = byte.to_ascii_lowercase();
                            *len += 1;
                        }
                    }
                    rest = tail;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(pieces: &[&str]) -> bool {
        let flags = Arc::new(ConnectionFlags::default());
        let mut scan = HeadScan::new(Arc::clone(&flags));
        for piece in pieces {
            scan.feed(piece.as_bytes());
        }
        flags.has_both_lengths()
    }

    #[test]
    fn heads_with_both_lengths_are_seen() {
        let head =
            "POST / HTTP/1.1\r\nHost: h\r\nCONTENT-LENGTH: 3\r\nTransfer-encoding: chunked\r\n\r\n";
        assert!(both(&[head]));
        for cut in 0..head.len() {
            assert!(both(&[&head[..cut], &head[cut..]]), "cut at {cut}");
        }
        assert!(!both(&[
            "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\ntransfer-encoding: chunked\r\n"
        ]));
        assert!(!both(&["POST /\ncontent-length: HTTP/1.1\r\n\r\n"]));
        assert!(!both(&[
            "POST / HTTP/1.1\r\nx-content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        ]));
    }

    #[test]
    fn a_new_head_starts_anew() {
        let flags = Arc::new(ConnectionFlags::default());
        let mut scan = HeadScan::new(Arc::clone(&flags));
        scan.feed(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc");
        flags.expect_head();
        scan.feed(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
        assert!(!flags.has_both_lengths());
    }
}
