//! The proxy alone: `cargo run -p orrery-proxy --example proxy -- --port 8000`.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: orrery_proxy::Options,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match orrery_proxy::run(Command::parse().options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
