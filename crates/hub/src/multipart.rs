//! Reads `multipart/form-data` that is in memory already (RFC 7578).

use bytes::Bytes;

/// Parts read at most.
const MAX_PARTS: usize = 1000;

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

/// The fields of `body`, in order. Parts that are not understood are left out.
pub fn fields(body: &Bytes, boundary: &str) -> Vec<Field> {
    let delimiter = [b"--", boundary.as_bytes()].concat();
    let mut fields = Vec::new();
    let Some(mut at) = find(body, &delimiter, 0).map(|at| at + delimiter.len()) else {
        return fields;
    };
    let inner = [b"\r\n", delimiter.as_slice()].concat();
    while fields.len() < MAX_PARTS && body.get(at..at + 2) == Some(b"\r\n") {
        let start = at + 2;
        let Some(end) = find(body, &inner, start.saturating_sub(2)) else {
            break;
        };
        if let Some(field) = field(body, start, end) {
            fields.push(field);
        }
        at = end + inner.len();
    }
    fields
}

fn field(body: &Bytes, start: usize, end: usize) -> Option<Field> {
    let head_end = find(body, b"\r\n\r\n", start).filter(|at| *at <= end)?;
    let head = std::str::from_utf8(body.get(start..head_end)?).ok()?;
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
    let content = body.slice((head_end + 4).min(end)..end);
    Some(Field { name: name?, file_name, content_type, content })
}

/// A quoted parameter; browsers write `"` in it as `%22`.
fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"').replace("%22", "\""))
    })
}

fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    haystack.get(from..)?.windows(needle.len()).position(|window| window == needle).map(|at| at + from)
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
    fn nonsense_is_no_field() {
        for body in ["", "--x", "--x\r\n", "--x\r\n\r\n--x--", "--x--\r\n", "--x\r\nname\r\n\r\nv\r\n--x--"] {
            assert_eq!(fields(&Bytes::from(body), "x"), []);
        }
    }
}
