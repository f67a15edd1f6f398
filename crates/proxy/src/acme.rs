//! Certificates from an authority that speaks ACME (RFC 8555), Let's Encrypt above all: ordered at
//! the first start, kept in a folder, renewed in time, without a restart and without a dropped
//! connection.

use std::path::PathBuf;

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
