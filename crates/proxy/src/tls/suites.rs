//! `--ssl-protocol` and `--ssl-ciphers`, in OpenSSL's words.

use std::sync::Arc;

use rustls::{
    ALL_VERSIONS, CipherSuite, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::aws_lc_rs::default_provider,
    version::{TLS12, TLS13},
};

use super::Limits;
use crate::{Error, Options};

/// OpenSSL's names of the suites that there are, by their numbers.
const NAMES: [(&str, CipherSuite); 9] = [
    (
        "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_128_GCM_SHA256,
    ),
    (
        "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_256_GCM_SHA384,
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Words of OpenSSL's lists that all our suites belong to.
const GROUPS: [&str; 8] = [
    "ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "AEAD",
];

pub(super) fn limits(options: &Options, remarks: &mut Vec<String>) -> Result<Limits, Error> {
    let versions = match options.ssl_protocol.as_deref() {
        None => ALL_VERSIONS,
        Some(name) => versions(name)?,
    };
    let mut provider = default_provider();
    if let Some(list) = options.ssl_ciphers.as_deref() {
        provider.cipher_suites = suites(list, &provider.cipher_suites, remarks)?;
    }
    let usable = |version: &&SupportedProtocolVersion| {
        let mut suites = provider.cipher_suites.iter();
        suites.any(|suite| suite.version().version == version.version)
    };
    if !versions.iter().any(usable) {
        return Err(Error::BadOption(
            "--ssl-protocol and --ssl-ciphers leave nothing to speak: no suite named is of that \
             version"
                .to_owned(),
        ));
    }
    Ok(Limits {
        provider: Arc::new(provider),
        versions,
    })
}

/// The names are those of OpenSSL's methods, which say one version or any.
fn versions(name: &str) -> Result<&'static [&'static SupportedProtocolVersion], Error> {
    static ONLY_12: [&SupportedProtocolVersion; 1] = [&TLS12];
    static ONLY_13: [&SupportedProtocolVersion; 1] = [&TLS13];
    let method = name.strip_suffix("_server").unwrap_or(name);
    match method.strip_suffix("_client").unwrap_or(method) {
        "TLS" | "SSLv23" => Ok(ALL_VERSIONS),
        "TLSv1_2" => Ok(&ONLY_12),
        "TLSv1_3" => Ok(&ONLY_13),
        "SSLv2" | "SSLv3" | "TLSv1" | "TLSv1_1" => Err(Error::BadOption(format!(
            "--ssl-protocol {name}: this version is broken and not built in; choose TLSv1_2, TLSv1_3 \
             or TLS, which is both"
        ))),
        _ => Err(Error::BadOption(format!(
            "--ssl-protocol {name}: choose TLSv1_2, TLSv1_3 or TLS, which is both"
        ))),
    }
}

/// Those of the list, in its order. As in OpenSSL, TLS 1.3 keeps its suites when the list names none
/// of them.
fn suites(
    list: &str,
    all: &[SupportedCipherSuite],
    remarks: &mut Vec<String>,
) -> Result<Vec<SupportedCipherSuite>, Error> {
    let mut chosen: Vec<SupportedCipherSuite> = Vec::new();
    let mut banned: Vec<CipherSuite> = Vec::new();
    let mut unknown = Vec::new();
    let named = |word: &str| {
        let found = NAMES.iter().find(|(name, _)| *name == word);
        found.map(|(_, number)| *number)
    };
    for word in list.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        if let Some(word) = word.strip_prefix(['!', '-']) {
            banned.extend(named(word));
        } else if let Some(number) = named(word) {
            chosen.extend(all.iter().filter(|suite| suite.suite() == number));
        } else if GROUPS.contains(&word) {
            chosen.extend(all);
        } else if !word.starts_with(['+', '@']) {
            unknown.push(word);
        }
    }
    if !unknown.is_empty() {
        remarks.push(format!(
            "--ssl-ciphers: not built in, and left out: {}",
            unknown.join(", ")
        ));
    }
    let is_13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
    if !chosen.iter().any(is_13) {
        chosen.splice(0..0, all.iter().copied().filter(is_13));
        if chosen.iter().all(is_13) && !unknown.is_empty() {
            return Err(Error::BadOption(format!(
                "--ssl-ciphers {list}: none of these is built in; there are {}",
                NAMES.map(|(name, _)| name).join(", ")
            )));
        }
    }
    let mut seen = Vec::new();
    chosen.retain(|suite| {
        let number = suite.suite();
        let keep = !banned.contains(&number) && !seen.contains(&number);
        seen.push(number);
        keep
    });
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(protocol: Option<&str>, ciphers: Option<&str>) -> Result<(Limits, Vec<String>), Error> {
        let options = Options {
            ssl_protocol: protocol.map(str::to_owned),
            ssl_ciphers: ciphers.map(str::to_owned),
            ..Options::default()
        };
        let mut remarks = Vec::new();
        limits(&options, &mut remarks).map(|limits| (limits, remarks))
    }

    fn numbers(ciphers: &str) -> Vec<CipherSuite> {
        let (limits, _) = of(None, Some(ciphers)).unwrap();
        let suites = limits.provider.cipher_suites.iter();
        suites.map(SupportedCipherSuite::suite).collect()
    }

    #[test]
    fn protocols() {
        let count = |name| of(Some(name), None).map(|(limits, _)| limits.versions.len());
        assert_eq!(count("TLSv1_2").unwrap(), 1);
        assert_eq!(count("TLSv1_3").unwrap(), 1);
        assert_eq!(count("TLS").unwrap(), 2);
        for name in ["SSLv3", "TLSv1", "TLSv1_1", "nonsense"] {
            assert!(count(name).is_err(), "{name}");
        }
    }

    #[test]
    fn ciphers() {
        let all = default_provider().cipher_suites.len();
        // The list that configurable-http-proxy has without the option.
        let usual = "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-SHA256:HIGH:!RC4:!aNULL:!MD5";
        assert_eq!(numbers(usual).len(), all);
        assert_eq!(
            numbers("ECDHE-RSA-AES256-GCM-SHA384").len(),
            4,
            "TLS 1.3 keeps its own"
        );
        assert_eq!(
            numbers("TLS_AES_256_GCM_SHA384:ECDHE-RSA-AES128-GCM-SHA256"),
            [
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            ]
        );
        assert_eq!(numbers("HIGH:!ECDHE-RSA-AES128-GCM-SHA256").len(), all - 1);
        assert!(of(None, Some("AES128-SHA")).is_err());
        let (_, remarks) = of(None, Some("HIGH:AES128-SHA")).unwrap();
        assert!(remarks[0].ends_with("AES128-SHA"));
        assert!(of(Some("TLSv1_2"), Some("TLS_AES_128_GCM_SHA256")).is_err());
    }
}
