//! Nobody logs in; people and programs come with tokens.

use async_trait::async_trait;
use orrery_core::authenticator::{
    Authenticator, AuthenticatorError, Credentials, Identity, LoginKind,
};

/// Refuses everybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

#[async_trait]
impl Authenticator for Null {
    fn kind(&self) -> LoginKind {
        LoginKind::Disabled
    }

    async fn authenticate(
        &self,
        _credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthenticatorError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_logs_in() {
        let answer = Null.authenticate(&crate::typed("ada", "secret")).await;
        assert!(matches!(answer, Ok(None)));
        assert_eq!(Null.kind(), LoginKind::Disabled);
    }
}
