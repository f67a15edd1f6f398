//! Waiting until a started server answers HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::dial::Dialer;

/// The first pause between two attempts; most servers of tests and benches are up by then.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long one attempt may take: a server that accepts and says nothing is asked again.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The client that all servers are asked with. Connections are not kept: each server is asked until
/// it answers once.
#[derive(Clone)]
pub(super) struct Prober(Client<Dialer, Empty<Bytes>>);

/// A server's first answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Its `X-JupyterHub-Version`.
    pub(super) version: Option<String>,
}

impl Prober {
    /// `tls` is how to ask servers with `internal_ssl`.
    pub(super) fn new(tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(Dialer::new(ATTEMPT, tls));
        Self(client)
    }

    /// Asks `url` until it answers. As upstream, any status below 500 will do, even 404. Never
    /// returns without an answer: the caller has the deadline. What went wrong last is left in
    /// `trouble`.
    pub(super) async fn until_it_answers(&self, url: &Uri, trouble: &mut String) -> Answer {
        let mut pause = FIRST_PAUSE;
        loop {
            match tokio::time::timeout(ATTEMPT, self.ask(url)).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(problem)) => *trouble = problem,
                Err(_) => {
                    "it accepted a connection but did not answer".clone_into(trouble);
                }
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(1.4).min(LONGEST_PAUSE);
        }
    }

    async fn ask(&self, url: &Uri) -> Result<Answer, String> {
        let request = Request::get(url.clone())
            .header(http::header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let response = self.0.request(request).await.map_err(|error| {
            use std::error::Error as _;
            error
                .source()
                .map_or_else(|| error.to_string(), ToString::to_string)
        })?;
        if response.status().is_server_error() {
            return Err(format!("it answered {}", response.status()));
        }
        let version = response
            .headers()
            .get("x-jupyterhub-version")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        Ok(Answer { version })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_error_of_the_servers_own_is_not_yet_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            for status in [
                "503 Starting",
                "404 Not Found\r\nX-JupyterHub-Version: 6.1.1",
            ] {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.expect("a request");
                assert!(request[..count].starts_with(b"GET /user/ada/api "));
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream
                    .write_all(answer.as_bytes())
                    .await
                    .expect("an answer");
            }
        });
        let url: Uri = format!("http://127.0.0.1:{port}/user/ada/api")
            .parse()
            .expect("a URL");
        let mut trouble = String::new();
        let prober = Prober::new(None);
        let answer = prober.until_it_answers(&url, &mut trouble);
        let answer = tokio::time::timeout(Duration::from_secs(10), answer)
            .await
            .expect("an answer");
        assert_eq!(answer.version.as_deref(), Some("6.1.1"));
        assert!(trouble.contains("503"), "{trouble}");
    }
}
