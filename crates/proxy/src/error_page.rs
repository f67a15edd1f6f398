//! Pages for requests that no server answers: from `--error-target`, from `--error-path`, or ours.

use std::{path::Path, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Limited};

use crate::{body::RequestBody, target::Target, worker::Worker};

#[derive(Default)]
pub(crate) struct Page {
    /// Only what describes the body.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Where pages come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A server asked for `<status>?url=<path and query>`; a hub has such pages.
    Target(Box<Target>),
    /// A folder with `404.html`, `503.html` and `error.html` for all others.
    Folder(std::path::PathBuf),
    BuiltIn,
}

/// A hub that is down or overloaded must not keep the client waiting.
const DEADLINE: Duration = Duration::from_secs(10);

/// A page longer than this is a mistake.
const LONGEST: usize = 1024 * 1024;

pub(crate) async fn get(worker: &Rc<Worker>, status: StatusCode, uri: &Uri) -> Page {
    match &worker.shared.settings.error_pages {
        Source::Target(target) => {
            let page = fetch(worker, target, status, uri);
            match tokio::time::timeout(DEADLINE, page).await {
                Ok(Ok(page)) => page,
                Ok(Err(reason)) => fallback(status, &reason),
                Err(_) => fallback(status, "the error target did not answer in time"),
            }
        }
        Source::Folder(folder) => match read(folder, status).await {
            Ok(content) => html(content.into()),
            Err(error) => fallback(status, &format!("{}: {error}", folder.display())),
        },
        Source::BuiltIn => built_in(status),
    }
}

async fn fetch(
    worker: &Rc<Worker>,
    target: &Target,
    status: StatusCode,
    uri: &Uri,
) -> Result<Page, String> {
    let mut request = Request::new(RequestBody::Empty);
    *request.uri_mut() = page_uri(target, status, uri).ok_or("the page's URL is not valid")?;
    let host = target.upstream.host.clone();
    request.headers_mut().insert(HOST, host);
    let sent = worker.pool.send(&target.upstream, request).await;
    let (response, sender) = sent.map_err(|fault| fault.to_string())?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body.map_err(|error| format!("the error target's page broke off: {error}"))?;
    worker.pool.put_back(target.upstream.id, sender);
    let mut headers = HeaderMap::new();
    for name in [CONTENT_TYPE, CONTENT_ENCODING] {
        if let Some(value) = head.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let body = body.to_bytes();
    Ok(Page { headers, body })
}

fn page_uri(target: &Target, status: StatusCode, uri: &Uri) -> Option<Uri> {
    let url = uri.path_and_query().map_or("/", |path| path.as_str());
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("url", url)
        .finish();
    let given = target.query.as_deref().map(|query| format!("{query}&"));
    let uri = format!(
        "{}/{}?{}{query}",
        target.base_path,
        status.as_u16(),
        given.unwrap_or_default()
    );
    uri.parse().ok()
}

async fn read(folder: &Path, status: StatusCode) -> std::io::Result<Vec<u8>> {
    let own = folder.join(format!("{}.html", status.as_u16()));
    match tokio::fs::read(own).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tokio::fs::read(folder.join("error.html")).await
        }
        result => result,
    }
}

/// Our own page when the site's cannot be had. The likeliest reason is a hub that restarts, so it
/// is people who see this; configurable-http-proxy shows them the bare status.
fn fallback(status: StatusCode, reason: &str) -> Page {
    tracing::error!("Failed to get custom error page: {reason}");
    built_in(status)
}

fn built_in(status: StatusCode) -> Page {
    html(Bytes::from_static(match status {
        StatusCode::NOT_FOUND => include_bytes!("pages/404.html"),
        StatusCode::SERVICE_UNAVAILABLE => include_bytes!("pages/503.html"),
        _ => include_bytes!("pages/error.html"),
    }))
}

fn html(body: Bytes) -> Page {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    Page { headers, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_uris() {
        let target = Target::parse("http://hub:8081/hub/error/").unwrap();
        let uri = "/user/a%40b/?x=1&y=ü".parse().unwrap();
        assert_eq!(
            page_uri(&target, StatusCode::NOT_FOUND, &uri).unwrap(),
            "/hub/error/404?url=%2Fuser%2Fa%2540b%2F%3Fx%3D1%26y%3D%C3%BC"
        );
    }
}
