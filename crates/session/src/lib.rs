#![doc = include_str!("../README.md")]

#[cfg(feature = "client")]
pub mod client;
pub mod encoding;
pub mod proc;
pub mod protocol;
#[cfg(feature = "testing")]
pub mod testing;
