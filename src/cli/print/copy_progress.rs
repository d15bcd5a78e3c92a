//! How far a copy is: a line on a terminal, nothing elsewhere.

use std::io;

use indicatif::{ProgressBar, ProgressDrawTarget};

use super::image_progress::style;
use super::{message, terminal};

/// Columns of a bar, and of what is beside it.
const BAR: usize = 30;
const BESIDE: usize = 46;
/// A copy whose bytes are known.
const KNOWN: &str = "copying  {bar}  {so_far:>4} of {whole:4} {rate:>6}  {left}";
/// Another one.
const UNKNOWN: &str = "copying  {spinner}  {so_far:>4} {rate:>6}";

/// The line; gone when it is dropped.
#[derive(Debug)]
pub struct CopyBar(ProgressBar);

impl CopyBar {
    /// On standard error, where that is a terminal; `total` in bytes where it is known.
    pub fn new(total: Option<u64>) -> Self {
        let columns = terminal::size_of(&io::stderr()).map_or(80, |(_, columns)| columns);
        Self::on(ProgressDrawTarget::stderr(), columns, total)
    }

    /// None at all.
    pub fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    fn on(target: ProgressDrawTarget, columns: usize, total: Option<u64>) -> Self {
        let width = columns.saturating_sub(BESIDE + 1).clamp(1, BAR);
        let bar = ProgressBar::with_draw_target(total, target);
        Self(bar.with_style(style(if total.is_some() { KNOWN } else { UNKNOWN }, width)))
    }

    /// Bytes that have been copied, with what goes along with them.
    pub fn set(&self, bytes: u64) {
        if self.0.position() != bytes {
            self.0.set_position(self.0.length().map_or(bytes, |total| bytes.min(total)));
        }
    }

    /// A message that stays.
    pub fn say(&self, text: &str) {
        self.0.suspend(|| message(text));
    }
}

impl Drop for CopyBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;

    fn shown(columns: u16, total: Option<u64>) -> String {
        let screen = InMemoryTerm::new(4, columns);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255);
        let bar = CopyBar::on(target, columns.into(), total);
        bar.set(500 << 10);
        bar.0.tick();
        let shown = screen.contents();
        drop(bar);
        assert_eq!(screen.contents(), "");
        shown
    }

    #[test]
    fn a_line_says_how_far_it_is() {
        let line = shown(80, Some(1000 << 10));
        assert!(line.starts_with("copying  [===============>              ]  500K of 1.0M "), "{line}");
        assert!(line.len() < 80, "{line}");
        assert!(shown(50, Some(1000 << 10)).len() < 52);
        let line = shown(80, None);
        assert!(line.starts_with("copying  ") && line.contains("  500K "), "{line}");
    }
}
