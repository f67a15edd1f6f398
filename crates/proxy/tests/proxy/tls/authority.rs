//! Certificates made for a test, and clients that use them.
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Answer, Raw, exchange};

/// An authority with a folder for what it signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    pub(crate) file: PathBuf,
}

/// A key and its certificate.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) key: PathBuf,
    pub(crate) certificate: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = folder.join(format!("{name}.crt"));
        fs::write(&file, issuer.pem()).unwrap();
        Self {
            issuer,
            folder: folder.to_owned(),
            file,
        }
    }

    /// A certificate for these names, in files called `name`; again if there are such files.
    pub(crate) fn sign(&self, name: &str, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap();
        let certificate = certificate.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair::of(&self.folder, name);
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        pair
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// A client that trusts this authority, and shows a certificate if it has one.
    pub(crate) fn client(&self, pair: Option<&Pair>) -> Client {
        let builder = ClientConfig::builder().with_root_certificates(self.roots());
        Client(Arc::new(match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder
                .with_client_auth_cert(pair.chain(), pair.key())
                .unwrap(),
        }))
    }

    /// A server that asks for certificates of this authority.
    pub(crate) fn asking_server(&self, pair: &Pair) -> ServerConfig {
        let verifier = WebPkiClientVerifier::builder(self.roots()).build().unwrap();
        ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(pair.chain(), pair.key())
            .unwrap()
    }
}

impl Pair {
    fn of(folder: &Path, name: &str) -> Self {
        Self {
            key: folder.join(format!("{name}.key")),
            certificate: folder.join(format!("{name}.crt")),
        }
    }

    /// A certificate that signed itself and calls itself an authority, as `openssl req -x509` makes
    /// them.
    pub(crate) fn self_signed(folder: &Path, name: &str, host: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pair = Self::of(folder, name);
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        fs::write(&pair.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        pair
    }

    pub(crate) fn server(&self) -> ServerConfig {
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(self.chain(), self.key())
            .unwrap()
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate()]
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).unwrap()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
    }
}

pub(crate) struct Client(Arc<ClientConfig>);

impl Client {
    /// Connects to `localhost`, wherever that is in this test.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
    ) -> Result<TlsStream<TcpStream>, std::io::Error> {
        self.connect_to("localhost", address).await
    }

    /// Connects to `name`, which is at `address`.
    pub(crate) async fn connect_to(
        &self,
        name: &str,
        address: SocketAddr,
    ) -> Result<TlsStream<TcpStream>, std::io::Error> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::clone(&self.0))
            .connect(name, stream)
            .await
    }

    pub(crate) async fn exchange(&self, address: SocketAddr, request: &str) -> Answer {
        exchange(Raw::over(self.connect(address).await.unwrap()), request).await
    }

    pub(crate) async fn get(&self, address: SocketAddr, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        self.exchange(address, &request).await
    }

    /// Whether an answer comes. With TLS 1.3 a client learns only then that it is refused.
    pub(crate) async fn is_served(&self, address: SocketAddr) -> bool {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(mut stream) = self.connect(address).await else {
            return false;
        };
        let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        stream.write_all(request).await.is_ok()
            && stream.read_to_end(&mut answer).await.is_ok()
            && answer.starts_with(b"HTTP/1.1 ")
    }

    /// The certificate that the server shows.
    pub(crate) async fn certificate_of(&self, address: SocketAddr) -> CertificateDer<'static> {
        self.certificate_for("localhost", address).await
    }

    /// The certificate that the server shows to who asks for `name`.
    pub(crate) async fn certificate_for(
        &self,
        name: &str,
        address: SocketAddr,
    ) -> CertificateDer<'static> {
        let stream = self.connect_to(name, address).await.unwrap();
        let (_, connection) = stream.get_ref();
        connection.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    }
}
