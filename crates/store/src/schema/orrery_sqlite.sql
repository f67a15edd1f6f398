-- Orrery's own tables beside JupyterHub's, for SQLite.
CREATE TABLE orrery_schema (
    version INTEGER NOT NULL,
    CONSTRAINT pk_orrery_schema PRIMARY KEY (version)
);
CREATE TABLE orrery_runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    user_id INTEGER,
    spawner_id INTEGER,
    user_name VARCHAR(255) NOT NULL,
    server_name VARCHAR(255) NOT NULL,
    active_key VARCHAR(300),
    phase VARCHAR(16) NOT NULL,
    owner VARCHAR(64),
    lease_until DATETIME,
    deadline DATETIME,
    options TEXT,
    events TEXT,
    failure TEXT,
    cancel_requested BOOLEAN NOT NULL,
    queued_at DATETIME NOT NULL,
    started_at DATETIME,
    ready_at DATETIME,
    stopping_at DATETIME,
    ended_at DATETIME,
    CONSTRAINT uq_orrery_runs_active_key UNIQUE (active_key),
    CONSTRAINT fk_orrery_runs_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE SET NULL,
    CONSTRAINT fk_orrery_runs_spawner_id_spawners FOREIGN KEY(spawner_id) REFERENCES spawners (id) ON DELETE SET NULL
);
CREATE INDEX ix_orrery_runs_phase ON orrery_runs (phase);
CREATE INDEX ix_orrery_runs_user_id ON orrery_runs (user_id);
CREATE INDEX ix_orrery_runs_spawner_id ON orrery_runs (spawner_id);
-- Upstream has no index on these columns and looks through the whole table; with 10,000 users that is
-- felt. An index changes nothing that upstream sees, and the prefix says whose it is.
CREATE INDEX orrery_ix_spawners_user_id ON spawners (user_id);
CREATE INDEX orrery_ix_spawners_server_id ON spawners (server_id);
CREATE INDEX orrery_ix_spawners_oauth_client_id ON spawners (oauth_client_id);
CREATE INDEX orrery_ix_api_tokens_user_id ON api_tokens (user_id);
CREATE INDEX orrery_ix_api_tokens_client_id ON api_tokens (client_id);
