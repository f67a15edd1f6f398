//! TLS in its three places: users' connections, the REST API's, and those to servers.
//!
//! Keys and certificates are files. They are read again when they change, and at SIGHUP; new
//! connections then get the new ones, and open connections stay as they are.

pub(crate) mod client;
mod encrypted;
mod files;
mod keys;
mod server;
mod suites;

use std::{fmt::Write as _, path::PathBuf, sync::Arc, time::Duration};

use rustls::crypto::CryptoProvider;

use self::files::Stamps;
pub(crate) use self::{
    client::ClientTls,
    keys::{Dates, Keys, Pair},
    server::ServerTls,
};
use crate::{
    Error, Options,
    acme::{Acme, AcmePlan},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What is offered inside TLS (ALPN), the best first.
const WITH_HTTP2: &[&[u8]] = &[b"h2", b"http/1.1"];
const WITHOUT_HTTP2: &[&[u8]] = &[b"http/1.1"];

/// Versions and cipher suites, as `--ssl-protocol` and `--ssl-ciphers` leave them.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) versions: &'static [&'static rustls::SupportedProtocolVersion],
}

/// What the options say about TLS, before any file has been read.
#[derive(Debug)]
pub(crate) struct TlsOptions {
    public: Option<server::Files>,
    api: Option<server::Files>,
    client: client::Files,
    acme: Option<AcmePlan>,
    limits: Limits,
    remarks: Vec<String>,
}

/// The TLS of a running proxy.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) public: Option<ServerTls>,
    pub(crate) api: Option<ServerTls>,
    pub(crate) client: ClientTls,
    /// Set when certificates come by ACME.
    pub(crate) acme: Option<Arc<Acme>>,
}

impl TlsOptions {
    pub(crate) fn from_options(options: &Options) -> Result<Self, Error> {
        let mut remarks = Vec::new();
        let limits = suites::limits(options, &mut remarks)?;
        if options.ssl_allow_rc4 {
            remarks.push("--ssl-allow-rc4 has no effect: RC4 is broken and not built in".into());
        }
        if options.ssl_dhparam.is_some() {
            remarks.push(
                "--ssl-dhparam has no effect: keys are agreed on by elliptic curves, which need no \
                 such file"
                    .into(),
            );
        }
        let acme = AcmePlan::from_options(options)?;
        let public = server::Files::from_options(
            &server::Given {
                name: "--ssl",
                passphrase_variable: "CONFIGPROXY_SSL_KEY_PASSPHRASE",
                key: &options.ssl_key,
                certificate: &options.ssl_cert,
                authorities: &options.ssl_ca,
                asks: options.ssl_request_cert,
                rejects: options.ssl_reject_unauthorized,
                further: &options.ours.ssl_sni,
                others: acme.is_some(),
                protocols: if options.ours.no_http2 {
                    WITHOUT_HTTP2
                } else {
                    WITH_HTTP2
                },
            },
            &mut remarks,
        )?;
        let api = server::Files::from_options(
            &server::Given {
                name: "--api-ssl",
                passphrase_variable: "CONFIGPROXY_API_SSL_KEY_PASSPHRASE",
                key: &options.api_ssl_key,
                certificate: &options.api_ssl_cert,
                authorities: &options.api_ssl_ca,
                asks: options.api_ssl_request_cert,
                rejects: options.api_ssl_reject_unauthorized,
                further: &[],
                others: false,
                protocols: WITHOUT_HTTP2,
            },
            &mut remarks,
        )?;
        // --client-ssl-request-cert and --client-ssl-reject-unauthorized ask for what is done in
        // any case: servers always show a certificate, and it is checked unless --insecure is given.
        let client = client::Files::from_options(
            [
                &options.client_ssl_key,
                &options.client_ssl_cert,
                &options.client_ssl_ca,
            ],
            options.insecure,
        )?;
        Ok(Self {
            public,
            api,
            client,
            acme,
            limits,
            remarks,
        })
    }

    /// Whether users are served over TLS.
    pub(crate) fn is_public(&self) -> bool {
        self.public.is_some()
    }

    /// Reads the files.
    pub(crate) fn open(&self) -> Result<Tls, Error> {
        for remark in &self.remarks {
            tracing::warn!("{remark}");
        }
        let server = |files: &Option<server::Files>, challenges| {
            let files = files.clone();
            files
                .map(|files| ServerTls::open(files, self.limits.clone(), challenges))
                .transpose()
        };
        let acme = self.acme.clone();
        let acme = acme
            .map(|plan| Acme::open(plan, &self.limits))
            .transpose()?;
        let challenges = acme.as_ref().map(|acme| Arc::clone(acme.challenges()));
        let public = server(&self.public, challenges)?;
        if let (Some(acme), Some(public)) = (&acme, &public) {
            acme.show_what_there_is(&public.keys)?;
        }
        Ok(Tls {
            public,
            api: server(&self.api, None)?,
            client: ClientTls::open(self.client.clone(), self.limits.clone())?,
            acme: acme.map(Arc::new),
        })
    }
}

impl Tls {
    /// Reads all files again, now.
    pub(crate) fn reload(&self) {
        for server in [&self.public, &self.api].into_iter().flatten() {
            if server.has_files() {
                report(server.name(), server.reload());
            }
        }
        if self.client.has_files() {
            report("--client-ssl", self.client.reload());
        }
        if let Some(acme) = &self.acme {
            acme.try_now();
        }
    }

    async fn keep_certificates(&self) {
        if let (Some(acme), Some(public)) = (&self.acme, &self.public) {
            acme.keep(&public.keys).await;
        }
    }

    /// What the metrics' page says of users' certificates, in Prometheus' text format.
    pub(crate) fn metrics(&self) -> String {
        let mut page = String::new();
        let expiries = self.public.iter().flat_map(|public| public.keys.expiries());
        let name = "orrery_proxy_certificate_not_after_timestamp_seconds";
        for (index, (domain, end)) in expiries.enumerate() {
            if index == 0 {
                let help = "End of the certificate that users see";
                let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} gauge\n");
            }
            // Names of certificates are from outside.
            let domain = domain.replace(['\\', '"', '\n'], "_");
            let _ = writeln!(page, "{name}{{domain=\"{domain}\"}} {end}");
        }
        if let Some(acme) = &self.acme {
            acme.metrics(&mut page);
        }
        page
    }

    /// Keeps certificates fresh for as long as the proxy runs, those of files and those of ACME.
    pub(crate) async fn watch(&self) {
        tokio::join!(self.watch_files(), self.keep_certificates());
    }

    /// Reads files again whenever they have changed.
    ///
    /// A key and its certificate are replaced one after the other, so a change is acted on when it
    /// has been there for one look.
    async fn watch_files(&self) {
        let parts: Vec<(&str, Vec<PathBuf>)> = [&self.public, &self.api]
            .into_iter()
            .flatten()
            .filter(|server| server.has_files())
            .map(|server| (server.name(), server.paths()))
            .chain(
                self.client
                    .has_files()
                    .then(|| ("--client-ssl", self.client.paths())),
            )
            .collect();
        if parts.is_empty() {
            return;
        }
        let mut known: Vec<Stamps> = parts.iter().map(|(_, paths)| Stamps::of(paths)).collect();
        let mut seen = known.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            for (index, (name, paths)) in parts.iter().enumerate() {
                let now = Stamps::of(paths);
                if now == seen[index] && now != known[index] {
                    known[index] = now.clone();
                    let server = [&self.public, &self.api]
                        .into_iter()
                        .flatten()
                        .find(|server| server.name() == *name);
                    report(
                        name,
                        match server {
                            Some(server) => server.reload(),
                            None => self.client.reload(),
                        },
                    );
                }
                seen[index] = now;
            }
        }
    }
}

fn report(name: &str, result: Result<(), Error>) {
    match result {
        Ok(()) => tracing::info!("Read the files of {name}-* again"),
        Err(error) => tracing::error!("The files of {name}-* stay as they were read: {error}"),
    }
}
