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
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::DateTime;
use instant_acme::CertificateIdentifier;
use rustls::{crypto::CryptoProvider, pki_types::CertificateDer};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};

pub use self::plan::AcmeOptions;
pub(crate) use self::{
    challenges::Challenges,
    plan::{AcmePlan, Method},
};
use self::{order::Failure, store::Store};
use crate::{
    Error,
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
    store: Store,
    challenges: Arc<Challenges>,
    domains: Vec<Domain>,
    account_lock: tokio::sync::Mutex<()>,
    orders: Semaphore,
    /// Ends the pause after a failure.
    retry: Notify,
    /// Whether the second method worked last.
    second_first: AtomicBool,
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
            store,
            challenges: Arc::default(),
            account_lock: tokio::sync::Mutex::new(()),
            orders: Semaphore::new(ORDERS),
            retry: Notify::new(),
            second_first: AtomicBool::new(false),
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
            tasks.spawn(Arc::clone(self).keep_one(index, Arc::clone(keys)));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!("internal: certificates are not renewed any more: {error}");
            }
        }
    }

    /// Those that wait after a failure try at once.
    pub(crate) fn try_now(&self) {
        self.retry.notify_waiters();
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
        let mut failures: u32 = 0;
        loop {
            if let Some(pair) = domain.pair() {
                self.wait_until_due(domain, &pair).await;
            }
            let Err(failure) = self.renew(domain, &keys).await else {
                failures = 0;
                continue;
            };
            failures = failures.saturating_add(1);
            domain.failures.fetch_add(1, Ordering::Relaxed);
            let pause = timing::pause(failures, failure.is_refusal(), self.chance());
            tracing::error!(
                "ACME: no certificate for {}: {failure}. {}; the next attempt is in {} s, or at SIGHUP",
                domain.name,
                domain.what_is_shown(),
                pause.as_secs()
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.retry.notified() => {}
            }
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

    async fn renew(&self, domain: &Domain, keys: &Keys) -> Result<(), Failure> {
        // Somebody else may have put one there: a proxy that takes over from this one, say.
        if let Some(pair) = self.stored(domain)
            && !is_due(&pair)
        {
            self.take_up(domain, pair, keys);
            return Ok(());
        }
        let order = async {
            let _permit = self.orders.acquire().await;
            self.order(&domain.name).await
        };
        let signed = tokio::time::timeout(ORDER, order).await;
        let signed = signed.map_err(|_| {
            let minutes = ORDER.as_secs() / 60;
            Failure::Unreachable(format!("it was not there within {minutes} minutes"))
        })??;
        if let Err(error) = self.store.set_certificate(&domain.name, &signed.pem) {
            tracing::error!(
                "ACME: the new certificate for {} is used, but will be gone after a restart: {error}",
                domain.name
            );
        }
        self.take_up(domain, signed.pair, keys);
        Ok(())
    }

    fn take_up(&self, domain: &Domain, pair: Pair, keys: &Keys) {
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
