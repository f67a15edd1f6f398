//! A database that goes away: noticed once, said once, and asked until it is back, so that everything
//! that needs it meanwhile fails at once instead of waiting in line.

use std::{
    future::Future,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    sync::{Arc, Weak},
    time::Duration,
};

use sea_orm::DbErr;
use sqlx::{
    ConnectOptions as _, Connection as _, mysql::MySqlConnectOptions, postgres::PgConnectOptions,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::error::{AWAY, StoreError, is_answer, is_lost};

/// How long the database may take to answer one look.
const LOOK: Duration = Duration::from_secs(2);
/// The pause between two looks at a database that is away, and how many may be under way at once.
const PAUSE: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 8;
/// What takes longer than this makes us look whether the database is there.
const SLOW: Duration = Duration::from_millis(500);
/// How often a lost connection is replaced by another one for the same piece of work.
const ATTEMPTS: u32 = 4;

/// What is known of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It answers.
    Up,
    /// A connection was lost; whether that was all is being found out.
    Suspected,
    /// It does not answer.
    Away,
}

/// How to ask whether the database is there.
#[derive(Clone)]
pub(crate) enum Look {
    /// A database that cannot be away.
    Never,
    Postgres(PgConnectOptions),
    MySql(MySqlConnectOptions),
}

/// What is known of whether the database is there and takes writes.
pub(crate) struct Health {
    look: Look,
    state: watch::Sender<State>,
    born: Instant,
    /// Milliseconds after `born` at which connections were last doubted; zero for never.
    doubted: AtomicU64,
    /// Whether it was said that nothing can be written.
    refuses_writes: AtomicBool,
}

impl Health {
    pub(crate) fn new(look: Look) -> Arc<Self> {
        Arc::new(Self {
            look,
            state: watch::Sender::new(State::Up),
            born: Instant::now(),
            doubted: AtomicU64::new(0),
            refuses_writes: AtomicBool::new(false),
        })
    }

    /// Whether a connection of this age comes from before the last trouble, and is to be tried first.
    pub(crate) fn doubts(&self, age: Duration) -> bool {
        let doubted = self.doubted.load(Ordering::SeqCst);
        let now = Instant::now().duration_since(self.born);
        doubted > 0 && now.saturating_sub(age) <= Duration::from_millis(doubted)
    }

    /// Does a piece of work that takes a connection and can be done again: with another connection
    /// when the first one turns out to be lost. While the database is away it fails at once.
    pub(crate) async fn repeating<T, F>(self: &Arc<Self>, work: impl Fn() -> F) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        let mut attempt = 1;
        loop {
            let error = match self.guarded(work()).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if attempt == ATTEMPTS || !is_lost(&error) {
                return Err(error);
            }
            if !self.is_back().await {
                return Err(away());
            }
            attempt += 1;
        }
    }

    /// Does a piece of work that takes a connection, until the database is known to be away.
    async fn guarded<T>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        if matches!(self.look, Look::Never) {
            return work.await;
        }
        let mut state = self.state.subscribe();
        if *state.borrow_and_update() == State::Away {
            return Err(away());
        }
        let mut work = pin!(work);
        let mut slow = pin!(tokio::time::sleep(SLOW));
        let mut is_slow = false;
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                // The sender lives as long as we do, so this ends only when it is away.
                _ = state.wait_for(|state| *state == State::Away) => return Err(away()),
                () = &mut slow, if !is_slow => {
                    is_slow = true;
                    self.suspect();
                }
            }
        }
    }

    /// After a connection was lost: whether the database is there all the same.
    pub(crate) async fn is_back(self: &Arc<Self>) -> bool {
        if matches!(self.look, Look::Never) {
            return false;
        }
        self.suspect();
        let mut state = self.state.subscribe();
        let verdict = state.wait_for(|state| *state != State::Suspected);
        matches!(verdict.await.map(|state| *state), Ok(State::Up))
    }

    /// Finds out whether the database is there, unless somebody is about it already.
    pub(crate) fn suspect(self: &Arc<Self>) {
        if matches!(self.look, Look::Never) {
            return;
        }
        let is_first = self.state.send_if_modified(|state| {
            let is_up = *state == State::Up;
            if is_up {
                *state = State::Suspected;
            }
            is_up
        });
        if is_first {
            tokio::spawn(until_it_answers(Arc::downgrade(self), self.look.clone()));
        }
    }

    /// To be told of each write's outcome, so that a full or read-only database is said once.
    pub(crate) fn wrote(&self, outcome: Result<(), &StoreError>) {
        match outcome {
            Ok(()) => {
                if self.refuses_writes.load(Ordering::Relaxed)
                    && self.refuses_writes.swap(false, Ordering::Relaxed)
                {
                    tracing::info!("the database takes writes again");
                }
            }
            Err(error @ (StoreError::Full { .. } | StoreError::ReadOnly { .. })) => {
                if !self.refuses_writes.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "nothing can be written; requests are refused until it can");
                }
            }
            Err(_) => {}
        }
    }

    fn set(&self, state: State) {
        // Connections from before may be lost without knowing it, whatever comes now.
        let now = Instant::now().duration_since(self.born).as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX).saturating_add(1);
        self.doubted.store(now, Ordering::SeqCst);
        self.state.send_replace(state);
    }
}

fn away() -> DbErr {
    DbErr::Custom(AWAY.to_owned())
}

/// Asks until the database answers or nobody needs it any more. A look that hangs, for instance in the
/// line of a server that is just ending, keeps none of the next from being tried.
async fn until_it_answers(health: Weak<Health>, look: Look) {
    let mut looks = JoinSet::new();
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut since = None;
    loop {
        let ended = tokio::select! {
            biased;
            Some(ended) = looks.join_next() => ended,
            _ = ticks.tick(), if looks.len() < AT_ONCE => {
                if health.strong_count() == 0 {
                    return;
                }
                looks.spawn(ask_in_time(look.clone()));
                continue;
            }
        };
        let Some(health) = health.upgrade() else {
            return;
        };
        match ended.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => {
                health.set(State::Up);
                if let Some(since) = since {
                    let seconds = Instant::now().duration_since(since).as_secs_f32();
                    tracing::info!(seconds, "the database answers again");
                }
                return;
            }
            Err(error) if since.is_none() => {
                health.set(State::Away);
                since = Some(Instant::now());
                tracing::error!(
                    error,
                    "the database is away; requests are refused until it answers"
                );
            }
            Err(_) => {}
        }
    }
}

async fn ask_in_time(look: Look) -> Result<(), String> {
    match tokio::time::timeout(LOOK, ask(&look)).await {
        // Our connections may work all the same, and nothing is gained by refusing everybody.
        Ok(Err(error)) if is_answer(&error) => {
            tracing::debug!(%error, "the database is there, but lets no new connection in");
            Ok(())
        }
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOK.as_secs())),
    }
}

async fn ask(look: &Look) -> Result<(), sqlx::Error> {
    match look {
        Look::Never => Ok(()),
        Look::Postgres(options) => {
            let mut connection = options.connect().await?;
            connection.ping().await?;
            connection.close().await
        }
        Look::MySql(options) => {
            let mut connection = options.connect().await?;
            connection.ping().await?;
            connection.close().await
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers the first words of whoever comes with these; the port.
    async fn server(is_first_to_speak: bool, answer: Vec<u8>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                if !is_first_to_speak {
                    let _ = stream.read(&mut [0; 1024]).await;
                }
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
                let _ = stream.read(&mut [0; 1024]).await;
            }
        });
        port
    }

    async fn asked_postgres(code: &str) -> Result<(), String> {
        let fields = format!("SFATAL\0VFATAL\0C{code}\0Mso it is\0\0");
        let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
        let answer = [b"E", &length[..], fields.as_bytes()].concat();
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(server(false, answer).await)
            .username("hub")
            .ssl_mode(sqlx::postgres::PgSslMode::Disable);
        ask_in_time(Look::Postgres(options)).await
    }

    async fn asked_mysql(number: u16) -> Result<(), String> {
        let said = [&[0xff][..], &number.to_le_bytes(), b"so it is"].concat();
        let length = u8::try_from(said.len()).unwrap();
        let answer = [&[length, 0, 0, 0][..], &said].concat();
        let options = MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(server(true, answer).await)
            .ssl_mode(sqlx::mysql::MySqlSslMode::Disabled);
        ask_in_time(Look::MySql(options)).await
    }

    #[tokio::test]
    async fn a_server_that_lets_nobody_in_is_there() {
        for code in ["53300", "28P01", "28000", "3D000", "42501"] {
            assert_eq!(asked_postgres(code).await, Ok(()), "{code}");
        }
        for code in ["57P01", "57P02", "57P03", "08006"] {
            let error = asked_postgres(code).await.expect_err(code);
            assert!(error.contains("so it is"), "{error}");
        }
        for number in [1040, 1045, 1049, 1129, 1203] {
            assert_eq!(asked_mysql(number).await, Ok(()), "{number}");
        }
        let error = asked_mysql(1053).await.expect_err("it shuts down");
        assert!(error.contains("so it is"), "{error}");
    }
}
