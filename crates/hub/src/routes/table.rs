//! The table of routes of a proxy that speaks configurable-http-proxy's REST API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use orrery_core::routes::{Route, RouteError, RouteTable};
use orrery_core::{Secret, escape};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::dial::Dialer;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a table that others change meanwhile is read again before it is replaced.
const ATTEMPTS: usize = 3;
/// A table of 100,000 routes is smaller than this.
const LARGEST_ANSWER: usize = 64 << 20;

/// A proxy's table, reached over HTTP.
pub struct HttpRouteTable {
    client: Client<Dialer, Full<Bytes>>,
    api: String,
    authorization: HeaderValue,
    host_routing: bool,
    at_once: Semaphore,
}

fn client(dialer: Dialer) -> Client<Dialer, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(20))
        .build(dialer)
}

impl HttpRouteTable {
    /// The table of the proxy whose API is at `api_url`. At most `concurrency` requests are under way
    /// at once. `tls` is how to speak TLS to it, if not as with any public address.
    pub fn new(
        api_url: &str,
        token: Secret,
        host_routing: bool,
        concurrency: usize,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, RouteError> {
        let dialer = Dialer::new(DEADLINE, tls);
        Self::with(dialer, api_url, token, host_routing, concurrency)
    }

    /// The same of a proxy that the hub starts itself: on this machine its token goes to no program of
    /// another account, which may have taken the address while the proxy was away.
    pub fn of_our_own_proxy(
        api_url: &str,
        token: Secret,
        host_routing: bool,
        concurrency: usize,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, RouteError> {
        let dialer = Dialer::new(DEADLINE, tls).refusing_strangers();
        Self::with(dialer, api_url, token, host_routing, concurrency)
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "the token belongs to the table from here on"
    )]
    fn with(
        dialer: Dialer,
        api_url: &str,
        token: Secret,
        host_routing: bool,
        concurrency: usize,
    ) -> Result<Self, RouteError> {
        let problem = |why: &str| RouteError {
            what: "cannot be asked".to_owned(),
            why: why.to_owned(),
        };
        let api = format!("{}/api/routes", api_url.trim_end_matches('/'));
        let uri: Uri = api
            .parse()
            .map_err(|_| problem("ConfigurableHTTPProxy.api_url is not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err(problem(
                "ConfigurableHTTPProxy.api_url does not begin with http:// or https://",
            ));
        }
        let mut authorization = HeaderValue::from_str(&format!("token {}", token.expose()))
            .map_err(|_| {
                problem("ConfigurableHTTPProxy.auth_token has characters that no header may have")
            })?;
        authorization.set_sensitive(true);
        Ok(Self {
            client: client(dialer),
            api,
            authorization,
            host_routing,
            at_once: Semaphore::new(concurrency.max(1)),
        })
    }

    /// The API's path of a route. Where routing is by host, the host is the first segment.
    fn path(&self, spec: &str) -> String {
        let trimmed = spec.trim_matches('/');
        if trimmed.is_empty() {
            self.api.clone() + "/"
        } else {
            format!("{}/{trimmed}", self.api)
        }
    }

    /// The specification of a route from its key in the API's answer, where it stands unescaped.
    fn spec(&self, path: &str) -> String {
        let mut spec: String = path
            .split('/')
            .map(escape::path_segment)
            .collect::<Vec<_>>()
            .join("/");
        if self.host_routing {
            spec = spec.trim_start_matches('/').to_owned();
        }
        if !spec.ends_with('/') {
            spec.push('/');
        }
        spec
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Bytes), String> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let (status, _, body) = self.ask_if(method, url, body, None).await?;
        Ok((status, body))
    }

    /// One request, if the table still has a certain tag. The answer may have a tag too.
    async fn ask_if(
        &self,
        method: Method,
        url: &str,
        body: String,
        tag: Option<&HeaderValue>,
    ) -> Result<(StatusCode, Option<HeaderValue>, Bytes), String> {
        let asking = async {
            let _turn = self
                .at_once
                .acquire()
                .await
                .map_err(|error| error.to_string())?;
            let mut request = Request::builder()
                .method(method)
                .uri(url)
                .header(AUTHORIZATION, self.authorization.clone())
                .header(CONTENT_TYPE, "application/json");
            if let Some(tag) = tag {
                request = request.header(IF_MATCH, tag);
            }
            let request = request
                .body(Full::new(Bytes::from(body)))
                .map_err(|error| error.to_string())?;
            let response = self.client.request(request).await.map_err(|error| {
                use std::error::Error as _;
                error
                    .source()
                    .map_or_else(|| error.to_string(), ToString::to_string)
            })?;
            let status = response.status();
            let tag = response.headers().get(ETAG).cloned();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok((status, tag, body.to_bytes()))
        };
        match tokio::time::timeout(DEADLINE, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} seconds", DEADLINE.as_secs())),
        }
    }
}

#[async_trait]
impl RouteTable for HttpRouteTable {
    async fn routes(&self) -> Result<BTreeMap<String, Route>, RouteError> {
        let failed = |why: String| RouteError {
            what: "did not tell its routes".to_owned(),
            why,
        };
        let (status, body) = self
            .ask(Method::GET, &self.api, None)
            .await
            .map_err(failed)?;
        if status == StatusCode::FORBIDDEN || status == StatusCode::UNAUTHORIZED {
            return Err(failed(
                "it does not accept our token (CONFIGPROXY_AUTH_TOKEN)".to_owned(),
            ));
        }
        if status != StatusCode::OK {
            return Err(failed(format!("it answered {status}")));
        }
        let table: BTreeMap<String, Map<String, Value>> = serde_json::from_slice(&body)
            .map_err(|error| failed(format!("its answer is not understood: {error}")))?;
        Ok(table
            .into_iter()
            .filter_map(|(path, mut data)| {
                // Routes that others made are none of ours.
                data.remove("jupyterhub")?;
                let target = data.remove("target")?.as_str()?.to_owned();
                let data = Value::Object(data);
                Some((self.spec(&path), Route { target, data }))
            })
            .collect())
    }

    async fn has(&self, spec: &str) -> Result<bool, RouteError> {
        let failed = |why: String| RouteError {
            what: format!("did not tell of the route {spec}"),
            why,
        };
        let (status, _) = self
            .ask(Method::GET, &self.path(spec), None)
            .await
            .map_err(failed)?;
        match status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(failed(format!("it answered {status}"))),
        }
    }

    async fn add(&self, spec: &str, route: &Route) -> Result<(), RouteError> {
        let failed = |why: String| RouteError {
            what: format!("did not add the route {spec}"),
            why,
        };
        let body = Value::Object(body_of(route));
        let (status, _) = self
            .ask(Method::POST, &self.path(spec), Some(body))
            .await
            .map_err(failed)?;
        if status.is_success() {
            Ok(())
        } else {
            Err(failed(format!("it answered {status}")))
        }
    }

    /// Reads the whole table and replaces it, unless somebody has changed it meanwhile: so no
    /// route is lost that others add. configurable-http-proxy can do neither.
    async fn change(
        &self,
        add: &[(&String, &Route)],
        delete: &[&String],
    ) -> Result<bool, RouteError> {
        let failed = |why: String| RouteError {
            what: format!("did not change {} routes", add.len() + delete.len()),
            why,
        };
        for _ in 0..ATTEMPTS {
            let (status, tag, body) = self
                .ask_if(Method::GET, &self.api, String::new(), None)
                .await
                .map_err(failed)?;
            let Some(tag) = tag.filter(|_| status == StatusCode::OK) else {
                return Ok(false);
            };
            let mut table: BTreeMap<String, Value> = serde_json::from_slice(&body)
                .map_err(|error| failed(format!("its answer is not understood: {error}")))?;
            for spec in delete {
                table.remove(&key(spec));
            }
            for (spec, route) in add {
                table.insert(key(spec), Value::Object(body_of(route)));
            }
            let table = serde_json::to_string(&table).map_err(|error| failed(error.to_string()))?;
            let (status, _, _) = self
                .ask_if(Method::PUT, &self.api, table, Some(&tag))
                .await
                .map_err(failed)?;
            match status {
                StatusCode::PRECONDITION_FAILED => {}
                StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED => return Ok(false),
                status if status.is_success() => return Ok(true),
                status => return Err(failed(format!("it answered {status}"))),
            }
        }
        Ok(false)
    }

    async fn delete(&self, spec: &str) -> Result<(), RouteError> {
        let failed = |why: String| RouteError {
            what: format!("did not delete the route {spec}"),
            why,
        };
        let (status, _) = self
            .ask(Method::DELETE, &self.path(spec), None)
            .await
            .map_err(failed)?;
        if status.is_success() || status == StatusCode::NOT_FOUND {
            Ok(())
        } else {
            Err(failed(format!("it answered {status}")))
        }
    }
}

/// What the proxy keeps of a route.
fn body_of(route: &Route) -> Map<String, Value> {
    let mut body = route.data.as_object().cloned().unwrap_or_default();
    body.insert("target".to_owned(), Value::from(route.target.as_str()));
    body.insert("jupyterhub".to_owned(), Value::from(true));
    body
}

/// Where a route stands in the API's table: unescaped.
fn key(spec: &str) -> String {
    let path = spec.trim_matches('/');
    format!(
        "/{}",
        escape::decode(path).unwrap_or_else(|| path.to_owned())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(host_routing: bool) -> HttpRouteTable {
        HttpRouteTable::new(
            "http://127.0.0.1:8001",
            Secret::new("t"),
            host_routing,
            10,
            None,
        )
        .expect("a table")
    }

    #[tokio::test]
    async fn specifications_and_api_paths_belong_together() {
        // Left as the hub names a route, then the API's URL, then the key in its answer.
        for (spec, url, key) in [
            ("/", "/", "/"),
            ("/user/ada/", "/user/ada", "/user/ada"),
            (
                "/user/ada@x.org/a%20b/",
                "/user/ada@x.org/a%20b",
                "/user/ada@x.org/a b",
            ),
            ("/user/%C3%BC/", "/user/%C3%BC", "/user/ü"),
        ] {
            assert_eq!(
                table(false).path(spec),
                format!("http://127.0.0.1:8001/api/routes{url}")
            );
            assert_eq!(table(false).spec(key), spec);
        }
        assert_eq!(
            table(true).spec("/ada.hub.example/user/ada"),
            "ada.hub.example/user/ada/"
        );
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_asked_is_refused() {
        for bad in [
            "",
            "127.0.0.1:8001",
            "ftp://127.0.0.1:8001",
            "http+unix://x",
        ] {
            assert!(
                HttpRouteTable::new(bad, Secret::new("t"), false, 1, None).is_err(),
                "{bad:?}"
            );
        }
        assert!(HttpRouteTable::new("http://h:1", Secret::new("a\nb"), false, 1, None).is_err());
    }
}
