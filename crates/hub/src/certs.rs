//! Certificates: those of the public address, which the site brings, and those of `internal_ssl`,
//! which the hub makes.
//!
//! With `internal_ssl` each part of the site shows a certificate, signed by the authority of its kind,
//! and trusts the authorities of those it deals with. Folder, names and record are those of
//! `JupyterHub` (it uses certipy), so a folder may be used by either.

mod files;
mod issue;
mod record;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{Datelike as _, NaiveDateTime};
use orrery_core::spawner::{ServerTls, TlsFiles};
use orrery_core::{Secret, ServerName, UserName, escape};
use rustls::ClientConfig;
use serde_json::Value;

use self::issue::{Authority, Names};
use self::record::Record;
pub use self::tls::InternalTls;
pub(crate) use self::tls::public_client;
use crate::config::{Config, JupyterHub};

/// The kinds of parts, each with the authorities whose certificates it trusts.
const TRUST: [(&str, &[&str]); 5] = [
    (
        HUB,
        &[
            HUB,
            NOTEBOOKS,
            "proxy-api-ca",
            "services-ca",
            "proxy-client-ca",
        ],
    ),
    ("proxy-api-ca", &[HUB, "services-ca", NOTEBOOKS]),
    ("proxy-client-ca", &[HUB, NOTEBOOKS]),
    (NOTEBOOKS, &[HUB, "proxy-client-ca"]),
    ("services-ca", &[HUB, "proxy-api-ca"]),
];
const HUB: &str = "hub-ca";
const NOTEBOOKS: &str = "notebooks-ca";

/// Days before its end from which on a certificate is made anew.
const RENEWED_BEFORE: i64 = 30;

/// Why certificates cannot be used or made. For the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CertificateError(String);

impl CertificateError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The certificates of `internal_ssl`.
pub struct InternalCertificates {
    folder: PathBuf,
    /// The hub's own, shown to whom it connects to and who connects to it.
    pub hub: Pair,
    /// Those of the proxy, unless somebody else looks after it and keeps its keys.
    pub proxy: Option<ProxyCertificates>,
    /// Signs servers' certificates.
    notebooks: Authority,
    /// What servers trust.
    notebooks_trust: PathBuf,
    /// Who signs the certificate of the proxy's API.
    proxy_authorities: Vec<PathBuf>,
    /// Names that stand in each server's certificate.
    server_names: Names,
    /// One server's files are written at a time.
    writing: Mutex<()>,
}

/// A key, its certificate, and the authorities that it is used with.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The private key.
    pub key: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// The authorities to trust.
    pub trust: PathBuf,
}

/// What the proxy needs.
#[derive(Clone, Debug)]
pub struct ProxyCertificates {
    /// For its API.
    pub api: Pair,
    /// For its connections to the hub and to servers.
    pub client: Pair,
}

impl InternalCertificates {
    /// Opens the folder of the certificates and makes those that are missing or about to end.
    pub fn open(
        config: &Config,
        hostname: &str,
        now: NaiveDateTime,
    ) -> Result<Self, CertificateError> {
        let options = &config.hub;
        let folder = std::path::absolute(&options.internal_certs_location).map_err(|error| {
            CertificateError::new(format!("JupyterHub.internal_certs_location: {error}"))
        })?;
        if options.recreate_internal_certs {
            files::remove(&folder)?;
        }
        files::make_folder(&folder)?;
        let mut record = Record::open(&folder)?;
        add_external(&mut record, options)?;
        let today = Today(now);
        for (name, _) in TRUST {
            make_authority(&mut record, name, today)?;
        }
        let trust = write_bundles(&record, &folder)?;
        let (own, everywhere) = names(options, hostname)?;
        let make = |record: &mut Record, name: &str, authority: &str, names: &Names| {
            make_pair(record, name, authority, names, today).map(|(key, certificate)| Pair {
                key,
                certificate,
                trust: trust[authority].clone(),
            })
        };
        let hub = make(&mut record, "hub-internal", HUB, &own)?;
        let mut proxy_pair = |name: &str, authority: &str| {
            // The proxy of somebody else may have keys that we do not.
            let is_ours = record.has_key(authority) || record.files(name).is_some();
            if !is_ours && !config.proxy.should_start {
                return Ok(None);
            }
            make(&mut record, name, authority, &everywhere).map(Some)
        };
        let api = proxy_pair("proxy-api", "proxy-api-ca")?;
        let client = proxy_pair("proxy-client", "proxy-client-ca")?;
        record.save()?;
        let server_names = server_names(config)?;
        Ok(Self {
            notebooks: open_authority(&record, NOTEBOOKS)?,
            notebooks_trust: trust[NOTEBOOKS].clone(),
            proxy_authorities: [HUB, "proxy-api-ca"]
                .into_iter()
                .filter_map(|name| Some(record.files(name)?.certificate))
                .collect(),
            proxy: api
                .zip(client)
                .map(|(api, client)| ProxyCertificates { api, client }),
            server_names,
            hub,
            folder,
            writing: Mutex::default(),
        })
    }

    /// How the hub asks the proxy's API. Servers have certificates for this machine too, but not of these
    /// authorities.
    fn proxy_api_client(&self) -> Result<Arc<ClientConfig>, CertificateError> {
        tls::client_trusting(&self.hub, &self.proxy_authorities)
    }

    /// Where the certificates are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new key and certificate for a server, in files of the hub's. Blocks for some milliseconds.
    ///
    /// Each server has its own, also those of one user.
    pub fn for_server(
        &self,
        user: &UserName,
        server: &ServerName,
        now: NaiveDateTime,
    ) -> Result<ServerTls, CertificateError> {
        let owner = format!("user-{}", file_name(user.as_str()));
        let stem = if server.is_default() {
            owner.clone()
        } else {
            format!("server-{}", file_name(server.as_str()))
        };
        let folder = self.folder.join(&owner);
        let common_name = format!("user-{user}");
        let issued = self
            .notebooks
            .sign(&common_name, &self.server_names, Today(now))?;
        let files = TlsFiles {
            key: folder.join(format!("{stem}.key")),
            certificate: folder.join(format!("{stem}.crt")),
            authorities: self.notebooks_trust.clone(),
        };
        {
            let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            files::make_folder(&folder)?;
            files::write_pair(&files.key, &files.certificate, &issued)?;
        }
        Ok(ServerTls {
            key: issued.key,
            certificate: issued.certificate,
            authorities: files::read(&self.notebooks_trust)?,
            files,
        })
    }
}

/// Checks key and certificate of the public address before the proxy is started with them, and says
/// what is wrong in words for the operator. An expired certificate does not keep the hub from
/// starting: a site with a warning is better than none, and the proxy takes a new one up by itself.
pub fn check_public(options: &JupyterHub, now: NaiveDateTime) -> Result<(), CertificateError> {
    if options.ssl_cert.is_empty() {
        return Ok(());
    }
    let (certificate, key) = (Path::new(&options.ssl_cert), Path::new(&options.ssl_key));
    let named = |error: CertificateError| {
        CertificateError::new(format!("JupyterHub.ssl_cert and ssl_key: {error}"))
    };
    tls::check_pair(certificate, key).map_err(named)?;
    let validity = files::validity(certificate).map_err(named)?;
    let shown = certificate.display();
    if now > validity.until {
        tracing::error!(
            "JupyterHub.ssl_cert: the certificate {shown} expired on {}; browsers will refuse it. Put a new \
             one in its place: it is taken up without a restart",
            validity.until.date()
        );
    } else if now < validity.from {
        tracing::error!(
            "JupyterHub.ssl_cert: the certificate {shown} is valid only from {} on; is this machine's clock \
             right?",
            validity.from
        );
    } else if (validity.until - now).num_days() < RENEWED_BEFORE {
        tracing::warn!(
            "JupyterHub.ssl_cert: the certificate {shown} expires on {}",
            validity.until.date()
        );
    }
    Ok(())
}

/// The day that certificates begin with.
#[derive(Clone, Copy)]
pub(crate) struct Today(NaiveDateTime);

impl Today {
    fn ymd(self) -> (i32, u8, u8) {
        let part = |number: u32| u8::try_from(number).unwrap_or(1);
        (self.0.year(), part(self.0.month()), part(self.0.day()))
    }
}

/// Files that are not made here: `JupyterHub.external_ssl_authorities`.
fn add_external(record: &mut Record, options: &JupyterHub) -> Result<(), CertificateError> {
    for (name, files) in &options.external_ssl_authorities {
        let bad = |why: &str| {
            CertificateError::new(format!(
                "JupyterHub.external_ssl_authorities: {why}; write {{'notebooks-ca': {{'cert': '/path', 'key': \
                 '/path'}}}}"
            ))
        };
        if !TRUST.iter().any(|(known, _)| known == name) {
            return Err(bad(&format!("there is no authority {name:?}")));
        }
        let path = |kind: &str| match files.get(kind) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(path)) => Ok(Some(path.as_str()).filter(|path| !path.is_empty())),
            Some(_) => Err(bad(&format!("{kind} of {name} is not a path"))),
        };
        let certificate = path("cert")?.ok_or_else(|| bad(&format!("{name} has no 'cert'")))?;
        record.set_authority(name, certificate, path("key")?, path("ca")?);
    }
    Ok(())
}

fn make_authority(record: &mut Record, name: &str, today: Today) -> Result<(), CertificateError> {
    if let Some(files) = record.files(name) {
        let validity = files::validity(&files.certificate)?;
        let left = (validity.until - today.0).num_days();
        if left < RENEWED_BEFORE {
            tracing::warn!(
                authority = name,
                until = %validity.until,
                "an authority of internal_ssl ends soon: start once with JupyterHub.recreate_internal_certs = True, \
                 which needs a restart of all servers"
            );
        }
        return Ok(());
    }
    let issued = Authority::create(name, today)?;
    let (key, certificate) = record.add_authority(name)?;
    files::write_pair(&key, &certificate, &issued)
}

fn open_authority(record: &Record, name: &str) -> Result<Authority, CertificateError> {
    let missing = || {
        CertificateError::new(format!(
            "internal_ssl needs the private key of {name} to sign certificates: name it as 'key' in \
             JupyterHub.external_ssl_authorities"
        ))
    };
    let files = record.files(name).ok_or_else(missing)?;
    let key = files.key.ok_or_else(missing)?;
    Authority::open(&files::read(&files.certificate)?, &files::read_key(&key)?)
        .map_err(|error| CertificateError::new(format!("the authority {name}: {error}")))
}

/// Key and certificate of a part of the site: those there are, unless they end soon or lack a name.
fn make_pair(
    record: &mut Record,
    name: &str,
    authority: &str,
    names: &Names,
    today: Today,
) -> Result<(PathBuf, PathBuf), CertificateError> {
    if let Some(files) = record.files(name)
        && let Some(key) = files.key
    {
        let why = match files::validity(&files.certificate) {
            Ok(validity) if (validity.until - today.0).num_days() < RENEWED_BEFORE => {
                format!("it ends on {}", validity.until.date())
            }
            Ok(validity) if !names.are_in(&validity.names) => {
                "its names are no longer those of the configuration".to_owned()
            }
            Ok(_) => return Ok((key, files.certificate)),
            Err(error) => error.to_string(),
        };
        if !record.has_key(authority) {
            tracing::warn!(
                certificate = name,
                why,
                "a certificate should be replaced, but its authority's key is not here"
            );
            return Ok((key, files.certificate));
        }
        tracing::info!(certificate = name, why, "making a certificate anew");
    }
    let issued = open_authority(record, authority)?.sign(name, names, today)?;
    let (key, certificate) = record.add_pair(name, authority)?;
    files::write_pair(&key, &certificate, &issued)?;
    Ok((key, certificate))
}

/// For each kind of part one file with all it trusts.
fn write_bundles(
    record: &Record,
    folder: &Path,
) -> Result<BTreeMap<&'static str, PathBuf>, CertificateError> {
    let mut bundles = BTreeMap::new();
    for (name, trusted) in TRUST {
        let mut text = String::new();
        for authority in trusted {
            let files = record.files(authority).ok_or_else(|| {
                CertificateError::new(format!("the authority {authority} has no files"))
            })?;
            text.push_str(files::read(&files.certificate)?.trim_end());
            text.push('\n');
        }
        let path = folder.join(format!("{name}_trust.crt"));
        files::write_public(&path, &text)?;
        bundles.insert(name, path);
    }
    Ok(bundles)
}

/// The names in the hub's own certificate, and in those of the proxy.
fn names(options: &JupyterHub, hostname: &str) -> Result<(Names, Names), CertificateError> {
    let mut everywhere = Names::default();
    for name in ["IP:127.0.0.1", "IP:::1", "DNS:localhost"] {
        everywhere.add("JupyterHub.trusted_alt_names", name)?;
    }
    if let Some(host) = options.subdomain_host.split("://").nth(1) {
        let host = host.split([':', '/']).next().unwrap_or_default();
        if !host.is_empty() {
            everywhere.add("JupyterHub.subdomain_host", &format!("DNS:{host}"))?;
        }
    }
    for name in &options.trusted_alt_names {
        everywhere.add("JupyterHub.trusted_alt_names", name)?;
    }
    let mut own = everywhere.clone();
    own.add_host(hostname);
    Ok((own, everywhere))
}

fn server_names(config: &Config) -> Result<Names, CertificateError> {
    let spawner = &config.spawner;
    let mut names = Names::default();
    if spawner.ssl_alt_names_include_local {
        for name in ["DNS:localhost", "IP:127.0.0.1"] {
            names.add("Spawner.ssl_alt_names", name)?;
        }
    }
    for name in &spawner.ssl_alt_names {
        names.add("Spawner.ssl_alt_names", name)?;
    }
    Ok(names)
}

/// A name as a file's: as it stands where that is harmless, else escaped.
fn file_name(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "@_-+.".contains(letter);
    if name.chars().all(is_plain) {
        name.to_owned()
    } else {
        escape::path_segment(name).replace('/', "%2F")
    }
}

/// The certificates and what is made of them, as the hub uses them.
#[derive(Clone)]
pub struct Internal {
    /// The files.
    pub certificates: Arc<InternalCertificates>,
    /// The hub's side of each connection.
    pub tls: InternalTls,
    /// The hub's connections to the proxy's API, for which no server can be taken.
    pub proxy_api: Arc<ClientConfig>,
}

impl Internal {
    /// With `JupyterHub.internal_ssl`: opens everything.
    pub fn from_config(
        config: &Config,
        hostname: &str,
        now: NaiveDateTime,
    ) -> Result<Option<Self>, CertificateError> {
        if !config.hub.internal_ssl {
            return Ok(None);
        }
        let certificates = InternalCertificates::open(config, hostname, now)?;
        let tls = InternalTls::new(&certificates.hub)?;
        let proxy_api = certificates.proxy_api_client()?;
        Ok(Some(Self {
            certificates: Arc::new(certificates),
            tls,
            proxy_api,
        }))
    }
}

/// A key and its certificate, just made; PEM.
struct Issued {
    key: Secret,
    certificate: String,
}
