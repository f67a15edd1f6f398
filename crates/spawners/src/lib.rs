//! The native spawners, one module each.

pub mod config;
