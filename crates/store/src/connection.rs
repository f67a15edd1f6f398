//! Connections with a deadline on every statement.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, Statement,
};

use crate::error::{StoreError, TIMED_OUT};
use crate::outage::Health;

/// A pool to read from. Each statement takes a connection of its own and gives it back.
#[derive(Clone)]
pub struct Connection {
    pub(crate) pool: DatabaseConnection,
    pub(crate) statement_timeout: Duration,
    pub(crate) health: Arc<Health>,
}

/// A write transaction. Cloning gives another handle to the same one; without
/// [`Store::commit`](crate::Store::commit) everything is rolled back when the last handle is dropped.
#[derive(Clone)]
pub struct Transaction {
    inner: Arc<DatabaseTransaction>,
    statement_timeout: Duration,
}

impl Transaction {
    pub(crate) fn new(inner: DatabaseTransaction, statement_timeout: Duration) -> Self {
        Self {
            inner: Arc::new(inner),
            statement_timeout,
        }
    }

    pub(crate) async fn finish(self, commit: bool) -> Result<(), StoreError> {
        let limit = self.statement_timeout;
        let Ok(inner) = Arc::try_unwrap(self.inner) else {
            return Err(StoreError::Statement(DbErr::Custom(
                "a handle to the transaction outlived its closure".into(),
            )));
        };
        let done = async {
            if commit {
                inner.commit().await
            } else {
                inner.rollback().await
            }
        };
        Ok(within(limit, done).await?)
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(DbErr::Custom(format!(
            "{TIMED_OUT} within {} s",
            limit.as_secs_f32()
        ))),
    }
}

/// What is read can be read again when its connection turns out to be lost; nothing is written here.
#[async_trait]
impl ConnectionTrait for Connection {
    fn get_database_backend(&self) -> DbBackend {
        self.pool.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        within(self.statement_timeout, self.pool.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        within(self.statement_timeout, self.pool.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let work = || {
            let query = self.pool.query_one_raw(statement.clone());
            within(self.statement_timeout, query)
        };
        self.health.repeating(work).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let work = || {
            let query = self.pool.query_all_raw(statement.clone());
            within(self.statement_timeout, query)
        };
        self.health.repeating(work).await
    }
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        within(self.statement_timeout, self.inner.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        within(self.statement_timeout, self.inner.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        within(self.statement_timeout, self.inner.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        within(self.statement_timeout, self.inner.query_all_raw(statement)).await
    }
}
