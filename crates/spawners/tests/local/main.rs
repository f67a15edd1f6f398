//! The local spawners with real processes.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod accounts;
mod servers;
mod simple;
