-- Orrery's own tables beside JupyterHub's, for PostgreSQL.
CREATE TABLE orrery_schema (
    version INTEGER NOT NULL,
    CONSTRAINT pk_orrery_schema PRIMARY KEY (version)
);
CREATE TABLE orrery_runs (
    id BIGSERIAL NOT NULL,
    user_id INTEGER,
    spawner_id INTEGER,
    user_name VARCHAR(255) NOT NULL,
    server_name VARCHAR(255) NOT NULL,
    active_key VARCHAR(300),
    phase VARCHAR(16) NOT NULL,
    owner VARCHAR(64),
    lease_until TIMESTAMP WITHOUT TIME ZONE,
    deadline TIMESTAMP WITHOUT TIME ZONE,
    options TEXT,
    events TEXT,
    failure TEXT,
    cancel_requested BOOLEAN NOT NULL,
    queued_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    started_at TIMESTAMP WITHOUT TIME ZONE,
    ready_at TIMESTAMP WITHOUT TIME ZONE,
    stopping_at TIMESTAMP WITHOUT TIME ZONE,
    ended_at TIMESTAMP WITHOUT TIME ZONE,
    CONSTRAINT pk_orrery_runs PRIMARY KEY (id),
    CONSTRAINT uq_orrery_runs_active_key UNIQUE (active_key),
    CONSTRAINT fk_orrery_runs_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE SET NULL,
    CONSTRAINT fk_orrery_runs_spawner_id_spawners FOREIGN KEY(spawner_id) REFERENCES spawners (id) ON DELETE SET NULL
);
CREATE INDEX ix_orrery_runs_phase ON orrery_runs (phase);
CREATE INDEX ix_orrery_runs_user_id ON orrery_runs (user_id);
CREATE INDEX ix_orrery_runs_spawner_id ON orrery_runs (spawner_id);
-- Who is logged in, by which browser. The key is a digest, of which no cookie can be made.
CREATE TABLE orrery_sessions (
    id BIGSERIAL NOT NULL,
    user_id INTEGER NOT NULL,
    cookie_key VARCHAR(64) NOT NULL,
    session_id VARCHAR(64) NOT NULL,
    created TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    last_seen TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    address VARCHAR(64),
    user_agent VARCHAR(255),
    ended_at TIMESTAMP WITHOUT TIME ZONE,
    CONSTRAINT pk_orrery_sessions PRIMARY KEY (id),
    CONSTRAINT uq_orrery_sessions_cookie_key UNIQUE (cookie_key),
    CONSTRAINT fk_orrery_sessions_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX ix_orrery_sessions_of_user ON orrery_sessions (user_id, ended_at, created);
CREATE INDEX ix_orrery_sessions_created ON orrery_sessions (created);
-- Names stand here as text, so that a row stays when its user is deleted.
CREATE TABLE orrery_audit (
    id BIGSERIAL NOT NULL,
    at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    action VARCHAR(32) NOT NULL,
    outcome VARCHAR(8) NOT NULL,
    repeats INTEGER NOT NULL,
    actor_kind VARCHAR(8) NOT NULL,
    actor VARCHAR(255) NOT NULL,
    via VARCHAR(16) NOT NULL,
    token_id INTEGER,
    oauth_client VARCHAR(255),
    address VARCHAR(64) NOT NULL,
    target_kind VARCHAR(8) NOT NULL,
    target VARCHAR(255) NOT NULL,
    owner VARCHAR(255),
    server VARCHAR(255),
    details TEXT,
    CONSTRAINT pk_orrery_audit PRIMARY KEY (id)
);
CREATE INDEX ix_orrery_audit_at ON orrery_audit (at);
CREATE INDEX ix_orrery_audit_action ON orrery_audit (action, id);
CREATE INDEX ix_orrery_audit_actor ON orrery_audit (actor, id);
CREATE INDEX ix_orrery_audit_owner ON orrery_audit (owner, id);
-- What changed of users and servers, for whoever watches. Rows get `seq` after they became visible, in
-- that order, which is not that of the ids.
CREATE TABLE orrery_events (
    id BIGSERIAL NOT NULL,
    seq BIGINT,
    at BIGINT NOT NULL,
    kind VARCHAR(32) NOT NULL,
    user_name VARCHAR(255) NOT NULL,
    server_name VARCHAR(255),
    data TEXT,
    CONSTRAINT pk_orrery_events PRIMARY KEY (id)
);
CREATE TABLE orrery_events_mark (
    id INTEGER NOT NULL,
    last_seq BIGINT NOT NULL,
    pruned BIGINT NOT NULL,
    CONSTRAINT pk_orrery_events_mark PRIMARY KEY (id)
);
CREATE INDEX ix_orrery_events_seq ON orrery_events (seq);
-- Upstream has no index on these columns and looks through the whole table; with 10,000 users that is
-- felt. An index changes nothing that upstream sees, and the prefix says whose it is.
CREATE INDEX IF NOT EXISTS orrery_ix_spawners_user_id ON spawners (user_id);
CREATE INDEX IF NOT EXISTS orrery_ix_spawners_server_id ON spawners (server_id);
CREATE INDEX IF NOT EXISTS orrery_ix_spawners_oauth_client_id ON spawners (oauth_client_id);
CREATE INDEX IF NOT EXISTS orrery_ix_api_tokens_user_id ON api_tokens (user_id);
CREATE INDEX IF NOT EXISTS orrery_ix_api_tokens_client_id ON api_tokens (client_id);
-- The order of lists by activity, in which nobody who was never seen is later than anybody.
CREATE INDEX IF NOT EXISTS orrery_ix_users_last_activity ON users (last_activity NULLS FIRST, id);
-- Who has an active server.
CREATE INDEX IF NOT EXISTS orrery_ix_spawners_active ON spawners (server_id, user_id) WHERE server_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS orrery_ix_shares_user_id ON shares (user_id);
CREATE INDEX IF NOT EXISTS orrery_ix_shares_group_id ON shares (group_id);
-- The members of a group: upstream's key begins with the user.
CREATE INDEX IF NOT EXISTS orrery_ix_user_group_map_group_id ON user_group_map (group_id);
