//! `--acme-*`: which names, from whom, kept where.

use std::{fmt, path::PathBuf};

use http::{Uri, uri::Scheme};
use rustls::pki_types::ServerName;

use crate::{Error, Options};

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// What `--acme-*` say.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Certificates by ACME (Let's Encrypt)")]
pub struct AcmeOptions {
    /// Name to get a certificate for, with the terms of service of its authority agreed to; may be
    /// repeated
    #[arg(long, value_name = "NAME")]
    pub acme_domain: Vec<String>,
    /// Where the authority writes to about the certificates
    #[arg(long, value_name = "ADDRESS")]
    pub acme_email: Option<String>,
    /// Directory of the authority [default: that of Let's Encrypt]
    #[arg(long, value_name = "URL")]
    pub acme_directory: Option<String>,
    /// Whom to trust to be the authority's server, in PEM form, instead of whom this machine trusts
    #[arg(long, value_name = "FILE")]
    pub acme_ca: Option<PathBuf>,
    /// Folder for the account and the certificates with their keys [default: orrery-acme]
    #[arg(long, value_name = "FOLDER")]
    pub acme_dir: Option<PathBuf>,
    /// How to show that a name is ours: tls-alpn-01 (the users' port, reached as 443) or http-01
    /// (--redirect-port, reached as 80) [default: tls-alpn-01, then http-01 when there is a
    /// --redirect-port]
    #[arg(long, value_name = "CHALLENGE")]
    pub acme_challenge: Option<String>,
}

/// The options, checked.
#[derive(Debug, Clone)]
pub(crate) struct AcmePlan {
    /// In lower case.
    pub(super) domains: Vec<Box<str>>,
    pub(super) email: Option<String>,
    pub(super) directory: String,
    /// Whose server certificate the authority may have, instead of those this machine trusts.
    pub(super) authority: Option<PathBuf>,
    pub(super) folder: PathBuf,
    /// To be tried in this order.
    pub(super) methods: Vec<Method>,
}

/// How to show that a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// A text on port 80.
    Http,
    /// A certificate on port 443.
    TlsAlpn,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Http => "http-01",
            Method::TlsAlpn => "tls-alpn-01",
        })
    }
}

impl AcmePlan {
    pub(crate) fn from_options(options: &Options) -> Result<Option<Self>, Error> {
        let acme = &options.acme;
        if acme.acme_domain.is_empty() {
            let given = [
                ("--acme-email", acme.acme_email.is_some()),
                ("--acme-directory", acme.acme_directory.is_some()),
                ("--acme-ca", acme.acme_ca.is_some()),
                ("--acme-dir", acme.acme_dir.is_some()),
                ("--acme-challenge", acme.acme_challenge.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(bad(&format!(
                    "{name} needs --acme-domain, the name to get a certificate for"
                ))),
                None => Ok(None),
            };
        }
        let mut domains: Vec<Box<str>> = Vec::new();
        for name in &acme.acme_domain {
            let name = domain(name)?;
            if !domains.contains(&name) {
                domains.push(name);
            }
        }
        let directory = acme.acme_directory.as_deref().unwrap_or(LETS_ENCRYPT);
        let url = directory.parse::<Uri>().ok();
        if !url.is_some_and(|url| url.scheme() == Some(&Scheme::HTTPS) && url.host().is_some()) {
            return Err(bad(&format!(
                "--acme-directory {directory}: not a URL of https"
            )));
        }
        let email = acme.acme_email.as_deref();
        if let Some(email) = email.filter(|email| !is_address(email)) {
            return Err(bad(&format!("--acme-email {email}: not an address")));
        }
        let folder = acme.acme_dir.clone();
        Ok(Some(Self {
            domains,
            email: email.map(str::to_owned),
            directory: directory.to_owned(),
            authority: acme.acme_ca.clone(),
            folder: folder.unwrap_or_else(|| PathBuf::from("orrery-acme")),
            methods: methods(
                acme.acme_challenge.as_deref(),
                options.redirect_port.is_some(),
            )?,
        }))
    }

    /// A folder's name for the directory.
    pub(super) fn authority_name(&self) -> String {
        let url = self.directory.trim_start_matches("https://");
        let name: String = url
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '.' {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        name.trim_matches(['-', '.']).to_owned()
    }
}

fn domain(name: &str) -> Result<Box<str>, Error> {
    let fault = |reason: &str| Err(bad(&format!("--acme-domain {name}: {reason}")));
    if name.starts_with("*.") {
        return fault(
            "a certificate for all names under a domain needs a record in the DNS, which the proxy \
             cannot make; give each name",
        );
    }
    if !name.is_ascii() {
        return fault("write the name in its ASCII form, which begins with xn--");
    }
    let is_name = matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)));
    // The name is also that of a file.
    if !is_name || name.starts_with('.') || name.ends_with('.') || name.contains('/') {
        return fault("not the name of a host");
    }
    Ok(name.to_ascii_lowercase().into())
}

fn is_address(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !"<>,\"?&:/".contains(c);
    text.chars().all(plain)
        && text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
}

fn methods(given: Option<&str>, has_redirect: bool) -> Result<Vec<Method>, Error> {
    match given {
        None if has_redirect => Ok(vec![Method::TlsAlpn, Method::Http]),
        None => Ok(vec![Method::TlsAlpn]),
        Some("tls-alpn-01") if has_redirect => Ok(vec![Method::TlsAlpn, Method::Http]),
        Some("tls-alpn-01") => Ok(vec![Method::TlsAlpn]),
        Some("http-01") if has_redirect => Ok(vec![Method::Http, Method::TlsAlpn]),
        Some("http-01") => Err(bad(
            "--acme-challenge http-01 needs --redirect-port, where the authority asks",
        )),
        Some(other) => Err(bad(&format!(
            "--acme-challenge {other}: choose tls-alpn-01 or http-01"
        ))),
    }
}

fn bad(text: &str) -> Error {
    Error::BadOption(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl FnOnce(&mut Options)) -> Result<Option<AcmePlan>, String> {
        let mut options = Options::default();
        options.acme.acme_domain = vec!["Hub.Example.org".into(), "hub.example.org".into()];
        change(&mut options);
        AcmePlan::from_options(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_usual() {
        let plan = plan(|_| {}).unwrap().unwrap();
        assert_eq!(plan.domains, ["hub.example.org".into()]);
        assert_eq!(
            plan.authority_name(),
            "acme-v02.api.letsencrypt.org-directory"
        );
        assert_eq!(plan.folder, PathBuf::from("orrery-acme"));
        assert_eq!(plan.methods, [Method::TlsAlpn]);
        let none = super::AcmePlan::from_options(&Options::default()).unwrap();
        assert!(none.is_none());
    }

    #[test]
    fn the_method_asked_for_is_tried_first() {
        let methods = |challenge: Option<&str>, redirect| {
            plan(|options| {
                options.acme.acme_challenge = challenge.map(str::to_owned);
                options.redirect_port = redirect;
            })
            .map(|plan| plan.unwrap().methods)
        };
        let (http, tls) = (Method::Http, Method::TlsAlpn);
        assert_eq!(methods(None, Some(80)).unwrap(), [tls, http]);
        assert_eq!(methods(Some("http-01"), Some(80)).unwrap(), [http, tls]);
        assert!(
            methods(Some("http-01"), None)
                .unwrap_err()
                .contains("--redirect-port")
        );
        assert!(
            methods(Some("dns-01"), None)
                .unwrap_err()
                .contains("choose")
        );
    }

    #[test]
    fn bad_values_are_refused() {
        for name in [
            "*.example.org",
            "192.0.2.1",
            "::1",
            "",
            ".",
            "a/b",
            "../x",
            "bücher.example",
            "a.",
        ] {
            let result = plan(|options| options.acme.acme_domain = vec![name.into()]);
            assert!(result.is_err(), "{name}");
        }
        for url in ["http://ca.example/dir", "ca.example", "https://", ""] {
            let result = plan(|options| options.acme.acme_directory = Some(url.into()));
            assert!(result.is_err(), "{url}");
        }
        for address in ["ada", "@x", "a@", "a@x, b@y", "a@x?b"] {
            let result = plan(|options| options.acme.acme_email = Some(address.into()));
            assert!(result.is_err(), "{address}");
        }
        let alone = plan(|options| {
            options.acme.acme_domain.clear();
            options.acme.acme_email = Some("ada@example.org".into());
        });
        assert!(alone.unwrap_err().contains("needs --acme-domain"));
    }
}
