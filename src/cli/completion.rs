//! `sandpen completion`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CliError, print};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen completion bash > ~/.local/share/bash-completion/completions/sandpen
  sandpen completion fish > ~/.config/fish/completions/sandpen.fish")]
pub struct Args {
    /// Which shell
    shell: Shell,
}

pub fn execute(args: &Args) -> Result<u8, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sandpen", &mut script);
    print::bytes(&script)
}
