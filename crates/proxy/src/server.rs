//! Starting, running and stopping the proxy.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error, Options, Token, api,
    listen::{Bound, Listener, SocketFile},
    metrics::Metrics,
    options::Settings,
    redirect,
    routes::RouteTable,
    state_file::StateFile,
    tls::Tls,
    transport::Stream,
    worker,
};

/// What all workers and the API share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) tls: Tls,
    pub(crate) routes: RouteTable,
    pub(crate) metrics: Metrics,
    /// Accept nothing new; end what can end.
    pub(crate) stop: CancellationToken,
    /// End everything.
    pub(crate) kill: CancellationToken,
}

/// A proxy that runs inside this process, on threads of its own.
///
/// Dropping the handle stops the proxy without waiting for requests; call
/// [`ProxyHandle::shutdown`] to let them end.
pub struct ProxyHandle {
    shared: Arc<Shared>,
    public: Option<SocketAddr>,
    api: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    redirect: Option<SocketAddr>,
    workers: Vec<oneshot::Receiver<()>>,
    control: TaskTracker,
    /// Kept for the files to be removed at the end.
    socket_files: Vec<SocketFile>,
}

/// How often the state file gets the latest activity.
const SAVE: Duration = Duration::from_mins(5);

/// How long an API client may take to send its request's head.
const API_HEAD_DEADLINE: Duration = Duration::from_mins(1);

/// Runs the proxy until SIGTERM or SIGINT, for `orrery proxy`.
///
/// It starts logging at `--log-level` unless the program already logs, reads the token from
/// `CONFIGPROXY_AUTH_TOKEN` unless the options hold one, and writes the pid file. After the signal
/// it accepts nothing new and waits for requests and websockets until `--drain-timeout`; a second
/// signal ends it at once. SIGHUP has it read keys and certificates again.
pub async fn run(mut options: Options) -> Result<(), Error> {
    crate::init_logging(&options)?;
    if options.auth_token.is_none() {
        let token = std::env::var("CONFIGPROXY_AUTH_TOKEN").unwrap_or_default();
        options.auth_token = Token::new(&token);
    }
    let signals = |kind| {
        signal(kind).map_err(|source| Error::System {
            action: "listen to signals",
            source,
        })
    };
    let mut terminate = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    let mut hangup = signals(SignalKind::hangup())?;
    let pid_path = options.pid_file.clone();
    let handle = start(options).await?;
    let _pid_file = pid_path.map(|path| PidFile::write(&path)).transpose()?;
    loop {
        tokio::select! {
            _ = terminate.recv() => tracing::warn!("Terminated"),
            _ = interrupt.recv() => tracing::warn!("Interrupted"),
            _ = hangup.recv() => {
                handle.reload_tls();
                continue;
            }
        }
        break;
    }
    let kill = handle.shared.kill.clone();
    let shutdown = handle.shutdown();
    tokio::pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => return Ok(()),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    kill.cancel();
    shutdown.await;
    Ok(())
}

/// Starts a proxy in this process and returns when it listens. The options' token is used as it
/// stands; the environment, signals and the pid file are left to [`run`].
///
/// Must be called in a tokio runtime, which serves the REST API and the metrics.
pub async fn start(options: Options) -> Result<ProxyHandle, Error> {
    let settings = options.settings()?;
    let tls = settings.tls.open()?;
    // First of all: a port that is taken must not leave anything half done.
    let public = settings.public.bind("the proxy")?;
    let api = settings.api.bind("its API")?;
    let metrics = match &settings.metrics {
        Some(place) => Some(place.bind("metrics")?),
        None => None,
    };

    let redirect = match &settings.redirect {
        Some(redirect) => Some(redirect.place.bind("redirects")?),
        None => None,
    };

    let routes = RouteTable::new(settings.host_routing);
    if let Some(path) = &settings.state_file {
        routes.keep_in(StateFile::open(path)?);
    }
    if let Some(url) = &settings.default_target {
        let mut data = Map::new();
        data.insert("target".to_owned(), Value::from(&**url));
        let added = routes.add("/", data);
        let route =
            added.map_err(|error| Error::BadOption(format!("--default-target: {error}")))?;
        tracing::info!("Route added {} -> {}", route.path, route.target_url);
    }
    if settings.auth_token.is_none() {
        tracing::warn!("REST API is not authenticated.");
    }
    let threads = settings.threads;
    let shared = Arc::new(Shared {
        settings,
        tls,
        routes,
        metrics: Metrics::new(threads),
        stop: CancellationToken::new(),
        kill: CancellationToken::new(),
    });
    let mut handle = ProxyHandle {
        public: public.address,
        api: api.address,
        metrics: metrics.as_ref().and_then(|bound| bound.address),
        redirect: redirect.as_ref().and_then(|bound| bound.address),
        workers: Vec::new(),
        control: TaskTracker::new(),
        socket_files: Vec::new(),
        shared,
    };
    handle.start_workers(threads, &public)?;
    handle.serve(&api, Listening::Api)?;
    if let Some(metrics) = &metrics {
        handle.serve(metrics, Listening::Metrics)?;
    }
    if let Some(redirect) = &redirect {
        handle.serve(redirect, Listening::Redirect)?;
    }
    handle
        .control
        .spawn(save_now_and_then(Arc::clone(&handle.shared)));
    handle.control.spawn(watch_tls(Arc::clone(&handle.shared)));

    let target = handle.shared.settings.default_target.as_deref();
    let target = target.unwrap_or("(no default)");
    let tls = &handle.shared.tls;
    let scheme = |secure: bool| if secure { "https" } else { "http" };
    let (proxy, control) = (scheme(tls.public.is_some()), scheme(tls.api.is_some()));
    tracing::info!("Proxying {proxy}://{} to {target}", public.name);
    tracing::info!("Proxy API at {control}://{}/api/routes", api.name);
    if let Some(metrics) = &metrics {
        tracing::info!("Serve metrics at http://{}/metrics", metrics.name);
    }
    if let (Some(from), Some(redirect)) = (handle.redirect, &handle.shared.settings.redirect) {
        tracing::info!(
            "Added HTTP to HTTPS redirection from {} to {}",
            from.port(),
            redirect.to
        );
    }
    let bound = [Some(public), Some(api), metrics, redirect]
        .into_iter()
        .flatten();
    handle.socket_files = bound.filter_map(Bound::into_socket_file).collect();
    Ok(handle)
}

#[derive(Clone, Copy)]
enum Listening {
    Api,
    Metrics,
    Redirect,
}

impl ProxyHandle {
    /// Where users are served; `None` on a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.public
    }

    /// Where the REST API is served; `None` on a unix socket.
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.api
    }

    /// Where the metrics are served, if anywhere, and not on a unix socket.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Where plain HTTP is led to HTTPS, if anywhere.
    pub fn redirect_address(&self) -> Option<SocketAddr> {
        self.redirect
    }

    /// Reads keys and certificates again, as SIGHUP has [`run`] do. What cannot be read stays as it
    /// was, and the log says so.
    pub fn reload_tls(&self) {
        self.shared.tls.reload();
    }

    /// Stops the proxy: accepts nothing new, waits for requests and websockets until
    /// `--drain-timeout`, then cuts what is left.
    pub async fn shutdown(mut self) {
        self.shared.stop.cancel();
        self.control.close();
        let workers = std::mem::take(&mut self.workers);
        let ended = async {
            for worker in workers {
                // The sender is only ever dropped; that is the signal.
                let _ = worker.await;
            }
            self.control.wait().await;
        };
        tokio::pin!(ended);
        if tokio::time::timeout(self.shared.settings.drain_timeout, &mut ended)
            .await
            .is_err()
        {
            self.shared.kill.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(5), ended).await;
        }
        self.shared.routes.save();
        self.socket_files.clear();
    }

    fn start_workers(&mut self, threads: usize, public: &Bound) -> Result<(), Error> {
        let (senders, inboxes): (Vec<_>, Vec<_>) =
            (0..threads).map(|_| mpsc::unbounded_channel()).unzip();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            self.workers.push(worker::spawn(worker::Start {
                index,
                shared: Arc::clone(&self.shared),
                listeners: public.listeners()?,
                inbox,
                others: senders.clone(),
            })?);
        }
        Ok(())
    }

    fn serve(&self, bound: &Bound, listening: Listening) -> Result<(), Error> {
        for listener in bound.listeners()? {
            let shared = Arc::clone(&self.shared);
            let tasks = self.control.clone();
            self.control
                .spawn(accept_control(shared, listener, listening, tasks));
        }
        Ok(())
    }
}

impl Drop for ProxyHandle {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.kill.cancel();
    }
}

/// Accepts connections for the API or the metrics.
async fn accept_control(
    shared: Arc<Shared>,
    listener: Listener,
    listening: Listening,
    tasks: TaskTracker,
) {
    let listener = match listener.into_tokio() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("internal: cannot listen for the API: {error}");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        let socket = match accepted.and_then(|(accepted, _)| accepted.into_socket()) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!("internal: cannot accept API connections for now: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let stop = shared.stop.clone();
            let tls = shared.tls.api.as_ref();
            let stream = match tls.filter(|_| matches!(listening, Listening::Api)) {
                None => Stream::Plain(socket),
                Some(tls) => match tls.accept(socket).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::debug!("downstream: no TLS with an API client: {error}");
                        return;
                    }
                },
            };
            let service = service_fn(move |request: Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move {
                    match listening {
                        Listening::Api => api::handle(shared, request).await,
                        Listening::Metrics => Ok::<_, Infallible>(api::metrics(&shared, &request)),
                        Listening::Redirect => Ok(redirect::answer(&shared, &request)),
                    }
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(API_HEAD_DEADLINE)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let result = tokio::select! {
                result = &mut connection => result,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!("downstream: an API connection ended early: {error}");
            }
        });
    }
}

/// Reads changed keys and certificates until the proxy stops.
async fn watch_tls(shared: Arc<Shared>) {
    tokio::select! {
        () = shared.tls.watch() => {}
        () = shared.stop.cancelled() => {}
    }
}

async fn save_now_and_then(shared: Arc<Shared>) {
    if shared.settings.state_file.is_none() {
        return;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(SAVE) => {}
            () = shared.stop.cancelled() => return,
        }
        let shared = Arc::clone(&shared);
        let saved = tokio::task::spawn_blocking(move || shared.routes.save());
        let _ = saved.await;
    }
}

/// Removed when the proxy ends in good order.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<Self, Error> {
        let pid = std::process::id();
        tracing::info!("Writing pid {pid} to {}", path.display());
        fs::write(path, pid.to_string()).map_err(|source| Error::File {
            action: "write the pid file",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
