//! The hub's sides of TLS connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::{CertificateError, Pair, files};

/// How the hub serves and asks with `internal_ssl`: both sides show a certificate.
#[derive(Clone)]
pub struct InternalTls {
    /// For those who connect to the hub.
    pub server: Arc<ServerConfig>,
    /// For the hub's own connections, to servers above all.
    pub client: Arc<ClientConfig>,
}

impl InternalTls {
    /// With the hub's key and certificate, trusting the authorities of its bundle.
    pub(super) fn new(hub: &Pair) -> Result<Self, CertificateError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(roots(&hub.trust)?);
        let failed =
            |error: &dyn std::error::Error| CertificateError::new(format!("internal_ssl: {error}"));
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = verifier.build().map_err(|error| failed(&error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain(&hub.certificate)?, key(&hub.key)?)
            .map_err(|error| failed(&error))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            server: Arc::new(server),
            client: client(hub, roots)?,
        })
    }
}

/// How the hub asks parts that only these authorities speak for.
pub(super) fn client_trusting(
    hub: &Pair,
    authorities: &[PathBuf],
) -> Result<Arc<ClientConfig>, CertificateError> {
    let mut all = RootCertStore::empty();
    for path in authorities {
        all.extend(roots(path)?.roots);
    }
    client(hub, Arc::new(all))
}

fn client(hub: &Pair, roots: Arc<RootCertStore>) -> Result<Arc<ClientConfig>, CertificateError> {
    let failed = |error: rustls::Error| CertificateError::new(format!("internal_ssl: {error}"));
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain(&hub.certificate)?, key(&hub.key)?)
        .map_err(failed)?;
    Ok(Arc::new(client))
}

/// How the hub asks https addresses without `internal_ssl`: with the machine's authorities, and
/// without a certificate of its own.
pub(crate) fn public_client() -> Result<ClientConfig, CertificateError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| CertificateError::new(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Whether a certificate and a key can be read and belong together.
pub(super) fn check_pair(certificate: &Path, key_path: &Path) -> Result<(), CertificateError> {
    let provider: CryptoProvider = aws_lc_rs::default_provider();
    let (chain, key) = (chain(certificate)?, key(key_path)?);
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::new(format!(
            "the private key {} does not belong to the certificate {}",
            key_path.display(),
            certificate.display()
        ))),
        Err(error) => Err(CertificateError::new(format!(
            "the certificate {} and the private key {}: {error}",
            certificate.display(),
            key_path.display()
        ))),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = files::read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| {
        CertificateError::new(format!(
            "{} holds no certificate in PEM form",
            path.display()
        ))
    })
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let text = files::read_key(path)?;
    let shown = path.display();
    if text.expose().contains("ENCRYPTED") {
        return Err(CertificateError::new(format!(
            "the private key {shown} is encrypted, which is not supported. Decrypt it into a file that only the \
             hub's user can read: openssl pkey -in {shown} -out FILE"
        )));
    }
    PrivateKeyDer::from_pem_slice(text.expose().as_bytes())
        .map_err(|_| CertificateError::new(format!("{shown} holds no private key in PEM form")))
}

fn roots(path: &Path) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots.add(certificate).map_err(|error| {
            CertificateError::new(format!(
                "{} holds a certificate that is not valid: {error}",
                path.display()
            ))
        })?;
    }
    Ok(roots)
}
