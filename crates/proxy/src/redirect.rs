//! `--redirect-port`: plain HTTP that leads to HTTPS, and where an ACME server finds its answers.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{listen::Place, server::Shared};

/// Where to listen for plain HTTP, and the port of HTTPS.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub(crate) place: Place,
    pub(crate) to: u16,
}

pub(crate) fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let acme = shared.tls.acme.as_ref();
    let challenge = acme.and_then(|acme| acme.challenges().answer_http(request.uri().path()));
    if let Some(text) = challenge {
        let mut response = Response::new(Full::from(text.into_string()));
        let bytes = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, bytes);
        return response;
    }
    let to = shared
        .settings
        .redirect
        .as_ref()
        .map_or(443, |redirect| redirect.to);
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    let location = host.and_then(|host| HeaderValue::try_from(location(host, to, path)?).ok());
    let Some(location) = location else {
        let text = format!(
            "Only HTTPS is served here, on port {to}. The request does not say which host it is for.\n"
        );
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// `None` without a host to lead to.
fn location(host: &str, to: u16, path: &str) -> Option<String> {
    let authority: http::uri::Authority = host.parse().ok()?;
    let host = authority.host();
    let port = match to {
        443 => String::new(),
        to => format!(":{to}"),
    };
    (!host.is_empty()).then(|| format!("https://{host}{port}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let of = |host, to| location(host, to, "/hub?a=b");
        assert_eq!(of("h", 443).unwrap(), "https://h/hub?a=b");
        assert_eq!(of("h:80", 8443).unwrap(), "https://h:8443/hub?a=b");
        assert_eq!(of("[::1]:80", 443).unwrap(), "https://[::1]/hub?a=b");
        assert_eq!(of("", 443), None);
    }
}
