//! Reads `multipart/form-data` that is in memory already (RFC 7578).

use bytes::Bytes;
use memchr::memmem;

/// Parts looked at, understood or not.
const MAX_PARTS: usize = 1000;
/// The longest boundary of RFC 2046.
const MAX_BOUNDARY: usize = 70;
/// The longest head of a part.
const MAX_HEAD: usize = 8 * 1024;

/// One field of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The field's name.
    pub name: String,
    /// The file's name, when the field is a file.
    pub file_name: Option<String>,
    /// The media type that the browser gave.
    pub content_type: Option<String>,
    /// The value or the file's content.
    pub content: Bytes,
}

/// The fields of `body`, in order. Parts that are not understood are left out. The work grows with
/// the body's length and nothing else, whatever stands in it.
pub fn fields(body: &Bytes, boundary: &str) -> Vec<Field> {
    if boundary.is_empty() || boundary.len() > MAX_BOUNDARY {
        return Vec::new();
    }
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    let between = memmem::Finder::new(&delimiter);
    // The first delimiter begins the body, without the line end before it.
    let Some(mut at) = body
        .starts_with(&delimiter[2..])
        .then_some(delimiter.len() - 2)
    else {
        return Vec::new();
    };
    let mut fields = Vec::new();
    for _ in 0..MAX_PARTS {
        if body.get(at..at + 2) != Some(b"\r\n") {
            break;
        }
        let start = at + 2;
        // A part without head or content may end with the line end that began it.
        let Some(found) = between.find(&body[at..]) else {
            break;
        };
        let end = at + found;
        if end > start
            && let Some(field) = field(&body.slice(start..end))
        {
            fields.push(field);
        }
        at = end + delimiter.len();
    }
    fields
}

fn field(part: &Bytes) -> Option<Field> {
    let head_end = memmem::find(part.get(..part.len().min(MAX_HEAD))?, b"\r\n\r\n")?;
    let head = std::str::from_utf8(part.get(..head_end)?).ok()?;
    let (mut name, mut file_name, mut content_type) = (None, None, None);
    for line in head.split("\r\n") {
        let (key, value) = line.split_once(':')?;
        match key.trim().to_ascii_lowercase().as_str() {
            "content-disposition" => {
                name = parameter(value, "name");
                file_name = parameter(value, "filename");
            }
            "content-type" => content_type = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let content = part.slice(head_end + 4..);
    Some(Field {
        name: name?,
        file_name,
        content_type,
        content,
    })
}

/// A parameter, quoted or bare. Browsers write `"` in it as `%22`; a semicolon in quotes is part of it.
fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (text, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after
                .split_once(';')
                .map_or((after, ""), |(text, _)| (text, &after[text.len()..])),
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(text.trim().replace("%22", "\""));
        }
        rest = next
            .trim_start()
            .strip_prefix(';')
            .unwrap_or(next.trim_start());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_files_are_told_apart() {
        let body = Bytes::from_static(
            b"--x\r\nContent-Disposition: form-data; name=\"_xsrf\"\r\n\r\ntoken\r\n\
              --x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\n\
              line\r\n--y\r\n--x\r\nContent-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n--x--\r\n",
        );
        let fields = fields(&body, "x");
        assert_eq!(fields.len(), 3);
        assert_eq!(fields[0].content, "token");
        assert_eq!(fields[1].file_name.as_deref(), Some("a.txt"));
        assert_eq!(fields[1].content, "line\r\n--y");
        assert_eq!(fields[2].content, "");
    }

    #[test]
    fn a_semicolon_in_a_file_name_stays() {
        let body = Bytes::from_static(
            b"--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a;b.txt\"\r\n\r\nv\r\n--x--",
        );
        let fields = fields(&body, "x");
        assert_eq!(
            (fields[0].name.as_str(), fields[0].file_name.as_deref()),
            ("f", Some("a;b.txt"))
        );
    }

    /// Each of these once took minutes: parts without heads, and boundaries as long as the body.
    #[test]
    fn hostile_bodies_are_read_in_linear_time() {
        let many = Bytes::from("--x".to_owned() + &"\r\n--x".repeat(2_000_000));
        assert_eq!(fields(&many, "x"), []);
        let long = "y".repeat(60_000);
        assert_eq!(
            fields(&Bytes::from(format!("--{long}\r\n").repeat(160)), &long),
            []
        );
        let headless = Bytes::from("--x".to_owned() + &"\r\na\r\n--x".repeat(1_000_000));
        assert_eq!(fields(&headless, "x"), []);
    }

    #[test]
    fn nonsense_is_no_field() {
        for body in [
            "",
            "--x",
            "--x\r\n",
            "--x\r\n\r\n--x--",
            "--x--\r\n",
            "--x\r\nname\r\n\r\nv\r\n--x--",
        ] {
            assert_eq!(fields(&Bytes::from(body), "x"), []);
        }
    }
}
