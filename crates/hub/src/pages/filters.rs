//! Jinja2 filters that minijinja lacks, or spells differently.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output};

/// Adds the filters to `environment`.
pub(super) fn add_to_environment(environment: &mut Environment<'static>) {
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("forceescape", |value: &Value| {
        Value::from_safe_string(escaped(&value.to_string()))
    });
    environment.add_filter("center", center);
    environment.add_filter("wordcount", |text: &str| {
        text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .count()
    });
    environment.add_filter("wordwrap", wordwrap);
    environment.add_filter("urlize", urlize);
    environment.add_filter("xmlattr", xmlattr);
}

/// Writes `text` with the five characters that matter in HTML replaced, in `MarkupSafe`'s spelling.
pub(super) fn write_escaped(out: &mut Output<'_>, text: &str) -> std::fmt::Result {
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '\'', '"']) {
        let (before, after) = rest.split_at(at);
        out.write_str(before)?;
        out.write_str(entity(after.as_bytes()[0]))?;
        rest = &after[1..];
    }
    out.write_str(rest)
}

fn entity(byte: u8) -> &'static str {
    match byte {
        b'&' => "&amp;",
        b'<' => "&lt;",
        b'>' => "&gt;",
        b'\'' => "&#39;",
        _ => "&#34;",
    }
}

/// `text` escaped as `write_escaped` does.
pub fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '&' | '<' | '>' | '\'' | '"' => result.push_str(entity(character as u8)),
            other => result.push(other),
        }
    }
    result
}

fn escape(value: &Value) -> Value {
    if value.is_safe() {
        value.clone()
    } else {
        Value::from_safe_string(escaped(&value.to_string()))
    }
}

/// Text in the middle of `width` columns (80).
fn center(text: &str, width: Option<usize>) -> String {
    let width = width.unwrap_or(80);
    let length = text.chars().count();
    let Some(gap) = width.checked_sub(length) else {
        return text.to_owned();
    };
    // Python puts the odd blank on the left when the width is odd.
    let left = gap / 2 + (gap & width & 1);
    format!("{}{text}{}", " ".repeat(left), " ".repeat(gap - left))
}

/// Breaks lines at `width` (79) columns, keeping the line breaks that are there.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands its arguments over so"
)]
fn wordwrap(text: &str, width: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let width = options
        .get::<Option<usize>>("width")?
        .or(width)
        .unwrap_or(79)
        .max(1);
    let break_long = options
        .get::<Option<bool>>("break_long_words")?
        .unwrap_or(true);
    let separator = options
        .get::<Option<String>>("wrapstring")?
        .unwrap_or_else(|| "\n".to_owned());
    options.assert_all_used()?;
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        let mut length = 0;
        for word in paragraph.split_whitespace() {
            let mut word: Vec<char> = word.chars().collect();
            if length > 0 && length + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
                length = 0;
            }
            while break_long && word.len() > width {
                let rest = word.split_off(width);
                lines.push(word.into_iter().collect());
                word = rest;
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            length += word.len();
            line.extend(word);
        }
        lines.push(line);
    }
    Ok(lines.join(&separator))
}

/// Makes links of the http(s) addresses in a text, and escapes the rest.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands its arguments over so"
)]
fn urlize(
    text: &Value,
    trim_url_limit: Option<usize>,
    nofollow: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let limit = options
        .get::<Option<usize>>("trim_url_limit")?
        .or(trim_url_limit);
    let nofollow = options
        .get::<Option<bool>>("nofollow")?
        .or(nofollow)
        .unwrap_or(false);
    let target: Option<String> = options.get("target")?;
    let rel: Option<String> = options.get("rel")?;
    options.assert_all_used()?;
    let mut rels: Vec<&str> = rel.as_deref().unwrap_or("").split_whitespace().collect();
    rels.push("noopener");
    if nofollow {
        rels.push("nofollow");
    }
    rels.sort_unstable();
    rels.dedup();
    let mut attributes = format!(" rel=\"{}\"", escaped(&rels.join(" ")));
    if let Some(target) = target {
        write!(attributes, " target=\"{}\"", escaped(&target))
            .expect("writing to a string cannot fail");
    }

    let text = text.to_string();
    let mut result = String::with_capacity(text.len());
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        let opening = word.len() - word.trim_start_matches(['(', '<', '[']).len();
        let (lead, rest) = word.split_at(opening);
        let address =
            rest.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', '>', ']', '"', '\'']);
        let is_address = ["http://", "https://"]
            .iter()
            .any(|scheme| address.len() > scheme.len() && address.starts_with(scheme));
        if !is_address {
            result.push_str(&escaped(piece));
            continue;
        }
        let shown = match limit {
            Some(limit) if address.chars().count() > limit => {
                address.chars().take(limit).chain("...".chars()).collect()
            }
            _ => address.to_owned(),
        };
        write!(
            result,
            "{}<a href=\"{}\"{attributes}>{}</a>{}{}",
            escaped(lead),
            escaped(address),
            escaped(&shown),
            escaped(&rest[address.len()..]),
            &piece[word.len()..]
        )
        .expect("writing to a string cannot fail");
    }
    Ok(Value::from_safe_string(result))
}

/// A mapping as attributes of an element; none and undefined values are left out.
fn xmlattr(attributes: &Value, autospace: Option<bool>) -> Result<Value, Error> {
    if attributes.kind() != ValueKind::Map {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "xmlattr needs a mapping",
        ));
    }
    let mut pairs = Vec::new();
    for key in attributes.try_iter()? {
        let value = attributes.get_item(&key)?;
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let name = key.to_string();
        // A space, or one of these, would let a key begin another attribute or end the element.
        if name.is_empty()
            || name.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '>' | '='))
        {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "an attribute's name cannot hold blanks, '/', '>' or '='",
            ));
        }
        let value = if value.is_safe() {
            value.to_string()
        } else {
            escaped(&value.to_string())
        };
        pairs.push(format!("{}=\"{value}\"", escaped(&name)));
    }
    let mut result = pairs.join(" ");
    if autospace.unwrap_or(true) && !result.is_empty() {
        result.insert(0, ' ');
    }
    Ok(Value::from_safe_string(result))
}

#[cfg(test)]
mod tests {
    use super::super::Templates;
    use minijinja::context;

    #[test]
    fn filters_answer_as_jinja2_does() {
        let templates =
            Templates::new(&[], &serde_json::Map::new()).expect("the built-in templates compile");
        for (template, expected) in [
            ("{{ 'a<b>\"c\\'&/' }}", "a&lt;b&gt;&#34;c&#39;&amp;/"),
            ("{{ '<b>' | safe }}", "<b>"),
            ("{{ ('<b>' | safe) | e }}", "<b>"),
            ("{{ ('<b>' | safe) | forceescape }}", "&lt;b&gt;"),
            (
                "{{ none }} {{ true }} {{ 1.5 }} {{ missing }}",
                "None True 1.5 ",
            ),
            ("[{{ 'ab' | center(5) }}]", "[  ab ]"),
            ("[{{ 'ab' | center(6) }}]", "[  ab  ]"),
            ("{{ 'one two, three' | wordcount }}", "3"),
            ("{{ 'aaa bbb ccc' | wordwrap(7) }}", "aaa bbb\nccc"),
            ("{{ 'abcdefgh' | wordwrap(3) }}", "abc\ndef\ngh"),
            (
                "{{ 'see (https://x.org/a?b=1&c).' | urlize }}",
                "see (<a href=\"https://x.org/a?b=1&amp;c\" rel=\"noopener\">https://x.org/a?b=1&amp;c</a>).",
            ),
            (
                "{{ '<i> javascript:x' | urlize }}",
                "&lt;i&gt; javascript:x",
            ),
            (
                "<a{{ {'id': 'x\"y', 'none': none} | xmlattr }}>",
                "<a id=\"x&#34;y\">",
            ),
            ("{{ 'Ada' .replace('A', 'a').lower() }}", "ada"),
        ] {
            assert_eq!(
                templates
                    .render_text(template, context! {})
                    .expect(template),
                expected,
                "{template}"
            );
        }
        assert!(
            templates
                .render_text("{{ {'a b': 1} | xmlattr }}", context! {})
                .is_err()
        );
    }
}
