//! The commands, a file each.

pub(crate) mod demo;
pub(crate) mod prompt;
pub(crate) mod chat;
pub(crate) mod extract;
pub(crate) mod serve;
pub(crate) mod worker;
pub(crate) mod quantize;
pub(crate) mod pull;
pub(crate) mod score;
pub(crate) mod bench;
pub(crate) mod plan;
pub(crate) mod doctor;
pub(crate) mod audit;
pub(crate) mod selftest;
pub(crate) mod completions;

use anyhow::Result;

use crate::args::Command;

/// Runs a command.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Prompt(args) => prompt::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Serve(args) => serve::run(*args),
        Command::Worker(args) => worker::run(*args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::DocumentReader => extract::serve_reader(),
    }
}
