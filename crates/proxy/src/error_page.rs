//! Pages for requests that no server answers: from `--error-target`, from `--error-path`, or ours.

use std::{path::Path, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::{answer::Page, target::Target, worker::Worker};

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

pub(crate) async fn get(worker: &Rc<Worker>, status: StatusCode, url: &str) -> Page {
    match &worker.shared.settings.error_pages {
        Source::Target(target) => {
            let page = fetch(worker, target, status, url);
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
    url: &str,
) -> Result<Page, String> {
    let uri = page_uri(target, status, url).ok_or("the page's URL is not valid")?;
    let request = Request::get(uri)
        .header(HOST, &target.upstream.host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let connecting = worker.pool.connect(&target.upstream);
    let stream = connecting.await.map_err(|fault| fault.to_string())?;
    let handshake = http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream.into_stream()));
    let (mut sender, connection) = handshake.await.map_err(|error| error.to_string())?;
    // Dropped at the end, and the connection with it: errors are seldom.
    let mut background = tokio::task::JoinSet::new();
    background.spawn_local(connection);
    let response = sender.send_request(request).await;
    let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body.map_err(|error| format!("the error target's page broke off: {error}"))?;
    let headers = [
        (CONTENT_TYPE, "Content-Type"),
        (CONTENT_ENCODING, "Content-Encoding"),
    ];
    let headers = headers.into_iter().filter_map(|(name, shown)| {
        let value = head.headers.get(name)?;
        Some((shown.into(), Bytes::copy_from_slice(value.as_bytes())))
    });
    Ok(Page {
        headers: headers.collect(),
        body: body.to_bytes(),
    })
}

fn page_uri(target: &Target, status: StatusCode, url: &str) -> Option<Uri> {
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
    Page {
        headers: vec![("Content-Type".into(), "text/html".into())],
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_uris() {
        let target = Target::parse("http://hub:8081/hub/error/").unwrap();
        assert_eq!(
            page_uri(&target, StatusCode::NOT_FOUND, "/user/a%40b/?x=1&y=ü").unwrap(),
            "/hub/error/404?url=%2Fuser%2Fa%2540b%2F%3Fx%3D1%26y%3D%C3%BC"
        );
    }
}
