//! JSON in TEXT columns, written as Python's `json.dumps` writes it and read as generously.

use std::{borrow::Cow, io};

use sea_orm::{DbErr, QueryResult, Value as SqlValue};
use serde::Serialize;
use serde_json::{Value, ser::Formatter};

/// Writes `value` with Python's spaces and ASCII escapes, so that upstream's columns keep their form.
pub fn to_text(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, PythonFormatter);
    value
        .serialize(&mut serializer)
        .expect("values with text keys always serialize into memory");
    String::from_utf8(bytes).expect("the serializer writes UTF-8")
}

/// Reads what Python wrote. It also writes `NaN`, `Infinity` and `-Infinity`, which JSON does not have:
/// they are read as null, so that the rest is not lost.
pub fn from_text(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| match without_constants(text) {
        Cow::Owned(text) => serde_json::from_str(&text),
        Cow::Borrowed(_) => Err(error),
    })
}

/// Replaces Python's constants outside of strings by null.
fn without_constants(text: &str) -> Cow<'_, str> {
    const CONSTANTS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];
    let mut new = String::new();
    let mut copied = 0;
    let mut in_string = false;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => in_string = !in_string,
            '\\' if in_string => _ = characters.next(),
            _ if in_string || at < copied => {}
            _ => {
                let found = CONSTANTS.iter().find(|word| text[at..].starts_with(**word));
                if let Some(word) = found {
                    new.push_str(&text[copied..at]);
                    new.push_str("null");
                    copied = at + word.len();
                }
            }
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    new.push_str(&text[copied..]);
    Cow::Owned(new)
}

/// A `JSONDict` column's value: JSON null is SQL's NULL, as in upstream.
pub(crate) fn dict(value: &Value) -> SqlValue {
    SqlValue::String((!value.is_null()).then(|| to_text(value)))
}

/// A `JSONList` column's value.
pub(crate) fn list(values: &[String]) -> SqlValue {
    SqlValue::String(Some(to_text(&values)))
}

/// Reads a `JSONDict` column; NULL is JSON null.
pub(crate) fn read_dict(row: &QueryResult, prefix: &str, column: &str) -> Result<Value, DbErr> {
    match row.try_get::<Option<String>>(prefix, column)? {
        None => Ok(Value::Null),
        Some(text) => {
            from_text(&text).map_err(|error| DbErr::Json(format!("column {column}: {error}")))
        }
    }
}

/// Reads a `JSONList` column of texts; NULL is the empty list, as in upstream.
pub(crate) fn read_list(
    row: &QueryResult,
    prefix: &str,
    column: &str,
) -> Result<Vec<String>, DbErr> {
    match row.try_get::<Option<String>>(prefix, column)? {
        None => Ok(Vec::new()),
        Some(text) => serde_json::from_str::<Option<Vec<String>>>(&text)
            .map(Option::unwrap_or_default)
            .map_err(|error| DbErr::Json(format!("column {column}: {error}"))),
    }
}

/// `json.dumps`'s default form: `", "` and `": "` as separators, everything beyond ASCII escaped.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for character in fragment.chars() {
            // The serializer escapes control characters itself; DEL is ASCII and stays, as in Python.
            if character.is_ascii() {
                writer.write_all(&[character as u8])?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_python_writes() {
        // Each right side is the output of `json.dumps` in Python 3.11.
        for (value, python) in [
            (
                serde_json::json!(["self", "read:hub"]),
                r#"["self", "read:hub"]"#,
            ),
            (
                serde_json::json!({"a": {"b": [1, 2.5, null, true]}}),
                r#"{"a": {"b": [1, 2.5, null, true]}}"#,
            ),
            (
                serde_json::json!("é\u{1f600}\"\\\n/\u{7f}"),
                "\"\\u00e9\\ud83d\\ude00\\\"\\\\\\n/\u{7f}\"",
            ),
            (serde_json::json!([]), "[]"),
            (serde_json::json!({}), "{}"),
        ] {
            assert_eq!(to_text(&value), python);
        }
    }

    #[test]
    fn what_python_writes_beyond_json_is_read() {
        for (text, value) in [
            (r#"{"a": 1}"#, serde_json::json!({"a": 1})),
            ("NaN", serde_json::json!(null)),
            (
                r#"{"NaN": NaN, "b\\": [-Infinity, Infinity, 1], "\"NaN": "é Infinity"}"#,
                serde_json::json!({"NaN": null, "b\\": [null, null, 1], "\"NaN": "é Infinity"}),
            ),
        ] {
            assert_eq!(from_text(text).unwrap(), value, "{text}");
        }
        for bad in [
            "",
            "NaN NaN",
            "{NaN: 1}",
            "nan",
            "--Infinity",
            "\"NaN",
            "aNaN",
        ] {
            assert!(from_text(bad).is_err(), "{bad}");
        }
    }
}
