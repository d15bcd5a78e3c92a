//! Images: as a table, while they come in, and when they are gone.

use std::io::{self, IsTerminal as _};

use chrono::Utc;
use sandpen::api::{ImageEntry, ImageRemoval};
use sandpen_types::default_registry::DefaultRegistry;
use sandpen_types::visible::visible;

use super::sandboxes::{age, fit_last};
use super::{CliError, aligned, amount, bytes, terminal, to_stderr};

/// Images as a table, a line for each name.
pub fn images(images: &[ImageEntry], names_of: &DefaultRegistry) -> Result<u8, CliError> {
    let heading = ["NAME", "ID", "CREATED", "SIZE", "LAYERS", "USED BY"].map(str::to_owned);
    let now = Utc::now();
    let mut rows = vec![heading];
    for image in images {
        let row = |name: String| {
            [
                name,
                image.digest.short(),
                image.created.map_or_else(|| "-".to_owned(), |created| age(now, created)),
                amount(image.bytes),
                image.layers.len().to_string(),
                users(&image.used_by),
            ]
        };
        match image.names.as_slice() {
            [] => rows.push(row("-".to_owned())),
            names => rows.extend(names.iter().map(|name| row(names_of.familiar(name)))),
        }
    }
    if let Some(size) = terminal::size().filter(|_| io::stdout().is_terminal()) {
        fit_last(&mut rows, usize::from(size.cols.get()));
    }
    bytes(aligned(rows.into_iter()).as_bytes())
}

/// Who has it: one name, and how many more.
fn users(used_by: &[String]) -> String {
    let short = |user: &String| visible(user.strip_prefix("default/").unwrap_or(user));
    match used_by {
        [] => "-".to_owned(),
        [user] => short(user),
        [user, others @ ..] => format!("{} +{}", short(user), others.len()),
    }
}

/// What came in: a name of each, or its id.
pub fn images_loaded(images: &[ImageEntry], names_of: &DefaultRegistry) -> Result<u8, CliError> {
    let line = |image: &ImageEntry| {
        let names = image.names.iter().map(|name| names_of.familiar(name)).collect::<Vec<_>>().join(", ");
        let name = if names.is_empty() { "without a name".to_owned() } else { names };
        format!("{}  {}\n", image.digest.short(), visible(&name))
    };
    bytes(images.iter().map(line).collect::<String>().as_bytes())
}

/// What was removed: a line each.
pub fn images_removed(removals: &[ImageRemoval], names_of: &DefaultRegistry) -> Result<u8, CliError> {
    bytes(removals.iter().map(|removal| removed(removal, false, names_of)).collect::<String>().as_bytes())
}

/// What a pruning removed, or would remove, and what that frees.
pub fn images_pruned(removal: &ImageRemoval, dry_run: bool, names_of: &DefaultRegistry) -> Result<u8, CliError> {
    bytes(pruned(removal, dry_run, names_of).as_bytes())
}

/// What would be removed, on standard error, before a question.
pub fn asked_images(removal: &ImageRemoval, names_of: &DefaultRegistry) {
    to_stderr(&pruned(removal, true, names_of));
}

fn pruned(removal: &ImageRemoval, dry_run: bool, names_of: &DefaultRegistry) -> String {
    let freed = if dry_run { "would be freed" } else { "freed" };
    format!("{}{} {freed}\n", removed(removal, dry_run, names_of), amount(removal.freed_bytes))
}

fn removed(removal: &ImageRemoval, dry_run: bool, names_of: &DefaultRegistry) -> String {
    let ImageRemoval { untagged, removed, .. } = removal;
    let (untagged_word, removed_word) =
        if dry_run { ("would lose its image", "would be removed") } else { ("untagged", "removed") };
    let untagged = untagged.iter().map(|name| format!("{}: {untagged_word}\n", names_of.familiar(name)));
    untagged.chain(removed.iter().map(|digest| format!("{}: {removed_word}\n", digest.short()))).collect()
}
