//! Asking for a server, and creating named ones.

use std::sync::atomic::Ordering;
use std::time::Duration;

use orrery_core::phase::Phase;
use orrery_core::{ServerName, UserName, fault};
use orrery_store::runs::{self, NewRun, Run};
use orrery_store::spawners::{self, NewSpawner, Spawner, SpawnerChanges};
use orrery_store::users::User;
use orrery_store::{ConnectionTrait, NaiveDateTime, StoreError, WriteError};
use serde_json::{Value, json};

use super::grant::Grant;
use super::run::Entry;
use super::view::log_name;
use super::{Course, CreateError, Engine, NamedServerError, RunId, StartError, names, view};

/// How long a start waits for the end of the one before, which failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for along with a start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StartRequest {
    /// What the user chose, an object; `None` takes what the last start had.
    pub options: Option<Value>,
    /// A new name to show, for named servers.
    pub display_name: Option<String>,
}

impl WriteError for StartError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl WriteError for CreateError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) | Self::Refused(NamedServerError::Store(error)) => Some(error),
            Self::Exists { .. } | Self::Refused(_) => None,
        }
    }
}

/// What the transaction of a request came to.
struct Begun {
    course: Course,
    options: Value,
    /// Its turn came at once, with this OAuth client.
    client_id: Option<String>,
}

impl Engine {
    /// Asks for a server and returns as soon as that is in the database; [`Engine::wait`] waits for
    /// the start. Beyond `concurrent_spawn_limit` the start waits for its turn.
    pub async fn start(
        &self,
        user: &User,
        server: &ServerName,
        request: StartRequest,
    ) -> Result<RunId, StartError> {
        let user_name = UserName::parse(&user.name).map_err(|error| {
            StartError::Refused(format!("This user cannot have servers: {error}."))
        })?;
        if request
            .options
            .as_ref()
            .is_some_and(|options| !options.is_object() && !options.is_null())
        {
            return Err(StartError::Refused(
                "user_options must be an object or null".to_owned(),
            ));
        }
        if let Some(display_name) = request
            .display_name
            .as_deref()
            .filter(|name| !name.is_empty())
            && !names::is_valid_display_name(display_name)
        {
            let error = NamedServerError::InvalidDisplayName(display_name.to_owned());
            return Err(StartError::Refused(error.to_string()));
        }
        // A server that died a moment ago, unnoticed, must not keep its user from starting it.
        // And one that did not start may still be coming down, which its user cannot know.
        match runs::active(self.store.read(), user.id, server.as_str()).await? {
            Some(run) if run.phase == Phase::Ready => {
                self.ask_whether_it_runs(&run).await?;
            }
            Some(run) if view::is_failing(&run) => {
                self.wait(RunId(run.id), PATIENCE).await?;
            }
            _ => {}
        }
        let grant = Grant::generate()?;
        let (user_name, request, grant) = (&user_name, &request, &grant);
        fault::point("start-asked");
        let launching = self.launching.read().await;
        let begun = self
            .store
            .write(|transaction| async move {
                self.begin(&transaction, user, user_name, server, request, grant)
                    .await
            })
            .await;
        let begun = match begun {
            // Two requests at once on a database with several writers: the other one was faster.
            Err(StartError::Store(error)) if error.is_duplicate() => {
                let run = runs::active(self.store.read(), user.id, server.as_str()).await?;
                return Err(run.map_or(StartError::Store(error), |run| {
                    occupied(user_name, server, &run)
                }));
            }
            other => other?,
        };
        fault::point("start-committed");
        let run = begun.course.run;
        if let Some(client_id) = begun.client_id {
            self.launch(
                begun.course,
                Entry::Start {
                    token: grant.token.clone(),
                    options: begun.options,
                    client_id,
                },
            );
        } else {
            drop(launching);
            tracing::info!(server = %log_name(user_name, server), %run, "the start waits for its turn");
            self.may_be_queued.store(true, Ordering::Relaxed);
            self.hints.wake(run.0);
        }
        Ok(run)
    }

    async fn begin(
        &self,
        transaction: &impl ConnectionTrait,
        user: &User,
        user_name: &UserName,
        server: &ServerName,
        request: &StartRequest,
        grant: &Grant,
    ) -> Result<Begun, StartError> {
        // First of all: what is counted below must stay true.
        runs::serialise(transaction).await?;
        let now = self.clock.now();
        if let Some(run) = runs::active(transaction, user.id, server.as_str()).await? {
            return Err(occupied(user_name, server, &run));
        }
        let settings = &self.settings;
        if settings.active_server_limit > 0 {
            let active = [
                Phase::Queued,
                Phase::Starting,
                Phase::Ready,
                Phase::Stopping,
            ];
            if runs::count_in(transaction, &active).await?
                >= u64::from(settings.active_server_limit)
            {
                return Err(StartError::TooManyServers);
            }
        }
        let at_once = settings.concurrent_spawn_limit == 0
            || runs::count_in(transaction, &[Phase::Queued, Phase::Starting]).await?
                < u64::from(settings.concurrent_spawn_limit);
        let spawner = self
            .spawner_row(transaction, user, server, request)
            .await
            .map_err(|error| match error {
                NamedServerError::Store(error) => StartError::Store(error),
                refused => StartError::Refused(refused.to_string()),
            })?;
        let options = match &spawner.user_options {
            Value::Null => json!({}),
            options => options.clone(),
        };
        let run = runs::insert(
            transaction,
            &NewRun {
                user_id: user.id,
                spawner_id: spawner.id,
                user_name: user.name.clone(),
                server_name: spawner.name.clone(),
                options: options.clone(),
                owner: Some(self.replica.clone()),
                lease_until: Some(now + settings.lease),
                deadline: Some(now + settings.queue_timeout),
                queued_at: now,
            },
        )
        .await?;
        let course = Course {
            run: RunId(run),
            spawner_id: spawner.id,
            user_id: user.id,
            user: user_name.clone(),
            server: server.clone(),
            queued_at: now,
            is_inherited: false,
        };
        let client_id = if at_once {
            self.write_turn(transaction, &course, grant, spawner.server_id, now)
                .await?
        } else {
            None
        };
        fault::point("start-written");
        Ok(Begun {
            course,
            options,
            client_id,
        })
    }

    /// Moves a queued run to starting, with everything the server is given, and gives its OAuth client.
    /// `None`: it was no longer queued.
    pub(super) async fn write_turn(
        &self,
        transaction: &impl ConnectionTrait,
        course: &Course,
        grant: &Grant,
        old_address: Option<i32>,
        now: NaiveDateTime,
    ) -> Result<Option<String>, StoreError> {
        let settings = &self.settings;
        let deadline = now + settings.start_timeout + settings.http_timeout + settings.grace;
        let turned = runs::transition(
            transaction,
            course.run.0,
            Phase::Queued,
            Phase::Starting,
            now,
            Some(deadline),
        )
        .await?;
        if !turned {
            return Ok(None);
        }
        self.write_grant(transaction, course, grant, old_address, now)
            .await
            .map(Some)
    }

    /// Upstream's checks on a named server that shall be created, started or renamed. `check_limit`
    /// is false where no server is added.
    pub async fn check_named_server(
        &self,
        user: &User,
        server: &ServerName,
        display_name: Option<&str>,
        check_limit: bool,
    ) -> Result<(), NamedServerError> {
        if !self.settings.allow_named_servers {
            return Err(NamedServerError::Disabled);
        }
        let existing = spawners::list_of_user(self.store.read(), user.id).await?;
        let is_new = !existing
            .iter()
            .any(|spawner| spawner.name == server.as_str());
        if check_limit && is_new {
            self.refuse_beyond_limit(user, &existing)?;
        }
        let is_valid = names::is_valid_name(server.as_str());
        if is_new {
            if !is_valid {
                return Err(NamedServerError::InvalidName(server.to_string()));
            }
            let display_name = display_name
                .filter(|name| !name.is_empty())
                .unwrap_or(server.as_str());
            if !names::is_valid_display_name(display_name) {
                return Err(NamedServerError::InvalidDisplayName(
                    display_name.to_owned(),
                ));
            }
        }
        if !is_valid && !self.settings.allow_invalid_named_server_start {
            return Err(NamedServerError::OldName(server.to_string()));
        }
        Ok(())
    }

    /// Makes the row of a named server without starting it. Call [`Engine::check_named_server`] first.
    pub async fn create_server(
        &self,
        user: &User,
        server: &ServerName,
        display_name: Option<&str>,
        options: Option<Value>,
    ) -> Result<(), CreateError> {
        let request = StartRequest {
            options,
            display_name: display_name.map(str::to_owned),
        };
        let request = &request;
        self.store
            .write(|transaction| async move {
                runs::serialise(&transaction).await?;
                if spawners::find(&transaction, user.id, server.as_str())
                    .await?
                    .is_some()
                {
                    return Err(CreateError::Exists {
                        user: user.name.clone(),
                        server: server.to_string(),
                    });
                }
                self.spawner_row(&transaction, user, server, request)
                    .await?;
                Ok(())
            })
            .await
    }

    fn refuse_beyond_limit(
        &self,
        user: &User,
        existing: &[Spawner],
    ) -> Result<(), NamedServerError> {
        let limit = self.settings.named_server_limit_per_user;
        let named = existing
            .iter()
            .filter(|spawner| !spawner.name.is_empty())
            .count();
        if limit > 0 && named >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(NamedServerError::Limit {
                user: user.name.clone(),
                limit,
            });
        }
        Ok(())
    }

    /// Finds or makes a server's row and writes what the request changes in it. The limit of named
    /// servers is looked at again here, where no other request can come in between.
    async fn spawner_row(
        &self,
        transaction: &impl ConnectionTrait,
        user: &User,
        server: &ServerName,
        request: &StartRequest,
    ) -> Result<Spawner, NamedServerError> {
        let is_new = spawners::find(transaction, user.id, server.as_str())
            .await?
            .is_none();
        if is_new && !server.is_default() && self.settings.named_server_limit_per_user > 0 {
            let existing = spawners::list_of_user(transaction, user.id).await?;
            self.refuse_beyond_limit(user, &existing)?;
        }
        Ok(write_spawner_row(transaction, user.id, server, request).await?)
    }
}

async fn write_spawner_row(
    transaction: &impl ConnectionTrait,
    user_id: i32,
    server: &ServerName,
    request: &StartRequest,
) -> Result<Spawner, StoreError> {
    let asked = request.display_name.clone().filter(|name| !name.is_empty());
    let options = request.options.clone().filter(|options| !options.is_null());
    let Some(mut spawner) = spawners::find(transaction, user_id, server.as_str()).await? else {
        let new = NewSpawner {
            user_id,
            name: server.to_string(),
            // As upstream: a server without a name of its own shows the one in its URL.
            display_name: Some(asked.unwrap_or_else(|| server.to_string())),
            user_options: options.unwrap_or(Value::Null),
            state: json!({}),
        };
        return spawners::insert(transaction, &new).await;
    };
    let changes = SpawnerChanges {
        display_name: asked
            .clone()
            .filter(|name| spawner.display_name.as_ref() != Some(name))
            .map(Some),
        user_options: options
            .clone()
            .filter(|options| spawner.user_options != *options),
        ..SpawnerChanges::default()
    };
    if changes != SpawnerChanges::default() {
        spawners::update(transaction, spawner.id, &changes).await?;
    }
    if let Some(options) = options {
        spawner.user_options = options;
    }
    Ok(spawner)
}

/// Why a server with an active run cannot be started.
fn occupied(user: &UserName, server: &ServerName, run: &Run) -> StartError {
    let id = RunId(run.id);
    let server = log_name(user, server);
    match run.phase.pending() {
        Some(pending) => StartError::Pending {
            server,
            pending,
            run: id,
        },
        None => StartError::AlreadyRunning { server, run: id },
    }
}
