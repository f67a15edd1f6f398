//! Which names a new named server may have, by JupyterHub 6.1.1's rules.

/// The longest name of a new server.
const MAX_NAME: usize = 30;

/// The longest display name, in characters.
const MAX_DISPLAY_NAME: usize = 255;

/// Whether `name` may be a new server's: a letter first, then a-z, 0-9 and single hyphens, none at
/// the end, at most 30.
pub fn is_valid_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && !name.contains("--")
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Whether `name` may be shown as a server's name: 1 to 255 characters that can be seen, and single
/// spaces between them.
pub fn is_valid_display_name(name: &str) -> bool {
    let length = name.chars().count();
    (1..=MAX_DISPLAY_NAME).contains(&length)
        && !name.contains("  ")
        && !name.starts_with(' ')
        && !name.ends_with(' ')
        && name.chars().all(|c| c == ' ' || is_visible(c))
}

/// Unicode's letters, marks, numbers, punctuation and symbols. Unassigned characters pass too, which
/// upstream refuses: they need a table that a name shown to its owner is not worth.
fn is_visible(c: char) -> bool {
    let format = matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}');
    let private = matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}');
    let no_character = u32::from(c) & 0xfffe == 0xfffe || matches!(c, '\u{fdd0}'..='\u{fdef}');
    !(c.is_control() || c.is_whitespace() || format || private || no_character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_follow_upstreams_rule() {
        for good in ["a", "lab", "lab-2", "a1-b2-c3", &"x".repeat(30)] {
            assert!(is_valid_name(good), "{good:?}");
        }
        for bad in [
            "",
            "2lab",
            "-lab",
            "lab-",
            "a--b",
            "Lab",
            "läb",
            "a b",
            "a/b",
            &"x".repeat(31),
        ] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn display_names_are_visible_and_single_spaced() {
        for good in ["My lab", "Łódź № 5 🚀", "a", &"ü".repeat(255)] {
            assert!(is_valid_display_name(good), "{good:?}");
        }
        for bad in [
            "",
            " a",
            "a ",
            "a  b",
            "a\tb",
            "a\u{200b}b",
            "a\u{a0}b",
            "\u{e000}",
            &"x".repeat(256),
        ] {
            assert!(!is_valid_display_name(bad), "{bad:?}");
        }
    }
}
