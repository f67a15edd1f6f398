//! A proxy within a process: starting it, leaving it to another process, stopping it.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use serde_json::{Map, Value};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error, Options, background,
    control::{self, Listening},
    handover::{self, Predecessor, Successor},
    line::{End, Message},
    listen::Bound,
    metrics::Metrics,
    passed::{PassedSockets, Role},
    process::notify,
    routes::RouteTable,
    settings::Settings,
    state_file::StateFile,
    tls::Tls,
    worker,
};

/// What all workers and the API share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) tls: Tls,
    pub(crate) routes: RouteTable,
    pub(crate) metrics: Metrics,
    /// Another process listens now; accept nothing new, and serve what there is.
    pub(crate) retire: CancellationToken,
    /// Accept nothing new; end what can end.
    pub(crate) stop: CancellationToken,
    /// End everything.
    pub(crate) kill: CancellationToken,
    /// What speaks with the process after this one, and with the one before it.
    pub(crate) lines: TaskTracker,
    pub(crate) predecessors: TaskTracker,
    /// All processes that serve the site's users end, not this one alone.
    pub(crate) site_stops: CancellationToken,
    /// Ends them.
    lines_done: CancellationToken,
    /// A worker's thread has ended and nobody told it to.
    pub(crate) broken: CancellationToken,
}

impl Shared {
    /// Whether another process accepts what waits in the kernel now.
    pub(crate) fn is_succeeded(&self) -> bool {
        self.retire.is_cancelled() && !self.stop.is_cancelled()
    }

    /// Returns when nothing new may be accepted any more.
    pub(crate) async fn closed(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.retire.cancelled() => {}
        }
    }
}

/// A proxy that runs inside this process, on threads of its own.
///
/// Dropping the handle stops the proxy without waiting for requests; call
/// [`ProxyHandle::shutdown`] to let them end.
pub struct ProxyHandle {
    pub(crate) shared: Arc<Shared>,
    public: Option<SocketAddr>,
    api: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    redirect: Option<SocketAddr>,
    workers: TaskTracker,
    control: TaskTracker,
    /// Kept to be passed on to a successor, and for the files to be removed at the end.
    sockets: Vec<(Role, Bound)>,
}

/// How often the state file gets the latest activity.
const SAVE: Duration = Duration::from_mins(5);

/// How soon a state file that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Descriptors for listening, for the API, for files.
const OTHER_FILES: usize = 64;

/// So many connections are tried even where nearly no files may be open.
const FEWEST_CONNECTIONS: usize = 16;

/// How long what speaks with another process may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Starts a proxy in this process and returns when it listens. The options' token is used as it
/// stands; the environment, signals and the pid file are left to
/// [`crate::run`].
///
/// Must be called in a tokio runtime, which serves the REST API and the metrics.
pub async fn start(options: Options) -> Result<ProxyHandle, Error> {
    start_with(options, PassedSockets::default(), None).await
}

/// Starts with sockets that are open already, and with the routes of the proxy whose place this one
/// takes.
pub(crate) async fn start_with(
    options: Options,
    mut passed: PassedSockets,
    predecessor: Option<&mut Predecessor>,
) -> Result<ProxyHandle, Error> {
    let mut settings = options.settings()?;
    let tls = settings.tls.open()?;
    // First of all: a port that is taken must not leave anything half done.
    let public = passed.open(Role::Proxy, &settings.public)?;
    let api = passed.open(Role::Api, &settings.api)?;
    let metrics = match &settings.metrics {
        Some(place) => Some(passed.open(Role::Metrics, place)?),
        // A socket unit that has one wishes for them.
        None => passed.take(Role::Metrics)?,
    };
    let redirect = match &settings.redirect {
        Some(redirect) => Some(passed.open(Role::Redirect, &redirect.place)?),
        None => None,
    };
    passed.finish()?;
    public.keep_alive(settings.tcp_keepalive, settings.tcp_user_timeout);
    settings.max_connections = settings.max_connections.min(most_connections());

    let routes = RouteTable::new(settings.host_routing);
    if let Some(predecessor) = predecessor {
        // The default target is among them, unless the API has taken it away. The state file is
        // the predecessor's until it retires.
        if let Some(path) = &settings.state_file {
            StateFile::check(path)?;
        }
        predecessor.take_routes(&routes).await?;
        tracing::info!("Took over {} routes", routes.len());
    } else {
        if let Some(path) = &settings.state_file {
            routes.keep_in(StateFile::open(path).await?);
        }
        add_default_target(&settings, &routes)?;
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
        retire: CancellationToken::new(),
        stop: CancellationToken::new(),
        kill: CancellationToken::new(),
        lines: TaskTracker::new(),
        predecessors: TaskTracker::new(),
        site_stops: CancellationToken::new(),
        lines_done: CancellationToken::new(),
        broken: CancellationToken::new(),
    });
    let mut handle = ProxyHandle {
        public: public.address,
        api: api.address,
        metrics: metrics.as_ref().and_then(|bound| bound.address),
        redirect: redirect.as_ref().and_then(|bound| bound.address),
        workers: TaskTracker::new(),
        control: TaskTracker::new(),
        sockets: Vec::new(),
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
    handle.beside("saving the routes", save_now_and_then);
    handle.beside("looking for new certificates", watch_tls);

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
    handle.sockets = [
        (Role::Proxy, Some(public)),
        (Role::Api, Some(api)),
        (Role::Metrics, metrics),
        (Role::Redirect, redirect),
    ]
    .into_iter()
    .filter_map(|(role, bound)| Some((role, bound?)))
    .collect();
    Ok(handle)
}

fn add_default_target(settings: &Settings, routes: &RouteTable) -> Result<(), Error> {
    let Some(url) = &settings.default_target else {
        return Ok(());
    };
    let mut data = Map::new();
    data.insert("target".to_owned(), Value::from(&**url));
    let added = routes.add("/", data);
    let route = added.map_err(|error| Error::BadOption(format!("--default-target: {error}")))?;
    tracing::info!("Route added {} -> {}", route.path, route.target_url);
    Ok(())
}

/// So many connections have a descriptor for themselves and one for their server, with some left
/// for everything else.
fn most_connections() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    (files.saturating_sub(OTHER_FILES) / 2).max(FEWEST_CONNECTIONS)
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

    /// What SIGHUP asks for.
    pub(crate) fn reload(&self) {
        self.reload_tls();
        self.reopen_access_log();
    }

    /// Reads keys and certificates again, as SIGHUP has [`crate::run`] do. What cannot be read stays as it
    /// was, and the log says so.
    pub fn reload_tls(&self) {
        self.shared.tls.reload();
    }

    /// Opens the access log anew, as SIGHUP has [`crate::run`] do after somebody has moved the file away.
    pub fn reopen_access_log(&self) {
        if let Some(log) = &self.shared.settings.access_log {
            log.reopen();
        }
    }

    /// Stops the proxy: accepts nothing new, saves the routes, waits for requests and websockets
    /// until `--drain-timeout`, then cuts what is left.
    pub async fn shutdown(mut self) {
        let shared = Arc::clone(&self.shared);
        if !shared.retire.is_cancelled() {
            shared.site_stops.cancel();
        }
        shared.stop.cancel();
        self.sockets.clear();
        // Not at the end: meanwhile a proxy may start in this one's place, and the file is its own.
        let saved = tokio::task::spawn_blocking({
            let shared = Arc::clone(&shared);
            move || {
                shared.routes.save();
                shared.routes.give_up_file();
            }
        });
        self.close();
        let all = async {
            self.ended().await;
            if !shared.site_stops.is_cancelled() {
                return;
            }
            // Predecessors have been told to stop. Whoever looks after this process takes its end
            // for the end of all.
            tokio::select! {
                () = shared.predecessors.wait() => {}
                () = shared.kill.cancelled() => {}
            }
        };
        tokio::pin!(all);
        if tokio::time::timeout(shared.settings.drain_timeout, &mut all)
            .await
            .is_err()
        {
            shared.kill.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(5), &mut all).await;
        }
        let _ = saved.await;
        if let Some(log) = &shared.settings.access_log {
            log.flush();
        }
        self.end_lines().await;
    }

    /// Starts a successor. `None` if that fails, which the log explains, and this one goes on.
    pub(crate) async fn hand_over(&self) -> Option<Successor> {
        let limit = self.shared.settings.upgrade_timeout;
        let result = handover::hand_over(&self.sockets, &self.shared.routes, limit).await;
        match result {
            Ok(successor) => Some(successor),
            Err(error) => {
                tracing::error!("internal: not upgraded, this process goes on: {error}");
                None
            }
        }
    }

    /// Accepts nothing new, leaves all files to the successor, and serves what there is.
    pub(crate) async fn retire(&mut self, successor: Successor) {
        let Successor { mut line, pid } = successor;
        tracing::warn!("Process {pid} has taken over; what is open here is served to its end");
        // Before the successor says anything: systemd heeds the main process, which is this one.
        notify(&[NotifyState::MainPid(pid)]);
        self.shared.routes.give_up_file();
        self.shared.retire.cancel();
        for (_, mut bound) in self.sockets.drain(..) {
            bound.leave_file();
        }
        self.close();
        if let Err(error) = line.send(&Message::Released).await {
            tracing::error!("internal: the new process does not listen: {error}");
        }
        line.keep(&self.shared, End::Old, self.shared.lines_done.child_token());
    }

    /// Returns when nothing is left to serve, or it has taken too long, or the successor stops.
    pub(crate) async fn retired(&self) {
        let limit = self.shared.settings.upgrade_drain_timeout;
        tokio::select! {
            () = self.ended() => {}
            () = self.shared.stop.cancelled() => {}
            () = tokio::time::sleep(limit) => {
                tracing::warn!("The time for what is open is over (--upgrade-drain-timeout)");
            }
        }
    }

    /// Tells the predecessor that this one serves, and takes what it has in files.
    pub(crate) async fn relieve(&mut self, predecessor: Predecessor) {
        let routes = &self.shared.routes;
        let line = predecessor.relieve(routes).await;
        if let Some(path) = &self.shared.settings.state_file {
            match StateFile::open(path).await {
                Ok(mut file) => {
                    // What it says is known, and newer.
                    drop(file.take_loaded());
                    routes.keep_in(file);
                }
                Err(error) => tracing::error!("internal: routes are not kept: {error}"),
            }
        }
        if let Some(line) = line {
            line.keep(&self.shared, End::New, self.shared.lines_done.child_token());
        }
    }

    /// No more tasks will come than those of the connections there are.
    fn close(&self) {
        self.workers.close();
        self.control.close();
        self.shared.lines.close();
        self.shared.predecessors.close();
    }

    async fn ended(&self) {
        self.workers.wait().await;
        self.control.wait().await;
    }

    async fn end_lines(&self) {
        self.shared.lines_done.cancel();
        let ended = async {
            self.shared.lines.wait().await;
            self.shared.predecessors.wait().await;
        };
        let _ = tokio::time::timeout(FAREWELL, ended).await;
    }

    /// Has this work done until the proxy stops, whatever becomes of it meanwhile.
    fn beside<T>(&self, what: &'static str, mut work: impl FnMut(Arc<Shared>) -> T + Send + 'static)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        self.control.spawn(async move {
            let begin = || work(Arc::clone(&shared));
            background::keep_running(what, background::PAUSES, begin, || shared.closed()).await;
        });
    }

    fn start_workers(&mut self, threads: usize, public: &Bound) -> Result<(), Error> {
        let (senders, inboxes): (Vec<_>, Vec<_>) =
            (0..threads).map(|_| mpsc::unbounded_channel()).unzip();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let thread = worker::spawn(worker::Start {
                index,
                shared: Arc::clone(&self.shared),
                listeners: public.listeners()?,
                inbox,
                others: senders.clone(),
            })?;
            // Its sender is only ever dropped; that is the signal.
            let shared = Arc::clone(&self.shared);
            self.workers.spawn(watch(shared, "a worker", thread));
        }
        Ok(())
    }

    fn serve(&self, bound: &Bound, listening: Listening) -> Result<(), Error> {
        for listener in bound.listeners()? {
            let shared = Arc::clone(&self.shared);
            let tasks = self.control.clone();
            let task = tokio::spawn(control::accept(
                Arc::clone(&shared),
                listener,
                listening,
                tasks,
            ));
            self.control.spawn(watch(shared, "a listener", task));
        }
        Ok(())
    }
}

impl Drop for ProxyHandle {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.kill.cancel();
        self.shared.routes.give_up_file();
    }
}

/// What ends without having been told to would leave a proxy that serves a part of its users: a
/// worker takes its connections with it, and those that others would give it.
async fn watch(shared: Arc<Shared>, what: &str, part: impl Future) {
    part.await;
    if !shared.stop.is_cancelled() && !shared.retire.is_cancelled() {
        tracing::error!("internal: {what} has died; the proxy ends, to be started again");
        shared.broken.cancel();
    }
}

/// Reads changed keys and certificates until the proxy stops.
async fn watch_tls(shared: Arc<Shared>) {
    tokio::select! {
        () = shared.tls.watch() => {}
        () = shared.closed() => {}
    }
}

async fn save_now_and_then(shared: Arc<Shared>) {
    if shared.settings.state_file.is_none() {
        return;
    }
    let mut saved = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shared.closed() => return,
        }
        if saved.elapsed() < SAVE && !shared.routes.is_save_due() {
            continue;
        }
        let shared = Arc::clone(&shared);
        let _ = tokio::task::spawn_blocking(move || shared.routes.save()).await;
        saved = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::OurOptions;

    #[tokio::test]
    async fn a_part_that_dies_ends_the_proxy_and_one_that_is_told_to_does_not() {
        let any_port = || Options {
            ip: Some("127.0.0.1".to_owned()),
            port: Some(0),
            ours: OurOptions {
                threads: Some(1),
                ..OurOptions::default()
            },
            ..Options::default()
        };
        let handle = start(any_port()).await.unwrap();
        let shared = Arc::clone(&handle.shared);
        let (thread, watched) = oneshot::channel::<()>();
        let watching = tokio::spawn(watch(Arc::clone(&shared), "a test's part", watched));
        assert!(!shared.broken.is_cancelled());
        drop(thread);
        watching.await.unwrap();
        assert!(shared.broken.is_cancelled());
        handle.shutdown().await;

        // A worker's thread, with all that it would have served.
        let handle = start(any_port()).await.unwrap();
        let shared = Arc::clone(&handle.shared);
        let thread = worker::spawn_thread(17, || panic!("on purpose")).unwrap();
        watch(Arc::clone(&shared), "a worker", thread).await;
        assert!(shared.broken.is_cancelled());
        handle.shutdown().await;

        let handle = start(any_port()).await.unwrap();
        let shared = Arc::clone(&handle.shared);
        handle.shutdown().await;
        assert!(!shared.broken.is_cancelled());
    }
}
