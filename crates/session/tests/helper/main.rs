//! The session helper as a program, with real accounts. These tests must run as root.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod asking;
mod ends;
mod files;
mod limits;
mod pam;
mod rights;
mod signals;
mod starts;
