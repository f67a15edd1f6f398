//! TLS towards servers.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{ParsedCertificate, VerifierBuilderError},
};
use tokio_rustls::{TlsConnector, TlsStream};

use super::{Limits, files};
use crate::{
    Error,
    transport::{Socket, Stream},
};

#[derive(Debug, Clone)]
pub(super) struct Files {
    pair: Option<Pair>,
    authorities: Option<PathBuf>,
    insecure: bool,
}

#[derive(Debug, Clone)]
struct Pair {
    key: PathBuf,
    certificate: PathBuf,
}

/// How we speak TLS to servers: with which certificate, and whom we trust.
#[derive(Debug)]
pub(crate) struct ClientTls {
    files: Files,
    limits: Limits,
    config: ArcSwapOption<ClientConfig>,
    /// The machine's authorities, read when they are first needed.
    system: OnceLock<Arc<RootCertStore>>,
}

impl Files {
    pub(super) fn from_options(
        [key, certificate, authorities]: [&Option<PathBuf>; 3],
        insecure: bool,
    ) -> Result<Self, Error> {
        let pair = match (key.clone(), certificate.clone()) {
            (Some(key), Some(certificate)) => Some(Pair { key, certificate }),
            (None, None) => None,
            _ => {
                return Err(Error::BadOption(
                    "--client-ssl-key and --client-ssl-cert need each other".to_owned(),
                ));
            }
        };
        Ok(Self {
            pair,
            authorities: authorities.clone(),
            insecure,
        })
    }
}

impl ClientTls {
    pub(super) fn open(files: Files, limits: Limits) -> Result<Self, Error> {
        if files.insecure {
            tracing::warn!("--insecure: the certificates of https targets are not checked");
        }
        let client = Self {
            files,
            limits,
            config: ArcSwapOption::empty(),
            system: OnceLock::new(),
        };
        if client.has_files() {
            client.reload()?;
        }
        Ok(client)
    }

    pub(super) fn has_files(&self) -> bool {
        self.files.pair.is_some() || self.files.authorities.is_some()
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let pair = self.files.pair.iter();
        pair.flat_map(|pair| [&pair.key, &pair.certificate])
            .chain(&self.files.authorities)
            .cloned()
            .collect()
    }

    pub(super) fn reload(&self) -> Result<(), Error> {
        self.config.store(Some(Arc::new(self.load()?)));
        Ok(())
    }

    /// Makes TLS of a connection to the server called `name`.
    pub(crate) async fn connect(
        &self,
        name: &ServerName<'static>,
        socket: Socket,
    ) -> io::Result<Stream> {
        let config = if let Some(config) = self.config.load_full() {
            config
        } else {
            self.reload().map_err(io::Error::other)?;
            self.config.load_full().expect("it was just stored")
        };
        let stream = TlsConnector::from(config)
            .connect(name.clone(), socket)
            .await?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    }

    fn load(&self) -> Result<ClientConfig, Error> {
        let limits = &self.limits;
        let provider = &limits.provider;
        let bad =
            |error: &dyn std::error::Error| Error::BadOption(format!("--client-ssl: {error}"));
        let verifier = match &self.files.authorities {
            _ if self.files.insecure => Verifier::of_nobody(provider),
            Some(path) => Verifier::of_file(path, provider)?,
            None => {
                let roots = Arc::clone(self.system.get_or_init(system_roots));
                Verifier::of_roots(roots, Vec::new(), provider).map_err(|error| bad(&error))?
            }
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(limits.versions)
            .map_err(|error| bad(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.files.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = files::certificates(&pair.certificate)?;
                let key = files::key(&pair.key, "CONFIGPROXY_CLIENT_SSL_KEY_PASSPHRASE")?;
                let fault = |error| files::pair_fault(&pair.certificate, &pair.key, &error);
                builder.with_client_auth_cert(chain, key).map_err(fault)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The authorities that this machine trusts. Without any, no https target can be reached unless
/// `--client-ssl-ca` or `--insecure` is given, which each attempt then says.
fn system_roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!("TLS: an authority of this machine cannot be read: {error}");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::error!(
            "TLS: this machine has no list of authorities (the package ca-certificates); install it, or \
             name authorities with --client-ssl-ca or --acme-ca"
        );
    }
    Arc::new(roots)
}

/// Checks servers' certificates as usual, but for two cases.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// None with `--insecure`.
    inner: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of `--client-ssl-ca`. Sites name the self-signed certificate of a server
    /// there, as `openssl req -x509` makes it, which calls itself an authority.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Whoever is in the file.
    pub(crate) fn of_file(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let (roots, pinned) = files::authorities(path)?;
        Self::of_roots(Arc::new(roots), pinned, provider)
            .map_err(|error| Error::BadOption(format!("{}: {error}", path.display())))
    }

    /// Whom this machine trusts.
    pub(crate) fn of_system(provider: &Arc<CryptoProvider>) -> Result<Self, VerifierBuilderError> {
        Self::of_roots(system_roots(), Vec::new(), provider)
    }

    /// Everybody is believed.
    fn of_nobody(provider: &Arc<CryptoProvider>) -> Self {
        Self {
            inner: None,
            pinned: Vec::new(),
            provider: Arc::clone(provider),
        }
    }

    fn of_roots(
        roots: Arc<RootCertStore>,
        pinned: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
        Ok(Self {
            inner: Some(inner.build()?),
            pinned,
            provider: Arc::clone(provider),
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        let result =
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match result {
            // Its time has been found good before this is noticed.
            Err(error)
                if is_authority(&error) && self.pinned.iter().any(|pin| pin == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Whether the fault is that the certificate is an authority's.
fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    matches!(
        other.0.downcast_ref::<webpki::Error>(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
}
