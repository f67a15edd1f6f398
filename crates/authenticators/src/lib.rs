#![doc = include_str!("../README.md")]

pub mod config;
#[cfg(feature = "dummy")]
pub mod dummy;
#[cfg(feature = "pam")]
pub mod local;
#[cfg(feature = "null")]
pub mod null;
#[cfg(feature = "pam")]
pub mod pam;
#[cfg(feature = "shared-password")]
pub mod shared_password;

/// Credentials as a login form sends them.
#[cfg(test)]
fn typed(username: &str, password: &str) -> orrery_core::authenticator::Credentials {
    orrery_core::authenticator::Credentials {
        username: username.to_owned(),
        password: orrery_core::Secret::new(password),
        fields: Vec::new(),
        remote_address: "192.0.2.1".to_owned(),
    }
}
