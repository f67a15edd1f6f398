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
-- MySQL makes an index for each foreign key by itself, so upstream's tables need none of ours.
