//! The encodings that names and passwords can have for PAM, by Python's names for them.

/// How text becomes bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Encoding {
    /// UTF-8.
    Utf8,
    /// ASCII.
    Ascii,
    /// ISO 8859-1.
    Latin1,
    /// ISO 8859-15.
    Latin9,
    /// Windows 1252.
    Windows1252,
}

/// The names that the documentation gives.
pub const NAMES: &str = "utf8, ascii, latin-1, iso-8859-15, cp1252";

/// The characters of ISO 8859-15 that ISO 8859-1 does not have.
const LATIN9: [(char, u8); 8] = [
    ('€', 0xa4),
    ('Š', 0xa6),
    ('š', 0xa8),
    ('Ž', 0xb4),
    ('ž', 0xb8),
    ('Œ', 0xbc),
    ('œ', 0xbd),
    ('Ÿ', 0xbe),
];

/// The characters of Windows 1252 that ISO 8859-1 does not have.
const WINDOWS_1252: [(char, u8); 27] = [
    ('€', 0x80),
    ('‚', 0x82),
    ('ƒ', 0x83),
    ('„', 0x84),
    ('…', 0x85),
    ('†', 0x86),
    ('‡', 0x87),
    ('ˆ', 0x88),
    ('‰', 0x89),
    ('Š', 0x8a),
    ('‹', 0x8b),
    ('Œ', 0x8c),
    ('Ž', 0x8e),
    ('‘', 0x91),
    ('’', 0x92),
    ('“', 0x93),
    ('”', 0x94),
    ('•', 0x95),
    ('–', 0x96),
    ('—', 0x97),
    ('˜', 0x98),
    ('™', 0x99),
    ('š', 0x9a),
    ('›', 0x9b),
    ('œ', 0x9c),
    ('ž', 0x9e),
    ('Ÿ', 0x9f),
];

impl Encoding {
    /// The encoding that Python knows by this name, if we know it too.
    pub fn named(name: &str) -> Option<Self> {
        let name: String = name
            .trim()
            .chars()
            .map(|character| match character {
                '_' | ' ' => '-',
                other => other.to_ascii_lowercase(),
            })
            .collect();
        Some(match name.as_str() {
            "utf8" | "utf-8" | "u8" | "cp65001" => Self::Utf8,
            "ascii" | "us-ascii" | "646" => Self::Ascii,
            "latin1" | "latin-1" | "latin" | "l1" | "iso8859-1" | "iso-8859-1" | "8859"
            | "cp819" => Self::Latin1,
            "latin9" | "latin-9" | "l9" | "iso8859-15" | "iso-8859-15" => Self::Latin9,
            "cp1252" | "windows-1252" | "1252" => Self::Windows1252,
            _ => return None,
        })
    }

    /// The bytes of a text; `None` if it has a character that the encoding has not.
    pub fn encode(self, text: &str) -> Option<Vec<u8>> {
        if self == Self::Utf8 {
            return Some(text.as_bytes().to_vec());
        }
        text.chars().map(|character| self.byte(character)).collect()
    }

    fn byte(self, character: char) -> Option<u8> {
        let listed = |table: &[(char, u8)]| {
            let found = table.iter().find(|(known, _)| *known == character);
            found.map(|(_, byte)| *byte)
        };
        let latin1 = u8::try_from(character).ok();
        match self {
            Self::Utf8 | Self::Ascii => latin1.filter(u8::is_ascii),
            Self::Latin1 => latin1,
            Self::Latin9 => listed(&LATIN9)
                .or_else(|| latin1.filter(|byte| LATIN9.iter().all(|(_, taken)| taken != byte))),
            Self::Windows1252 => listed(&WINDOWS_1252)
                .or_else(|| latin1.filter(|byte| !(0x80..=0x9f).contains(byte))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_go_by_pythons_names() {
        for (name, expected) in [
            ("utf8", Some(Encoding::Utf8)),
            ("UTF-8", Some(Encoding::Utf8)),
            ("ISO_8859-1", Some(Encoding::Latin1)),
            ("cp1252", Some(Encoding::Windows1252)),
            ("latin-9", Some(Encoding::Latin9)),
            ("utf-16", None),
            ("", None),
        ] {
            assert_eq!(Encoding::named(name), expected, "{name}");
        }
        for name in NAMES.split(", ") {
            assert!(Encoding::named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn characters_become_the_bytes_that_python_makes_of_them() {
        for (encoding, text, expected) in [
            (Encoding::Utf8, "ü€", Some(&b"\xc3\xbc\xe2\x82\xac"[..])),
            (Encoding::Ascii, "ue", Some(b"ue")),
            (Encoding::Ascii, "ü", None),
            (Encoding::Latin1, "ü¤", Some(b"\xfc\xa4")),
            (Encoding::Latin1, "€", None),
            (Encoding::Latin9, "ü€", Some(b"\xfc\xa4")),
            (Encoding::Latin9, "¤", None),
            (Encoding::Windows1252, "ü€”", Some(b"\xfc\x80\x94")),
            (Encoding::Windows1252, "\u{81}", None),
        ] {
            assert_eq!(encoding.encode(text).as_deref(), expected, "{text}");
        }
    }
}
