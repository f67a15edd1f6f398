//! Fernet: authenticated encryption with a 32-byte key, in the form of Python's `cryptography`, in
//! which JupyterHub keeps auth state (<https://github.com/fernet/spec>).

use aes::Aes128;
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::random;

/// Several keys of one site: the first encrypts, all decrypt, so that keys can be changed while what
/// older ones encrypted stays readable.
#[derive(Clone)]
pub struct Fernet {
    keys: Vec<Key>,
}

/// One key. It shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY]);

/// Bytes in a key: the first half signs, the second encrypts.
const KEY: usize = 32;
/// Bytes of a signature, of the random start of encryption, and of what stands before it: the version
/// and the time.
const SIGNATURE: usize = 32;
const START: usize = 16;
const HEAD: usize = 9;
/// The one version that there is.
const VERSION: u8 = 0x80;

/// A token that none of the keys made, or that was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("none of the encryption keys fits it, or it is damaged")]
pub struct InvalidToken;

/// A text or bytes that are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("encryption keys are 32 bytes: raw, 64 hexadecimal digits, or 44 characters of base64")]
pub struct InvalidKey;

/// What a token held.
pub struct Opened {
    /// The content.
    pub content: Vec<u8>,
    /// Whether the first key encrypted it; otherwise it should be encrypted anew.
    pub by_first_key: bool,
}

impl Key {
    /// Reads a key as JupyterHub does: 44 bytes may be base64 and 64 may be hexadecimal digits, what
    /// then is 32 bytes long is the key itself.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidKey> {
        let key = match text.len() {
            44 => from_base64(text),
            64 => from_hex(text),
            _ => Some(text.to_vec()),
        };
        let key = key.and_then(|key| key.try_into().ok());
        key.map(Self).ok_or(InvalidKey)
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    fn sign(&self, parts: &[u8]) -> Hmac<Sha256> {
        let mut signer =
            Hmac::<Sha256>::new_from_slice(&self.0[..16]).expect("HMAC takes keys of any length");
        signer.update(parts);
        signer
    }

    fn encryption(&self) -> [u8; 16] {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[16..]);
        half
    }

    fn seal(&self, content: &[u8], unix_time: u64, start: [u8; START]) -> String {
        let mut token = Vec::with_capacity(HEAD + START + content.len() + 16 + SIGNATURE);
        token.push(VERSION);
        token.extend(unix_time.to_be_bytes());
        token.extend(start);
        let cipher = cbc::Encryptor::<Aes128>::new(&self.encryption().into(), &start.into());
        token.extend(cipher.encrypt_padded_vec::<Pkcs7>(content));
        let signature = self.sign(&token).finalize().into_bytes();
        token.extend(signature);
        PADDED.encode(token)
    }

    fn open(&self, token: &[u8]) -> Option<Vec<u8>> {
        let (signed, signature) = token.split_at_checked(token.len().checked_sub(SIGNATURE)?)?;
        let rest = signed.get(HEAD..)?;
        if signed[0] != VERSION {
            return None;
        }
        // In constant time, and before anything is done with the content.
        self.sign(signed).verify_slice(signature).ok()?;
        let (start, content) = rest.split_at_checked(START)?;
        let start: [u8; START] = start.try_into().ok()?;
        cbc::Decryptor::<Aes128>::new(&self.encryption().into(), &start.into())
            .decrypt_padded_vec::<Pkcs7>(content)
            .ok()
    }
}

impl Fernet {
    /// Encrypts with the first of `keys`, decrypts with each; `None` without any.
    pub fn new(keys: Vec<Key>) -> Option<Self> {
        (!keys.is_empty()).then_some(Self { keys })
    }

    /// Encrypts `content`; the token tells everybody `unix_time`, the moment of it.
    pub fn seal(&self, content: &[u8], unix_time: u64) -> String {
        self.keys[0].seal(content, unix_time, random::bytes())
    }

    /// Checks and decrypts a token, however old it is.
    pub fn open(&self, token: &[u8]) -> Result<Opened, InvalidToken> {
        let token = from_base64(token).ok_or(InvalidToken)?;
        self.keys
            .iter()
            .enumerate()
            .find_map(|(index, key)| {
                Some(Opened {
                    content: key.open(&token)?,
                    by_first_key: index == 0,
                })
            })
            .ok_or(InvalidToken)
    }
}

/// As Python pads it.
const PADDED: GeneralPurpose = engine(&URL_SAFE);
const PADDED_STANDARD: GeneralPurpose = engine(&STANDARD);

const fn engine(alphabet: &base64::alphabet::Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

/// Either alphabet: keys made by `openssl rand -base64 32` have the standard one.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    PADDED
        .decode(text)
        .or_else(|_| PADDED_STANDARD.decode(text))
        .ok()
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.chunks(2)
        .map(|pair| {
            let [high, low] = *pair else { return None };
            u8::try_from(digit(high)? * 16 + digit(low)?).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Key {
        Key([byte; KEY])
    }

    fn fernet(bytes: &[u8]) -> Fernet {
        Fernet::new(bytes.iter().map(|byte| key(*byte)).collect()).unwrap()
    }

    /// The generation example of the Fernet specification.
    #[test]
    fn the_specifications_token_is_made_and_read() {
        let key = Key::parse(b"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=").unwrap();
        let start = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let token = key.seal(b"hello", 499_162_800, start);
        assert_eq!(
            token,
            "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA=="
        );
        let opened = Fernet::new(vec![key]).unwrap().open(token.as_bytes());
        assert_eq!(opened.unwrap().content, b"hello");
    }

    #[test]
    fn a_key_is_raw_hexadecimal_or_base64() {
        let raw = [7; KEY];
        let hex = random::to_hex(&raw);
        let base64 = PADDED.encode(raw);
        for text in [
            &raw[..],
            hex.as_bytes(),
            hex.to_uppercase().as_bytes(),
            base64.as_bytes(),
        ] {
            assert!(Key::parse(text) == Ok(key(7)));
        }
        let standard = b"++++++++++++++++++++++++++++++++++++//////8=";
        assert!(Key::parse(standard).is_ok());
        for text in [
            &b""[..],
            b"short",
            &[b'x'; 64],
            &[b'!'; 44],
            &[b'a'; 31],
            &[b'a'; 33],
        ] {
            assert!(Key::parse(text) == Err(InvalidKey));
        }
    }

    #[test]
    fn each_key_decrypts_and_the_first_is_told_apart() {
        let old = fernet(&[1]).seal(b"state", 1);
        let opened = fernet(&[2, 1]).open(old.as_bytes()).unwrap();
        assert_eq!(
            (opened.content, opened.by_first_key),
            (b"state".to_vec(), false)
        );
        let new = fernet(&[2, 1]).seal(b"state", 1);
        assert!(fernet(&[2, 1]).open(new.as_bytes()).unwrap().by_first_key);
        assert!(fernet(&[1]).open(new.as_bytes()).is_err());
        assert!(Fernet::new(Vec::new()).is_none());
    }

    #[test]
    fn a_changed_token_is_refused() {
        let token = PADDED.decode(fernet(&[1]).seal(b"state", 1)).unwrap();
        for index in 0..token.len() {
            let mut changed = token.clone();
            changed[index] ^= 1;
            assert!(
                fernet(&[1])
                    .open(PADDED.encode(changed).as_bytes())
                    .is_err()
            );
        }
        for length in 0..token.len() {
            let cut = PADDED.encode(&token[..length]);
            assert!(fernet(&[1]).open(cut.as_bytes()).is_err());
        }
        assert!(fernet(&[1]).open(b"no base64: \xff").is_err());
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_back(content: Vec<u8>, time: u64) {
            let sealed = fernet(&[3]).seal(&content, time);
            prop_assert_eq!(fernet(&[3]).open(sealed.as_bytes()).unwrap().content, content);
        }
    }
}
