-- Orrery's own tables beside JupyterHub's, for MySQL and MariaDB.
CREATE TABLE orrery_schema (
    version INTEGER NOT NULL,
    CONSTRAINT pk_orrery_schema PRIMARY KEY (version)
) ROW_FORMAT=DYNAMIC;
CREATE TABLE orrery_runs (
    id BIGINT NOT NULL AUTO_INCREMENT,
    user_id INTEGER,
    spawner_id INTEGER,
    user_name VARCHAR(255) NOT NULL,
    server_name VARCHAR(255) NOT NULL,
    active_key VARCHAR(300) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    phase VARCHAR(16) NOT NULL,
    owner VARCHAR(64),
    lease_until DATETIME(6),
    deadline DATETIME(6),
    options MEDIUMTEXT,
    events MEDIUMTEXT,
    failure MEDIUMTEXT,
    cancel_requested BOOLEAN NOT NULL,
    queued_at DATETIME(6) NOT NULL,
    started_at DATETIME(6),
    ready_at DATETIME(6),
    stopping_at DATETIME(6),
    ended_at DATETIME(6),
    CONSTRAINT pk_orrery_runs PRIMARY KEY (id),
    CONSTRAINT uq_orrery_runs_active_key UNIQUE (active_key),
    CONSTRAINT fk_orrery_runs_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE SET NULL,
    CONSTRAINT fk_orrery_runs_spawner_id_spawners FOREIGN KEY(spawner_id) REFERENCES spawners (id) ON DELETE SET NULL
) ROW_FORMAT=DYNAMIC;
CREATE INDEX ix_orrery_runs_phase ON orrery_runs (phase);
CREATE INDEX ix_orrery_runs_user_id ON orrery_runs (user_id);
CREATE INDEX ix_orrery_runs_spawner_id ON orrery_runs (spawner_id);
-- Who is logged in, by which browser. The key is a digest, of which no cookie can be made.
CREATE TABLE orrery_sessions (
    id BIGINT NOT NULL AUTO_INCREMENT,
    user_id INTEGER NOT NULL,
    cookie_key VARCHAR(64) NOT NULL,
    session_id VARCHAR(64) NOT NULL,
    created DATETIME(6) NOT NULL,
    last_seen DATETIME(6) NOT NULL,
    address VARCHAR(64),
    user_agent VARCHAR(255),
    ended_at DATETIME(6),
    CONSTRAINT pk_orrery_sessions PRIMARY KEY (id),
    CONSTRAINT uq_orrery_sessions_cookie_key UNIQUE (cookie_key),
    CONSTRAINT fk_orrery_sessions_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
) ROW_FORMAT=DYNAMIC;
CREATE INDEX ix_orrery_sessions_of_user ON orrery_sessions (user_id, ended_at, created);
CREATE INDEX ix_orrery_sessions_created ON orrery_sessions (created);
-- Names stand here as text, so that a row stays when its user is deleted.
CREATE TABLE orrery_audit (
    id BIGINT NOT NULL AUTO_INCREMENT,
    at DATETIME(6) NOT NULL,
    action VARCHAR(32) NOT NULL,
    outcome VARCHAR(8) NOT NULL,
    repeats INTEGER NOT NULL,
    actor_kind VARCHAR(8) NOT NULL,
    actor VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    via VARCHAR(16) NOT NULL,
    token_id INTEGER,
    oauth_client VARCHAR(255),
    address VARCHAR(64) NOT NULL,
    target_kind VARCHAR(8) NOT NULL,
    target VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    owner VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    server VARCHAR(255),
    details TEXT,
    CONSTRAINT pk_orrery_audit PRIMARY KEY (id)
) ROW_FORMAT=DYNAMIC;
CREATE INDEX ix_orrery_audit_at ON orrery_audit (at);
CREATE INDEX ix_orrery_audit_action ON orrery_audit (action, id);
CREATE INDEX ix_orrery_audit_actor ON orrery_audit (actor, id);
CREATE INDEX ix_orrery_audit_owner ON orrery_audit (owner, id);
-- What changed of users and servers, for whoever watches. Rows get `seq` after they became visible, in
-- that order, which is not that of the ids.
CREATE TABLE orrery_events (
    id BIGINT NOT NULL AUTO_INCREMENT,
    seq BIGINT,
    at BIGINT NOT NULL,
    kind VARCHAR(32) NOT NULL,
    user_name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    server_name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    data MEDIUMTEXT CHARACTER SET utf8mb4,
    CONSTRAINT pk_orrery_events PRIMARY KEY (id)
) ROW_FORMAT=DYNAMIC;
CREATE TABLE orrery_events_mark (
    id INTEGER NOT NULL,
    last_seq BIGINT NOT NULL,
    pruned BIGINT NOT NULL,
    CONSTRAINT pk_orrery_events_mark PRIMARY KEY (id)
) ROW_FORMAT=DYNAMIC;
CREATE INDEX ix_orrery_events_seq ON orrery_events (seq);
-- MySQL makes an index for each foreign key by itself, so upstream's tables need none of ours.
