//! Images: as a table, while they come in, and when they are gone.

use std::io::{self, IsTerminal as _, Write as _};

use chrono::Utc;
use sandpen::api::{ImageEntry, ImageProgress, ImageRemoval};
use sandpen_types::registry::DefaultRegistry;
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

/// How far the work is, on one line of a terminal; nothing elsewhere, unless it is to say each layer that is done.
#[derive(Debug, Default)]
pub struct Progress {
    is_shown: bool,
    with_layers: bool,
    /// What was said last of a layer that is done: a daemon may say it again.
    done: String,
}

impl Progress {
    /// Leaves a line for each layer that is done, off a terminal too.
    pub fn with_layers() -> Self {
        Self { is_shown: false, with_layers: true, done: String::new() }
    }

    /// In the place of what was shown before.
    pub fn show(&mut self, ImageProgress { what, done_bytes, total_bytes }: &ImageProgress) {
        let mut stderr = io::stderr().lock();
        let total = total_bytes.unwrap_or(0);
        if self.with_layers && *done_bytes == total {
            if self.done == *what {
                return;
            }
            self.done.clone_from(what);
            let size = if total > 0 { format!(" ({})", amount(total)) } else { String::new() };
            let clear = if self.is_shown { "\r\x1b[K" } else { "" };
            let _ = writeln!(stderr, "{clear}{}{size}", visible(what));
            self.is_shown = false;
            return;
        }
        if !stderr.is_terminal() {
            return;
        }
        let total = match total {
            0 => String::new(),
            total => format!(" of {} ({}%)", amount(total), u128::from(*done_bytes) * 100 / u128::from(total)),
        };
        // It must not reach the next line, which nobody would take away.
        let width = match terminal::size_of(&stderr) {
            Some((_, columns @ 1..80)) => columns - 1,
            _ => 79,
        };
        let text: String = visible(&format!("{what}: {}{total}", amount(*done_bytes))).chars().take(width).collect();
        let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        self.is_shown = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = io::stderr().lock().write_all(b"\r\x1b[K");
        }
    }
}
