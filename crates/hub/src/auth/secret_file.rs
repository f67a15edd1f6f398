//! The cookie secret: from the configuration, the environment or a file that only we can read.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::cookies::from_hex;

/// Upstream's size of a new secret, in bytes.
const NEW_SECRET: usize = 32;

/// Why there is no cookie secret. Each names the file and the cure.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Others may read or change the file.
    #[error(
        "the cookie secret file {path} can be read by others (mode {mode:o}); run `chmod 600 {path}`, \
         and delete it first if others may have seen it"
    )]
    TooOpen {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not hexadecimal.
    #[error(
        "the cookie secret file {0} does not hold a secret in hexadecimal; delete it to have a new one made"
    )]
    NotHexadecimal(String),
    /// The environment's value is not hexadecimal.
    #[error("JPY_COOKIE_SECRET is not hexadecimal; make one with `openssl rand -hex 32`")]
    BadEnvironment,
    /// Reading or writing failed.
    #[error("the cookie secret file {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
}

/// The secret that `JPY_COOKIE_SECRET` holds.
pub fn from_environment(value: &str) -> Result<Vec<u8>, SecretError> {
    from_hex(value.trim())
        .filter(|secret| !secret.is_empty())
        .ok_or(SecretError::BadEnvironment)
}

/// Reads the secret from `path`, or makes one and keeps it there with mode 0600.
pub fn load_or_create(path: &Path) -> Result<Vec<u8>, SecretError> {
    let shown = path.display().to_string();
    let io = |error| SecretError::Io {
        path: shown.clone(),
        error,
    };
    match std::fs::metadata(path) {
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(SecretError::TooOpen { path: shown, mode });
            }
            let text = std::fs::read_to_string(path).map_err(io)?;
            // Upstream also reads an old base64 form; it has written hexadecimal since 0.8.
            from_hex(text.trim())
                .filter(|secret| !secret.is_empty())
                .ok_or(SecretError::NotHexadecimal(shown))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret = orrery_core::random::bytes::<NEW_SECRET>();
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(io)?;
            writeln!(file, "{}", orrery_core::random::to_hex(&secret)).map_err(io)?;
            tracing::info!(path = %shown, "wrote a new cookie secret");
            Ok(secret.to_vec())
        }
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secret");
        let made = load_or_create(&path).expect("a new secret");
        assert_eq!(made.len(), NEW_SECRET);
        let mode = std::fs::metadata(&path)
            .expect("the file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(load_or_create(&path).expect("the same secret"), made);
    }

    #[test]
    fn a_secret_that_others_can_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "not hexadecimal").expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
            .expect("permissions");
        assert!(matches!(
            load_or_create(&path),
            Err(SecretError::TooOpen { .. })
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .expect("permissions");
        assert!(matches!(
            load_or_create(&path),
            Err(SecretError::NotHexadecimal(_))
        ));
        assert!(from_environment("zz").is_err());
        assert!(from_environment("").is_err());
    }
}
