//! HTTP to the authority's server: TLS only, with deadlines, and answers of a bounded size.

use std::{error::Error as StdError, future::Future, io, pin::Pin, sync::Arc, time::Duration};

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

/// A client that believes whom its verifier believes.
pub(super) struct Web {
    connector: TlsConnector,
}

type Fault = Box<dyn StdError + Send + Sync + 'static>;

impl Web {
    pub(super) fn new(
        verifier: Verifier,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, AcmeError>> + Send>> {
        let connector = self.connector.clone();
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let answer = tokio::time::timeout(DEADLINE, exchange(connector, request)).await;
            let answer = answer.unwrap_or_else(|_| {
                let seconds = DEADLINE.as_secs();
                Err(format!("no whole answer within {seconds} s").into())
            });
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
