//! TLS towards those who connect to us: users, and clients of the REST API.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, crypto::aws_lc_rs::Ticketer, server::WebPkiClientVerifier, sign::CertifiedKey,
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{Limits, files};
use crate::{
    Error,
    transport::{Socket, Stream},
};

/// How long a client may take for its part of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct Files {
    /// How the options begin, for messages.
    name: &'static str,
    passphrase_variable: &'static str,
    key: PathBuf,
    certificate: PathBuf,
    /// Set when clients must show a certificate of these authorities.
    authorities: Option<PathBuf>,
    /// What may be spoken in TLS, dearest first.
    protocols: &'static [&'static str],
}

/// The present key and certificate, and where they come from.
#[derive(Debug)]
pub(crate) struct ServerTls {
    files: Files,
    limits: Limits,
    config: ArcSwap<ServerConfig>,
}

impl Files {
    /// As Node has it, `--ssl-request-cert` alone already refuses who shows no valid certificate,
    /// and `--ssl-reject-unauthorized` alone asks nobody for one.
    pub(super) fn from_options(
        name: &'static str,
        passphrase_variable: &'static str,
        [key, certificate, authorities]: [&Option<PathBuf>; 3],
        asks: bool,
        rejects: bool,
        remarks: &mut Vec<String>,
    ) -> Result<Option<Self>, Error> {
        let (key, certificate) = match (key, certificate) {
            (Some(key), Some(certificate)) => (key.clone(), certificate.clone()),
            (None, None) if authorities.is_none() && !asks && !rejects => return Ok(None),
            (None, None) => {
                remarks.push(format!(
                    "{name}-ca, {name}-request-cert and {name}-reject-unauthorized have no effect \
                     without {name}-key and {name}-cert"
                ));
                return Ok(None);
            }
            (Some(_), None) => return Err(missing(name, "key", "cert")),
            (None, Some(_)) => return Err(missing(name, "cert", "key")),
        };
        if rejects && !asks {
            remarks.push(format!(
                "{name}-reject-unauthorized has no effect without {name}-request-cert: nobody is \
                 asked for a certificate"
            ));
        }
        if asks && authorities.is_none() {
            return Err(Error::BadOption(format!(
                "{name}-request-cert needs {name}-ca: the authorities whose certificates are let in"
            )));
        }
        Ok(Some(Self {
            name,
            passphrase_variable,
            key,
            certificate,
            authorities: authorities.clone().filter(|_| asks),
            protocols: &["http/1.1"],
        }))
    }

    /// Lets clients speak HTTP/2.
    pub(super) fn with_http2(mut self) -> Self {
        self.protocols = &["h2", "http/1.1"];
        self
    }

    fn load(&self, limits: &Limits) -> Result<ServerConfig, Error> {
        let chain = files::certificates(&self.certificate)?;
        let key = files::key(&self.key, Some(self.passphrase_variable))?;
        let fault = |error| files::pair_fault(&self.certificate, &self.key, &error);
        let pair = CertifiedKey::from_der(chain, key, &limits.provider).map_err(fault)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&limits.provider))
            .with_protocol_versions(limits.versions)
            .map_err(|error| Error::BadOption(format!("{}: {error}", self.name)))?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let (roots, _) = files::authorities(path)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(&limits.provider),
                );
                let verifier = verifier.build().map_err(|error| {
                    Error::BadOption(format!("{}-ca {}: {error}", self.name, path.display()))
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let resolver = rustls::sign::SingleCertAndKey::from(pair);
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        let protocols = self.protocols.iter();
        config.alpn_protocols = protocols.map(|name| name.as_bytes().to_vec()).collect();
        // Who comes again needs no full handshake, and we need no memory of it.
        config.ticketer =
            Ticketer::new().map_err(|error| Error::BadOption(format!("{}: {error}", self.name)))?;
        Ok(config)
    }
}

fn missing(name: &str, given: &str, missing: &str) -> Error {
    Error::BadOption(format!("{name}-{given} needs {name}-{missing}"))
}

impl ServerTls {
    pub(super) fn open(files: Files, limits: Limits) -> Result<Self, Error> {
        let config = ArcSwap::from_pointee(files.load(&limits)?);
        Ok(Self {
            files,
            limits,
            config,
        })
    }

    pub(super) fn reload(&self) -> Result<(), Error> {
        self.config.store(Arc::new(self.files.load(&self.limits)?));
        Ok(())
    }

    pub(super) fn name(&self) -> &'static str {
        self.files.name
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let files = &self.files;
        [&files.key, &files.certificate]
            .into_iter()
            .chain(&files.authorities)
            .cloned()
            .collect()
    }

    /// Makes TLS of a connection just accepted.
    pub(crate) async fn accept(&self, socket: Socket) -> io::Result<Stream> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Stream::Tls(Box::new(TlsStream::Server(stream))))
    }
}
