//! The answers to the questions by which an authority sees that a name is ours: a text on plain HTTP
//! (HTTP-01), or a certificate in a TLS handshake (TLS-ALPN-01, RFC 8737).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::PrivateKeyDer,
    server::ClientHello,
    sign::{CertifiedKey, SingleCertAndKey},
};

/// What a TLS client says it speaks when it looks for an answer.
const PROTOCOL: &[u8] = b"acme-tls/1";

/// Where the text is looked for.
const FOLDER: &str = "/.well-known/acme-challenge/";

/// The answers that are asked for just now.
#[derive(Debug, Default)]
pub(crate) struct Challenges {
    pending: Mutex<Pending>,
    /// How many are for TLS; each handshake looks at it.
    for_tls: AtomicUsize,
}

#[derive(Debug, Default)]
struct Pending {
    /// By token.
    http: HashMap<Box<str>, Box<str>>,
    /// By name.
    tls: HashMap<Box<str>, Arc<ServerConfig>>,
}

/// An answer, given for as long as this lives.
pub(super) struct Answer {
    challenges: Arc<Challenges>,
    place: AnswerPlace,
}

enum AnswerPlace {
    Http(Box<str>),
    Tls(Box<str>),
}

impl Challenges {
    /// Whether a TLS client may be looking for an answer.
    pub(crate) fn has_for_tls(&self) -> bool {
        self.for_tls.load(Ordering::Acquire) > 0
    }

    /// How to speak TLS with this client if it looks for an answer that there is.
    pub(crate) fn answer_tls(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let mut protocols = hello.alpn()?;
        if protocols.next() != Some(PROTOCOL) || protocols.next().is_some() {
            return None;
        }
        let name = hello.server_name()?.to_ascii_lowercase();
        self.lock().tls.get(&*name).cloned()
    }

    /// The text for a path of plain HTTP.
    pub(crate) fn answer_http(&self, path: &str) -> Option<Box<str>> {
        let token = path.strip_prefix(FOLDER)?;
        self.lock().http.get(token).cloned()
    }

    pub(super) fn give_http(self: &Arc<Self>, token: &str, text: &str) -> Answer {
        self.lock().http.insert(token.into(), text.into());
        Answer {
            challenges: Arc::clone(self),
            place: AnswerPlace::Http(token.into()),
        }
    }

    pub(super) fn give_tls(
        self: &Arc<Self>,
        domain: &str,
        digest: &[u8],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Answer, String> {
        let config = challenge_config(domain, digest, provider)?;
        let before = self.lock().tls.insert(domain.into(), Arc::new(config));
        if before.is_none() {
            self.for_tls.fetch_add(1, Ordering::Release);
        }
        Ok(Answer {
            challenges: Arc::clone(self),
            place: AnswerPlace::Tls(domain.into()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Whoever panicked with the lock held has changed one whole entry or none.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut pending = self.challenges.lock();
        match &self.place {
            AnswerPlace::Http(token) => {
                pending.http.remove(token);
            }
            AnswerPlace::Tls(domain) => {
                if pending.tls.remove(domain).is_some() {
                    self.challenges.for_tls.fetch_sub(1, Ordering::Release);
                }
            }
        }
    }
}

fn challenge_config(
    domain: &str,
    digest: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, String> {
    if digest.len() != 32 {
        return Err("the answer's digest has the wrong length".to_owned());
    }
    let extension = CustomExtension::new_acme_identifier(digest);
    let key = self_signed(domain, "ACME challenge", vec![extension], provider)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// A new key with a certificate that nobody has signed.
pub(super) fn self_signed(
    domain: &str,
    title: &str,
    extensions: Vec<CustomExtension>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let make = || {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![domain.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, title);
        params.custom_extensions = extensions;
        let certificate = params.self_signed(&key)?;
        Ok::<_, rcgen::Error>((key, certificate))
    };
    let (key, certificate) = make().map_err(|error| error.to_string())?;
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = provider.key_provider.load_private_key(der);
    let key = key.map_err(|error| error.to_string())?;
    // Not by its checks: those do not know the critical extension of challenges.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, ServerName},
        server::Acceptor,
    };
    use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    /// What a client that offers these protocols is shown, if anything.
    async fn seen(
        challenges: &Challenges,
        name: &str,
        protocols: &[&[u8]],
    ) -> Option<CertificateDer<'static>> {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let shown = Arc::new(Mutex::new(None));
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Anything(Arc::clone(&shown))));
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let serve = async {
            let start = LazyConfigAcceptor::new(Acceptor::default(), server)
                .await
                .unwrap();
            let config = challenges.answer_tls(&start.client_hello());
            if let Some(config) = config {
                start.into_stream(config).await.unwrap();
            }
        };
        let (_, stream) = tokio::join!(serve, connector.connect(name, client));
        if let Ok(stream) = &stream {
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(PROTOCOL));
        }
        shown.lock().unwrap().take()
    }

    #[derive(Debug)]
    struct Anything(Arc<Mutex<Option<CertificateDer<'static>>>>);

    impl rustls::client::danger::ServerCertVerifier for Anything {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            *self.0.lock().unwrap() = Some(end_entity.clone().into_owned());
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }

    #[tokio::test]
    async fn the_certificate_of_a_challenge_is_for_those_who_ask_for_it() {
        let challenges = Arc::new(Challenges::default());
        let provider = Arc::new(default_provider());
        let digest = [7; 32];
        assert!(!challenges.has_for_tls());
        let answer = challenges
            .give_tls("hub.example.org", &digest, &provider)
            .unwrap();
        assert!(challenges.has_for_tls());

        let shown = seen(&challenges, "HUB.example.org", &[PROTOCOL])
            .await
            .unwrap();
        let (_, certificate) = X509Certificate::from_der(&shown).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1);
        let extension = certificate
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .unwrap();
        assert!(extension.critical);
        assert_eq!(extension.value[..2], [4, 32], "an octet string");
        assert_eq!(extension.value[2..], digest);

        let http: &[&[u8]] = &[b"h2", b"http/1.1"];
        let both: &[&[u8]] = &[PROTOCOL, b"http/1.1"];
        for (name, protocols) in [
            ("hub.example.org", http),
            ("hub.example.org", both),
            ("hub.example.org", &[]),
            ("other.example.org", &[PROTOCOL]),
        ] {
            let shown = seen(&challenges, name, protocols).await;
            assert!(shown.is_none(), "{name} {protocols:?}");
        }

        drop(answer);
        assert!(!challenges.has_for_tls());
        assert!(
            seen(&challenges, "hub.example.org", &[PROTOCOL])
                .await
                .is_none()
        );
    }

    #[test]
    fn a_text_is_given_while_it_is_asked_for() {
        let challenges = Arc::new(Challenges::default());
        let answer = challenges.give_http("token", "token.thumbprint");
        let text = |path| challenges.answer_http(path);
        let path = "/.well-known/acme-challenge/token";
        assert_eq!(text(path).as_deref(), Some("token.thumbprint"));
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/other",
            "/.well-known/acme-challenge/token/",
            "/x/.well-known/acme-challenge/token",
            "/token",
        ] {
            assert_eq!(text(path), None, "{path}");
        }
        assert!(!challenges.has_for_tls());
        drop(answer);
        assert_eq!(text(path), None);
    }
}
