//! Private keys that are encrypted with a passphrase (PKCS #8 with PBES2, RFC 8018).

use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";

/// Decrypts the first such key of a PEM file. The error says why it cannot be, behind "and".
pub(super) fn decrypt(pem: &[u8], passphrase: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let text = std::str::from_utf8(pem).map_err(|_| "it is not a PEM file".to_owned())?;
    // What stands around it, for people, is not the parser's.
    let Some(begin) = text.find(BEGIN) else {
        return Err("in a form older than PKCS #8".to_owned());
    };
    let text = &text[begin..];
    let end = text.find(END).map_or(text.len(), |end| end + END.len());
    let unreadable = |error: &dyn std::fmt::Display| format!("it cannot be read: {error}");
    let (_, document) =
        SecretDocument::from_pem(&text[..end]).map_err(|error| unreadable(&error))?;
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .map_err(|error| unreadable(&error))?;
    let key = encrypted.decrypt(passphrase).map_err(|_| {
        "its passphrase is another, or it is encrypted in an unusual way".to_owned()
    })?;
    Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl pkcs8 -topk8 -v2 aes-256-cbc -passout pass:open`; used nowhere else.
    const KEY: &str = "\
a line for people
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAiZMB9/nbXHggICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEENYpCF7rtimkvnumHpOkcSMEgZCM
QnurNWhVcgo3RyQx1my1k8tXmbMtp37vHUTEn1ZaWpqqfXzipi/+v5fJLF8P4RH6
elVca8QRfFH7Yd17wpdE6KjrGMP3+pf/zFt7BY4FlQqIlIazJHeEesw4QpC9/Rxw
FMmYhzZkDj4l8gmZWjKFbWllqovwD8oqMPiO4RLK+hOc7mGZFkNO3Bpl05hS3y8=
-----END ENCRYPTED PRIVATE KEY-----
";

    #[test]
    fn a_key_is_decrypted_with_its_passphrase_alone() {
        let key = decrypt(KEY.as_bytes(), b"open").unwrap();
        assert!(rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).is_ok());
        let error = decrypt(KEY.as_bytes(), b"wrong").unwrap_err();
        assert!(error.contains("passphrase"), "{error}");
        let torn = KEY.replace("MIHsMF", "MIHs");
        assert!(decrypt(torn.as_bytes(), b"open").is_err());
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
        assert!(
            decrypt(old.as_bytes(), b"open")
                .unwrap_err()
                .contains("older")
        );
    }
}
