//! Files of keys and certificates. Keys are for the hub's user alone.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use chrono::{DateTime, NaiveDateTime};
use orrery_core::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;

use super::{CertificateError, Issued};

/// What a certificate says of itself.
pub(super) struct Validity {
    pub(super) from: NaiveDateTime,
    pub(super) until: NaiveDateTime,
    /// Its names: host names, and addresses as texts.
    pub(super) names: Vec<String>,
}

/// The first certificate of a file.
pub(super) fn validity(path: &Path) -> Result<Validity, CertificateError> {
    let bad = |why: String| CertificateError::new(format!("{}: {why}", path.display()));
    let text = read(path)?;
    let der = CertificateDer::from_pem_slice(text.as_bytes())
        .map_err(|_| bad("it holds no certificate in PEM form".to_owned()))?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der)
        .map_err(|error| bad(format!("its certificate is not valid: {error}")))?;
    let time = |seconds: i64| {
        DateTime::from_timestamp(seconds, 0)
            .map(|time| time.naive_utc())
            .ok_or_else(|| bad("its dates are not valid".to_owned()))
    };
    let dates = certificate.validity();
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| &extension.value.general_names);
    let names = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    });
    Ok(Validity {
        from: time(dates.not_before.timestamp())?,
        until: time(dates.not_after.timestamp())?,
        names: names.collect(),
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

pub(super) fn read(path: &Path) -> Result<String, CertificateError> {
    fs::read_to_string(path).map_err(|error| failed("read", path, &error))
}

pub(super) fn read_key(path: &Path) -> Result<Secret, CertificateError> {
    read(path).map(Secret::new)
}

/// Makes a folder for the hub's user alone. One that is there keeps its permissions.
pub(super) fn make_folder(path: &Path) -> Result<(), CertificateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| failed("make the folder", path, &error))
}

/// Removes a folder of certificates, and none that is something else.
pub(super) fn remove(folder: &Path) -> Result<(), CertificateError> {
    let is_empty = fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty && !folder.join("certipy.json").exists() {
        return Err(CertificateError::new(format!(
            "JupyterHub.recreate_internal_certs would remove {}, which is no folder of certificates: it has no \
             certipy.json. Name another by JupyterHub.internal_certs_location",
            folder.display()
        )));
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", folder, &error))
        }
        _ => Ok(()),
    }
}

pub(super) fn write_pair(
    key: &Path,
    certificate: &Path,
    issued: &Issued,
) -> Result<(), CertificateError> {
    write(key, issued.key.expose(), 0o600)?;
    write_public(certificate, &issued.certificate)
}

pub(super) fn write_public(path: &Path, text: &str) -> Result<(), CertificateError> {
    write(path, text, 0o644)
}

/// Whole or not at all: a hub that is killed leaves no half of a key.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    let written = (|| {
        if let Some(folder) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    written.map_err(|error| failed("write", path, &error))
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> CertificateError {
    CertificateError::new(format!("cannot {what} {}: {error}", path.display()))
}
