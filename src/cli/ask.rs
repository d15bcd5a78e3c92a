//! The question before something is removed for good.

use std::io::{self, IsTerminal as _, Write as _};

use super::CliError;

/// Whether and how a removal is asked about.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Asking {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long, short_alias = 'y', alias = "yes")]
    force: bool,
}

impl Asking {
    /// Whether [`is_yes`] decides.
    ///
    /// # Errors
    /// It has to, and there is no terminal.
    pub fn must_ask(self) -> Result<bool, CliError> {
        let must_ask = !self.force && !self.dry_run;
        if must_ask && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(CliError::NotAsked);
        }
        Ok(must_ask)
    }
}

/// Whether the user types a yes.
pub fn is_yes(question: &str) -> bool {
    let mut answer = String::new();
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    asked.and_then(|()| io::stdin().read_line(&mut answer)).is_ok()
        && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}
