#![doc = include_str!("../README.md")]

mod cli;
mod commands;
mod descriptors;
mod logging;
mod output;
mod registry;
mod render;
mod sources;

use std::ffi::OsString;
use std::process::ExitCode;

/// Gives what a crowd has needed back to the system within seconds, which the C library's allocator does
/// only down to the last small thing that stays behind. Its settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    descriptors::close_inherited();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match cli::parse(&arguments) {
        Ok(invocation) => report(commands::run(&invocation)),
        // Scripts know 1 from configurable-http-proxy, which has no other.
        Err(cli::Stop::Clap(error)) if error.use_stderr() && cli::is_proxy(&arguments) => {
            match error.print() {
                Ok(()) | Err(_) => ExitCode::FAILURE,
            }
        }
        Err(cli::Stop::Clap(error)) => error.exit(),
        Err(cli::Stop::Usage(sentence)) => {
            output::complain(&sentence);
            ExitCode::from(2)
        }
    }
}

fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            output::complain(&sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes in one sentence. Errors that already say their cause are not said twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
