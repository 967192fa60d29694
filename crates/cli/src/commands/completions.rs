//! `halfbyte completions SHELL`.

use std::io::{self, Write};

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::Cli;
use crate::output::{self, CliError};

/// What was typed.
#[derive(Debug, Args)]
#[command(
    after_help = "For bash: halfbyte completions bash > ~/.local/share/bash-completion/completions/halfbyte\n\
                  `man` is the manual page: halfbyte completions man > ~/.local/share/man/man1/halfbyte.1"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Reader,
}

/// Who reads what is printed.
#[derive(Debug, Clone, Copy)]
enum Reader {
    Shell(Shell),
    /// `man`, which wants a page.
    Man,
}

impl ValueEnum for Reader {
    fn value_variants<'a>() -> &'a [Reader] {
        const {
            &[
                Reader::Shell(Shell::Bash),
                Reader::Shell(Shell::Elvish),
                Reader::Shell(Shell::Fish),
                Reader::Shell(Shell::PowerShell),
                Reader::Shell(Shell::Zsh),
                Reader::Man,
            ]
        }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Reader::Shell(shell) => shell.to_possible_value(),
            Reader::Man => Some(PossibleValue::new("man")),
        }
    }
}

/// Prints the script, or the page.
pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    match args.shell {
        Reader::Shell(shell) => {
            clap_complete::generate(shell, &mut Cli::command(), "halfbyte", &mut script);
        }
        Reader::Man => page(&mut script)?,
    }
    let script = String::from_utf8(script).map_err(|e| CliError::Failed(e.to_string()))?;
    Ok(output::print(&script)?)
}

/// The manual page: the program, then every command with its options.
fn page(out: &mut Vec<u8>) -> io::Result<()> {
    let mut program = Cli::command().version(env!("CARGO_PKG_VERSION"));
    // Gives every command its full name, `halfbyte serve`.
    program.build();
    let man = Man::new(program.clone()).section("1");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_extra_section(out)?;
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_uppercase();
        let man = Man::new(command.clone());
        // A section of its own: clap_mangen's sections of a command, below its name.
        writeln!(out, ".SH \"{name}\"")?;
        let mut text = Vec::new();
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        man.render_extra_section(&mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        out.write_all(text.replace(".SH ", ".SS ").as_bytes())?;
    }
    man.render_version_section(out)
}
