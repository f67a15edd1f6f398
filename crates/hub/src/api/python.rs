//! Values as Python writes them: upstream's error sentences quote what was sent in that way.

use std::fmt::Write as _;

use serde_json::Value;

/// Characters of a value that are repeated at most.
const SHOWN: usize = 500;

/// Python's `repr`, cut to a length that an error may have.
pub(super) fn repr(value: &Value) -> String {
    let mut text = String::new();
    write_value(value, &mut text);
    if text.chars().count() > SHOWN {
        text = text.chars().take(SHOWN).chain(['…']).collect();
    }
    text
}

/// Python's name of a value's type, as in `<class 'str'>`.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<class 'NoneType'>",
        Value::Bool(_) => "<class 'bool'>",
        Value::Number(number) if number.is_f64() => "<class 'float'>",
        Value::Number(_) => "<class 'int'>",
        Value::String(_) => "<class 'str'>",
        Value::Array(_) => "<class 'list'>",
        Value::Object(_) => "<class 'dict'>",
    }
}

/// Whether Python takes a value for true.
pub(super) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn write_value(value: &Value, text: &mut String) {
    if text.len() > 4 * SHOWN {
        return;
    }
    match value {
        Value::Null => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::String(string) => write_string(string, text),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                write_value(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (index, (key, field)) in fields.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                write_string(key, text);
                text.push_str(": ");
                write_value(field, text);
            }
            text.push('}');
        }
    }
}

fn write_string(string: &str, text: &mut String) {
    let quote = if string.contains('\'') && !string.contains('"') {
        '"'
    } else {
        '\''
    };
    text.push(quote);
    for character in string.chars().take(SHOWN + 1) {
        match character {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\\' => text.push_str("\\\\"),
            c if c == quote => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => {
                let _ = write!(text, "\\x{:02x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push(quote);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() {
        for (value, expected) in [
            (json!(null), "None"),
            (json!(true), "True"),
            (json!([1, -2.5, "a'b", "\"'"]), r#"[1, -2.5, "a'b", '"\'']"#),
            (json!({"a": {"b": "c\n\u{7f}"}}), r"{'a': {'b': 'c\n\x7f'}}"),
        ] {
            assert_eq!(repr(&value), expected);
        }
        assert!(repr(&json!("x".repeat(1_000_000))).len() < 600);
        assert!(repr(&json!(vec![["y"; 10]; 10_000])).chars().count() <= SHOWN + 1);
    }

    #[test]
    fn empty_values_count_as_false() {
        for value in [
            json!(null),
            json!(false),
            json!(0),
            json!(""),
            json!([]),
            json!({}),
        ] {
            assert!(!is_truthy(&value), "{value}");
        }
        for value in [
            json!(true),
            json!(1),
            json!("0"),
            json!([0]),
            json!({"a": null}),
        ] {
            assert!(is_truthy(&value), "{value}");
        }
    }
}
