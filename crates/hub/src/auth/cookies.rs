//! Cookies signed as Tornado signs them (its format version 2), so that cookies survive a switch
//! between JupyterHub and Orrery in both directions.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The longest signed value that is looked at; a browser sends at most 4 KiB a cookie.
const MAX_SIGNED: usize = 4096;

/// A value from the future by more than this is refused, as Tornado refuses it.
const MAX_SKEW: i64 = 31 * 24 * 3600;

/// What was signed.
pub struct Opened<'a> {
    /// See [`Signer::sign_marked`]; `0` in values that JupyterHub signed.
    pub mark: &'a str,
    /// All that the signature vouches for: for one signed value, one text, however it was sent.
    pub body: &'a str,
    /// When it was signed, in seconds since 1970.
    pub time: i64,
    /// The value.
    pub value: Vec<u8>,
}

/// Signs and checks cookie values with the hub's cookie secret.
#[derive(Clone)]
pub struct Signer {
    key: Hmac<Sha256>,
}

impl Signer {
    /// A signer with the bytes of the cookie secret.
    pub fn new(secret: &[u8]) -> Self {
        Self {
            key: Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"),
        }
    }

    /// `2|1:0|10:<time>|<len>:<name>|<len>:<base64 value>|<hex signature>`.
    pub fn sign(&self, name: &str, value: &[u8], now: i64) -> String {
        self.sign_marked(name, value, now, 0)
    }

    /// As [`Signer::sign`], with a mark that tells this value from all others, also from the same one
    /// signed in the same second. It stands where Tornado writes which of several keys was used; with
    /// one key, as JupyterHub has, Tornado wants a number there and does not look at it.
    pub fn sign_marked(&self, name: &str, value: &[u8], now: i64, mark: u64) -> String {
        let encoded = STANDARD.encode(value);
        let time = now.to_string();
        let mark = mark.to_string();
        let signed = format!(
            "2|{}:{mark}|{}:{time}|{}:{name}|{}:{encoded}|",
            mark.len(),
            time.len(),
            name.len(),
            encoded.len(),
        );
        let signature = orrery_core::random::to_hex(&self.mac(signed.as_bytes()));
        signed + &signature
    }

    /// The value inside, when the signature is ours, the name fits and it is younger than `max_age`.
    pub fn verify(&self, name: &str, signed: &str, max_age: Duration, now: i64) -> Option<Vec<u8>> {
        let opened = self.open(name, signed, max_age, now)?;
        Some(opened.value)
    }

    /// As [`Signer::verify`], with all that was signed.
    pub fn open<'a>(
        &self,
        name: &str,
        signed: &'a str,
        max_age: Duration,
        now: i64,
    ) -> Option<Opened<'a>> {
        if signed.len() > MAX_SIGNED {
            return None;
        }
        let (body, signature) = signed.rsplit_once('|')?;
        // Tornado writes small letters; another spelling would be another text of the same value.
        if signature.len() != 64 || signature.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let signature = from_hex(signature)?;
        let mut key = self.key.clone();
        key.update(body.as_bytes());
        key.update(b"|");
        key.verify_slice(&signature).ok()?;

        let rest = body.strip_prefix("2|")?;
        let (mark, rest) = field(rest)?;
        let (time, rest) = field(rest.strip_prefix('|')?)?;
        let (signed_name, rest) = field(rest.strip_prefix('|')?)?;
        let (value, rest) = field(rest.strip_prefix('|')?)?;
        if !rest.is_empty() || signed_name != name {
            return None;
        }
        let time: i64 = time.parse().ok()?;
        let max_age = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
        if time < now.saturating_sub(max_age) || time > now.saturating_add(MAX_SKEW) {
            return None;
        }
        Some(Opened {
            mark,
            body,
            time,
            value: STANDARD.decode(value).ok()?,
        })
    }

    /// As [`Signer::sign`], in the URL-safe alphabet without padding, as XSRF tokens are written.
    pub fn sign_url_safe(&self, name: &str, value: &[u8], now: i64) -> String {
        URL_SAFE_NO_PAD.encode(self.sign(name, value, now))
    }

    /// Reverses [`Signer::sign_url_safe`].
    pub fn verify_url_safe(
        &self,
        name: &str,
        text: &str,
        max_age: Duration,
        now: i64,
    ) -> Option<Vec<u8>> {
        if text.len() > MAX_SIGNED {
            return None;
        }
        let mut padded = text.to_owned();
        while !padded.len().is_multiple_of(4) {
            padded.push('=');
        }
        let signed = String::from_utf8(URL_SAFE.decode(padded).ok()?).ok()?;
        self.verify(name, &signed, max_age, now)
    }

    /// Another secret that only who holds this one can make, for `purpose`.
    pub fn derive(&self, purpose: &str) -> String {
        orrery_core::random::to_hex(&self.mac(purpose.as_bytes()))
    }

    fn mac(&self, data: &[u8]) -> [u8; 32] {
        let mut key = self.key.clone();
        key.update(data);
        key.finalize().into_bytes().into()
    }
}

/// Reads `<length>:<text>` and returns the text and what follows it.
fn field(text: &str) -> Option<(&str, &str)> {
    let (length, rest) = text.split_once(':')?;
    let length: usize = length.parse().ok()?;
    Some((rest.get(..length)?, rest.get(length..)?))
}

/// Reverses lower- or upper-case hexadecimal.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    // `from_str_radix` alone would take `+f` as well.
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_value_signed_by_tornado_is_accepted() {
        // tornado.web.create_signed_value(b"0123456789abcdef", "jupyterhub-hub-login", b"cookie-id-of-ada",
        //                                 version=2, clock=lambda: 1700000000)
        let signed = "2|1:0|10:1700000000|20:jupyterhub-hub-login|24:Y29va2llLWlkLW9mLWFkYQ==|7f8f49e143fc1149feb94fa46d62af4ef64596d323cc327f6abd29df99a91630";
        let signer = Signer::new(b"0123456789abcdef");
        assert_eq!(
            signer.sign("jupyterhub-hub-login", b"cookie-id-of-ada", 1_700_000_000),
            signed
        );
        assert_eq!(
            signer
                .verify("jupyterhub-hub-login", signed, DAY, 1_700_000_100)
                .as_deref(),
            Some(&b"cookie-id-of-ada"[..])
        );
    }

    #[test]
    fn a_marked_value_is_like_no_other_and_its_mark_cannot_be_changed() {
        let signer = Signer::new(b"key");
        let [one, two] =
            [7, u64::MAX >> 1].map(|mark| signer.sign_marked("a", b"value", 1_000_000, mark));
        assert_ne!(one, two);
        let opened = signer
            .open("a", &two, DAY, 1_000_000)
            .expect("a good value");
        assert_eq!(
            (opened.mark, opened.time, opened.value.as_slice()),
            ("9223372036854775807", 1_000_000, &b"value"[..])
        );
        let moved = one.replacen("2|1:7|", "2|1:8|", 1);
        assert!(signer.verify("a", &moved, DAY, 1_000_000).is_none());
        let plain = signer.sign("a", b"value", 1_000_000);
        let opened = signer.open("a", &plain, DAY, 1_000_000);
        assert_eq!(opened.map(|opened| opened.mark), Some("0"));
    }

    #[test]
    fn what_was_changed_renamed_or_is_too_old_is_refused() {
        let signer = Signer::new(b"key");
        let signed = signer.sign("a", b"value", 1_000_000);
        assert!(signer.verify("a", &signed, DAY, 1_000_000).is_some());
        assert!(signer.verify("b", &signed, DAY, 1_000_000).is_none());
        assert!(
            signer
                .verify("a", &signed, DAY, 1_000_000 + 86_401)
                .is_none()
        );
        assert!(
            Signer::new(b"other")
                .verify("a", &signed, DAY, 1_000_000)
                .is_none()
        );
        for at in 0..signed.len() {
            let mut broken = signed.clone().into_bytes();
            broken[at] ^= 1;
            let broken = String::from_utf8_lossy(&broken).into_owned();
            assert!(
                signer.verify("a", &broken, DAY, 1_000_000).is_none(),
                "{broken}"
            );
        }
        for nonsense in [
            "",
            "|",
            "2|",
            "2|1:0|",
            &"9".repeat(5000),
            "2|99999999999999999999:x|",
        ] {
            assert!(signer.verify("a", nonsense, DAY, 0).is_none());
        }
    }

    #[test]
    fn a_signature_has_one_spelling_and_the_body_is_the_same_for_all() {
        let signer = Signer::new(b"key");
        // One whose signature has a byte below 16, so that `+` could stand for its `0`.
        let signed = (0..10_000)
            .map(|number| signer.sign("a", format!("{number}").as_bytes(), 1_000_000))
            .find(|signed| {
                let (_, signature) = signed.rsplit_once('|').expect("a signature");
                (0..64)
                    .step_by(2)
                    .any(|at| signature.as_bytes()[at] == b'0')
            })
            .expect("one of them");
        let (body, signature) = signed.rsplit_once('|').expect("a signature");
        let opened = signer.open("a", &signed, DAY, 1_000_000);
        assert_eq!(opened.map(|opened| opened.body), Some(body));
        let at = (0..64)
            .step_by(2)
            .find(|at| signature.as_bytes()[*at] == b'0')
            .expect("a nought");
        let mut with_plus = signature.to_owned();
        with_plus.replace_range(at..=at, "+");
        for other in [
            signature.to_uppercase(),
            with_plus,
            format!("00{signature}"),
            format!("{signature}00"),
            format!("{signature} "),
        ] {
            let spelt = format!("{body}|{other}");
            assert!(
                signer.open("a", &spelt, DAY, 1_000_000).is_none(),
                "{spelt}"
            );
        }
        assert_eq!(from_hex("+f"), None);
        assert_eq!(from_hex("aFé"), None);
        assert_eq!(from_hex("0aFf"), Some(vec![10, 255]));
    }

    #[test]
    fn the_url_safe_form_round_trips() {
        let signer = Signer::new(b"key");
        let token = signer.sign_url_safe("_xsrf", b"session:cookie-id", 5);
        assert!(!token.contains(['=', '+', '/', '|']));
        assert_eq!(
            signer.verify_url_safe("_xsrf", &token, DAY, 5).as_deref(),
            Some(&b"session:cookie-id"[..])
        );
    }
}
