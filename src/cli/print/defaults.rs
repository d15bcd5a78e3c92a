//! The defaults of flags, and where each comes from.

use sandpen_types::visible::visible;

use super::{CliError, aligned, bytes};
use crate::cli::defaults::{Effective, Given, Origin};

/// The defaults of flags.
pub fn defaults(effective: &[Effective]) -> Result<u8, CliError> {
    let rows = effective.iter().map(|one| {
        let from = match (&one.file, one.line, &one.variable) {
            (Some(file), Some(line), _) => format!("{}, line {line}", file.display()),
            (_, _, Some(variable)) => format!("environment variable {variable}"),
            _ if one.origin == Origin::Flag => "flag".to_owned(),
            _ => "built in".to_owned(),
        };
        let value = match &one.value {
            None => "-".to_owned(),
            Some(Given::One(value)) => format!("{value:?}"),
            Some(Given::Several(values)) => format!("{values:?}"),
        };
        [one.key.to_owned(), visible(&value), visible(&from)]
    });
    let headings = ["KEY", "VALUE", "FROM"].map(str::to_owned);
    bytes(aligned([headings].into_iter().chain(rows)).as_bytes())
}
