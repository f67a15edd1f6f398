//! HTTP/2 over real sockets: a client of the h2 crate, and one that writes its frames itself.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Method, Request, Response};
use orrery_proxy::{Options, OurOptions};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    frames::Frames,
    support::Proxy,
    tls::authority::{Authority, Pair},
};

mod connections;
mod ends;
mod exchanges;
mod refusals;
mod scripted;

/// No step of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// A proxy with a certificate for `localhost`.
pub(crate) struct Site {
    proxy: Proxy,
    roots: RootCertStore,
    _folder: TempDir,
}

impl Site {
    pub(crate) async fn start(change: impl FnOnce(&mut Options, &Pair)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let pair = authority.sign("site", &["localhost"]);
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&authority.file).unwrap())
            .unwrap();
        let mut options = Options {
            ssl_key: Some(pair.key.clone()),
            ssl_cert: Some(pair.certificate.clone()),
            ours: OurOptions {
                threads: Some(1),
                ..OurOptions::default()
            },
            ..Options::default()
        };
        change(&mut options, &pair);
        Self {
            proxy: Proxy::start(options).await,
            roots,
            _folder: folder,
        }
    }

    async fn with_root(url: &str) -> Self {
        Self::start(|options, _| options.default_target = Some(url.to_owned())).await
    }

    async fn connect_to(&self, address: SocketAddr, protocols: &[&str]) -> TlsStream<TcpStream> {
        let mut config = ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        within(connecting).await.unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        let stream = self
            .connect_to(self.proxy.address(), &["h2", "http/1.1"])
            .await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = within(h2::client::handshake(stream)).await.unwrap();
        Client {
            sender,
            connection: tokio::spawn(connection),
            origin: format!("https://localhost:{}", self.proxy.address().port()),
        }
    }

    async fn frames(&self) -> Frames {
        let stream = self.connect_to(self.proxy.address(), &["h2"]).await;
        Frames::start(stream).await
    }
}

pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    origin: String,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl Client {
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.origin))
    }

    async fn get(&self, path: &str) -> Answer {
        self.exchange(self.request(Method::GET, path).body(()).unwrap())
            .await
    }

    async fn exchange(&self, request: Request<()>) -> Answer {
        let (answer, _) = self.send(request, true).await;
        read(within(answer).await.unwrap()).await.unwrap()
    }

    pub(crate) async fn send(
        &self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut sender = within(self.sender.clone().ready()).await.unwrap();
        sender.send_request(request, end).unwrap()
    }
}

/// Whether a connection closed without a complaint of the proxy. What the client still has to say
/// then, its own farewell above all, may come too late.
fn is_in_order(end: &Result<(), h2::Error>) -> bool {
    end.as_ref().err().is_none_or(h2::Error::is_io)
}

async fn within<F: Future>(future: F) -> F::Output {
    let result = timeout(DEADLINE, future).await;
    result.expect("the other side is silent")
}

async fn send_all(stream: &mut SendStream<Bytes>, mut data: &[u8], end: bool) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = within(poll_fn(|cx| stream.poll_capacity(cx))).await;
        let (piece, rest) = data.split_at(capacity.unwrap().unwrap().min(data.len()));
        stream
            .send_data(Bytes::copy_from_slice(piece), false)
            .unwrap();
        data = rest;
    }
    if end {
        stream.send_data(Bytes::new(), true).unwrap();
    }
}

/// The next piece of a body.
async fn piece(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    loop {
        let data = match within(body.data()).await? {
            Ok(data) => data,
            Err(error) => return Some(Err(error)),
        };
        body.flow_control().release_capacity(data.len()).unwrap();
        // The end may come in a frame of its own.
        if !data.is_empty() {
            return Some(Ok(data));
        }
    }
}

async fn read(answer: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(data) = piece(&mut stream).await {
        body.extend_from_slice(&data?);
    }
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        trailers: within(stream.trailers()).await?.unwrap_or_default(),
    })
}
