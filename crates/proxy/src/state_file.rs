//! The state file: the last known routes, so that a restarted proxy serves them without the hub.
//!
//! Each line is one JSON object, a route or a removal. A change appends a line, which outlives a
//! killed process; when the lines outnumber the routes by far the file is replaced by a fresh one,
//! atomically. A last line without its end (power failure) is ignored.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, routes::Route, trie::Trie};

pub(crate) struct StateFile {
    path: PathBuf,
    loaded: HashMap<String, Map<String, Value>>,
    /// Open for appending, once the file has been written by this process.
    file: Option<File>,
    lines: usize,
}

#[derive(Deserialize)]
struct Line {
    path: String,
    /// Missing for a removal.
    data: Option<Map<String, Value>>,
}

impl StateFile {
    /// Reads the file, if it is there.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut content = Vec::new();
        match File::open(path).and_then(|mut file| file.read_to_end(&mut content)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::File {
                    action: "read the state file",
                    path: path.to_owned(),
                    source,
                });
            }
        }
        let mut loaded = HashMap::new();
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            match serde_json::from_slice::<Line>(line) {
                Ok(Line {
                    path,
                    data: Some(data),
                }) => {
                    loaded.insert(path, data);
                }
                Ok(Line { path, data: None }) => {
                    loaded.remove(&path);
                }
                Err(error) => tracing::warn!("a line of the state file is left out: {error}"),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            loaded,
            file: None,
            lines: 0,
        })
    }

    /// The routes that were read.
    pub(crate) fn take_loaded(&mut self) -> HashMap<String, Map<String, Value>> {
        std::mem::take(&mut self.loaded)
    }

    /// Replaces the file by one that holds exactly `routes`.
    pub(crate) fn rewrite(&mut self, routes: &Trie<Arc<Route>>) -> Result<(), Error> {
        self.file = None;
        let file = write_anew(&self.path, routes).map_err(|source| Error::File {
            action: "write the state file",
            path: self.path.clone(),
            source,
        })?;
        self.file = Some(file);
        self.lines = routes.len();
        Ok(())
    }

    pub(crate) fn added(&mut self, route: &Route, routes: &Trie<Arc<Route>>) {
        let mut line = String::new();
        write_route(route, &mut line);
        self.append(&line, routes);
    }

    pub(crate) fn removed(&mut self, route: &Route, routes: &Trie<Arc<Route>>) {
        let line = format!("{{\"path\":{}}}\n", Value::from(&*route.path));
        self.append(&line, routes);
    }

    /// A proxy that cannot write its state goes on serving; it says so and tries the whole file at
    /// the next change.
    fn append(&mut self, line: &str, routes: &Trie<Arc<Route>>) {
        self.lines += 1;
        let worn = self.lines > 2 * routes.len() + 1000;
        let result = match &mut self.file {
            Some(file) if !worn => file
                .write_all(line.as_bytes())
                .map_err(|source| Error::File {
                    action: "append to the state file",
                    path: self.path.clone(),
                    source,
                }),
            _ => self.rewrite(routes),
        };
        if let Err(error) = result {
            self.file = None;
            tracing::error!("{error}");
        }
    }
}

fn write_route(route: &Route, line: &mut String) {
    line.push_str("{\"path\":");
    line.push_str(&Value::from(&*route.path).to_string());
    line.push_str(",\"data\":");
    route.write_json(line);
    line.push_str("}\n");
}

/// Writes beside the old file, then renames: whoever reads sees the old or the new, never half.
fn write_anew(path: &Path, routes: &Trie<Arc<Route>>) -> io::Result<File> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    let mut writer = BufWriter::new(file);
    let mut line = String::new();
    let mut result = Ok(());
    routes.for_each(|route| {
        if result.is_ok() {
            line.clear();
            write_route(route, &mut line);
            result = writer.write_all(line.as_bytes());
        }
    });
    result?;
    let file = writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_data()?;
    fs::rename(&beside, path)?;
    Ok(file)
}
