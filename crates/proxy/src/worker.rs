//! A worker: one thread that accepts connections and serves them to their end.
//!
//! Nothing a request needs is shared with other threads but the route table, so workers do not
//! wait for each other. A worker that has more connections than another hands new ones over.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::task::TaskTracker;

use crate::{
    Error,
    client::{self, Control, Verdict},
    edge_cache::EdgeCache,
    http1::head::{RequestHead, ResponseHead},
    http2,
    listen::{Accepted, BACKLOG, Listener},
    metrics::WorkerCounters,
    outbox::Outbox,
    overload::{self, Overload},
    pool::Pool,
    server::Shared,
    transport::Stream,
};

/// What everything is read into. One piece for all connections of a worker, so that those which
/// wait need none.
const SCRATCH: usize = 256 * 1024;

/// How much of it is used at a time: what is read may have to wait for its other side, in memory.
/// Only bodies whose readers are fast get more, see [`Outbox::room`].
pub(crate) const USUAL_READ: usize = 64 * 1024;

/// How often connections that wait for too long are looked for, at the least and at the most.
const SWEEP: Duration = Duration::from_secs(1);
const SHORTEST_SWEEP: Duration = Duration::from_millis(20);

/// How long a client that was accepted just before the end has to send its request.
const SETTLE: Duration = Duration::from_millis(100);

/// With too many connections, those end that have waited for a request for this long.
const BRIEFLY_IDLE: Duration = Duration::from_secs(1);

/// How often they are looked for then: there may be many, and many who want their places.
const MAKE_ROOM: Duration = Duration::from_millis(100);

pub(crate) struct Worker {
    index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// Kept from one request to the next.
    pub(crate) heads: Spares<Box<RequestHead>>,
    pub(crate) answers: Spares<Box<ResponseHead>>,
    pub(crate) outboxes: Spares<Outbox>,
    /// What the hub said of servers that do not run.
    pub(crate) edge_cache: RefCell<EdgeCache>,
    /// The time of the last sweep, near enough for limits.
    pub(crate) now: Cell<Instant>,
    /// Another process accepts; each connection gets one more answer, which says that it closes.
    pub(crate) retiring: Cell<bool>,
    /// No new requests; what runs may end.
    pub(crate) stopping: Cell<bool>,
    /// Everything ends now.
    pub(crate) killed: Cell<bool>,
    /// When idle connections were last looked for because there were too many.
    made_room: Cell<Instant>,
    controls: RefCell<HashMap<u64, Rc<Control>>>,
    next_control: Cell<u64>,
    pub(crate) tasks: TaskTracker,
}

/// A task's entry in its worker's list, as long as the task lives.
pub(crate) struct Registration {
    worker: Rc<Worker>,
    id: u64,
    pub(crate) control: Rc<Control>,
}

/// What reaches a worker from the others.
pub(crate) type Handover = mpsc::UnboundedSender<(Accepted, Option<IpAddr>)>;

pub(crate) struct Start {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) inbox: mpsc::UnboundedReceiver<(Accepted, Option<IpAddr>)>,
    pub(crate) others: Vec<Handover>,
}

/// Starts a worker's thread. It ends after `shared.stop`, when its connections have ended or
/// `shared.kill` is given; then the receiver is closed.
pub(crate) fn spawn(start: Start) -> Result<tokio::sync::oneshot::Receiver<()>, Error> {
    spawn_thread(start.index, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        match runtime {
            Ok(runtime) => runtime.block_on(run(start)),
            Err(error) => tracing::error!("internal: a worker cannot start: {error}"),
        }
    })
}

/// The receiver is closed when the thread ends, also by a panic.
pub(crate) fn spawn_thread(
    index: usize,
    work: impl FnOnce() + Send + 'static,
) -> Result<tokio::sync::oneshot::Receiver<()>, Error> {
    let (done, finished) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(format!("proxy-{index}"))
        .spawn(move || {
            let _done = done;
            work();
        })
        .map_err(|source| Error::System {
            action: "start a worker thread",
            source,
        })?;
    Ok(finished)
}

async fn run(start: Start) {
    let worker = Rc::new(Worker {
        index: start.index,
        pool: Pool::new(Arc::clone(&start.shared), start.index),
        scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
        heads: Spares::default(),
        answers: Spares::default(),
        outboxes: Spares::default(),
        edge_cache: RefCell::new(EdgeCache::new(start.shared.settings.edge_cache)),
        now: Cell::new(Instant::now()),
        retiring: Cell::new(false),
        stopping: Cell::new(false),
        killed: Cell::new(false),
        made_room: Cell::new(Instant::now()),
        controls: RefCell::default(),
        next_control: Cell::new(0),
        tasks: TaskTracker::new(),
        shared: start.shared,
    });
    let mut listening = JoinSet::new();
    for listener in start.listeners {
        listening.spawn_local(accept(Rc::clone(&worker), listener, start.others.clone()));
    }
    drop(start.others);
    let mut taking_over = JoinSet::new();
    taking_over.spawn_local(take_over(Rc::clone(&worker), start.inbox));
    let mut sweeping = JoinSet::new();
    sweeping.spawn_local(sweep(Rc::clone(&worker)));

    tokio::select! {
        // First, because accepting ends then too.
        biased;
        () = worker.shared.closed() => {}
        // None of them ends while the proxy runs; without it the worker would be half a one.
        _ = listening.join_next() => return,
        _ = taking_over.join_next() => return,
        _ = sweeping.join_next() => return,
    }
    // They end by themselves, with what was accepted. Then nobody hands anything over any more.
    let accepted = async {
        while listening.join_next().await.is_some() {}
        taking_over.join_next().await;
    };
    let _ = tokio::time::timeout(SETTLE, accepted).await;
    listening.shutdown().await;
    worker.tasks.close();
    if !worker.shared.stop.is_cancelled() {
        worker.retiring.set(true);
        worker.wake_all();
        tokio::select! {
            () = worker.tasks.wait() => return,
            () = worker.shared.stop.cancelled() => {}
        }
    }
    // What was accepted last has its first request on the way.
    tokio::select! {
        () = worker.tasks.wait() => return,
        () = tokio::time::sleep(SETTLE) => {}
        () = worker.shared.kill.cancelled() => {}
    }
    worker.stopping.set(true);
    worker.wake_all();
    tokio::select! {
        () = worker.tasks.wait() => return,
        () = worker.shared.kill.cancelled() => {}
    }
    worker.killed.set(true);
    worker.wake_all();
    // The tasks need one turn to end; the runtime drops what does not.
    let _ = tokio::time::timeout(Duration::from_secs(1), worker.tasks.wait()).await;
}

async fn accept(worker: Rc<Worker>, listener: Listener, others: Vec<Handover>) {
    let listener = match listener.into_tokio() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("internal: a worker cannot listen: {error}");
            return;
        }
    };
    let mut overload = Overload::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.shared.closed() => break,
        };
        match accepted {
            Ok((accepted, peer)) => {
                overload.is_over();
                worker.admit(accepted, peer, &others);
            }
            Err(error) if is_of_one_connection(&error) => {}
            // Out of file descriptors or memory: what is open goes on, and as it ends there is room
            // again.
            Err(error) => {
                worker.make_room();
                let shed = overload.shed(&listener, &error).await;
                let counter = &worker.counters().shed_connections;
                counter.fetch_add(shed, Ordering::Relaxed);
                tokio::time::sleep(overload::PAUSE).await;
            }
        }
    }
    if worker.shared.is_succeeded() {
        return;
    }
    // The kernel has accepted these, and would reset them.
    let mut looks = 0;
    for _ in 0..BACKLOG {
        match listener.accept_waiting().await {
            Some(Ok((accepted, peer))) => worker.admit(accepted, peer, &others),
            Some(Err(error)) if is_of_one_connection(&error) => {}
            // The runtime may only be about to learn of them.
            None if looks < 2 => {
                looks += 1;
                tokio::task::yield_now().await;
            }
            Some(Err(_)) | None => break,
        }
    }
}

/// A client that left before it was accepted is no reason to wait.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn take_over(
    worker: Rc<Worker>,
    mut inbox: mpsc::UnboundedReceiver<(Accepted, Option<IpAddr>)>,
) {
    while let Some((accepted, peer)) = inbox.recv().await {
        worker.serve(accepted, peer);
    }
}

/// Ends connections that wait too long for what they wait for, and idle pooled ones.
async fn sweep(worker: Rc<Worker>) {
    let settings = &worker.shared.settings;
    let limits = [
        Some(settings.keep_alive_timeout),
        Some(settings.header_timeout),
        settings.timeout,
        settings.proxy_timeout,
        settings.websocket_timeout,
    ];
    let shortest = limits.into_iter().flatten().min().unwrap_or(SWEEP);
    let mut interval = tokio::time::interval((shortest / 8).clamp(SHORTEST_SWEEP, SWEEP));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_pool_sweep = Instant::now();
    loop {
        interval.tick().await;
        let now = Instant::now();
        worker.now.set(now);
        for control in worker.controls.borrow().values() {
            control.judge(now, settings);
        }
        if now.duration_since(last_pool_sweep) >= SWEEP {
            last_pool_sweep = now;
            worker.pool.sweep(now);
        }
    }
}

impl Worker {
    pub(crate) fn counters(&self) -> &WorkerCounters {
        &self.shared.metrics.workers[self.index]
    }

    /// Enters the current task into the list of those that are told to end.
    pub(crate) fn register(self: &Rc<Self>) -> Registration {
        let id = self.next_control.get();
        self.next_control.set(id + 1);
        let control = Rc::new(Control::new(self.now.get()));
        self.controls.borrow_mut().insert(id, Rc::clone(&control));
        Registration {
            worker: Rc::clone(self),
            id,
            control,
        }
    }

    /// Whether one connection more may be served.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.metrics.open_connections() < self.shared.settings.max_connections
    }

    /// Counts a stream of HTTP/2 as a connection, as which it is served, for as long as it lives.
    pub(crate) fn count_stream(self: &Rc<Self>) -> Counted {
        self.counters().connections.fetch_add(1, Ordering::Relaxed);
        Counted(Rc::clone(self))
    }

    /// Serves a new connection unless there are too many.
    fn admit(self: &Rc<Self>, accepted: Accepted, peer: Option<IpAddr>, others: &[Handover]) {
        if self.has_room() {
            self.place(accepted, peer, others);
        } else {
            self.make_room();
            let shed = &self.counters().shed_connections;
            shed.fetch_add(1, Ordering::Relaxed);
            overload::refuse(accepted, self.shared.tls.public.is_none());
        }
    }

    /// Ends the connections that wait for a request, which their clients can make anew.
    fn make_room(&self) {
        let now = Instant::now();
        if now.duration_since(self.made_room.get()) < MAKE_ROOM {
            return;
        }
        self.made_room.set(now);
        for control in self.controls.borrow().values() {
            if control.is_idle_for(BRIEFLY_IDLE) {
                control.end(Verdict::Ended);
            }
        }
    }

    /// Serves a new connection here, or gives it to the worker that has the fewest.
    fn place(self: &Rc<Self>, accepted: Accepted, peer: Option<IpAddr>, others: &[Handover]) {
        let loads = &self.shared.metrics.workers;
        let mine = loads[self.index].connections.load(Ordering::Relaxed);
        let idlest = (0..others.len())
            .min_by_key(|index| loads[*index].connections.load(Ordering::Relaxed))
            .filter(|index| loads[*index].connections.load(Ordering::Relaxed) < mine);
        match idlest {
            Some(other) => {
                loads[other].connections.fetch_add(1, Ordering::Relaxed);
                if let Err(mpsc::error::SendError((accepted, peer))) =
                    others[other].send((accepted.detach(), peer))
                {
                    loads[other].connections.fetch_sub(1, Ordering::Relaxed);
                    self.count_and_serve(accepted, peer);
                }
            }
            None => self.count_and_serve(accepted, peer),
        }
    }

    fn count_and_serve(self: &Rc<Self>, accepted: Accepted, peer: Option<IpAddr>) {
        self.counters().connections.fetch_add(1, Ordering::Relaxed);
        self.serve(accepted, peer);
    }

    /// The connection has been counted for this worker.
    fn serve(self: &Rc<Self>, accepted: Accepted, peer: Option<IpAddr>) {
        let worker = Rc::clone(self);
        self.tasks.spawn_local(async move {
            let _counted = Counted(Rc::clone(&worker));
            match open(&worker, accepted).await {
                Ok(stream) if http2::is_chosen(&stream) => http2::serve(worker, stream, peer).await,
                Ok(stream) => client::serve(worker, stream, peer).await,
                Err(error) => tracing::debug!("downstream: a connection was lost: {error}"),
            }
        });
    }

    /// Whether connections end with the answer to their present request.
    pub(crate) fn is_leaving(&self) -> bool {
        self.stopping.get() || self.retiring.get()
    }

    fn wake_all(&self) {
        for control in self.controls.borrow().values() {
            control.wake();
        }
    }
}

/// The connection's bytes, after the handshake if there is one.
async fn open(worker: &Worker, accepted: Accepted) -> io::Result<Stream> {
    let socket = accepted.into_socket()?;
    let Some(tls) = &worker.shared.tls.public else {
        return Ok(Stream::Plain(socket));
    };
    tokio::select! {
        stream = tls.accept(socket) => stream,
        () = tokio::time::sleep(worker.shared.settings.header_timeout) => {
            Err(io::ErrorKind::TimedOut.into())
        }
        () = worker.shared.kill.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Things with buffers, kept for the next who needs one.
pub(crate) struct Spares<T> {
    kept: RefCell<Vec<T>>,
    /// What their buffers hold together.
    bytes: Cell<usize>,
}

/// Something whose buffers are worth keeping.
pub(crate) trait Spare: Default {
    fn capacity(&self) -> usize;
    fn clear(&mut self) {}
}

/// How many of a kind are kept, and the bytes that they may hold together.
const MOST_SPARES: usize = 64;
const MOST_SPARE_BYTES: usize = 128 * 1024;

impl<T> Default for Spares<T> {
    fn default() -> Self {
        Self {
            kept: RefCell::default(),
            bytes: Cell::new(0),
        }
    }
}

impl<T: Spare> Spares<T> {
    pub(crate) fn take(&self) -> T {
        let Some(spare) = self.kept.borrow_mut().pop() else {
            return T::default();
        };
        self.bytes.set(self.bytes.get() - spare.capacity());
        spare
    }

    pub(crate) fn give(&self, mut spare: T) {
        let mut kept = self.kept.borrow_mut();
        let bytes = self.bytes.get() + spare.capacity();
        if kept.len() < MOST_SPARES && bytes <= MOST_SPARE_BYTES {
            spare.clear();
            self.bytes.set(bytes);
            kept.push(spare);
        }
    }
}

impl Spare for Box<RequestHead> {
    fn capacity(&self) -> usize {
        self.fields.capacity()
    }
}

impl Spare for Box<ResponseHead> {
    fn capacity(&self) -> usize {
        self.fields.capacity()
    }
}

impl Spare for Outbox {
    fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn clear(&mut self) {
        Outbox::clear(self);
    }
}

/// Counts a connection no more when it is dropped.
pub(crate) struct Counted(Rc<Worker>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0
            .counters()
            .connections
            .fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.controls.borrow_mut().remove(&self.id);
    }
}
