//! What the hub's earlier life, a dead replica or JupyterHub itself left behind.

use std::collections::HashSet;

use orrery_core::fault;
use orrery_core::phase::Phase;
use orrery_store::runs::{self, NewRun};
use orrery_store::spawners::{self, ActiveSpawner, SpawnerChanges};
use orrery_store::{ConnectionTrait, NaiveDateTime, StoreError};
use serde_json::Value;

use super::run::Entry;
use super::{Course, Engine, RunId};

/// What [`Engine::reconcile`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Runs of an earlier life that go on.
    pub resumed: usize,
    /// Servers without a run, from JupyterHub's own database.
    pub adopted: usize,
    /// Runs that are stopped because their users are blocked now.
    pub blocked: usize,
}

impl Engine {
    /// Takes over what was left behind. Each run gets a task that asks the spawner first: what runs is
    /// kept and routed, what does not is cleaned. Returns when every run has its task; call it once,
    /// before the hub serves.
    pub async fn reconcile(&self) -> Result<Reconciled, StoreError> {
        let now = self.clock.now();
        let until = now + self.settings.lease;
        let which = self.may_take_over();
        self.store
            .write(|transaction| async move {
                runs::extend_leases(&transaction, &self.replica, until).await?;
                runs::take_over(&transaction, which, &self.replica, now, until).await?;
                // While no hub was there, no time of theirs has passed.
                let ours = runs::standing_owned(&transaction, &self.replica).await?;
                for run in ours {
                    self.renew_deadline(&transaction, run.id, run.phase, now)
                        .await?;
                }
                Ok::<_, StoreError>(())
            })
            .await?;
        fault::point("taken-over");
        self.load_leftovers().await?;
        let mut found = Reconciled::default();
        for run in runs::list_owned(self.store.read(), &self.replica).await? {
            if self.settings.blocked_users.contains(&run.user_name) {
                tracing::warn!(run = run.id, "stopping the server of a blocked user");
                self.stop_run(&run).await?;
                found.blocked += 1;
            } else {
                self.resume(&run).await?;
                found.resumed += 1;
            }
        }
        let all = [
            Phase::Queued,
            Phase::Starting,
            Phase::Ready,
            Phase::Stopping,
        ];
        let with_run: HashSet<i32> = runs::list(self.store.read(), &all)
            .await?
            .into_iter()
            .filter_map(|run| run.spawner_id)
            .collect();
        for active in spawners::list_active(self.store.read()).await? {
            if !with_run.contains(&active.spawner.id) && self.adopt(&active).await? {
                found.adopted += 1;
            }
        }
        self.dispatch().await;
        fault::point("resumed");
        if found != Reconciled::default() {
            tracing::info!(
                resumed = found.resumed,
                adopted = found.adopted,
                blocked = found.blocked,
                "took over the servers that were there"
            );
        }
        Ok(found)
    }

    /// Gives a run that goes on under another hub, or another life of it, the time that what is left
    /// to do may take: a server must not be ended because nobody looked at it.
    pub(super) async fn renew_deadline(
        &self,
        transaction: &impl ConnectionTrait,
        run: i64,
        phase: Phase,
        now: NaiveDateTime,
    ) -> Result<(), StoreError> {
        let settings = &self.settings;
        let time = match phase {
            Phase::Starting => settings.http_timeout,
            Phase::Stopping => settings.stop_timeout,
            Phase::Queued | Phase::Ready | Phase::Stopped | Phase::Failed => return Ok(()),
        };
        let deadline = now + time + settings.grace;
        runs::set_deadline(transaction, run, phase, Some(deadline)).await?;
        Ok(())
    }

    /// Gives a server that JupyterHub started a run of its own.
    async fn adopt(&self, active: &ActiveSpawner) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let Some(user_id) = active.spawner.user_id else {
            return Ok(false);
        };
        let new = &NewRun {
            user_id,
            spawner_id: active.spawner.id,
            user_name: active.user_name.clone(),
            server_name: active.spawner.name.clone(),
            options: match &active.spawner.user_options {
                Value::Null => Value::Object(serde_json::Map::new()),
                options => options.clone(),
            },
            owner: Some(self.replica.clone()),
            lease_until: Some(now + self.settings.lease),
            deadline: None,
            queued_at: active.spawner.started.unwrap_or(now),
        };
        let state = &active.spawner.state;
        let adopted = self
            .spawner
            .adopt(state, &active.user_name, &active.server.base_url);
        let adopted = tokio::time::timeout(self.settings.poll_timeout, adopted).await;
        // Too late is as good as unchanged.
        let changes = &SpawnerChanges {
            state: adopted.ok().filter(|adopted| adopted != state),
            ..SpawnerChanges::default()
        };
        let run = self
            .store
            .write(|transaction| async move {
                let run = runs::insert(&transaction, new).await?;
                if changes.state.is_some() {
                    spawners::update(&transaction, new.spawner_id, changes).await?;
                }
                let at = new.queued_at;
                runs::transition(&transaction, run, Phase::Queued, Phase::Starting, at, None)
                    .await?;
                runs::transition(&transaction, run, Phase::Starting, Phase::Ready, at, None)
                    .await?;
                runs::find(&transaction, run).await
            })
            .await;
        let run = match run {
            // Another replica adopted it.
            Err(error) if error.is_duplicate() => return Ok(false),
            other => other?,
        };
        let Some(run) = run else { return Ok(false) };
        let Some(course) = Course::of(&run, self.born) else {
            self.end_orphan(&run).await?;
            return Ok(false);
        };
        if self.settings.blocked_users.contains(&run.user_name) {
            self.stop_run(&run).await?;
        } else {
            tracing::info!(server = %course.log_name(), run = %RunId(run.id), "took over a server that JupyterHub started");
            self.launch(course, Entry::Watch);
        }
        Ok(true)
    }
}
