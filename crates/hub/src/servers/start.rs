//! Bringing a server up: from the call of its spawner until it answers and has its route.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Uri;
use orrery_core::phase::{Cause, Failure, Phase};
use orrery_core::spawner::{Event, Events, RUN_VARIABLE, ServerTls, Started, Status};
use orrery_core::{Secret, fault};
use orrery_store::runs;
use orrery_store::spawners::{self, SpawnerChanges};
use orrery_store::{StoreError, servers};
use serde_json::Value;

use super::view::is_empty;
use super::{Course, Engine, environment, events, grant};
use crate::JUPYTERHUB_VERSION;

/// The variable by which a server knows itself as an OAuth client.
const CLIENT_ID: &str = "JUPYTERHUB_CLIENT_ID";

impl Engine {
    /// Starts the server and sees it through to ready. `false`: the row was moved by somebody else.
    pub(super) async fn bring_up(
        &self,
        course: &Course,
        token: Secret,
        options: Value,
        client_id: &str,
    ) -> Result<bool, Failure> {
        let mut spec = environment::spec(
            &self.settings,
            &self.urls,
            course.run,
            &course.user,
            &course.server,
            options,
            &token,
        )?;
        // The id that the row has, which is the usual one but where two servers would share it.
        if !self.settings.environment.contains_key(CLIENT_ID) {
            spec.environment
                .insert(CLIENT_ID.to_owned(), Secret::new(client_id));
        }
        spec.environment
            .insert(RUN_VARIABLE.to_owned(), Secret::new(course.mark()));
        spec.tls = self.certificate(course).await?;
        let base_url = spec.base_url.clone();
        let begun = tokio::time::Instant::now();
        let (reporter, mut reports) = Events::channel();
        fault::point("start-begins");
        let limit = self.settings.start_timeout;
        let start = tokio::time::timeout(limit, self.spawner.start(spec, reporter));
        let mut start = std::pin::pin!(start);
        let mut told = Vec::new();
        let started = loop {
            tokio::select! {
                // The start first: when it has returned, its own state is the newest.
                biased;
                outcome = &mut start => break outcome,
                Some(report) = reports.recv() => match report {
                    Event::State(state) => self.keep_state(course, &state).await?,
                    Event::Progress { percent, message } => {
                        let event = events::from_spawner(percent, &message);
                        self.keep_events(course, &[event.to_row()]).await?;
                    }
                },
            }
        };
        let started = started.map_err(|_| {
            Failure::new(
                Cause::Timeout,
                format!(
                    "The server could not be started within {} seconds.",
                    limit.as_secs_f32()
                ),
            )
        })??;
        fault::point("start-returned");
        while let Ok(report) = reports.try_recv() {
            if let Event::Progress { percent, message } = report {
                told.push(events::from_spawner(percent, &message).to_row());
            }
        }
        self.keep_address(course, &started, &base_url, &told)
            .await?;
        fault::point("start-address-kept");
        let is_ready = self.wait_for_it(course, &started).await?;
        if is_ready {
            tracing::info!(
                server = %course.log_name(),
                run = %course.run,
                seconds = begun.elapsed().as_secs_f32(),
                "the server is ready"
            );
        }
        Ok(is_ready)
    }

    /// A key and certificate for the server, with `internal_ssl`.
    async fn certificate(&self, course: &Course) -> Result<Option<ServerTls>, Failure> {
        let Some(internal) = &self.internal else {
            return Ok(None);
        };
        let certificates = Arc::clone(&internal.certificates);
        let (user, server, now) = (course.user.clone(), course.server.clone(), self.clock.now());
        let made =
            tokio::task::spawn_blocking(move || certificates.for_server(&user, &server, now))
                .await
                .expect("making a certificate does not panic");
        made.map(Some).map_err(|error| {
            tracing::error!(server = %course.log_name(), %error, "no certificate for a server");
            Failure::new(
                Cause::Internal,
                "The hub could not make a certificate for the server.",
            )
        })
    }

    /// Goes on with a start that an earlier life of the hub began: the server may well run.
    pub(super) async fn recover(&self, course: &Course) -> Result<bool, Failure> {
        let lost = || {
            Failure::new(
                Cause::Internal,
                "The hub was restarted while the server was starting. Please start it again.",
            )
        };
        let Some(spawner) = self
            .trying("read the server's state", || {
                spawners::find_by_id(self.store.read(), course.spawner_id)
            })
            .await?
        else {
            return Ok(false);
        };
        if is_empty(&spawner.state) {
            return Err(lost());
        }
        let address = match spawner.server_id {
            Some(id) => {
                self.trying("read the server's address", || {
                    servers::find(self.store.read(), id)
                })
                .await?
            }
            None => None,
        };
        // Without an address its start had not returned. Nobody can tell where it listens.
        let Some(address) = address.filter(|address| address.port > 0) else {
            return Err(lost());
        };
        let started = Started {
            url: url_of(&address),
            state: spawner.state,
        };
        match self.poll(&started.state).await {
            Some(Status::Exited(code)) => Err(self.exited(&started.state, code).await),
            Some(Status::Running) | None => self.wait_for_it(course, &started).await,
        }
    }

    /// Waits until the server answers, then gives it its route and says that it is ready.
    async fn wait_for_it(&self, course: &Course, started: &Started) -> Result<bool, Failure> {
        let base_url = self.urls.server(&course.user, &course.server);
        let url = format!("{}{base_url}api", started.url.trim_end_matches('/'));
        let url: Uri = url.parse().map_err(|_| {
            Failure::new(
                Cause::Spawner,
                format!("The spawner gave an address that is none: {}", started.url),
            )
        })?;
        let limit = self.settings.http_timeout;
        let mut trouble = String::new();
        let answer = tokio::select! {
            answer = tokio::time::timeout(limit, self.prober.until_it_answers(&url, &mut trouble)) => answer.ok(),
            failure = self.until_it_ends(&started.state) => return Err(failure),
        };
        let Some(answer) = answer else {
            let trouble = if trouble.is_empty() {
                String::new()
            } else {
                format!(" ({trouble})")
            };
            return Err(Failure::new(
                Cause::Unreachable,
                format!(
                    "The server was started but did not answer at {} within {} seconds{trouble}.",
                    started.url,
                    limit.as_secs_f32()
                ),
            ));
        };
        fault::point("start-answered");
        self.compare_versions(course, answer.version.as_deref());
        // Should the proxy be away, its route comes with the next check; the server is ready all the same.
        let routed = self
            .routes
            .add_server(&course.user, &course.server, &started.url)
            .await;
        if let Err(error) = &routed {
            tracing::warn!(server = %course.log_name(), %error, "the server's route must wait for the proxy");
        }
        fault::point("start-routed");
        let now = self.clock.now();
        let is_ready = self
            .trying("note that the server is ready", || {
                self.store.write(|transaction| async move {
                    runs::transition(
                        &transaction,
                        course.run.0,
                        Phase::Starting,
                        Phase::Ready,
                        now,
                        None,
                    )
                    .await
                })
            })
            .await?;
        if routed.is_err() {
            // The proxy may have come back, and been looked at, while the server was not ready yet.
            self.routes.wake();
        }
        Ok(is_ready)
    }

    async fn keep_events(&self, course: &Course, told: &[Value]) -> Result<(), Failure> {
        self.trying("keep the server's progress", || {
            self.store.write(|transaction| async move {
                for event in told {
                    runs::append_event(&transaction, course.run.0, event, events::KEPT).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .await?;
        self.hints.wake(course.run.0);
        Ok(())
    }

    /// Keeps where the server listens: all that the hub's next life needs to find it.
    async fn keep_address(
        &self,
        course: &Course,
        started: &Started,
        base_url: &str,
        told: &[Value],
    ) -> Result<(), Failure> {
        let address = grant::address(&started.url, base_url).ok_or_else(|| {
            Failure::new(
                Cause::Spawner,
                format!("The spawner gave an address that is none: {}", started.url),
            )
        });
        let changes = &SpawnerChanges {
            state: Some(grant::as_state(&started.state)),
            ..SpawnerChanges::default()
        };
        // The state first, also when the address is bad: what was started must be found to be stopped.
        let row = address.as_ref().ok();
        self.trying("keep the server's address", || {
            self.store.write(|transaction| async move {
                spawners::update(&transaction, course.spawner_id, changes).await?;
                if let Some(address) = row
                    && let Some(spawner) =
                        spawners::find_by_id(&transaction, course.spawner_id).await?
                    && let Some(id) = spawner.server_id
                {
                    servers::update(&transaction, id, address).await?;
                }
                for event in told {
                    runs::append_event(&transaction, course.run.0, event, events::KEPT).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .await?;
        address.map(|_| ())
    }

    /// A server of another major version may not understand the hub; said once.
    fn compare_versions(&self, course: &Course, version: Option<&str>) {
        let major = |version: &str| version.split('.').next().unwrap_or_default().to_owned();
        match version {
            Some(version) if major(version) == major(JUPYTERHUB_VERSION) => {}
            _ if self.warned_of_version.swap(true, Ordering::Relaxed) => {}
            Some(version) => tracing::warn!(
                server = %course.log_name(),
                version,
                "the server has another major version of jupyterhub than the {JUPYTERHUB_VERSION} that this hub \
                 speaks; logging in to it may fail"
            ),
            None => tracing::warn!(
                server = %course.log_name(),
                "the server does not tell its version of jupyterhub; is it jupyterhub-singleuser?"
            ),
        }
    }
}

/// `http://ip:port` of an address' row.
pub(crate) fn url_of(address: &servers::Server) -> String {
    let host = match address.ip.as_str() {
        "" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        ip if ip.contains(':') => format!("[{ip}]"),
        ip => ip.to_owned(),
    };
    let proto = if address.proto.is_empty() {
        "http"
    } else {
        &address.proto
    };
    format!("{proto}://{host}:{}", address.port)
}
