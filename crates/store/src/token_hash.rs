//! How tokens are kept: `sha512:<rounds>:<salt>:<hex>`, in upstream's form in both directions.
//!
//! The digest is over the salt's text and then the token, repeated `rounds` times. Tokens that were
//! generated here or by upstream have enough entropy for one round; tokens that people chose get
//! 16384, which takes about a millisecond: check those on a blocking pool.

use orrery_core::Secret;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

use crate::error::StoreError;

/// How many characters of a token stand in the clear, to find its row by.
pub const PREFIX_LENGTH: usize = 4;
/// The fewest characters of a token that somebody chose.
pub const MIN_LENGTH: usize = 8;
/// The most characters of any token; longer ones never match and are not even hashed.
pub const MAX_LENGTH: usize = 64;
/// Rounds for tokens that somebody chose.
pub const CHOSEN_ROUNDS: u32 = 16384;
/// Rounds for generated tokens.
pub const GENERATED_ROUNDS: u32 = 1;
/// What a row may ask for at most; upstream never writes more than [`CHOSEN_ROUNDS`].
const MAX_ROUNDS: u32 = 1 << 20;

/// Where a token comes from, which decides how hard it is to hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made by [`generate_token`] or as random.
    Generated,
    /// Chosen by a person or written in a configuration.
    Chosen,
}

/// A new random token: the 32 hex digits of a random (version 4) UUID, as upstream makes them.
pub fn generate_token() -> Result<Secret, StoreError> {
    let mut bytes = random::<16>()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Ok(Secret::new(hex(&bytes)))
}

/// The characters of `token` that stand in the clear.
pub fn prefix(token: &str) -> &str {
    match token.char_indices().nth(PREFIX_LENGTH) {
        Some((end, _)) => &token[..end],
        None => token,
    }
}

/// Hashes a token with a fresh salt.
pub fn hash_token(token: &str, origin: Origin) -> Result<String, StoreError> {
    let rounds = match origin {
        Origin::Generated => GENERATED_ROUNDS,
        Origin::Chosen => CHOSEN_ROUNDS,
    };
    Ok(hash_with(token, &hex(&random::<8>()?), rounds))
}

/// Whether `token` is the one that `hashed` was made from. Takes the same time for every token of
/// the same length; a malformed `hashed` matches nothing.
pub fn verify_token(hashed: &str, token: &str) -> bool {
    if token.chars().count() > MAX_LENGTH {
        return false;
    }
    let mut parts = hashed.split(':');
    let (Some("sha512"), Some(rounds), Some(salt), Some(_), None) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return false;
    };
    let Ok(rounds) = rounds.parse::<u32>() else {
        return false;
    };
    if rounds > MAX_ROUNDS {
        return false;
    }
    let computed = hash_with(token, salt, rounds);
    computed.as_bytes().ct_eq(hashed.as_bytes()).into()
}

/// Whether checking this hash is heavy enough to belong on a blocking pool.
pub fn is_expensive(hashed: &str) -> bool {
    !hashed.starts_with("sha512:1:")
}

fn hash_with(token: &str, salt: &str, rounds: u32) -> String {
    let mut digest = Sha512::new();
    digest.update(salt.as_bytes());
    for _ in 0..rounds {
        digest.update(token.as_bytes());
    }
    format!("sha512:{rounds}:{salt}:{}", hex(&digest.finalize()))
}

fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Unavailable {
        problem: format!("the system gives no random bytes: {error}"),
        source: None,
    })?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn verifies_what_upstream_wrote() {
        // Rows of `api_tokens` written by JupyterHub 6.1.1.
        let generated = "sha512:1:c896bb31301ef9c1:642ec5f0b2b87e2b135fbcc32aaf9be47e9b1317a801d6c1ca840b1b069ff6f12ef8ac0cb35af59186bac2630a2171a51493f6cb92bd597c59b94931114184f3";
        assert!(verify_token(generated, "cf48e2c8377c45d3a7083ce5ce98fbc7"));
        assert!(!verify_token(generated, "cf48e2c8377c45d3a7083ce5ce98fbc8"));
        assert!(!is_expensive(generated));
        let chosen = "sha512:16384:8ec6e9d890d52fb2:3ce562a2d39c5c9773fe745d34c1e644b71a2ad33a802f3cc3f46056656731c8fecc69c7529da0de28cba10f2ff5101a7f1756afd7b9c5b67196172ec81c1094";
        assert!(verify_token(chosen, "secret-token-by-hand"));
        assert!(!verify_token(chosen, "secret-token-by-hanD"));
        assert!(is_expensive(chosen));
    }

    #[test]
    fn a_generated_token_is_a_version_4_uuid_in_hex() {
        let token = generate_token().unwrap();
        let text = token.expose();
        assert_eq!(text.len(), 32);
        assert_eq!(&text[12..13], "4");
        assert!(matches!(&text[16..17], "8" | "9" | "a" | "b"));
        assert_ne!(text, generate_token().unwrap().expose());
    }

    #[test]
    fn malformed_hashes_and_long_tokens_match_nothing() {
        for hashed in [
            "",
            ":::",
            "sha512:1:salt",
            "sha512:x:salt:00",
            "md5:1:salt:00",
            "sha512:1:a:b:c",
            "sha512:4294967295:a:b",
        ] {
            assert!(!verify_token(hashed, "token"), "{hashed}");
        }
        let long = "x".repeat(MAX_LENGTH + 1);
        let hashed = hash_token(&long, Origin::Generated).unwrap();
        assert!(!verify_token(&hashed, &long));
    }

    proptest! {
        #[test]
        fn hash_then_verify(token in "\\PC{0,64}", other in "\\PC{0,64}") {
            let hashed = hash_token(&token, Origin::Generated).unwrap();
            prop_assert!(verify_token(&hashed, &token));
            prop_assert_eq!(verify_token(&hashed, &other), token == other);
            prop_assert!(token.starts_with(prefix(&token)));
            prop_assert!(prefix(&token).chars().count() <= PREFIX_LENGTH);
        }
    }
}
