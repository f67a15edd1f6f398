//! The folder with the account and the certificates, with their keys: 0700, and its files 0600.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::timing::Refusals;
use crate::{
    Error,
    private_file::{self, Fresh},
    tls::Pair,
};

/// One folder for each authority, so that trying one out leaves nothing for another.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// Makes the folders. One that others can look into is refused: it is not known whose it is.
    pub(super) fn open(folder: &Path, authority: &str) -> Result<Self, Error> {
        let own = folder.join(authority);
        for folder in [folder, &own] {
            make_private(folder)?;
        }
        Ok(Self { folder: own })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The account as it was stored, if it was.
    pub(super) fn account(&self) -> Result<Option<Vec<u8>>, Error> {
        self.read("account.json")
    }

    pub(super) fn set_account(&self, account: &[u8]) -> Result<(), Error> {
        self.write("account.json", account)
    }

    /// The certificate of a name, if there is one.
    pub(super) fn certificate(
        &self,
        domain: &str,
        provider: &CryptoProvider,
    ) -> Result<Option<Pair>, Error> {
        let name = format!("{domain}.pem");
        let Some(pem) = self.read(&name)? else {
            return Ok(None);
        };
        let path = self.folder.join(name);
        let pair = parse(&pem, provider)
            .map_err(|reason| Error::BadOption(format!("{}: {reason}", path.display())))?;
        Ok(Some(pair))
    }

    /// Replaces the certificate of a name, and its key with it, in one step.
    pub(super) fn set_certificate(&self, domain: &str, pem: &str) -> Result<(), Error> {
        self.write(&format!("{domain}.pem"), pem.as_bytes())
    }

    /// What was refused of a name lately; nothing where that cannot be read.
    pub(super) fn refusals(&self, domain: &str) -> Refusals {
        let stored = self.read(&refusals_of(domain)).ok().flatten();
        stored
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default()
    }

    /// Keeps them over a restart.
    pub(super) fn set_refusals(&self, domain: &str, refusals: Refusals) -> Result<(), Error> {
        let name = refusals_of(domain);
        if refusals.count > 0 {
            let json = serde_json::to_vec(&refusals).expect("numbers are always JSON");
            return self.write(&name, &json);
        }
        let path = self.folder.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File {
                action: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.folder.join(name);
        let result = fs::metadata(&path).and_then(|data| {
            if data.permissions().mode() & 0o077 != 0 {
                tracing::warn!(
                    "ACME: others could read {}; its permissions are mended",
                    path.display()
                );
                fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            }
            fs::read(&path)
        });
        match result {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File {
                action: "read",
                path,
                source,
            }),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.folder.join(name);
        let new = self.folder.join(format!(".{name}.new"));
        let write = || {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let fresh = Fresh::create(new.clone())?;
            fresh.file().write_all(content)?;
            fresh.file().sync_all()?;
            fresh.rename(&path)?;
            private_file::sync_folder_of(&path)
        };
        write().map_err(|source| Error::File {
            action: "write",
            path: path.clone(),
            source,
        })
    }
}

fn refusals_of(domain: &str) -> String {
    format!("{domain}.refused.json")
}

/// A private key and the certificates of it, in PEM form.
pub(super) fn parse(pem: &[u8], provider: &CryptoProvider) -> Result<Pair, String> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("no certificate in PEM form: {error}"))?;
    if chain.is_empty() {
        return Err("no certificate in PEM form".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| format!("no private key in PEM form: {error}"))?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| error.to_string())?;
    Ok(Pair::new(key))
}

fn make_private(folder: &Path) -> Result<(), Error> {
    let failed = |action| {
        move |source| Error::File {
            action,
            path: folder.to_owned(),
            source,
        }
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(failed("make the folder"))?;
    let data = fs::metadata(folder).map_err(failed("look at the folder"))?;
    if !private_file::is_own(data.uid()) {
        let (folder, owner) = (folder.display(), data.uid());
        return Err(Error::BadOption(format!(
            "--acme-dir: the folder {folder} belongs to another account (user id {owner}), and private \
             keys will lie in it; give a folder that does not exist yet, or chown it to the proxy's"
        )));
    }
    let mode = data.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let folder = folder.display();
        return Err(Error::BadOption(format!(
            "--acme-dir: the folder {folder} is open to others (its permissions are {mode:o}), and \
             private keys will lie in it; give a folder that does not exist yet, or chmod 700 {folder}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::aws_lc_rs::default_provider;
    use tempfile::tempdir;

    use super::*;

    fn pem() -> String {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["hub.example.org".to_owned()]).unwrap();
        key.serialize_pem() + &certificate.self_signed(&key).unwrap().pem()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_kept_is_for_the_owner_alone() {
        let folder = tempdir().unwrap();
        let root = folder.path().join("new/acme");
        let store = Store::open(&root, "authority").unwrap();
        store.set_account(b"{}").unwrap();
        store.set_certificate("hub.example.org", &pem()).unwrap();
        // Again over what is there, and over what a killed process left half done.
        let left = store.folder().join(".hub.example.org.pem.new");
        fs::write(&left, "half").unwrap();
        let second = pem();
        store.set_certificate("hub.example.org", &second).unwrap();

        assert_eq!([&root, store.folder()].map(mode), [0o700, 0o700]);
        let files: Vec<_> = fs::read_dir(store.folder())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 2, "{files:?}");
        for file in &files {
            assert_eq!(mode(file), 0o600, "{file:?}");
        }
        let provider = default_provider();
        let kept = store.certificate("hub.example.org", &provider).unwrap();
        let expected = parse(second.as_bytes(), &provider).unwrap();
        assert!(kept.unwrap().leaf() == expected.leaf());
        assert_eq!(store.account().unwrap().unwrap(), b"{}");
        assert!(store.certificate("other.org", &provider).unwrap().is_none());
    }

    #[test]
    fn refusals_are_kept_until_there_are_none() {
        let folder = tempdir().unwrap();
        let store = Store::open(&folder.path().join("acme"), "a").unwrap();
        let none = Refusals::default();
        assert_eq!(store.refusals("x.org"), none);
        let one = none.after(1000, false, 0, 0.0);
        store.set_refusals("x.org", one).unwrap();
        assert_eq!(store.refusals("x.org"), one);
        assert_eq!(store.refusals("y.org"), none);
        for _ in 0..2 {
            store.set_refusals("x.org", none).unwrap();
            assert_eq!(store.refusals("x.org"), none);
        }
        fs::write(store.folder().join("x.org.refused.json"), "nonsense").unwrap();
        assert_eq!(store.refusals("x.org"), none);
    }

    #[test]
    fn permissions_that_were_opened_are_closed() {
        let folder = tempdir().unwrap();
        let store = Store::open(&folder.path().join("acme"), "a").unwrap();
        store.set_account(b"{}").unwrap();
        let path = store.folder().join("account.json");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        store.account().unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let folder = tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let error = Store::open(folder.path(), "a").unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_folder_of_another_account_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(12345), None).unwrap();
        let error = Store::open(folder.path(), "a").unwrap_err().to_string();
        assert!(error.contains("another account"), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_an_error_that_names_the_file() {
        let folder = tempdir().unwrap();
        let store = Store::open(&folder.path().join("acme"), "a").unwrap();
        let (one, two) = (pem(), pem());
        let mixed = one[..one.find("-----BEGIN CERT").unwrap()].to_owned()
            + &two[two.find("-----BEGIN CERT").unwrap()..];
        for content in ["", "nonsense", &mixed] {
            store.set_certificate("x.org", content).unwrap();
            let error = store.certificate("x.org", &default_provider()).unwrap_err();
            assert!(error.to_string().contains("x.org.pem"), "{error}");
        }
    }
}
