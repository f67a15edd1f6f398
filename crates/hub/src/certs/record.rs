//! `certipy.json`: which certificates there are, who signed them, and where they are.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{CertificateError, files};

/// The record of a folder. What upstream wrote there stays as it is.
pub(super) struct Record {
    folder: PathBuf,
    entries: Map<String, Value>,
}

/// The files of an entry.
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: Option<PathBuf>,
}

impl Record {
    pub(super) fn open(folder: &Path) -> Result<Self, CertificateError> {
        let path = folder.join("certipy.json");
        let entries = if path.exists() {
            serde_json::from_str(&files::read(&path)?).map_err(|error| {
                CertificateError::new(format!(
                    "{} is not understood ({error}). Start once with JupyterHub.recreate_internal_certs = True, \
                     which needs a restart of all servers",
                    path.display()
                ))
            })?
        } else {
            Map::new()
        };
        Ok(Self {
            folder: folder.to_owned(),
            entries,
        })
    }

    pub(super) fn save(&self) -> Result<(), CertificateError> {
        let text = serde_json::to_string_pretty(&self.entries)
            .map_err(|error| CertificateError::new(error.to_string()))?;
        files::write_public(&self.folder.join("certipy.json"), &text)
    }

    /// The files of an entry, as absolute paths.
    ///
    /// Upstream writes them relative to the folder that it was started in. Where that is another now,
    /// the folder of the certificates still has them.
    pub(super) fn files(&self, name: &str) -> Option<Files> {
        let files = self.entries.get(name)?.get("files")?;
        let path = |kind: &str| {
            let text = files.get(kind)?.as_str().filter(|text| !text.is_empty())?;
            let path = Path::new(text);
            let beside = || {
                let last: PathBuf = path
                    .iter()
                    .rev()
                    .take(2)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect();
                Some(self.folder.join(last)).filter(|path| path.exists())
            };
            Some(path)
                .filter(|path| path.exists())
                .and_then(|path| std::path::absolute(path).ok())
                .or_else(beside)
                .or_else(|| std::path::absolute(path).ok())
        };
        Some(Files {
            certificate: path("cert")?,
            key: path("key"),
        })
    }

    /// Whether there is a key to sign with.
    pub(super) fn has_key(&self, name: &str) -> bool {
        self.files(name).is_some_and(|files| files.key.is_some())
    }

    /// Notes an authority that is not ours.
    pub(super) fn set_authority(
        &mut self,
        name: &str,
        certificate: &str,
        key: Option<&str>,
        authorities: Option<&str>,
    ) {
        let mut files = Map::new();
        for (kind, path) in [
            ("key", key),
            ("cert", Some(certificate)),
            ("ca", authorities),
        ] {
            files.extend(path.map(|path| (kind.to_owned(), Value::from(path))));
        }
        self.entries.insert(
            name.to_owned(),
            json!({ "serial": 0, "is_ca": true, "parent_ca": "", "signees": null, "files": files }),
        );
    }

    /// Notes an authority of ours; where its key and certificate go.
    pub(super) fn add_authority(
        &mut self,
        name: &str,
    ) -> Result<(PathBuf, PathBuf), CertificateError> {
        self.add(name, true, "", "")
    }

    /// Notes a certificate signed by `authority`; where its key and itself go.
    pub(super) fn add_pair(
        &mut self,
        name: &str,
        authority: &str,
    ) -> Result<(PathBuf, PathBuf), CertificateError> {
        let signed_by = self.files(authority).map(|files| files.certificate);
        let signed_by = signed_by.unwrap_or_default();
        let places = self.add(name, false, authority, &signed_by.to_string_lossy())?;
        if let Some(parent) = self
            .entries
            .get_mut(authority)
            .and_then(Value::as_object_mut)
        {
            let signees = parent.entry("signees").or_insert(Value::Null);
            if signees.is_null() {
                *signees = json!({});
            }
            if let Some(signees) = signees.as_object_mut() {
                let count = signees
                    .get(name)
                    .and_then(Value::as_i64)
                    .unwrap_or_default();
                signees.insert(name.to_owned(), Value::from(count + 1));
            }
        }
        Ok(places)
    }

    fn add(
        &mut self,
        name: &str,
        is_authority: bool,
        parent: &str,
        signed_by: &str,
    ) -> Result<(PathBuf, PathBuf), CertificateError> {
        let folder = self.folder.join(name);
        files::make_folder(&folder)?;
        let key = folder.join(format!("{name}.key"));
        let certificate = folder.join(format!("{name}.crt"));
        self.entries.insert(
            name.to_owned(),
            json!({
                "serial": 0,
                "is_ca": is_authority,
                "parent_ca": parent,
                "signees": null,
                "files": {
                    "key": key.to_string_lossy(),
                    "cert": certificate.to_string_lossy(),
                    "ca": signed_by,
                },
            }),
        );
        Ok((key, certificate))
    }
}
