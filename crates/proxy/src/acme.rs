//! Certificates from an authority that speaks ACME (RFC 8555), Let's Encrypt above all: ordered at
//! the first start, kept in a folder, renewed in time, without a restart and without a dropped
//! connection.
//!
//! Each name has a certificate and a task of its own, so that one that cannot be had holds no other
//! up. The proxy serves all the while: with the stored certificate, or with one that nobody signed
//! until the first is there.

mod challenges;
mod order;
mod plan;
mod store;
mod timing;
mod web;

use std::{
    fmt::Write as _,
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::DateTime;
use instant_acme::CertificateIdentifier;
use rustls::{crypto::CryptoProvider, pki_types::CertificateDer};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

pub use self::plan::AcmeOptions;
pub(crate) use self::{
    challenges::Challenges,
    plan::{AcmePlan, Method},
};
use self::{order::Failure, store::Store, timing::Refusals};
use crate::{
    Error, background,
    tls::{Keys, Limits, Pair},
};

/// For all of one order. What it waits for has deadlines of its own.
const ORDER: Duration = Duration::from_mins(5);

/// Orders at a time.
const ORDERS: usize = 4;

/// The longest sleep: the wall clock may be set, and machines sleep too.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);

/// When the authority is first asked whether it wants a certificate renewed early (RFC 9773), and how
/// often at least and at most. Seconds.
const FIRST_LOOK: i64 = 600;
const LOOKS: (i64, i64) = (3600, 86_400);

/// The certificates by ACME of a running proxy.
#[derive(Debug)]
pub(crate) struct Acme {
    plan: AcmePlan,
    provider: Arc<CryptoProvider>,
    store: Arc<Store>,
    challenges: Arc<Challenges>,
    domains: Vec<Domain>,
    account_lock: tokio::sync::Mutex<()>,
    orders: Semaphore,
    /// Ends the pauses after failures; counts how often it was asked to.
    retry: watch::Sender<u64>,
    /// Whether the second method worked last.
    second_first: AtomicBool,
    /// When the authority is ready to hear of us again, as it said itself; Unix time.
    not_before: Arc<AtomicI64>,
}

/// A name and its present certificate.
#[derive(Debug)]
struct Domain {
    name: Box<str>,
    pair: Mutex<Option<Pair>>,
    failures: AtomicU64,
}

impl Acme {
    /// Opens the folder; nobody is asked for anything yet.
    pub(crate) fn open(plan: AcmePlan, limits: &Limits) -> Result<Self, Error> {
        let store = Store::open(&plan.folder, &plan.authority_name())?;
        let domains = plan.domains.iter().map(|name| Domain {
            name: name.clone(),
            pair: Mutex::default(),
            failures: AtomicU64::new(0),
        });
        tracing::info!(
            "ACME: certificates for {} come from {}, whose terms of service are agreed to, and are kept \
             in {}",
            plan.domains.join(", "),
            plan.directory,
            store.folder().display()
        );
        Ok(Self {
            domains: domains.collect(),
            provider: Arc::clone(&limits.provider),
            store: Arc::new(store),
            challenges: Arc::default(),
            account_lock: tokio::sync::Mutex::new(()),
            orders: Semaphore::new(ORDERS),
            retry: watch::Sender::new(0),
            second_first: AtomicBool::new(false),
            not_before: Arc::default(),
            plan,
        })
    }

    pub(crate) fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// Fills in the stored certificates, and for names without one something to listen with.
    pub(crate) fn show_what_there_is(&self, keys: &Keys) -> Result<(), Error> {
        for domain in &self.domains {
            if let Some(pair) = self.stored(domain) {
                domain.hold(pair.clone());
                keys.set_ordered(&domain.name, pair, false);
                continue;
            }
            let title = "not yet signed by an authority";
            let key = challenges::self_signed(&domain.name, title, Vec::new(), &self.provider)
                .map_err(|error| Error::BadOption(format!("ACME: no key can be made: {error}")))?;
            keys.set_ordered(&domain.name, Pair::new(key), true);
        }
        Ok(())
    }

    /// Gets and renews the certificates of all names, for as long as the future lives.
    pub(crate) async fn keep(self: &Arc<Self>, keys: &Arc<Keys>) {
        let mut tasks = JoinSet::new();
        for index in 0..self.domains.len() {
            let (acme, keys) = (Arc::clone(self), Arc::clone(keys));
            tasks.spawn(async move {
                let what = format!(
                    "the renewal of the certificate for {}",
                    acme.domains[index].name
                );
                let keep = || Arc::clone(&acme).keep_one(index, Arc::clone(&keys));
                background::keep_running(&what, background::PAUSES, keep, pending).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Those that wait after a failure try at once; after a refusal, as soon as may be.
    pub(crate) fn try_now(&self) {
        self.retry
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// For the metrics' page.
    pub(crate) fn metrics(&self, page: &mut String) {
        let name = "orrery_proxy_acme_failures_total";
        let help = "Attempts to get a certificate that failed";
        let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} counter\n");
        for domain in &self.domains {
            let failures = domain.failures.load(Ordering::Relaxed);
            let _ = writeln!(page, "{name}{{domain=\"{}\"}} {failures}", domain.name);
        }
    }

    async fn keep_one(self: Arc<Self>, index: usize, keys: Arc<Keys>) {
        let domain = &self.domains[index];
        let mut unreachable: u32 = 0;
        let mut refusals = self.store.refusals(&domain.name);
        let mut retry = self.retry.subscribe();
        let (wait, _) = refusals.waits(now());
        if !wait.is_zero() {
            tracing::warn!(
                "ACME: the authority has refused a certificate for {} before; {}",
                domain.name,
                when(refusals)
            );
            pause(&mut retry, refusals).await;
        }
        loop {
            if let Some(pair) = domain.pair() {
                self.wait_until_due(domain, &pair).await;
            }
            // A wish that comes during the attempt is for the next.
            retry.mark_unchanged();
            let Err(failure) = self.renew(domain, &keys, refusals.count).await else {
                unreachable = 0;
                if refusals.count > 0 {
                    refusals = Refusals::default();
                    self.keep_refusals(domain, refusals).await;
                }
                continue;
            };
            domain.failures.fetch_add(1, Ordering::Relaxed);
            let not_before = self.not_before.load(Ordering::Relaxed);
            if failure.is_refusal() || not_before > now() {
                unreachable = 0;
                let is_limited = matches!(failure, Failure::Limited(_));
                refusals = refusals.after(now(), is_limited, not_before, self.chance());
                tracing::error!(
                    "ACME: no certificate for {}: {failure}. {}; {}",
                    domain.name,
                    domain.what_is_shown(),
                    when(refusals)
                );
                self.keep_refusals(domain, refusals).await;
                pause(&mut retry, refusals).await;
                continue;
            }
            unreachable = unreachable.saturating_add(1);
            let pause = timing::pause(unreachable, false, self.chance());
            tracing::error!(
                "ACME: no certificate for {}: {failure}. {}; the next attempt is in {} s, or at SIGHUP",
                domain.name,
                domain.what_is_shown(),
                pause.as_secs()
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Its sender is here, so this is no end.
                _ = retry.changed() => {}
            }
        }
    }

    async fn keep_refusals(&self, domain: &Domain, refusals: Refusals) {
        let (store, name) = (Arc::clone(&self.store), domain.name.clone());
        if let Err(error) = blocking(move || store.set_refusals(&name, refusals)).await {
            tracing::error!(
                "ACME: a restart will not know when {} may be asked for again: {error}",
                domain.name
            );
        }
    }

    /// Returns when the certificate is to be renewed.
    async fn wait_until_due(&self, domain: &Domain, pair: &Pair) {
        let Some(dates) = pair.dates else { return };
        let chance = timing::chance_of(pair.leaf());
        let mut due = timing::renewal(dates, chance);
        let mut look = now().saturating_add(FIRST_LOOK);
        loop {
            let now = now();
            if now >= due {
                return;
            }
            if now >= look {
                let (window, again) = self.suggestion(domain, pair).await;
                if let Some(window) = window {
                    due = timing::suggested(dates, window, chance);
                }
                look = now.saturating_add(again.clamp(LOOKS.0, LOOKS.1));
                continue;
            }
            let seconds = due.min(look).saturating_sub(now);
            let sleep = Duration::from_secs(seconds.unsigned_abs()).min(LONGEST_SLEEP);
            tokio::time::sleep(sleep).await;
        }
    }

    /// When the authority wants the certificate renewed, and in how many seconds to ask again.
    async fn suggestion(&self, domain: &Domain, pair: &Pair) -> (Option<(i64, i64)>, i64) {
        let leaf = CertificateDer::from(pair.leaf());
        let Ok(id) = CertificateIdentifier::try_from(&leaf) else {
            return (None, i64::MAX);
        };
        let ask = async {
            let account = self.account(false).await?;
            Ok::<_, Failure>(account.renewal_info(&id).await?)
        };
        match tokio::time::timeout(ORDER, ask).await {
            Ok(Ok((info, again))) => {
                let window = info.suggested_window;
                let window = (window.start.unix_timestamp(), window.end.unix_timestamp());
                let again = i64::try_from(again.as_secs()).unwrap_or(i64::MAX);
                (Some(window), again)
            }
            Ok(Err(failure)) => {
                // Not every authority has this.
                tracing::debug!("ACME: no time of renewal for {}: {failure}", domain.name);
                (None, i64::MAX)
            }
            Err(_) => (None, i64::MAX),
        }
    }

    async fn renew(&self, domain: &Domain, keys: &Keys, refusals: u32) -> Result<(), Failure> {
        // Somebody else may have put one there: a proxy that takes over from this one, say.
        if let Some(pair) = self.stored(domain)
            && !is_due(&pair)
        {
            take_up(domain, pair, keys);
            return Ok(());
        }
        let order = async {
            let _permit = self.orders.acquire().await;
            self.order(&domain.name, refusals).await
        };
        let signed = tokio::time::timeout(ORDER, order).await;
        let signed = signed.map_err(|_| {
            let minutes = ORDER.as_secs() / 60;
            Failure::Unreachable(format!("it was not there within {minutes} minutes"))
        })??;
        let (store, name, pem) = (Arc::clone(&self.store), domain.name.clone(), signed.pem);
        if let Err(error) = blocking(move || store.set_certificate(&name, &pem)).await {
            tracing::error!(
                "ACME: the new certificate for {} is used, but will be gone after a restart: {error}",
                domain.name
            );
        }
        let again = is_due(&signed.pair);
        take_up(domain, signed.pair, keys);
        if again {
            // Ordering one after the other would help nobody.
            return Err(Failure::Refused(
                "the new certificate is to be renewed already; is the clock of this machine right?"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// The certificate in the folder, if there is one that can be used.
    fn stored(&self, domain: &Domain) -> Option<Pair> {
        match self.store.certificate(&domain.name, &self.provider) {
            Ok(pair) => pair.filter(|pair| pair.dates.is_some()),
            Err(error) => {
                tracing::error!("ACME: what is stored cannot be used: {error}");
                None
            }
        }
    }

    /// The methods in the order to try them in.
    fn methods(&self) -> Vec<Method> {
        let mut methods = self.plan.methods.clone();
        if self.second_first.load(Ordering::Relaxed) {
            methods.reverse();
        }
        methods
    }

    fn worked(&self, method: Method) {
        let second = self.plan.methods.first() != Some(&method);
        self.second_first.store(second, Ordering::Relaxed);
    }

    fn chance(&self) -> f64 {
        let mut bytes = [0; 4];
        // Without chance all wait equally long.
        let _ = self.provider.secure_random.fill(&mut bytes);
        timing::chance_of(&bytes)
    }
}

impl Domain {
    fn pair(&self) -> Option<Pair> {
        let pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        pair.clone()
    }

    fn hold(&self, pair: Pair) {
        *self.pair.lock().unwrap_or_else(PoisonError::into_inner) = Some(pair);
    }

    fn what_is_shown(&self) -> String {
        match self.pair().and_then(|pair| pair.dates) {
            None => "Browsers are shown one that nobody has signed".to_owned(),
            Some(dates) if dates.not_after <= now() => {
                format!(
                    "The one that browsers are shown has ended on {}",
                    date(dates.not_after)
                )
            }
            Some(dates) => {
                format!(
                    "The one that browsers are shown ends on {}",
                    date(dates.not_after)
                )
            }
        }
    }
}

/// Waits after a refusal. A wish to try at once shortens that, but not below what the authority takes.
async fn pause(retry: &mut watch::Receiver<u64>, refusals: Refusals) {
    let (wait, least) = refusals.waits(now());
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = async {
            // Its sender lives as long as the task.
            let _ = retry.changed().await;
            let waited = refusals.waits(now()).1;
            tokio::time::sleep(waited.min(least)).await;
        } => {}
    }
}

/// The words of the log for it.
fn when(refusals: Refusals) -> String {
    let (wait, least) = refusals.waits(now());
    let (wait, least) = (wait.as_secs(), least.as_secs());
    format!("the next attempt is in {wait} s, or at SIGHUP, but not before {least} s have passed")
}

fn take_up(domain: &Domain, pair: Pair, keys: &Keys) {
    if let Some(dates) = pair.dates {
        let due = timing::renewal(dates, timing::chance_of(pair.leaf()));
        tracing::info!(
            "ACME: {} has a certificate until {}, to be renewed on {}",
            domain.name,
            date(dates.not_after),
            date(due)
        );
    }
    domain.hold(pair.clone());
    keys.set_ordered(&domain.name, pair, false);
}

/// Does what writes files where it holds nobody up.
async fn blocking(
    write: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<(), String> {
    match tokio::task::spawn_blocking(write).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn is_due(pair: &Pair) -> bool {
    let due = |dates| timing::renewal(dates, timing::chance_of(pair.leaf()));
    pair.dates.is_none_or(|dates| due(dates) <= now())
}

fn date(seconds: i64) -> String {
    let time = DateTime::from_timestamp(seconds, 0);
    time.map_or_else(
        || seconds.to_string(),
        |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "certificates end by the clock on the wall; what is computed from it takes it as an argument"
)]
fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::crypto::aws_lc_rs::default_provider;
    use tempfile::{TempDir, tempdir};

    use super::{web::tests::Server, *};
    use crate::Options;

    /// What is open towards `server`, for the name `hub.example.org`.
    fn open(folder: &TempDir, server: &Server) -> Acme {
        let acme = AcmeOptions {
            acme_domain: vec!["hub.example.org".into()],
            acme_directory: Some(server.url("/dir")),
            acme_ca: Some(server.authority(folder.path())),
            acme_dir: Some(folder.path().join("acme")),
            ..AcmeOptions::default()
        };
        let options = Options {
            acme,
            ..Options::default()
        };
        let plan = AcmePlan::from_options(&options).unwrap().unwrap();
        let limits = Limits {
            provider: Arc::new(default_provider()),
            versions: rustls::ALL_VERSIONS,
        };
        Acme::open(plan, &limits).unwrap()
    }

    /// A certificate that an authority has signed.
    fn signed() -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["hub.example.org".to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        key.serialize_pem() + &params.signed_by(&key, &issuer).unwrap().pem()
    }

    const DIRECTORY: &str = r#"{"newNonce": "https://h/a", "newAccount": "https://h/b",
        "newOrder": "https://h/c", "renewalInfo": "{here}/renewal"}"#;

    const WINDOW: &str = r#"{"suggestedWindow":
        {"start": "2030-01-02T03:04:05Z", "end": "2030-01-03T03:04:05Z"}}"#;

    /// As this program has stored it; the key is of no account anywhere.
    const ACCOUNT: &str = r#"{"id": "https://h/account", "directory": "{here}/dir", "key_pkcs8":
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJVWC_QzOTCS5vtsJp2IG-UDc8cdDfeoKtxSZxaznM-mhRANCAAQenCPoGgPFTdPJ7VLLKt56RxPlYT1wNXnHc54PEyBg3LxKaH0-sJkX0mL8LyPEdsfL_Oz4TxHkWLJGrXVtNhfH"}"#;

    #[tokio::test]
    async fn the_authority_may_say_when_to_renew() {
        let server = Server::start(|path, here| match path {
            "/dir" => DIRECTORY.replace("{here}", here),
            path if path.starts_with("/renewal/") => WINDOW.to_owned(),
            path => panic!("{path}"),
        })
        .await;
        let folder = tempdir().unwrap();
        let acme = open(&folder, &server);
        let account = ACCOUNT.replace("{here}", &server.url(""));
        acme.store.set_account(account.as_bytes()).unwrap();
        let pem = signed();
        acme.store.set_certificate("hub.example.org", &pem).unwrap();
        let domain = &acme.domains[0];
        let pair = acme.stored(domain).unwrap();

        let (window, again) = acme.suggestion(domain, &pair).await;
        assert_eq!(window, Some((1_893_553_445, 1_893_639_845)));
        // A second may have passed.
        assert!((21_590..=21_600).contains(&again), "{again}");
        let asked = server.paths();
        assert_eq!(asked.len(), 2, "{asked:?}");
        // Key identifier and serial number, each in base64.
        assert_eq!(asked[1].matches('.').count(), 1, "{asked:?}");
    }

    #[tokio::test]
    async fn without_such_words_there_is_no_suggestion() {
        let server =
            Server::start(|_, _| DIRECTORY.replace(r#", "renewalInfo": "{here}/renewal""#, ""))
                .await;
        let folder = tempdir().unwrap();
        let acme = open(&folder, &server);
        let account = ACCOUNT.replace("{here}", &server.url(""));
        acme.store.set_account(account.as_bytes()).unwrap();
        acme.store
            .set_certificate("hub.example.org", &signed())
            .unwrap();
        let domain = &acme.domains[0];
        let pair = acme.stored(domain).unwrap();
        assert_eq!(acme.suggestion(domain, &pair).await, (None, i64::MAX));
        assert_eq!(server.paths(), ["/dir"]);
    }
}
