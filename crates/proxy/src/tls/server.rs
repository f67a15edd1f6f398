//! TLS towards those who connect to us: users, and clients of the REST API.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::Ticketer,
    server::{Acceptor, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio::io::AsyncWriteExt;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsStream, server::TlsStream as ServerStream};

use super::{Keys, Limits, Pair, files};
use crate::{
    Error,
    acme::Challenges,
    transport::{Socket, Stream},
};

/// How long a client may take for its part of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct Files {
    /// How the options begin, for messages.
    name: &'static str,
    passphrase_variable: &'static str,
    /// The first is shown to those who ask for no name, or for one that is in none of them.
    pairs: Vec<PairFiles>,
    /// Set when clients must show a certificate of these authorities.
    authorities: Option<PathBuf>,
    /// What may be spoken inside, the best first.
    protocols: &'static [&'static [u8]],
}

/// A private key, and the certificate with what it is signed by behind it. Both may be one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PairFiles {
    key: PathBuf,
    certificate: PathBuf,
}

/// What the options say about one listener.
pub(super) struct Given<'a> {
    pub(super) name: &'static str,
    pub(super) passphrase_variable: &'static str,
    pub(super) key: &'a Option<PathBuf>,
    pub(super) certificate: &'a Option<PathBuf>,
    pub(super) authorities: &'a Option<PathBuf>,
    pub(super) asks: bool,
    pub(super) rejects: bool,
    /// As `--ssl-sni` has them.
    pub(super) further: &'a [String],
    /// Certificates come from elsewhere as well, so that no file is needed.
    pub(super) others: bool,
    pub(super) protocols: &'static [&'static [u8]],
}

/// The present keys and certificates, and where they come from.
#[derive(Debug)]
pub(crate) struct ServerTls {
    files: Files,
    limits: Limits,
    pub(crate) keys: Arc<Keys>,
    config: ArcSwap<ServerConfig>,
    /// Looked at in a handshake while an ACME server is about to ask.
    challenges: Option<Arc<Challenges>>,
}

impl Files {
    /// As Node has it, `--ssl-request-cert` alone already refuses who shows no valid certificate,
    /// and `--ssl-reject-unauthorized` alone asks nobody for one.
    pub(super) fn from_options(
        given: &Given<'_>,
        remarks: &mut Vec<String>,
    ) -> Result<Option<Self>, Error> {
        let &Given { name, asks, .. } = given;
        let mut pairs = match (given.key, given.certificate) {
            (Some(key), Some(certificate)) => vec![PairFiles {
                key: key.clone(),
                certificate: certificate.clone(),
            }],
            (None, None) => Vec::new(),
            (Some(_), None) => return Err(missing(name, "key", "cert")),
            (None, Some(_)) => return Err(missing(name, "cert", "key")),
        };
        let further = given.further.iter().map(|text| PairFiles::parse(text));
        pairs.extend(further.collect::<Result<Vec<_>, _>>()?);
        if pairs.is_empty() && !given.others {
            if given.authorities.is_some() || asks || given.rejects {
                remarks.push(format!(
                    "{name}-ca, {name}-request-cert and {name}-reject-unauthorized have no effect \
                     without {name}-key and {name}-cert"
                ));
            }
            return Ok(None);
        }
        if given.rejects && !asks {
            remarks.push(format!(
                "{name}-reject-unauthorized has no effect without {name}-request-cert: nobody is \
                 asked for a certificate"
            ));
        }
        if asks && given.authorities.is_none() {
            return Err(Error::BadOption(format!(
                "{name}-request-cert needs {name}-ca: the authorities whose certificates are let in"
            )));
        }
        Ok(Some(Self {
            name,
            passphrase_variable: given.passphrase_variable,
            pairs,
            authorities: given.authorities.clone().filter(|_| asks),
            protocols: given.protocols,
        }))
    }

    fn read(&self, pair: &PairFiles, limits: &Limits) -> Result<Pair, Error> {
        let chain = files::certificates(&pair.certificate)?;
        let key = files::key(&pair.key, self.passphrase_variable)?;
        let fault = |error| files::pair_fault(&pair.certificate, &pair.key, &error);
        let key = CertifiedKey::from_der(chain, key, &limits.provider).map_err(fault)?;
        Ok(Pair::new(key))
    }

    fn config(&self, keys: &Arc<Keys>, limits: &Limits) -> Result<ServerConfig, Error> {
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
        let mut config = builder.with_cert_resolver(Arc::clone(keys) as _);
        config.alpn_protocols = self.protocols.iter().map(|name| name.to_vec()).collect();
        // Who comes again needs no full handshake, and we need no memory of it.
        config.ticketer =
            Ticketer::new().map_err(|error| Error::BadOption(format!("{}: {error}", self.name)))?;
        Ok(config)
    }
}

impl PairFiles {
    /// `CERT:KEY`, or one file with both.
    fn parse(text: &str) -> Result<Self, Error> {
        let (certificate, key) = text.split_once(':').unwrap_or((text, text));
        if certificate.is_empty() || key.is_empty() || key.contains(':') {
            return Err(Error::BadOption(format!(
                "--ssl-sni {text}: write CERT:KEY, two files whose names have no colon, or one file \
                 that holds both"
            )));
        }
        Ok(Self {
            key: key.into(),
            certificate: certificate.into(),
        })
    }
}

fn missing(name: &str, given: &str, missing: &str) -> Error {
    Error::BadOption(format!("{name}-{given} needs {name}-{missing}"))
}

impl ServerTls {
    pub(super) fn open(
        files: Files,
        limits: Limits,
        challenges: Option<Arc<Challenges>>,
    ) -> Result<Self, Error> {
        let pairs = files.pairs.iter().map(|pair| files.read(pair, &limits));
        let keys = Arc::new(Keys::default());
        keys.set_files(pairs.collect::<Result<_, _>>()?);
        let config = ArcSwap::from_pointee(files.config(&keys, &limits)?);
        Ok(Self {
            files,
            limits,
            keys,
            config,
            challenges,
        })
    }

    /// Reads all files again. Of several certificates those are taken up that can be; the error is
    /// that of the first that stays as it was.
    pub(super) fn reload(&self) -> Result<(), Error> {
        let config = self.files.config(&self.keys, &self.limits)?;
        let mut fault = None;
        let before = self.keys.files();
        let pairs = self.files.pairs.iter().zip(before).map(|(files, before)| {
            let read = self.files.read(files, &self.limits);
            read.unwrap_or_else(|error| {
                fault.get_or_insert(error);
                before
            })
        });
        let pairs = pairs.collect();
        self.keys.set_files(pairs);
        self.config.store(Arc::new(config));
        fault.map_or(Ok(()), Err)
    }

    pub(super) fn name(&self) -> &'static str {
        self.files.name
    }

    /// There is none when all certificates come by ACME.
    pub(super) fn has_files(&self) -> bool {
        !self.files.pairs.is_empty() || self.files.authorities.is_some()
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let pairs = self.files.pairs.iter();
        pairs
            .flat_map(|pair| [&pair.key, &pair.certificate])
            .chain(&self.files.authorities)
            .cloned()
            .collect()
    }

    /// Makes TLS of a connection just accepted.
    pub(crate) async fn accept(&self, socket: Socket) -> io::Result<Stream> {
        let asked = self.challenges.as_ref();
        let asked = asked.filter(|challenges| challenges.has_for_tls());
        let handshake = async {
            match asked {
                None => {
                    let acceptor = TlsAcceptor::from(self.config.load_full());
                    acceptor.accept(socket).await
                }
                // Seldom, so connections do not carry the room for it.
                Some(challenges) => Box::pin(self.accept_or_answer(challenges, socket)).await,
            }
        };
        let stream = tokio::time::timeout(HANDSHAKE, handshake)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Stream::Tls(Box::new(TlsStream::Server(stream))))
    }

    /// An ACME server that checks a name sees the certificate with the answer, and no more (RFC 8737);
    /// it is not asked for a certificate of its own.
    async fn accept_or_answer(
        &self,
        challenges: &Challenges,
        socket: Socket,
    ) -> io::Result<ServerStream<Socket>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let Some(answer) = challenges.answer_tls(&start.client_hello()) else {
            return start.into_stream(self.config.load_full()).await;
        };
        let mut stream = start.into_stream(answer).await?;
        stream.shutdown().await?;
        Err(io::Error::other(
            "it was an ACME server's, which has seen the answer to its challenge",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_pairs() {
        let of = |text| {
            let files = PairFiles::parse(text).unwrap();
            [files.certificate, files.key].map(|path| path.to_string_lossy().into_owned())
        };
        assert_eq!(of("/c.crt:/k.key"), ["/c.crt", "/k.key"]);
        assert_eq!(of("/both.pem"), ["/both.pem", "/both.pem"]);
        for text in ["", ":", "a:", ":b", "a:b:c"] {
            assert!(PairFiles::parse(text).is_err(), "{text}");
        }
    }
}
