//! Bodies: where they end, read strictly; chunks are written anew, without their extensions.

/// How the end of a body is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    Length(u64),
    Chunked,
    /// It ends with the connection; only in responses.
    UntilClose,
}

/// Reads a body's content out of the bytes that carry it.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    /// The lines behind the last chunk, as they came.
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// In the line that says how long the next chunk is; with the digits seen.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the digits, in spaces before an extension.
    Space {
        size: u64,
        length: u16,
    },
    Extension {
        size: u64,
        length: u16,
    },
    SizeEnd {
        size: u64,
    },
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    /// In the lines behind the last chunk; with what the present line has.
    Trailer {
        line: u16,
    },
    TrailerEnd {
        line: u16,
    },
    Done,
    /// It is no body; nothing more is read from it.
    Bad,
}

/// Why a body in chunks is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk that is none")]
pub(crate) struct BadChunk;

/// So long may the extensions of a chunk and the trailers be, in bytes.
const LONGEST_EXTENSION: u16 = 1024;
const LONGEST_TRAILERS: usize = 16 * 1024;

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            state,
            trailers: Vec::new(),
        }
    }

    /// Whether the body has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the end of the body.
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.state == State::UntilClose
    }

    /// The next piece of content in `input`, which loses what has been read. `None` when `input` is
    /// used up or the body has ended; what is left in `input` then follows the body.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BadChunk> {
        loop {
            match &mut self.state {
                State::Done => return Ok(None),
                State::Bad => return Err(BadChunk),
                State::UntilClose => {
                    return Ok(Some(std::mem::take(input)).filter(|piece| !piece.is_empty()));
                }
                State::Length(rest) => {
                    let piece = take(input, rest);
                    if *rest == 0 {
                        self.state = State::Done;
                    }
                    return Ok(piece);
                }
                State::Chunk(rest) => {
                    let piece = take(input, rest);
                    if *rest == 0 {
                        self.state = State::ChunkCr;
                    }
                    return Ok(piece);
                }
                _ => {
                    let Some((byte, rest)) = input.split_first() else {
                        return Ok(None);
                    };
                    *input = rest;
                    let state = self.between(*byte);
                    self.state = *state.as_ref().unwrap_or(&State::Bad);
                    state?;
                }
            }
        }
    }

    /// The lines behind the last chunk that may be passed on, ready to be written.
    pub(crate) fn trailers(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        let mut headers = [httparse::EMPTY_HEADER; 32];
        if self.trailers.is_empty() {
            return lines;
        }
        // Ended like a head; what cannot be read is left out, trailers being no one's need.
        let block = [&self.trailers[..], b"\r\n"].concat();
        if let Ok(httparse::Status::Complete((_, fields))) =
            httparse::parse_headers(&block, &mut headers)
        {
            for field in fields.iter().filter(|field| may_trail(field.name)) {
                lines.extend_from_slice(field.name.as_bytes());
                lines.extend_from_slice(b": ");
                lines.extend_from_slice(field.value);
                lines.extend_from_slice(b"\r\n");
            }
        }
        lines
    }

    /// The state behind one byte that is not content.
    fn between(&mut self, byte: u8) -> Result<State, BadChunk> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                State::Size {
                    size: (size << 4) | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (State::Size { size, digits: 1.. } | State::Extension { size, .. }, b'\r') => {
                State::SizeEnd { size }
            }
            (State::Size { size, digits: 1.. } | State::Space { size, .. }, b';') => {
                State::Extension { size, length: 0 }
            }
            (State::Size { size, digits: 1.. }, b' ' | b'\t') => State::Space { size, length: 0 },
            (State::Space { size, length }, b' ' | b'\t') if length < LONGEST_EXTENSION => {
                State::Space {
                    size,
                    length: length + 1,
                }
            }
            (State::Extension { size, length }, b'\t' | b' '..=b'~' | 0x80..)
                if length < LONGEST_EXTENSION =>
            {
                State::Extension {
                    size,
                    length: length + 1,
                }
            }
            (State::SizeEnd { size: 0 }, b'\n') => State::Trailer { line: 0 },
            (State::SizeEnd { size }, b'\n') => State::Chunk(size),
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::Trailer { line }, b'\r') => State::TrailerEnd { line },
            (State::Trailer { line }, b'\t' | b' '..=b'~' | 0x80..)
                if self.trailers.len() < LONGEST_TRAILERS =>
            {
                self.trailers.push(byte);
                State::Trailer {
                    line: line.saturating_add(1),
                }
            }
            (State::TrailerEnd { line: 0 }, b'\n') => State::Done,
            (State::TrailerEnd { .. }, b'\n') => {
                self.trailers.extend_from_slice(b"\r\n");
                State::Trailer { line: 0 }
            }
            _ => return Err(BadChunk),
        })
    }
}

/// Takes as much of `input` as there is, up to `rest` bytes.
fn take<'a>(input: &mut &'a [u8], rest: &mut u64) -> Option<&'a [u8]> {
    let length = usize::try_from(*rest)
        .unwrap_or(usize::MAX)
        .min(input.len());
    let (piece, after) = input.split_at(length);
    *input = after;
    *rest -= length as u64;
    Some(piece).filter(|piece| !piece.is_empty())
}

/// Whether a field may come behind a body: none that says where messages end, whom they are for or
/// who sends them (RFC 9110 section 6.5.1).
fn may_trail(name: &str) -> bool {
    const NEVER: [&str; 20] = [
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "max-forwards",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
    ];
    let is_forwarded = name
        .as_bytes()
        .get(..11)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded"));
    !is_forwarded && !NEVER.iter().any(|never| never.eq_ignore_ascii_case(name))
}

/// Writes one chunk. An empty one would end the body, so nothing is written for it.
pub(crate) fn write_chunk(out: &mut Vec<u8>, content: &[u8]) {
    if content.is_empty() {
        return;
    }
    write_hex(out, content.len());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(content);
    out.extend_from_slice(b"\r\n");
}

/// Writes the end of a body in chunks, with lines from [`Decoder::trailers`].
pub(crate) fn write_last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

fn write_hex(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0; 16];
    let mut place = digits.len();
    while number > 0 {
        place -= 1;
        digits[place] = b"0123456789abcdef"[number & 15];
        number >>= 4;
    }
    out.extend_from_slice(&digits[place..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content, trailers and what follows the body.
    type Parts = (Vec<u8>, Vec<u8>, Vec<u8>);

    fn decode(pieces: &[&[u8]]) -> Result<Parts, BadChunk> {
        let mut decoder = Decoder::new(Framing::Chunked);
        let (mut content, mut rest) = (Vec::new(), Vec::new());
        for mut piece in pieces.iter().copied() {
            while let Some(data) = decoder.next(&mut piece)? {
                content.extend_from_slice(data);
            }
            rest.extend_from_slice(piece);
        }
        assert!(decoder.is_done() || rest.is_empty());
        if !decoder.is_done() {
            return Err(BadChunk);
        }
        Ok((content, decoder.trailers(), rest))
    }

    #[test]
    fn chunks_are_read_wherever_they_are_cut() {
        let body = b"3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-A: 1\r\nHost: evil\r\n\r\nGET /";
        let expected = (
            b"abc0123456789".to_vec(),
            b"X-A: 1\r\n".to_vec(),
            b"GET /".to_vec(),
        );
        assert_eq!(decode(&[body]).as_ref(), Ok(&expected));
        for cut in 0..body.len() {
            assert_eq!(
                decode(&[&body[..cut], &body[cut..]]).as_ref(),
                Ok(&expected),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        for body in [
            "\r\n",
            "zz\r\n",
            "-1\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            " 3\r\nabc\r\n0\r\n\r\n",
            "3 \r\nabc\r\n0\r\n\r\n",
            "3 a\r\nabc\r\n0\r\n\r\n",
            "00000000000000003\r\nabc\r\n0\r\n\r\n",
            "3;\0\r\nabc\r\n0\r\n\r\n",
            "3;a\rb\r\nabc\r\n0\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\n\n",
        ] {
            assert_eq!(decode(&[body.as_bytes()]), Err(BadChunk), "{body:?}");
        }
    }

    #[test]
    fn a_bad_chunk_stays_bad() {
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut input = &b"3\r\nabcX"[..];
        assert_eq!(decoder.next(&mut input), Ok(Some(&b"abc"[..])));
        assert_eq!(decoder.next(&mut input), Err(BadChunk));
        let mut input = &b"\r\n0\r\n\r\n"[..];
        assert_eq!(decoder.next(&mut input), Err(BadChunk));
        assert!(!decoder.is_done());
    }

    #[test]
    fn lengths_end_where_they_say() {
        let mut decoder = Decoder::new(Framing::Length(3));
        let mut input = &b"abcd"[..];
        assert_eq!(decoder.next(&mut input), Ok(Some(&b"abc"[..])));
        assert!(decoder.is_done());
        assert_eq!(decoder.next(&mut input), Ok(None));
        assert_eq!(input, b"d");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut body = Vec::new();
            for piece in &pieces {
                write_chunk(&mut body, piece);
            }
            write_last_chunk(&mut body, b"X-T: 1\r\n");
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let parts: Vec<_> = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
            prop_assert_eq!(
                decode(&parts),
                Ok((pieces.concat(), b"X-T: 1\r\n".to_vec(), Vec::new()))
            );
        }
    }
}
