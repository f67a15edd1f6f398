//! The certificates of one listener. Which one is shown depends on the name that a client asks for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer, prelude::X509Certificate};

/// A certificate with its key, and what stands in it.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    key: Arc<CertifiedKey>,
    /// In lower case; `*.example.org` too.
    pub(crate) names: Arc<[Box<str>]>,
    pub(crate) dates: Option<Dates>,
}

/// From when until when a certificate holds, in seconds of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dates {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

impl Pair {
    pub(crate) fn new(key: CertifiedKey) -> Self {
        // What rustls takes and this cannot read has no names, so it can be the default alone.
        let leaf = key.cert.first();
        let parsed = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok());
        let (names, dates) = match parsed {
            None => (Arc::default(), None),
            Some((_, certificate)) => {
                let validity = certificate.validity();
                let dates = Dates {
                    not_before: validity.not_before.timestamp(),
                    not_after: validity.not_after.timestamp(),
                };
                (names_of(&certificate), Some(dates))
            }
        };
        Self {
            key: Arc::new(key),
            names,
            dates,
        }
    }

    /// The certificate itself, without those behind it.
    pub(crate) fn leaf(&self) -> &[u8] {
        self.key.cert.first().map_or(&[], |leaf| leaf.as_ref())
    }
}

fn names_of(certificate: &X509Certificate<'_>) -> Arc<[Box<str>]> {
    let extension = certificate.subject_alternative_name();
    let Ok(Some(alternatives)) = extension else {
        return Arc::default();
    };
    let names = alternatives.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into_boxed_str()),
            _ => None,
        })
        .collect()
}

/// All certificates of a listener. Those of files and those of ACME are replaced apart.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    parts: Mutex<Parts>,
    table: ArcSwap<Table>,
}

#[derive(Debug, Default)]
struct Parts {
    /// In the order of the options.
    files: Vec<Pair>,
    /// In the order of the options.
    ordered: Vec<Ordered>,
}

/// The certificate of a name by ACME.
#[derive(Debug, Clone)]
struct Ordered {
    domain: Box<str>,
    pair: Pair,
    /// Signed by nobody, until the first certificate is there.
    provisional: bool,
}

/// What a handshake looks at.
#[derive(Debug, Default)]
struct Table {
    /// `*.example.org` stands under `.example.org`.
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Keys {
    pub(crate) fn files(&self) -> Vec<Pair> {
        self.lock().files.clone()
    }

    pub(crate) fn set_files(&self, files: Vec<Pair>) {
        let mut parts = self.lock();
        parts.files = files;
        self.table.store(Arc::new(Table::of(&parts)));
    }

    /// Shows `pair` to who asks for `domain`, from now on.
    pub(crate) fn set_ordered(&self, domain: &str, pair: Pair, provisional: bool) {
        let mut parts = self.lock();
        let ordered = Ordered {
            domain: domain.into(),
            pair,
            provisional,
        };
        match parts
            .ordered
            .iter_mut()
            .find(|other| *other.domain == *domain)
        {
            Some(other) => *other = ordered,
            None => parts.ordered.push(ordered),
        }
        self.table.store(Arc::new(Table::of(&parts)));
    }

    /// The first name of each certificate that is no provisional one, and when it ends.
    pub(crate) fn expiries(&self) -> Vec<(Box<str>, i64)> {
        let parts = self.lock();
        let files = parts.files.iter().filter_map(|pair| {
            let name = pair.names.first().cloned().unwrap_or_default();
            Some((name, pair.dates?.not_after))
        });
        let ordered = parts.ordered.iter().filter(|ordered| !ordered.provisional);
        let ordered = ordered
            .filter_map(|ordered| Some((ordered.domain.clone(), ordered.pair.dates?.not_after)));
        let mut all: Vec<(Box<str>, i64)> = Vec::new();
        for (name, end) in files.chain(ordered) {
            match all.iter_mut().find(|(other, _)| *other == name) {
                // Two samples may not have the same labels; the one that ends first matters.
                Some((_, other)) => *other = end.min(*other),
                None => all.push((name, end)),
            }
        }
        all
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Parts> {
        // Whoever panicked with the lock held has changed one whole value or none.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn of(parts: &Parts) -> Self {
        let mut table = Self::default();
        // The first to name a name has it: certificates of ACME before files, files before what is
        // only there until ACME has brought one.
        let real = parts.ordered.iter().filter(|ordered| !ordered.provisional);
        for ordered in real {
            table.enter(&ordered.domain, &ordered.pair);
        }
        for pair in &parts.files {
            for name in &*pair.names {
                table.enter(name, pair);
            }
        }
        for ordered in &parts.ordered {
            table.enter(&ordered.domain, &ordered.pair);
        }
        let ordered = parts.ordered.iter().map(|ordered| &ordered.pair);
        let default = parts.files.iter().chain(ordered).next();
        table.default = default.map(|pair| Arc::clone(&pair.key));
        table
    }

    fn enter(&mut self, name: &str, pair: &Pair) {
        let name = name.strip_prefix('*').unwrap_or(name);
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.into(), Arc::clone(&pair.key));
        }
    }

    /// The certificate of this very name, else of the wildcard above it, else the first of all.
    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let parent = name.find('.').map(|dot| &name[dot..]);
            let exact = self.by_name.get(&*name);
            exact.or_else(|| self.by_name.get(parent?))
        });
        named.or(self.default.as_ref())
    }
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.table.load().find(hello.server_name()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{crypto::aws_lc_rs::default_provider, pki_types::PrivateKeyDer};

    use super::*;

    fn pair(names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let chain = vec![certificate.der().clone()];
        Pair::new(CertifiedKey::from_der(chain, key, &default_provider()).unwrap())
    }

    fn shown(keys: &Keys, name: &str) -> Vec<u8> {
        let table = keys.table.load();
        let name = Some(name).filter(|name| !name.is_empty());
        table.find(name).unwrap().cert[0].to_vec()
    }

    #[test]
    fn the_name_decides() {
        let keys = Keys::default();
        let first = pair(&["hub.example.org"]);
        let wild = pair(&["*.example.org", "example.org"]);
        let other = pair(&["other.example.org", "HUB.example.org"]);
        keys.set_files(vec![first.clone(), wild.clone(), other.clone()]);
        for (name, expected) in [
            ("hub.example.org", &first),
            ("HUB.example.ORG", &first),
            ("ada.example.org", &wild),
            ("example.org", &wild),
            ("other.example.org", &other),
            // A wildcard stands for one label.
            ("a.b.example.org", &first),
            (".example.org", &wild),
            ("org", &first),
            ("", &first),
        ] {
            assert!(shown(&keys, name) == expected.leaf(), "{name}");
        }
    }

    #[test]
    fn a_certificate_by_acme_replaces_its_stand_in_and_then_the_file() {
        let keys = Keys::default();
        let (provisional, ordered) = (pair(&["hub.example.org"]), pair(&["hub.example.org"]));
        keys.set_ordered("hub.example.org", provisional.clone(), true);
        assert!(shown(&keys, "hub.example.org") == provisional.leaf());
        assert!(shown(&keys, "") == provisional.leaf());
        assert!(keys.expiries().is_empty());

        let file = pair(&["hub.example.org"]);
        keys.set_files(vec![file.clone()]);
        assert!(shown(&keys, "hub.example.org") == file.leaf());

        keys.set_ordered("hub.example.org", ordered.clone(), false);
        assert!(shown(&keys, "hub.example.org") == ordered.leaf());
        assert!(shown(&keys, "else.example.org") == file.leaf());
        assert_eq!(keys.expiries().len(), 1, "one sample for one name");
    }

    #[test]
    fn dates_are_those_of_the_certificate() {
        let dates = pair(&["a"]).dates.unwrap();
        // What rcgen writes when it is told nothing.
        assert_eq!(dates.not_before, 157_766_400);
        assert!(dates.not_after > 60_000_000_000);
    }
}
