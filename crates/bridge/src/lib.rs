#![doc = include_str!("../README.md")]

mod config;
mod frame;
mod wire;

pub use config::{
    BridgeError, ConfigAnswer, ConfigRequest, PythonError, python_program, run_config,
};
