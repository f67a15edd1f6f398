//! HTTP to the authority's server: TLS only, with deadlines, and answers of a bounded size.

use std::{
    error::Error as StdError,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error as AcmeError, HttpClient};
use rustls::{ClientConfig, crypto::CryptoProvider, pki_types::ServerName};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

use crate::tls::client::Verifier;

/// For one request, with connecting and the whole answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// A chain of certificates has some kilobytes.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// The longest time that an authority may ask for, in seconds.
const LONGEST_RETRY: i64 = 7 * 86_400;

/// A client that believes whom its verifier believes.
pub(super) struct Web {
    connector: TlsConnector,
    not_before: Arc<AtomicI64>,
}

type Fault = Box<dyn StdError + Send + Sync + 'static>;

impl Web {
    /// Who asks too often is told by the authority when to ask again: that is put into `not_before`.
    pub(super) fn new(
        verifier: Verifier,
        provider: &Arc<CryptoProvider>,
        not_before: Arc<AtomicI64>,
    ) -> Result<Self, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            not_before,
        })
    }
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, AcmeError>> + Send>> {
        let connector = self.connector.clone();
        let not_before = Arc::clone(&self.not_before);
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let answer = tokio::time::timeout(DEADLINE, exchange(connector, request)).await;
            let answer = answer.unwrap_or_else(|_| {
                let seconds = DEADLINE.as_secs();
                Err(format!("no whole answer within {seconds} s").into())
            });
            if let Ok(answer) = &answer
                && let Some(seconds) = retry_after(answer)
            {
                not_before.fetch_max(super::now() + seconds, Ordering::Relaxed);
            }
            answer
                .map(BytesResponse::from)
                .map_err(|error| AcmeError::Other(format!("{host}: {}", chain(&*error)).into()))
        })
    }
}

async fn exchange(
    connector: TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Full<Bytes>>, Fault> {
    let uri = request.uri().clone();
    if uri.scheme() != Some(&Scheme::HTTPS) {
        return Err(format!("{uri} is not a URL of https").into());
    }
    let authority = uri.authority().ok_or("the URL names no host")?;
    let host = authority.host();
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(443);
    let socket = TcpStream::connect((name, port)).await?;
    let name = ServerName::try_from(name.to_owned())?;
    let stream = connector.connect(name, socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this function, whatever comes.
    let mut background = JoinSet::new();
    background.spawn(connection);

    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = Uri::try_from(path)?;
    let host = HeaderValue::try_from(authority.as_str())?;
    request.headers_mut().insert(header::HOST, host);
    let close = HeaderValue::from_static("close");
    request.headers_mut().insert(header::CONNECTION, close);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, LARGEST_ANSWER).collect().await?;
    let body = body.to_bytes();
    // Errors of ACME are JSON; a page that is none says nothing to anybody.
    let content = parts.headers.get(header::CONTENT_TYPE);
    let is_json =
        content.is_some_and(|content| content.to_str().is_ok_and(|text| text.contains("json")));
    if parts.status.as_u16() >= 400 && !is_json {
        let status = parts.status;
        return Err(io::Error::other(format!("answered {uri} with {status}")).into());
    }
    Ok(Response::from_parts(parts, Full::from(body)))
}

/// The seconds that an authority which has had enough wants to be left alone for.
fn retry_after<B>(answer: &Response<B>) -> Option<i64> {
    if !matches!(answer.status().as_u16(), 429 | 503) {
        return None;
    }
    let value = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds = value.trim().parse::<i64>().ok().or_else(|| {
        let date = chrono::DateTime::parse_from_rfc2822(value.trim()).ok()?;
        Some(date.timestamp() - super::now())
    })?;
    Some(seconds.clamp(0, LONGEST_RETRY))
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        net::SocketAddr,
        path::{Path, PathBuf},
        sync::Mutex,
    };

    use rcgen::{CertificateParams, KeyPair};
    use rustls::{ServerConfig, crypto::aws_lc_rs::default_provider, pki_types::PrivateKeyDer};
    use tempfile::tempdir;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// An authority's server that gives texts as JSON, the same for ever; it ends with the test.
    pub(in crate::acme) struct Server {
        address: SocketAddr,
        certificate: String,
        paths: Arc<Mutex<Vec<String>>>,
        _task: JoinSet<()>,
    }

    impl Server {
        /// `text` is asked with the path and with the URL of the server.
        pub(in crate::acme) async fn start(
            text: impl Fn(&str, &str) -> String + Send + 'static,
        ) -> Self {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::Pkcs8(key.serialize_der().into()),
                )
                .unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let here = url_of(address, "");
            let paths = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&paths);
            let mut task = JoinSet::new();
            task.spawn(async move {
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let Ok(mut stream) = acceptor.accept(socket).await else {
                        continue;
                    };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap();
                    seen.lock().unwrap().push(path.to_owned());
                    let text = text(path, &here);
                    let status = if path == "/page" {
                        "404 Not Found"
                    } else {
                        "200 OK"
                    };
                    let kind = if path == "/page" {
                        "text/html"
                    } else {
                        "application/json"
                    };
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nRetry-After: 21600\r\n\
                         Content-Length: {}\r\n\r\n{text}",
                        text.len()
                    );
                    // Who has had enough closes.
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            });
            Self {
                address,
                certificate: certificate.pem(),
                paths,
                _task: task,
            }
        }

        pub(in crate::acme) fn url(&self, path: &str) -> String {
            url_of(self.address, path)
        }

        /// A file with the one to trust.
        pub(in crate::acme) fn authority(&self, folder: &Path) -> PathBuf {
            let path = folder.join("authority.crt");
            std::fs::write(&path, &self.certificate).unwrap();
            path
        }

        /// What was asked for, in order.
        pub(in crate::acme) fn paths(&self) -> Vec<String> {
            self.paths.lock().unwrap().clone()
        }

        async fn get(&self, url: &str, trusted: bool) -> Result<Bytes, String> {
            let folder = tempdir().unwrap();
            let provider = Arc::new(default_provider());
            let file = if trusted {
                self.authority(folder.path())
            } else {
                // Somebody else's.
                let other = Box::pin(Server::start(|_, _| String::new())).await;
                other.authority(folder.path())
            };
            let verifier = Verifier::of_file(&file, &provider).unwrap();
            let web = Web::new(verifier, &provider, Arc::default()).unwrap();
            let request = Request::builder().uri(url).body(BodyWrapper::default());
            let answer = web.request(request.unwrap()).await;
            let mut answer = answer.map_err(|error| error.to_string())?;
            Ok(answer.body.into_bytes().await.unwrap())
        }
    }

    fn url_of(address: SocketAddr, path: &str) -> String {
        format!("https://localhost:{}{path}", address.port())
    }

    #[tokio::test]
    async fn an_authority_s_server_is_checked_and_its_answers_are_bounded() {
        let server = Server::start(|path, _| match path {
            "/large" => "x".repeat(LARGEST_ANSWER + 1),
            path => format!("{path}!"),
        })
        .await;
        let get = async |path| server.get(&server.url(path), true).await;
        assert_eq!(get("/small?a=b").await.unwrap(), "/small?a=b!");
        let large = get("/large").await.unwrap_err();
        assert!(large.contains("length limit exceeded"), "{large}");
        let page = get("/page").await.unwrap_err();
        assert!(page.contains("404 Not Found"), "{page}");

        let stranger = server.get(&server.url("/"), false).await.unwrap_err();
        assert!(stranger.contains("certificate"), "{stranger}");
        let plain = server.url("/").replace("https", "http");
        let plain = server.get(&plain, true).await.unwrap_err();
        assert!(plain.contains("is not a URL of https"), "{plain}");
    }
}
