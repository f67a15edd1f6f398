//! Every query on every database: SQLite always, PostgreSQL and MariaDB where the environment names them.
