//! The `halfbyte` command.

mod args;
mod commands;
mod device;
mod gpu;
mod models;
mod pool;
mod jobs;
mod embedded;
mod memory;
mod storage;
mod generation;
mod bandwidth;
mod shapes;
mod cards;
mod headers;
mod random_weights;
mod progress;
mod interrupt;
mod output;
mod build;

use std::process::ExitCode;

fn main() -> ExitCode {
    output::guard(|| {
        let cli = args::parse()?;
        output::set_json(cli.command.wants_json());
        commands::run(cli.command)
    })
}
