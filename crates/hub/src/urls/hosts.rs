//! Hosts of their own for users and services: the names that JupyterHub's subdomain hooks give them.

use sha2::{Digest as _, Sha256};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory as _};

/// The longest label of a domain name (RFC 1035, 2.3.4).
const LONGEST_LABEL: usize = 63;
/// What the `idna` hook appends to services' labels.
const SERVICE_SUFFIX: &str = "--service";

/// How names become labels (`JupyterHub.subdomain_hook`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubdomainHook {
    /// Always a valid label of its own: the name itself, its IDNA form, or a stub with a hash.
    Idna,
    /// Escapes what is no letter, digit, dash or dot, and has one host for all services.
    Legacy,
}

impl SubdomainHook {
    /// By its name in the configuration.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "idna" => Some(Self::Idna),
            "legacy" => Some(Self::Legacy),
            _ => None,
        }
    }

    fn user(self, name: &str, domain: &str) -> String {
        match self {
            Self::Idna => format!("{}.{domain}", label(name, LONGEST_LABEL)),
            Self::Legacy => format!("{}.{domain}", legacy_label(name)),
        }
    }

    fn service(self, name: &str, domain: &str) -> String {
        match self {
            Self::Idna => {
                let label = label(name, LONGEST_LABEL - SERVICE_SUFFIX.len());
                format!("{label}{SERVICE_SUFFIX}.{domain}")
            }
            Self::Legacy => format!("services.{domain}"),
        }
    }
}

/// Where users and services are, when each has a host of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    hook: SubdomainHook,
    /// `http` or `https`.
    scheme: String,
    /// `JupyterHub.subdomain_host` without its protocol and port.
    domain: String,
    /// The domain that users' hosts stand under; another than `domain` only where
    /// `JupyterHub.public_url` names another, as in upstream.
    user_domain: String,
    /// With its colon; empty for the protocol's own.
    port: String,
}

impl Hosts {
    /// From `JupyterHub.subdomain_host` (`https://hub.example.org:8443`) and `JupyterHub.public_url`,
    /// which may be empty. `None` when the first is not a protocol and a host.
    pub fn new(subdomain_host: &str, public_url: &str, hook: SubdomainHook) -> Option<Self> {
        let (scheme, domain, port) = split_origin(subdomain_host)?;
        let user_domain =
            split_origin(public_url).map_or_else(|| domain.clone(), |(_, host, _)| host);
        Some(Self {
            hook,
            scheme,
            domain,
            user_domain,
            port,
        })
    }

    /// The host of a user's servers, without a port.
    pub fn user_domain(&self, name: &str) -> String {
        self.hook.user(name, &self.user_domain)
    }

    /// The host of a service, without a port.
    pub fn service_domain(&self, name: &str) -> String {
        self.hook.service(name, &self.domain)
    }

    /// `https://ada.hub.example.org:8443`.
    pub fn user_origin(&self, name: &str) -> String {
        self.origin(&self.user_domain(name))
    }

    /// `https://grader--service.hub.example.org:8443`.
    pub fn service_origin(&self, name: &str) -> String {
        self.origin(&self.service_domain(name))
    }

    fn origin(&self, domain: &str) -> String {
        format!("{}://{domain}{}", self.scheme, self.port)
    }

    /// The domain that the browser session's cookie is set for, so that all hosts share it.
    pub fn cookie_domain(&self) -> &str {
        &self.user_domain
    }

    /// Whether `host`, as a `Host` header or a URL has it, is a user's or service's rather than the
    /// hub's own: below the hub's domain.
    pub fn is_below(&self, host: &str) -> bool {
        let host = without_port(host).to_ascii_lowercase();
        // Browsers keep the root's dot.
        let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
        let own = [&self.domain, &self.user_domain];
        !own.contains(&&host)
            && own.iter().any(|domain| {
                host.strip_suffix(domain.as_str())
                    .is_some_and(|label| label.len() > 1 && label.ends_with('.'))
            })
    }

    /// Whether `authority` of a URL (host and port) is `JupyterHub.subdomain_host` or below it.
    pub fn covers(&self, authority: &str) -> bool {
        let own = format!("{}{}", self.domain, self.port);
        let authority = authority.to_ascii_lowercase();
        authority
            .strip_suffix(own.as_str())
            .is_some_and(|label| label.is_empty() || label.ends_with('.'))
            && authority
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    }
}

/// A `Host` header's host.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    }
}

/// Protocol, lower-case host and port (with its colon) of a URL.
fn split_origin(url: &str) -> Option<(String, String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = without_port(authority);
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (matches!(scheme, "http" | "https") && is_host).then(|| {
        (
            scheme.to_owned(),
            host.to_ascii_lowercase(),
            authority[host.len()..].to_owned(),
        )
    })
}

/// The hook `legacy`: escaped as in a URL, with `_` for `%`.
fn legacy_label(name: &str) -> String {
    use std::fmt::Write as _;
    let mut label = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' => label.push(char::from(byte.to_ascii_lowercase())),
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' => label.push(char::from(byte)),
            other => {
                let _ = write!(label, "_{other:02x}");
            }
        }
    }
    label
}

/// The hook `idna`: a valid label that no other name has.
fn label(name: &str, longest: usize) -> String {
    // What already looks like a label made here could be mistaken for another name's.
    if name.contains("--") {
        return stub_and_hash(name);
    }
    // Host names have no case: a name that differs from another in that alone gets a hash.
    if is_label(name, longest) && !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return name.to_owned();
    }
    idna(name)
        .filter(|label| is_label(label, longest))
        .unwrap_or_else(|| stub_and_hash(name))
}

/// At most 19 characters: a few of the name's own, and a hash that tells it from others.
fn stub_and_hash(name: &str) -> String {
    let hash = orrery_core::random::to_hex(&Sha256::digest(name.as_bytes()));
    let stub: String = name
        .to_lowercase()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(8)
        .collect();
    // Two dashes in the third place would mean an IDNA label.
    let stub = if stub.is_empty() { "x" } else { &stub };
    format!("u-{stub}--{}", &hash[..7])
}

/// Whether `text` is a label of a host name: letters, digits and inner dashes, not digits alone.
fn is_label(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.bytes().all(|byte| byte.is_ascii_digit())
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The name as an IDNA 2008 label (`xn--…`), if it is one as it stands, without any mapping.
fn idna(name: &str) -> Option<String> {
    if name.is_ascii() || name.contains('.') {
        return None;
    }
    let engine = idna::uts46::Uts46::new();
    let (denied, hyphens) = (idna::AsciiDenyList::STD3, idna::uts46::Hyphens::Check);
    let ascii = engine
        .to_ascii(
            name.as_bytes(),
            denied,
            hyphens,
            idna::uts46::DnsLength::Verify,
        )
        .ok()?;
    let (unicode, valid) = engine.to_unicode(ascii.as_bytes(), denied, hyphens);
    valid.ok()?;
    let is_unmapped = unicode == name;
    (is_unmapped && are_protocol_valid(name)).then(|| ascii.into_owned())
}

/// RFC 5892: letters, marks and digits, and a few more in their context. UTS 46, which the rest of
/// the check follows, takes symbols as well.
fn are_protocol_valid(name: &str) -> bool {
    let characters: Vec<char> = name.chars().collect();
    let in_kana_or_han = |c: &char| matches!(c, '\u{3041}'..='\u{3096}' | '\u{309d}'..='\u{309f}' | '\u{30a1}'..='\u{30fa}' | '\u{30fd}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}');
    characters.iter().enumerate().all(|(at, &c)| {
        let before = at.checked_sub(1).map(|before| characters[before]);
        let after = characters.get(at + 1).copied();
        match c {
            // Joiners were checked in their context; the other rules are those of RFC 5892's appendix A.
            '-' | '\u{200c}' | '\u{200d}' | '\u{6fd}' | '\u{6fe}' | '\u{f0b}' | '\u{3007}' => true,
            '\u{b7}' => before == Some('l') && after == Some('l'),
            '\u{375}' => {
                after.is_some_and(|c| matches!(c, '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}'))
            }
            '\u{5f3}' | '\u{5f4}' => before.is_some_and(|c| matches!(c, '\u{591}'..='\u{5f4}')),
            '\u{30fb}' => characters.iter().any(in_kana_or_han),
            '\u{660}'..='\u{669}' => !characters
                .iter()
                .any(|c| matches!(c, '\u{6f0}'..='\u{6f9}')),
            '\u{6f0}'..='\u{6f9}' => !characters
                .iter()
                .any(|c| matches!(c, '\u{660}'..='\u{669}')),
            '\u{640}'
            | '\u{7fa}'
            | '\u{302e}'
            | '\u{302f}'
            | '\u{3031}'..='\u{3035}'
            | '\u{303b}' => false,
            c => match c.general_category_group() {
                GeneralCategoryGroup::Letter => true,
                GeneralCategoryGroup::Mark => {
                    c.general_category() != unicode_properties::GeneralCategory::EnclosingMark
                }
                GeneralCategoryGroup::Number => {
                    c.general_category() == unicode_properties::GeneralCategory::DecimalNumber
                }
                _ => false,
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(hook: SubdomainHook) -> Hosts {
        Hosts::new("https://hub.example:8443", "", hook).expect("a host")
    }

    #[test]
    fn hosts_are_those_that_upstream_gives() {
        // As JupyterHub 6.1.1's `subdomain_hook_idna` and `subdomain_hook_legacy` answer.
        for (name, by_idna, by_legacy) in [
            ("ada", "ada", "ada"),
            ("a-1", "a-1", "a-1"),
            ("1", "u-1--6b86b27", "1"),
            ("ada@x.org", "u-adaxorg--HASH", "ada_40x.org"),
            ("a_b~c", "u-abc--HASH", "a_5fb_7ec"),
            ("-a", "u-a--HASH", "-a"),
            ("a--b", "u-ab--HASH", "a--b"),
            ("xn--e1afmkfd", "u-xne1afmk--HASH", "xn--e1afmkfd"),
            ("üben", "xn--ben-goa", "_c3_bcben"),
            ("straße", "xn--strae-oqa", "stra_c3_9fe"),
            ("Ü", "u-x--HASH", "_c3_9c"),
            ("☃", "u-x--HASH", "_e2_98_83"),
            ("ü_", "u-x--HASH", "_c3_bc_5f"),
        ] {
            let by_idna = by_idna.replace(
                "HASH",
                &orrery_core::random::to_hex(&Sha256::digest(name.as_bytes()))[..7],
            );
            assert_eq!(
                hosts(SubdomainHook::Idna).user_domain(name),
                format!("{by_idna}.hub.example"),
                "{name}"
            );
            assert_eq!(
                hosts(SubdomainHook::Legacy).user_domain(name),
                format!("{by_legacy}.hub.example"),
                "{name}"
            );
        }
        assert_eq!(
            hosts(SubdomainHook::Idna).service_origin("grader"),
            "https://grader--service.hub.example:8443"
        );
        assert_eq!(
            hosts(SubdomainHook::Legacy).service_origin("grader"),
            "https://services.hub.example:8443"
        );
    }

    #[test]
    fn names_in_other_scripts_are_written_as_upstream_writes_them() {
        // As JupyterHub 6.1.1 (idna 3) answers; "" where it takes a stub and a hash.
        for (name, expected) in [
            ("l\u{b7}l", "xn--ll-0ea"),
            ("a\u{b7}b", ""),
            ("\u{640}", ""),
            ("日本", "xn--wgv71a"),
            ("あ・い", "xn--l8je26c"),
            ("a・b", ""),
            ("\u{663}\u{627}", ""),
            ("\u{663}\u{6f3}", ""),
            ("１", ""),
            ("ﬁ", ""),
            ("ẞ", ""),
            ("ς", "xn--3xa"),
            ("हिन्दी", "xn--j2bd4cyah0f"),
            ("👍", ""),
            ("a\u{310}", "xn--a-scb"),
            ("ɐ", "xn--jna"),
            ("ϐ", ""),
            ("e\u{301}", ""),
            ("\u{5e9}\u{5dc}\u{5d5}\u{5dd}", "xn--9dbne9b"),
            ("\u{5e9}a\u{5dc}", ""),
            ("ß", "xn--zca"),
            ("ⅷ", ""),
            ("ゟ", ""),
            ("〇", "xn--w6j"),
            ("௰", ""),
            ("ก็", "xn--12c4l"),
            ("\u{430}", "xn--80a"),
            ("ö-", ""),
            ("ö-a", "xn---a-eka"),
            ("a--ö", ""),
            (&"ö".repeat(60), ""),
            ("1ü", "xn--1-eha"),
            ("ŉ", ""),
            ("\u{301}a", ""),
            ("\u{915}\u{94d}\u{200d}\u{937}", "xn--11b2ezcw70k"),
            ("\u{5d0}1", "xn--1-zhc"),
            ("1\u{5d0}", ""),
        ] {
            let label = label(name, LONGEST_LABEL);
            if expected.is_empty() {
                assert!(label.starts_with("u-"), "{name}: {label}");
            } else {
                assert_eq!(label, expected, "{name}");
            }
        }
    }

    #[test]
    fn every_name_has_a_label_of_its_own_that_fits() {
        let long = "a".repeat(64);
        let names = [
            "Ada",
            "ada",
            "ADA",
            &long,
            &"a".repeat(60),
            "…",
            "",
            "üé",
            "Üé",
            "a b",
        ];
        let mut labels = std::collections::BTreeSet::new();
        for name in names {
            for longest in [LONGEST_LABEL, LONGEST_LABEL - SERVICE_SUFFIX.len()] {
                let label = label(name, longest);
                assert!(is_label(&label, longest), "{name:?}: {label}");
            }
            assert!(labels.insert(label(name, LONGEST_LABEL)), "{name:?}");
        }
    }

    #[test]
    fn hosts_below_the_hubs_are_told_from_others() {
        let hosts = hosts(SubdomainHook::Idna);
        for (host, is_below, covered) in [
            ("hub.example:8443", false, true),
            ("ada.hub.example:8443", true, true),
            ("ADA.hub.example:8443", true, true),
            ("ada.hub.example", true, false),
            ("ada.hub.example.:8443", true, false),
            ("hub.example.:8443", false, false),
            (".hub.example:8443", false, true),
            ("evilhub.example:8443", false, false),
            ("hub.example.evil:8443", false, false),
            ("evil@hub.example:8443", false, false),
            ("evil/.hub.example:8443", true, false),
            ("127.0.0.1:8000", false, false),
            ("", false, false),
        ] {
            assert_eq!(hosts.is_below(host), is_below, "{host}");
            assert_eq!(hosts.covers(host), covered, "{host}");
        }
    }
}
