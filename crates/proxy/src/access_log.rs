//! The access log: one line for each answered request, written by a thread of its own.
//!
//! Workers never wait for it: a line that finds the queue full is dropped and counted. Queries are
//! left out of request targets and referrers, because tokens stand in them.

use std::{
    cell::RefCell,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Utc};

use crate::Error;

/// How many lines may wait for the writer.
const QUEUE: usize = 8192;

/// So many bytes of one part of a request are logged; the rest is cut.
const LONGEST_PART: usize = 2048;

/// How often dropped lines are reported at most.
const REPORT: Duration = Duration::from_secs(10);

/// An open access log. Clones write to the same file.
#[derive(Clone)]
pub(crate) struct AccessLog {
    format: Format,
    queue: SyncSender<Message>,
    state: Arc<State>,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The common log format of web servers.
    Common,
    /// Common, with referrer and user agent.
    Combined,
    /// A JSON object.
    Json,
}

/// What is logged of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    /// The client's address; none on unix sockets.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) method: &'a [u8],
    /// As it stood in the request line; the query is left out here.
    pub(crate) target: &'a [u8],
    pub(crate) version: &'static str,
    pub(crate) status: u16,
    /// How long the body was that the client was sent.
    pub(crate) bytes: u64,
    pub(crate) referer: Option<&'a [u8]>,
    pub(crate) user_agent: Option<&'a [u8]>,
    pub(crate) duration: Duration,
    /// The path of the route that served the request.
    pub(crate) route: Option<&'a str>,
}

#[derive(Debug, Default)]
struct State {
    dropped: AtomicU64,
    reopen: AtomicBool,
}

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

impl Format {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "common" => Some(Self::Common),
            "combined" => Some(Self::Combined),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl AccessLog {
    /// Opens the file for appending, `-` for standard output, and starts the writer.
    pub(crate) fn open(path: &Path, format: Format) -> Result<Self, Error> {
        let path = (path != Path::new("-")).then(|| path.to_owned());
        let out = open(path.as_deref()).map_err(|source| Error::File {
            action: "write the access log",
            path: path.clone().unwrap_or_default(),
            source,
        })?;
        let (queue, messages) = sync_channel(QUEUE);
        let state = Arc::new(State::default());
        let writer = Writer {
            path,
            out,
            state: Arc::clone(&state),
            failed: false,
            reported: (0, None),
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&messages))
            .map_err(|source| Error::System {
                action: "start the access log's thread",
                source,
            })?;
        Ok(Self {
            format,
            queue,
            state,
        })
    }

    /// Logs one request. Never waits.
    pub(crate) fn write(&self, record: &Record<'_>) {
        let line = line(self.format, record, now());
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file anew, after somebody has moved it away.
    pub(crate) fn reopen(&self) {
        self.state.reopen.store(true, Ordering::Release);
        // An empty line wakes the writer; with a full queue it is awake.
        let _ = self.queue.try_send(Message::Line(Vec::new()));
    }

    /// Waits until all lines so far are written, one second at most.
    pub(crate) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }

    /// How many lines were dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessLog({:?})", self.format)
    }
}

fn open(path: Option<&Path>) -> io::Result<BufWriter<Out>> {
    let out = match path {
        None => Out::Standard(io::stdout()),
        Some(path) => Out::File(
            OpenOptions::new()
                .append(true)
                .create(true)
                // It tells who was where and when.
                .mode(0o640)
                .open(path)?,
        ),
    };
    Ok(BufWriter::with_capacity(64 * 1024, out))
}

enum Out {
    Standard(io::Stdout),
    File(File),
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Out::Standard(out) => out.write(bytes),
            Out::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::Standard(out) => out.flush(),
            Out::File(file) => file.flush(),
        }
    }
}

struct Writer {
    path: Option<PathBuf>,
    out: BufWriter<Out>,
    state: Arc<State>,
    /// The last write failed, and that was reported.
    failed: bool,
    /// How many dropped lines the proxy's log knows of, and since when.
    reported: (u64, Option<Instant>),
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let message = match messages.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    // Nobody sends: what is there goes out, and the thread sleeps.
                    self.flush();
                    self.report();
                    match messages.recv() {
                        Ok(message) => message,
                        Err(_) => break,
                    }
                }
            };
            if self.state.reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            }
            match message {
                Message::Line(line) => {
                    let result = self.out.write_all(&line);
                    self.note(&result);
                }
                Message::Flush(done) => {
                    self.flush();
                    let _ = done.try_send(());
                }
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        let result = self.out.flush();
        self.note(&result);
    }

    fn reopen(&mut self) {
        self.flush();
        match open(self.path.as_deref()) {
            Ok(out) => self.out = out,
            Err(error) => tracing::error!(
                "the access log cannot be opened anew, the old file is written on: {error}"
            ),
        }
    }

    /// A full disk is reported once, not for each line.
    fn note(&mut self, result: &io::Result<()>) {
        if let Err(error) = result
            && !self.failed
        {
            tracing::error!("the access log cannot be written: {error}");
        }
        if result.is_err() {
            // What cannot be written is given up, or the buffer would be tried forever.
            if let Ok(out) = open(self.path.as_deref()) {
                let _ = std::mem::replace(&mut self.out, out).into_parts();
            }
        }
        self.failed = result.is_err();
    }

    fn report(&mut self) {
        let dropped = self.state.dropped.load(Ordering::Relaxed);
        let (known, since) = self.reported;
        let now = Instant::now();
        if dropped > known && since.is_none_or(|since| now - since >= REPORT) {
            tracing::warn!(
                "the access log is too slow: {} lines were dropped",
                dropped - known
            );
            self.reported = (dropped, Some(now));
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a log line bears the time at which it is written"
)]
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn line(format: Format, record: &Record<'_>, time: Duration) -> Vec<u8> {
    let mut line = match format {
        Format::Common | Format::Combined => plain(record, time),
        Format::Json => json(record, time),
    };
    if format == Format::Combined {
        for part in [record.referer.map(without_query), record.user_agent] {
            line.push_str(" \"");
            match part {
                Some(part) => escape(part, &mut line),
                None => line.push('-'),
            }
            line.push('"');
        }
    }
    line.push('\n');
    line.into_bytes()
}

fn plain(record: &Record<'_>, time: Duration) -> String {
    let mut line = String::with_capacity(256);
    match record.peer {
        Some(peer) => {
            let _ = write!(line, "{}", peer.to_canonical());
        }
        None => line.push('-'),
    }
    line.push_str(" - - [");
    push_time(time, &mut line);
    line.push_str("] \"");
    escape(record.method, &mut line);
    line.push(' ');
    escape(without_query(record.target), &mut line);
    let _ = write!(
        line,
        " {}\" {} {}",
        record.version, record.status, record.bytes
    );
    line
}

fn json(record: &Record<'_>, time: Duration) -> String {
    let text = |bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(LONGEST_PART)];
        let text = serde_json::Value::from(String::from_utf8_lossy(bytes).into_owned());
        // JSON leaves some control characters as they are; terminals obey them.
        let is_control = |c: char| c.is_control();
        text.to_string().replace(is_control, "\u{fffd}")
    };
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let time = DateTime::from_timestamp(seconds, time.subsec_nanos()).unwrap_or_default();
    let time = time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let mut line = format!("{{\"time\":\"{time}\"");
    if let Some(peer) = record.peer {
        let _ = write!(line, ",\"peer\":\"{}\"", peer.to_canonical());
    }
    let _ = write!(
        line,
        ",\"method\":{},\"path\":{},\"version\":\"{}\",\"status\":{},\"bytes\":{},\"seconds\":{:.6}",
        text(record.method),
        text(without_query(record.target)),
        record.version,
        record.status,
        record.bytes,
        record.duration.as_secs_f64(),
    );
    for (name, value) in [
        ("route", record.route.map(str::as_bytes)),
        ("referer", record.referer.map(without_query)),
        ("user_agent", record.user_agent),
    ] {
        if let Some(value) = value {
            let _ = write!(line, ",\"{name}\":{}", text(value));
        }
    }
    line.push('}');
    line
}

/// Tokens and OAuth codes stand in queries, so no query is logged.
fn without_query(target: &[u8]) -> &[u8] {
    let end = target
        .iter()
        .position(|byte| matches!(byte, b'?' | b'#'))
        .unwrap_or(target.len());
    &target[..end]
}

/// Nothing that a client sends can end a line or a quoted part.
fn escape(bytes: &[u8], line: &mut String) {
    for byte in &bytes[..bytes.len().min(LONGEST_PART)] {
        match byte {
            b'"' | b'\\' | ..=0x1f | 0x7f.. => {
                let _ = write!(line, "\\x{byte:02X}");
            }
            _ => line.push(char::from(*byte)),
        }
    }
}

/// `22/Nov/2026:01:44:29 +0000`. Many requests have the same second.
fn push_time(time: Duration, line: &mut String) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    LAST.with_borrow_mut(|(second, text)| {
        if *second != time.as_secs() {
            *second = time.as_secs();
            let seconds = i64::try_from(*second).unwrap_or(i64::MAX);
            let time: DateTime<Utc> = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
            *text = time.format("%d/%b/%Y:%H:%M:%S +0000").to_string();
        }
        line.push_str(text);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>() -> Record<'a> {
        Record {
            peer: Some("::ffff:192.0.2.7".parse().unwrap()),
            method: b"GET",
            target: b"/user/ada/lab?token=secret",
            version: "HTTP/1.1",
            status: 200,
            bytes: 12,
            referer: Some(b"https://h/login?next=secret"),
            user_agent: Some(b"a \"b\"\n"),
            duration: Duration::from_millis(1500),
            route: Some("/user/ada"),
        }
    }

    fn text(format: Format, record: &Record<'_>) -> String {
        String::from_utf8(line(format, record, Duration::from_secs(1_577_934_245))).unwrap()
    }

    #[test]
    fn formats() {
        let common =
            "192.0.2.7 - - [02/Jan/2020:03:04:05 +0000] \"GET /user/ada/lab HTTP/1.1\" 200 12";
        assert_eq!(text(Format::Common, &record()), format!("{common}\n"));
        assert_eq!(
            text(Format::Combined, &record()),
            format!("{common} \"https://h/login\" \"a \\x22b\\x22\\x0A\"\n")
        );
        let json: serde_json::Value = serde_json::from_str(&text(Format::Json, &record())).unwrap();
        let expected = serde_json::json!({
            "time": "2020-01-02T03:04:05.000Z", "peer": "192.0.2.7", "method": "GET",
            "path": "/user/ada/lab", "version": "HTTP/1.1", "status": 200, "bytes": 12,
            "seconds": 1.5, "route": "/user/ada", "referer": "https://h/login",
            "user_agent": "a \"b\"\n",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn no_request_writes_two_lines_or_leaves_its_quotes() {
        let evil: Vec<u8> = (0..=255).collect();
        let record = Record {
            method: &evil,
            target: &evil,
            user_agent: Some(&evil),
            referer: Some(&evil),
            ..record()
        };
        for format in [Format::Common, Format::Combined, Format::Json] {
            let text = text(format, &record);
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(!text.trim_end().contains(|c: char| c.is_control()));
        }
        assert_eq!(text(Format::Combined, &record).matches('"').count(), 6);
    }

    #[test]
    fn lines_reach_the_file_and_a_moved_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access"), folder.path().join("moved"));
        let log = AccessLog::open(&path, Format::Common).unwrap();
        log.write(&record());
        log.flush();
        std::fs::rename(&path, &moved).unwrap();
        log.reopen();
        log.write(&record());
        log.write(&record());
        log.flush();
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((lines(&moved), lines(&path)), (1, 2));
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_writer_that_hangs_costs_lines_but_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix_mkfifo(&path);
        // A pipe that nobody reads, opened for both so that opening does not wait.
        let _reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let log = AccessLog::open(&path, Format::Common).unwrap();
        for _ in 0..(QUEUE + 10_000) {
            log.write(&record());
        }
        assert!(log.dropped() > 0);
    }

    fn nix_mkfifo(path: &Path) {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }
}
