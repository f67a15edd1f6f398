//! Database URLs, written as SQLAlchemy reads them.

use std::{fmt, path::PathBuf, str::FromStr};

use orrery_core::Secret;
use percent_encoding::percent_decode_str;

use crate::error::StoreError;

/// The kind of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// SQLite, a file or memory.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    MySql,
}

/// Where the database is. `Display` and `Debug` show `***` for the password.
#[derive(Clone)]
pub struct DbUrl {
    pub(crate) target: Target,
}

#[derive(Clone)]
pub(crate) enum Target {
    Memory,
    File(PathBuf),
    Server(Dialect, Address),
}

/// The parts of a server's URL.
#[derive(Clone, Default)]
pub(crate) struct Address {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) database: Option<String>,
    pub(crate) arguments: Vec<(String, String)>,
}

impl DbUrl {
    /// Reads a URL: `sqlite:///relative.sqlite`, `sqlite:////absolute.sqlite`, `sqlite://` or
    /// `sqlite:///:memory:`, `postgresql[+driver]://…`, `mysql[+driver]://…`, `mariadb[+driver]://…`.
    /// Drivers' names are accepted and ignored. A text without `://` is a SQLite file, as in upstream.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.is_empty() {
                return Err(StoreError::Url("it is empty".into()));
            }
            return Ok(Self {
                target: Target::File(text.into()),
            });
        };
        let target = match scheme.split('+').next().unwrap_or_default() {
            "sqlite" => sqlite(rest)?,
            "postgresql" | "postgres" => Target::Server(Dialect::Postgres, address(rest)?),
            "mysql" | "mariadb" => Target::Server(Dialect::MySql, address(rest)?),
            other => {
                return Err(StoreError::Url(format!(
                    "databases of the kind {other:?} are not supported; use sqlite, postgresql, mysql or mariadb"
                )));
            }
        };
        Ok(Self { target })
    }

    /// A SQLite database in memory, which ends with its [`Store`](crate::Store).
    pub fn memory() -> Self {
        Self {
            target: Target::Memory,
        }
    }

    /// A SQLite database in a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            target: Target::File(path.into()),
        }
    }

    /// The kind of database.
    pub fn dialect(&self) -> Dialect {
        match &self.target {
            Target::Memory | Target::File(_) => Dialect::Sqlite,
            Target::Server(dialect, _) => *dialect,
        }
    }
}

impl FromStr for DbUrl {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::parse(text)
    }
}

impl fmt::Display for DbUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Memory => formatter.write_str("sqlite:///:memory:"),
            Target::File(path) => write!(formatter, "sqlite:///{}", path.display()),
            Target::Server(dialect, address) => {
                formatter.write_str(match dialect {
                    Dialect::Postgres => "postgresql://",
                    _ => "mysql://",
                })?;
                if let Some(user) = &address.user {
                    formatter.write_str(user)?;
                    if address.password.is_some() {
                        formatter.write_str(":***")?;
                    }
                    formatter.write_str("@")?;
                }
                match &address.host {
                    Some(host) if host.contains(':') => write!(formatter, "[{host}]")?,
                    Some(host) => formatter.write_str(host)?,
                    None => {}
                }
                if let Some(port) = address.port {
                    write!(formatter, ":{port}")?;
                }
                if let Some(database) = &address.database {
                    write!(formatter, "/{database}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for DbUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DbUrl({self})")
    }
}

fn sqlite(rest: &str) -> Result<Target, StoreError> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    for (name, _) in arguments(query) {
        // Both are about Python's driver alone.
        if name != "check_same_thread" && name != "timeout" {
            return Err(StoreError::Url(format!(
                "the argument {name:?} is not supported for SQLite"
            )));
        }
    }
    if path.is_empty() || path == "/" || path == "/:memory:" {
        return Ok(Target::Memory);
    }
    let Some(file) = path.strip_prefix('/') else {
        return Err(StoreError::Url(
            "SQLite URLs have no host: write sqlite:///file for a relative and sqlite:////file for an absolute path".into(),
        ));
    };
    Ok(Target::File(file.into()))
}

fn address(rest: &str) -> Result<Address, StoreError> {
    // As SQLAlchemy: the user has neither : nor /, and the password ends at the first @.
    let (credentials, rest) = match rest.split_once('@') {
        Some((credentials, after))
            if !credentials
                .split(':')
                .next()
                .unwrap_or_default()
                .contains(['/', '?']) =>
        {
            (Some(credentials), after)
        }
        _ => (None, rest),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, database) = match rest.split_once('/') {
        Some((host, database)) => (host, Some(database)),
        None => (rest, None),
    };
    let mut address = Address {
        database: database.filter(|name| !name.is_empty()).map(str::to_owned),
        arguments: arguments(query),
        ..Address::default()
    };
    if let Some(credentials) = credentials {
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        address.user = Some(decode(user)).filter(|user| !user.is_empty());
        address.password = password.map(|password| Secret::new(decode(password)));
    }
    let (host, port) = if let Some(rest) = host.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return Err(StoreError::Url("the host's ] is missing".into()));
        };
        (host, rest.strip_prefix(':'))
    } else {
        match host.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        }
    };
    address.host = Some(host.to_owned()).filter(|host| !host.is_empty());
    address.port = match port.filter(|port| !port.is_empty()) {
        None => None,
        Some(port) => Some(
            port.parse()
                .map_err(|_| StoreError::Url("the port is not a number below 65536".into()))?,
        ),
    };
    Ok(address)
}

fn arguments(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name), decode(&value.replace('+', " ")))
        })
        .collect()
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        DbUrl::parse(text).map_or_else(|error| error.to_string(), |url| url.to_string())
    }

    #[test]
    fn sqlite_paths() {
        for memory in ["sqlite://", "sqlite:///", "sqlite:///:memory:"] {
            assert!(
                matches!(DbUrl::parse(memory).unwrap().target, Target::Memory),
                "{memory}"
            );
        }
        for (text, path) in [
            ("sqlite:///jupyterhub.sqlite", "jupyterhub.sqlite"),
            ("sqlite:////srv/hub.sqlite", "/srv/hub.sqlite"),
            ("sqlite+pysqlite:///a/b.sqlite?timeout=5", "a/b.sqlite"),
            ("/srv/hub.sqlite", "/srv/hub.sqlite"),
        ] {
            match DbUrl::parse(text).unwrap().target {
                Target::File(file) => assert_eq!(file, PathBuf::from(path), "{text}"),
                _ => panic!("{text} is not a file"),
            }
        }
        assert!(DbUrl::parse("sqlite://host/file").is_err());
        assert!(DbUrl::parse("sqlite:///f?uri=true").is_err());
        assert!(DbUrl::parse("oracle://x/y").is_err());
        assert!(DbUrl::parse("").is_err());
    }

    #[test]
    fn servers_and_their_parts() {
        let url =
            DbUrl::parse("postgresql+psycopg2://hub:p%40s%2Fs@db.example:5433/hub?sslmode=require")
                .unwrap();
        let Target::Server(Dialect::Postgres, address) = url.target else {
            panic!("not a server");
        };
        assert_eq!(address.user.as_deref(), Some("hub"));
        assert_eq!(address.password.unwrap().expose(), "p@s/s");
        assert_eq!(address.host.as_deref(), Some("db.example"));
        assert_eq!(address.port, Some(5433));
        assert_eq!(address.database.as_deref(), Some("hub"));
        assert_eq!(
            address.arguments,
            [("sslmode".to_owned(), "require".to_owned())]
        );

        assert_eq!(
            shown("mysql+pymysql://root@[::1]:3306/hub?charset=utf8mb4"),
            "mysql://root@[::1]:3306/hub"
        );
        assert_eq!(
            shown("mariadb+mysqlconnector://u:secret@h/d"),
            "mysql://u:***@h/d"
        );
        assert_eq!(
            shown("postgresql+asyncpg:///hub?host=/run/postgresql"),
            "postgresql:///hub"
        );
    }

    #[test]
    fn the_password_is_never_shown() {
        for text in [
            "postgresql://u:s3cret@h/d",
            "postgresql://u:s3cret@h:port/d",
            "mysql://u:s3cret/x@h/d",
            "postgresql://u:s3cret@[::1/d",
        ] {
            let shown = match DbUrl::parse(text) {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}
