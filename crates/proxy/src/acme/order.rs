//! One order: from the account over the challenge to the certificate.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error as AcmeError,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::{Acme, Method, challenges::Answer, store, web::Web, web::chain};
use crate::tls::{Pair, client::Verifier};

/// How long the authority may take to check a name, and to sign.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_mins(1));

/// What an authority's words are cut to in the log.
const LONGEST_REASON: usize = 600;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Soon asking again makes it worse.
    #[error("{0}")]
    Refused(String),
    /// It has found no proof that the name is ours; another method may give it one.
    #[error("{0}")]
    Unproven(String),
    /// It has had too many requests.
    #[error("{0}")]
    Limited(String),
    /// The authority does not know the stored account.
    #[error("the authority does not know the account: {0}")]
    UnknownAccount(String),
    /// Nobody answered as an authority does.
    #[error("{0}")]
    Unreachable(String),
}

/// A certificate just signed, with its key.
pub(super) struct Signed {
    pub(super) pair: Pair,
    pub(super) pem: String,
}

impl Failure {
    pub(super) fn is_refusal(&self) -> bool {
        !matches!(self, Failure::Unreachable(_))
    }
}

impl From<AcmeError> for Failure {
    fn from(error: AcmeError) -> Self {
        match error {
            AcmeError::Api(problem) => problem.into(),
            error => Failure::Unreachable(shown(&chain(&error))),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.rsplit(':').next().unwrap_or_default();
        let text = words(&problem);
        match kind {
            "accountDoesNotExist" => Failure::UnknownAccount(text),
            "rateLimited" => Failure::Limited(text),
            "badNonce" | "serverInternal" => Failure::Unreachable(text),
            _ if problem.status == Some(429) => Failure::Limited(text),
            _ if problem.status.is_some_and(|status| status >= 500) => Failure::Unreachable(text),
            _ => Failure::Refused(text),
        }
    }
}

impl Acme {
    /// Gets a certificate. The first attempt tries a second method where the first has not shown that
    /// the name is ours; those after it take the methods in turn, as each failed check counts.
    pub(super) async fn order(&self, domain: &str, refusals: u32) -> Result<Signed, Failure> {
        let mut account = self.account(false).await?;
        let mut reasons = Vec::new();
        for method in turn(self.methods(), refusals) {
            let result = match self.order_by(&account, domain, method).await {
                Err(Failure::UnknownAccount(_)) => {
                    tracing::warn!("ACME: the authority has lost the account; making another");
                    account = self.account(true).await?;
                    self.order_by(&account, domain, method).await
                }
                result => result,
            };
            match result {
                Ok(signed) => {
                    self.worked(method);
                    return Ok(signed);
                }
                Err(Failure::Unproven(reason)) => reasons.push(format!("{method}: {reason}")),
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Unproven(reasons.join("; ")))
    }

    /// The stored account, or a new one.
    pub(super) async fn account(&self, anew: bool) -> Result<Account, Failure> {
        // Orders of several names at a time make one account.
        let _one = self.account_lock.lock().await;
        let local = |error: crate::Error| Failure::Unreachable(error.to_string());
        let builder = || Ok::<_, Failure>(Account::builder_with_http(Box::new(self.web()?)));
        let stored = self.store.account().map_err(local)?;
        if let Some(stored) = stored.filter(|_| !anew) {
            if let Ok(credentials) = serde_json::from_slice::<AccountCredentials>(&stored) {
                return Ok(builder()?.from_credentials(credentials).await?);
            }
            // The parser's words may hold a part of the key.
            tracing::error!("ACME: the stored account is damaged; making another");
        }
        let contact = self
            .plan
            .email
            .as_ref()
            .map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let created = builder()?.create(&new, self.plan.directory.clone(), None);
        let (account, credentials) = created.await?;
        let text = serde_json::to_vec(&credentials)
            .map_err(|_| Failure::Unreachable("the account cannot be stored".to_owned()))?;
        let store = Arc::clone(&self.store);
        let stored = super::blocking(move || store.set_account(&text)).await;
        stored.map_err(Failure::Unreachable)?;
        Ok(account)
    }

    fn web(&self) -> Result<Web, Failure> {
        let verifier = match &self.plan.authority {
            None => Verifier::of_system(&self.provider)
                .map_err(|error| Failure::Unreachable(error.to_string()))?,
            Some(path) => Verifier::of_file(path, &self.provider)
                .map_err(|error| Failure::Unreachable(format!("--acme-ca: {error}")))?,
        };
        Web::new(verifier, &self.provider, Arc::clone(&self.not_before))
            .map_err(|error| Failure::Unreachable(error.to_string()))
    }

    async fn order_by(
        &self,
        account: &Account,
        domain: &str,
        method: Method,
    ) -> Result<Signed, Failure> {
        let names = [Identifier::Dns(domain.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        // The answers stay until the authority has decided.
        let answers = self.answer(&mut order, domain, method).await?;
        if !answers.is_empty() || order.state().status == OrderStatus::Pending {
            let decided = order.poll_ready(&POLL).await;
            match decided {
                Ok(OrderStatus::Ready) => {}
                Ok(_) | Err(AcmeError::Api(_)) => {
                    return Err(Failure::Unproven(match reason(&mut order).await {
                        Some(reason) => reason,
                        None => match decided {
                            Err(error) => shown(&error.to_string()),
                            Ok(_) => "the authority refused without a reason".to_owned(),
                        },
                    }));
                }
                Err(AcmeError::Timeout(_)) => {
                    return Err(Failure::Unproven(
                        "the authority has not decided within a minute".to_owned(),
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(answers);
        let (key, request) = signing_request(domain)
            .map_err(|error| Failure::Unreachable(format!("no key could be made: {error}")))?;
        order.finalize_csr(&request).await?;
        let chain = order.poll_certificate(&POLL).await?;
        let pem = key.serialize_pem() + &chain;
        let unusable =
            |reason| Failure::Refused(format!("the certificate cannot be used: {reason}"));
        let pair = store::parse(pem.as_bytes(), &self.provider).map_err(unusable)?;
        if !pair.names.iter().any(|name| **name == *domain) || pair.dates.is_none() {
            return Err(unusable(format!("it is not for {domain}")));
        }
        Ok(Signed { pair, pem })
    }

    /// Answers the challenges of an order and tells the authority to look.
    async fn answer(
        &self,
        order: &mut Order,
        domain: &str,
        method: Method,
    ) -> Result<Vec<Answer>, Failure> {
        let mut answers = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                // From an order before.
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => {
                    return Err(Failure::Refused(format!(
                        "the authorization is {status:?} from the start"
                    )));
                }
            }
            let Some(mut challenge) = authorization.challenge(method.kind()) else {
                return Err(Failure::Unproven(
                    "the authority does not offer this challenge".to_owned(),
                ));
            };
            let text = challenge.key_authorization();
            answers.push(match method {
                Method::Http => self.challenges.give_http(&challenge.token, text.as_str()),
                Method::TlsAlpn => {
                    let digest = text.digest();
                    let answer = self
                        .challenges
                        .give_tls(domain, digest.as_ref(), &self.provider);
                    answer.map_err(Failure::Unreachable)?
                }
            });
            challenge.set_ready().await?;
        }
        Ok(answers)
    }
}

impl Method {
    fn kind(self) -> ChallengeType {
        match self {
            Method::Http => ChallengeType::Http01,
            Method::TlsAlpn => ChallengeType::TlsAlpn01,
        }
    }
}

/// The methods for an attempt after so many that were refused: two the first time, then one.
fn turn(methods: Vec<Method>, refusals: u32) -> Vec<Method> {
    if refusals == 0 {
        return methods;
    }
    let place = usize::try_from(refusals).unwrap_or(0) % methods.len().max(1);
    methods.into_iter().skip(place).take(1).collect()
}

/// A new key, and what is sent to have it signed.
fn signing_request(domain: &str) -> Result<(KeyPair, Vec<u8>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![domain.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    Ok((key, request.der().to_vec()))
}

/// What the authority says of the challenges that it found wrong.
async fn reason(order: &mut Order) -> Option<String> {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        let challenges = authorization.challenges.iter();
        let errors = challenges.filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(errors.map(words));
    }
    (!reasons.is_empty()).then(|| shown(&reasons.join(", ")))
}

fn words(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("no type");
    let kind = kind.rsplit(':').next().unwrap_or_default();
    let mut text = match &problem.detail {
        Some(detail) => format!("{detail} ({kind})"),
        None => kind.to_owned(),
    };
    for part in &problem.subproblems {
        text = format!("{text}; {part}");
    }
    shown(&text)
}

/// Words from outside as they may stand in the log.
fn shown(text: &str) -> String {
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut text: String = text.take(LONGEST_REASON + 1).collect();
    if text.chars().count() > LONGEST_REASON {
        text.pop();
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Failure {
        serde_json::from_str::<Problem>(json).unwrap().into()
    }

    #[test]
    fn after_the_first_attempt_there_is_one_method_at_a_time() {
        let of = |refusals| turn(vec![Method::TlsAlpn, Method::Http], refusals);
        let names = |refusals| {
            of(refusals)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["tls-alpn-01", "http-01"]);
        assert_eq!(names(1), ["http-01"]);
        assert_eq!(names(2), ["tls-alpn-01"]);
        assert_eq!(turn(vec![Method::Http], 3).len(), 1);
    }

    #[test]
    fn words_of_an_authority() {
        let refused = problem(
            r#"{"type": "urn:ietf:params:acme:error:connection", "detail": "no route\nto\u001b[1m host", "status": 400}"#,
        );
        assert_eq!(refused.to_string(), "no route to [1m host (connection)");
        assert!(refused.is_refusal());
        for text in [
            r#"{"type": "urn:ietf:params:acme:error:serverInternal"}"#,
            r#"{"type": "x", "status": 503}"#,
        ] {
            assert!(!problem(text).is_refusal(), "{text}");
        }
        for text in [
            r#"{"type": "urn:ietf:params:acme:error:rateLimited"}"#,
            r#"{"type": "x", "status": 429}"#,
        ] {
            assert!(matches!(problem(text), Failure::Limited(_)), "{text}");
        }
        let lost = problem(r#"{"type": "urn:ietf:params:acme:error:accountDoesNotExist"}"#);
        assert!(matches!(lost, Failure::UnknownAccount(_)));
        let long = format!(r#"{{"detail": "{}"}}"#, "é".repeat(5000));
        assert_eq!(
            problem(&long).to_string().chars().count(),
            LONGEST_REASON + 1
        );
    }
}
