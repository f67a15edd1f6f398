#![doc = include_str!("../README.md")]

pub mod config;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "testing")]
pub mod testing;
