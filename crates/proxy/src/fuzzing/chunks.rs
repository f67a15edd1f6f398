//! Bodies in chunks, against a reading of RFC 9112 section 7.1 that sees the whole body at once.

use super::{Input, pieces};
use crate::http1::framing::{self, Decoder, Framing};

/// A body in chunks, cut anywhere: content, trailers, errors and what follows are those of a plain
/// reading, and what is written anew says the same.
pub fn chunked(data: &[u8]) {
    let (cuts, body) = Input(data).cuts();
    let expected = read(body);
    for cuts in [&cuts[..], &[]] {
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut content = Vec::new();
        let mut rest = Vec::new();
        let mut failed = false;
        for mut piece in pieces(cuts, body) {
            loop {
                match decoder.next(&mut piece) {
                    Ok(Some(part)) => {
                        assert!(!part.is_empty());
                        content.extend_from_slice(part);
                    }
                    Ok(None) => break,
                    Err(_) => {
                        failed = true;
                        break;
                    }
                }
            }
            if failed {
                break;
            }
            assert!(piece.is_empty() || decoder.is_done());
            rest.extend_from_slice(piece);
        }
        match &expected {
            Reading::Bad => assert!(failed),
            Reading::Incomplete(expected) => {
                assert!(!failed && !decoder.is_done());
                assert_eq!(&content, expected);
            }
            Reading::Whole {
                content: expected,
                length,
            } => {
                assert!(!failed && decoder.is_done());
                assert_eq!(&content, expected);
                assert_eq!(rest, body[*length..]);
                write_anew(&content, &decoder.trailers(), cuts);
            }
        }
    }
}

/// Chunks of other sizes, and the trailers that pass, are a body with the same content.
fn write_anew(content: &[u8], trailers: &[u8], cuts: &[usize]) {
    let cuts: Vec<usize> = cuts.iter().map(|cut| *cut.min(&content.len())).collect();
    let mut body = Vec::new();
    for piece in pieces(&cuts, content) {
        framing::write_chunk(&mut body, piece);
    }
    framing::write_last_chunk(&mut body, trailers);
    match read(&body) {
        Reading::Whole {
            content: again,
            length,
        } => {
            assert_eq!(again, content);
            assert_eq!(length, body.len());
        }
        _ => panic!("what was written is no body: {body:?}"),
    }
    for line in trailers.split(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\r") else {
            assert!(line.is_empty());
            continue;
        };
        let colon = line.iter().position(|byte| *byte == b':').expect("a field");
        let name = line[..colon].to_ascii_lowercase();
        for never in [
            "content-length",
            "transfer-encoding",
            "host",
            "connection",
            "set-cookie",
        ] {
            assert_ne!(name, never.as_bytes());
        }
    }
}

enum Reading {
    Bad,
    /// With the content so far.
    Incomplete(Vec<u8>),
    Whole {
        content: Vec<u8>,
        /// Of the body with all its framing.
        length: usize,
    },
}

/// What ends a reading early.
enum Stop {
    Bad,
    Incomplete,
}

fn read(body: &[u8]) -> Reading {
    let mut rest = body;
    let mut content = Vec::new();
    match read_into(&mut content, &mut rest) {
        Ok(()) => Reading::Whole {
            content,
            length: body.len() - rest.len(),
        },
        Err(Stop::Incomplete) => Reading::Incomplete(content),
        Err(Stop::Bad) => Reading::Bad,
    }
}

fn read_into(content: &mut Vec<u8>, rest: &mut &[u8]) -> Result<(), Stop> {
    loop {
        let size = line(rest, size_line)?;
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        content.extend_from_slice(chunk);
        *rest = after;
        if chunk.len() < size {
            return Err(Stop::Incomplete);
        }
        line(rest, |line, _| line.is_empty().then_some(()))?;
    }
    while line(rest, |line, _| is_text(line).then_some(!line.is_empty()))? {}
    Ok(())
}

/// A line without its end, understood by `read`; which is told whether there is an end.
fn line<T>(rest: &mut &[u8], read: impl FnOnce(&[u8], bool) -> Option<T>) -> Result<T, Stop> {
    let end = rest.iter().position(|byte| *byte == b'\r');
    let understood = read(&rest[..end.unwrap_or(rest.len())], end.is_some()).ok_or(Stop::Bad)?;
    let end = end.ok_or(Stop::Incomplete)?;
    match rest.get(end + 1) {
        Some(b'\n') => {
            *rest = &rest[end + 2..];
            Ok(understood)
        }
        Some(_) => Err(Stop::Bad),
        None => Err(Stop::Incomplete),
    }
}

/// The size of a chunk, and an extension that says nothing.
fn size_line(line: &[u8], is_whole: bool) -> Option<u64> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (digits, extension) = line.split_at(digits);
    let text = std::str::from_utf8(digits).ok()?;
    if digits.len() > 16 || (digits.is_empty() && (is_whole || !extension.is_empty())) {
        return None;
    }
    let behind = extension.trim_ascii_start();
    let spaces = extension.len() - behind.len();
    if spaces > 1025 || !is_text(extension) {
        return None;
    }
    match behind {
        // Spaces alone are no extension.
        [] if spaces > 0 && is_whole => return None,
        [] => {}
        [b';', said @ ..] if said.len() <= 1024 => {}
        _ => return None,
    }
    Some(u64::from_str_radix(text, 16).unwrap_or_default())
}

fn is_text(line: &[u8]) -> bool {
    line.iter()
        .all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}
