//! `halfbyte completions SHELL`.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::output::{self, CliError};

/// What was typed.
#[derive(Debug, Args)]
#[command(
    after_help = "For bash: halfbyte completions bash > ~/.local/share/bash-completion/completions/halfbyte"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "halfbyte", &mut script);
    let script = String::from_utf8(script).map_err(|e| CliError::Failed(e.to_string()))?;
    Ok(output::print(&script)?)
}
