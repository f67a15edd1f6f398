//! What every part of Orrery speaks: names, scopes, phases, configuration values, and the traits
//! that spawners, authenticators and route tables implement. No I/O happens here.

pub mod access;
pub mod authenticator;
pub mod clock;
pub mod config;
pub mod escape;
pub mod fault;
pub mod fernet;
pub mod names;
pub mod phase;
pub mod random;
pub mod routes;
pub mod scopes;
pub mod secret;
pub mod spawner;

pub use clock::{Clock, SystemClock};
pub use names::{ServerName, UserName};
pub use secret::Secret;
