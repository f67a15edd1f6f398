//! Making certificates.

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::digest;
use orrery_core::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::{CertificateError, Issued, Today};

/// How long certificates are valid, as upstream's are.
const YEARS: u32 = 5;

/// Signs certificates.
pub(super) struct Authority(Issuer<'static, KeyPair>);

/// The names that a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names(Vec<SanType>);

impl Names {
    /// Adds a name as upstream writes it: `DNS:hub.example.org` or `IP:10.0.0.1`.
    pub(super) fn add(&mut self, option: &str, name: &str) -> Result<(), CertificateError> {
        let bad = || {
            CertificateError::new(format!(
                "{option} has {name:?}; write DNS:hub.example.org or IP:10.0.0.1"
            ))
        };
        let (kind, value) = name.split_once(':').ok_or_else(bad)?;
        let entry = match kind {
            "IP" => SanType::IpAddress(value.parse().map_err(|_| bad())?),
            "DNS" => SanType::DnsName(value.try_into().map_err(|_| bad())?),
            "URI" => SanType::URI(value.try_into().map_err(|_| bad())?),
            "email" => SanType::Rfc822Name(value.try_into().map_err(|_| bad())?),
            _ => return Err(bad()),
        };
        self.push(entry);
        Ok(())
    }

    /// Adds a machine's name, unless no certificate could have it.
    pub(super) fn add_host(&mut self, host: &str) {
        if let Ok(address) = host.parse::<IpAddr>() {
            self.push(SanType::IpAddress(address));
        } else if !host.is_empty()
            && let Ok(name) = host.try_into()
        {
            self.push(SanType::DnsName(name));
        }
    }

    fn push(&mut self, entry: SanType) {
        if !self.0.contains(&entry) {
            self.0.push(entry);
        }
    }

    /// Whether a certificate with the names `there` has all of these host names and addresses.
    pub(super) fn are_in(&self, there: &[String]) -> bool {
        self.0.iter().all(|name| match name {
            SanType::DnsName(name) => there.iter().any(|other| other == name.as_str()),
            SanType::IpAddress(address) => there.contains(&address.to_string()),
            _ => true,
        })
    }
}

impl Authority {
    /// A new one, that may sign certificates but no further authorities.
    pub(super) fn create(name: &str, today: Today) -> Result<Issued, CertificateError> {
        let mut params = params(name, today);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        // RFC 5280 section 4.2.1.2 (1). Whoever signs with this key after us, upstream's certipy for
        // one, computes it in this way rather than reading it here; OpenSSL compares the two.
        let id = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key.public_key_raw());
        params.key_identifier_method = KeyIdMethod::PreSpecified(id.as_ref().to_vec());
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(issued(&key, &certificate))
    }

    /// From its certificate and key, which may be upstream's.
    pub(super) fn open(certificate: &str, key: &Secret) -> Result<Self, CertificateError> {
        let der = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| {
            CertificateError::new("its key is no private key in PEM form, or is encrypted")
        })?;
        let key = KeyPair::try_from(&der).map_err(failed)?;
        Issuer::from_ca_cert_pem(certificate, key)
            .map(Self)
            .map_err(failed)
    }

    /// A new key with a certificate for it, for both ends of a connection.
    pub(super) fn sign(
        &self,
        name: &str,
        names: &Names,
        today: Today,
    ) -> Result<Issued, CertificateError> {
        let mut params = params(name, today);
        params.subject_alt_names.clone_from(&names.0);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.0).map_err(failed)?;
        Ok(issued(&key, &certificate))
    }
}

/// Valid from the day's beginning: clocks differ.
fn params(name: &str, today: Today) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Longer common names are refused by some.
    let name: String = name.chars().take(64).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let (year, month, day) = today.ymd();
    params.not_before = rcgen::date_time_ymd(year, month, day);
    params.not_after = params.not_before + Duration::from_hours(24 * 365) * YEARS;
    params
}

fn issued(key: &KeyPair, certificate: &rcgen::Certificate) -> Issued {
    Issued {
        key: Secret::new(key.serialize_pem()),
        certificate: certificate.pem(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn failed(error: rcgen::Error) -> CertificateError {
    CertificateError::new(format!("a certificate cannot be made: {error}"))
}
