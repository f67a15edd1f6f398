//! Python literals, as `ast.literal_eval` reads them: what a container option on the command line
//! may be written as (`--Spawner.args="['--debug']"`).

use std::collections::BTreeMap;

use super::Value;

/// How deep lists and dictionaries may stand in one another.
const DEEPEST: usize = 64;

/// The text is no Python literal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a Python literal at character {at}")]
pub struct LiteralError {
    /// Where reading stopped, in bytes.
    pub at: usize,
}

/// Reads one literal: numbers, texts, bytes, `True`, `False`, `None`, lists, tuples, sets and
/// dictionaries with text keys.
pub fn parse_literal(text: &str) -> Result<Value, LiteralError> {
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let value = parser.value()?;
    parser.space();
    if parser.at == text.len() {
        Ok(value)
    } else {
        parser.fail()
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Value, LiteralError> {
        self.space();
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.fail();
        }
        let value = match self.peek() {
            Some('[') => Value::List(self.items('[', ']')?.0),
            Some('(') => self.tuple()?,
            Some('{') => self.braces()?,
            Some('\'' | '"') => Value::Text(self.quoted()?),
            Some('b' | 'B') if matches!(self.rest().chars().nth(1), Some('\'' | '"')) => {
                self.at += 1;
                Value::Bytes(
                    self.quoted()?
                        .chars()
                        .map(|character| character as u8)
                        .collect(),
                )
            }
            Some(_) => self.word()?,
            None => return self.fail(),
        };
        self.depth -= 1;
        Ok(value)
    }

    /// Items between brackets, and whether a comma followed the last one.
    fn items(&mut self, open: char, close: char) -> Result<(Vec<Value>, bool), LiteralError> {
        self.expect(open)?;
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            self.space();
            if self.eat(close) {
                return Ok((items, comma));
            }
            if !items.is_empty() && !comma {
                return self.fail();
            }
            items.push(self.value()?);
            self.space();
            comma = self.eat(',');
        }
    }

    fn tuple(&mut self) -> Result<Value, LiteralError> {
        let (mut items, comma) = self.items('(', ')')?;
        if items.len() == 1 && !comma {
            return Ok(items.remove(0));
        }
        Ok(Value::List(items))
    }

    fn braces(&mut self) -> Result<Value, LiteralError> {
        self.expect('{')?;
        self.space();
        if self.eat('}') {
            return Ok(Value::Dict(BTreeMap::new()));
        }
        let first = self.value()?;
        self.space();
        if self.peek() != Some(':') {
            return self.set(first);
        }
        let mut items = BTreeMap::new();
        let mut key = first;
        loop {
            self.space();
            self.expect(':')?;
            let Value::Text(name) = key else {
                return self.fail();
            };
            items.insert(name, self.value()?);
            self.space();
            let comma = self.eat(',');
            self.space();
            if self.eat('}') {
                return Ok(Value::Dict(items));
            }
            if !comma {
                return self.fail();
            }
            key = self.value()?;
        }
    }

    fn set(&mut self, first: Value) -> Result<Value, LiteralError> {
        let mut items = vec![first];
        loop {
            self.space();
            let comma = self.eat(',');
            self.space();
            if self.eat('}') {
                return Ok(Value::Set(items));
            }
            if !comma {
                return self.fail();
            }
            items.push(self.value()?);
        }
    }

    fn quoted(&mut self) -> Result<String, LiteralError> {
        let Some(quote @ ('\'' | '"')) = self.next() else {
            return self.fail();
        };
        let mut text = String::new();
        loop {
            match self.next() {
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('r') => text.push('\r'),
                    Some('t') => text.push('\t'),
                    Some('0') => text.push('\0'),
                    Some('x') => text.push(self.code(2)?),
                    Some('u') => text.push(self.code(4)?),
                    Some(same @ ('\\' | '\'' | '"')) => text.push(same),
                    Some(other) => text.extend(['\\', other]),
                    None => return self.fail(),
                },
                Some(end) if end == quote => return Ok(text),
                Some(other) => text.push(other),
                None => return self.fail(),
            }
        }
    }

    fn code(&mut self, digits: usize) -> Result<char, LiteralError> {
        let code = self
            .rest()
            .get(..digits)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += digits;
        match code.and_then(char::from_u32) {
            Some(character) => Ok(character),
            None => Err(LiteralError {
                at: self.at.min(self.text.len()),
            }),
        }
    }

    fn word(&mut self) -> Result<Value, LiteralError> {
        let length = self
            .rest()
            .find(|character: char| {
                !(character.is_ascii_alphanumeric() || "+-._".contains(character))
            })
            .unwrap_or(self.rest().len());
        let word = &self.rest()[..length];
        let value = match word {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            "" => return self.fail(),
            number
                if number
                    .starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) =>
            {
                let digits = number.replace('_', "");
                match (digits.parse(), digits.parse()) {
                    (Ok(whole), _) => Value::Int(whole),
                    (_, Ok(number)) => Value::Float(number),
                    _ => return self.fail(),
                }
            }
            _ => return self.fail(),
        };
        self.at += length;
        Ok(value)
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), LiteralError> {
        if self.eat(wanted) {
            Ok(())
        } else {
            self.fail()
        }
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn fail<T>(&self) -> Result<T, LiteralError> {
        Err(LiteralError { at: self.at })
    }
}
