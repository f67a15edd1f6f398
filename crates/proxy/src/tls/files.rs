//! Keys and certificates in PEM files.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::encrypted;
use crate::Error;

/// What tells that a file has changed: its inode, its length and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<(u64, u64, i64, i64)>>);

impl Stamps {
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let stamp = |path: &PathBuf| {
            let data = fs::metadata(path).ok()?;
            Some((data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
        };
        Self(paths.iter().map(stamp).collect())
    }
}

/// The certificate of `path`, with what it is signed by behind it.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(path, "read the certificate")?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(path, &format!("is not a PEM file: {error}")))?;
    if certificates.is_empty() {
        return Err(bad(path, "holds no certificate in PEM form"));
    }
    Ok(certificates)
}

/// The private key of `path`. When it is encrypted, its passphrase stands in the environment as
/// `passphrase_variable`, as for configurable-http-proxy.
pub(super) fn key(path: &Path, passphrase_variable: &str) -> Result<PrivateKeyDer<'static>, Error> {
    let pem = read(path, "read the private key")?;
    if is_encrypted(&pem) {
        let passphrase = std::env::var_os(passphrase_variable).filter(|text| !text.is_empty());
        let key = match passphrase {
            Some(passphrase) => encrypted::decrypt(&pem, passphrase.as_encoded_bytes()),
            None => Err(format!(
                "its passphrase is not given in {passphrase_variable}"
            )),
        };
        let shown = path.display();
        return key.map_err(|why| {
            Error::BadOption(format!(
                "the private key {shown} is encrypted, and {why}. It can be decrypted into a file \
                 that only the proxy's user can read: openssl pkey -in {shown} -out FILE"
            ))
        });
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            bad(path, "holds no private key in PEM form")
        }
        error => bad(path, &format!("is not a PEM file: {error}")),
    })
}

/// The authorities of `path`.
pub(super) fn authorities(
    path: &Path,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Error> {
    let certificates = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| {
            bad(
                path,
                &format!("holds a certificate that is not valid: {error}"),
            )
        })?;
    }
    Ok((roots, certificates))
}

/// The words of rustls for a certificate and a key that cannot be used together.
pub(super) fn pair_fault(certificate: &Path, key: &Path, error: &rustls::Error) -> Error {
    let (certificate, key) = (certificate.display(), key.display());
    Error::BadOption(match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("the private key {key} does not belong to the certificate {certificate}")
        }
        error => format!("the certificate {certificate} and the private key {key}: {error}"),
    })
}

fn is_encrypted(pem: &[u8]) -> bool {
    let has = |text: &str| contains(pem, text.as_bytes());
    has("-----BEGIN ENCRYPTED PRIVATE KEY-----") || has("Proc-Type: 4,ENCRYPTED")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn read(path: &Path, action: &'static str) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File {
        action,
        path: path.to_owned(),
        source,
    })
}

fn bad(path: &Path, what: &str) -> Error {
    Error::BadOption(format!("{} {what}", path.display()))
}
