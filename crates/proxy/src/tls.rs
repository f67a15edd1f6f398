//! TLS in its three places: users' connections, the REST API's, and those to servers.
//!
//! Keys and certificates are files. They are read again when they change, and at SIGHUP; new
//! connections then get the new ones, and open connections stay as they are.

mod client;
mod files;
mod server;
mod suites;

use std::{path::PathBuf, sync::Arc, time::Duration};

use rustls::crypto::CryptoProvider;

use self::files::Stamps;
pub(crate) use self::{client::ClientTls, server::ServerTls};
use crate::{Error, Options};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Versions and cipher suites, as `--ssl-protocol` and `--ssl-ciphers` leave them.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
}

/// What the options say about TLS, before any file has been read.
#[derive(Debug)]
pub(crate) struct TlsOptions {
    public: Option<server::Files>,
    api: Option<server::Files>,
    client: client::Files,
    limits: Limits,
    remarks: Vec<String>,
}

/// The TLS of a running proxy.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) public: Option<ServerTls>,
    pub(crate) api: Option<ServerTls>,
    pub(crate) client: ClientTls,
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
        let public = server::Files::from_options(
            "--ssl",
            "CONFIGPROXY_SSL_KEY_PASSPHRASE",
            [&options.ssl_key, &options.ssl_cert, &options.ssl_ca],
            options.ssl_request_cert,
            options.ssl_reject_unauthorized,
            &mut remarks,
        )?;
        let public = match public {
            Some(files) if !options.no_http2 => Some(files.with_http2()),
            public => public,
        };
        let api = server::Files::from_options(
            "--api-ssl",
            "CONFIGPROXY_API_SSL_KEY_PASSPHRASE",
            [
                &options.api_ssl_key,
                &options.api_ssl_cert,
                &options.api_ssl_ca,
            ],
            options.api_ssl_request_cert,
            options.api_ssl_reject_unauthorized,
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
        let server = |files: &Option<server::Files>| {
            let files = files.clone();
            files
                .map(|files| ServerTls::open(files, self.limits.clone()))
                .transpose()
        };
        Ok(Tls {
            public: server(&self.public)?,
            api: server(&self.api)?,
            client: ClientTls::open(self.client.clone(), self.limits.clone())?,
        })
    }
}

impl Tls {
    /// Reads all files again, now.
    pub(crate) fn reload(&self) {
        for server in [&self.public, &self.api].into_iter().flatten() {
            report(server.name(), server.reload());
        }
        if self.client.has_files() {
            report("--client-ssl", self.client.reload());
        }
    }

    /// Reads files again whenever they have changed, for as long as the proxy runs.
    ///
    /// A key and its certificate are replaced one after the other, so a change is acted on when it
    /// has been there for one look.
    pub(crate) async fn watch(&self) {
        let parts: Vec<(&str, Vec<PathBuf>)> = [&self.public, &self.api]
            .into_iter()
            .flatten()
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
