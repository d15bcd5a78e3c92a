//! How far it is with images that come or go.
//!
//! ```text
//!   a terminal:   a line for each layer that is done, below them a bar for each one at work, and one for all
//!   elsewhere:    the lines
//!   --json:       each word of the daemon's, on standard output
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use sandpen::api::{ImageProgress, ImageStep};
use sandpen_types::image::ImageDigest;

use super::{amount, terminal, to_stderr};

/// Columns of a bar, so that a line has at most 79.
const BAR: usize = 22;
/// Columns of what is beside it.
const BESIDE: usize = 57;
/// A layer whose bytes are known.
const KNOWN: &str = "{prefix}  {bar}  {msg:9} {so_far:>4} of {whole:4} {rate:>6}";
/// Another one.
const UNKNOWN: &str = "{prefix}  {spinner}  {msg:9} {so_far:>4} {rate:>6}";
/// All of them.
const ALL: &str = "{prefix:12}  {bar}  {so_far:>4} of {whole:4} {rate:>6}  {left}";

/// How far all layers of some work are.
#[derive(Debug)]
pub struct ImageBars {
    screen: MultiProgress,
    layers: BTreeMap<ImageDigest, Layer>,
    /// One for all, once there are several layers whose bytes are known.
    all: Option<ProgressBar>,
    /// Columns of a bar.
    bar: usize,
}

#[derive(Debug)]
struct Layer {
    step: ImageStep,
    done_bytes: u64,
    total_bytes: u64,
    /// Whether it was said that it goes on where it broke off.
    is_resumed: bool,
    /// While something happens to it.
    bar: Option<ProgressBar>,
}

impl ImageBars {
    /// On standard error, with bars where that is a terminal.
    pub fn new() -> Self {
        let columns = terminal::size_of(&io::stderr()).map_or(80, |(_, columns)| columns);
        Self::on(ProgressDrawTarget::stderr(), columns)
    }

    fn on(target: ProgressDrawTarget, columns: usize) -> Self {
        let bar = columns.saturating_sub(BESIDE + 1).clamp(1, BAR);
        Self { screen: MultiProgress::with_draw_target(target), layers: BTreeMap::new(), all: None, bar }
    }

    /// In the place of what was shown of the same layer.
    pub fn show(&mut self, progress: &ImageProgress) {
        let ImageProgress { step, digest, done_bytes, total_bytes } = progress;
        if matches!(step, ImageStep::ImageDone | ImageStep::Unknown) {
            return;
        }
        let layer = self.layers.entry(*digest).or_insert_with(|| Layer {
            step: ImageStep::LayerWaiting,
            done_bytes: 0,
            total_bytes: 0,
            is_resumed: false,
            bar: None,
        });
        // The last word is said again from time to time.
        if is_end(layer.step) {
            return;
        }
        layer.step = *step;
        layer.done_bytes = *done_bytes;
        layer.total_bytes = total_bytes.unwrap_or(layer.total_bytes);
        if is_end(*step) {
            if let Some(bar) = layer.bar.take() {
                bar.finish_and_clear();
                self.screen.remove(&bar);
            }
            layer.done_bytes = layer.total_bytes;
            self.show_all(); // what is said next draws it
            let line = format!("{}  {}", digest.short(), ended(*step, *done_bytes));
            say(&self.screen, line);
            return;
        }
        if *step == ImageStep::LayerResuming && !std::mem::replace(&mut layer.is_resumed, true) {
            let size = match layer.total_bytes {
                0 => String::new(),
                total => format!(" of {}", amount(total)),
            };
            let line = format!("{}  goes on at {}{size}", digest.short(), amount(*done_bytes));
            say(&self.screen, line);
        }
        if *step != ImageStep::LayerWaiting {
            let (screen, above) = (&self.screen, usize::from(self.all.is_some()));
            let bar = layer.bar.get_or_insert_with(|| {
                let bar = ProgressBar::no_length().with_prefix(digest.short()).with_style(style(UNKNOWN, self.bar));
                screen.insert_from_back(above, bar)
            });
            if layer.total_bytes > 0 && bar.length() != Some(layer.total_bytes) {
                bar.set_style(style(KNOWN, self.bar));
                bar.set_length(layer.total_bytes);
            }
            bar.set_message(doing(*step));
            bar.set_position(*done_bytes);
            if *step == ImageStep::LayerResuming {
                // It did not come now.
                bar.reset_eta();
            }
        }
        self.show_all();
    }

    /// One for all is of use only where there are several.
    fn show_all(&mut self) {
        let known = || self.layers.values().filter(|layer| layer.total_bytes > 0);
        if self.all.is_none() && known().count() < 2 {
            return;
        }
        let bar =
            self.all.get_or_insert_with(|| self.screen.add(ProgressBar::no_length().with_style(style(ALL, self.bar))));
        let ended = self.layers.values().filter(|layer| is_end(layer.step)).count();
        bar.set_prefix(format!("{ended} of {}", self.layers.len()));
        bar.set_length(known().map(|layer| layer.total_bytes).sum());
        bar.set_position(known().map(|layer| layer.done_bytes.min(layer.total_bytes)).sum());
    }
}

impl Drop for ImageBars {
    fn drop(&mut self) {
        let _ = self.screen.clear(); // standard error is gone
    }
}

/// A line that stays.
fn say(screen: &MultiProgress, line: String) {
    if screen.is_hidden() {
        to_stderr(&format!("{line}\n"));
    } else {
        let _ = screen.println(line); // standard error is gone
    }
}

fn is_end(step: ImageStep) -> bool {
    matches!(step, ImageStep::LayerDone | ImageStep::LayerPresent | ImageStep::LayerMounted)
}

fn doing(step: ImageStep) -> &'static str {
    match step {
        ImageStep::LayerPulling => "pulling",
        ImageStep::LayerUnpacking => "unpacking",
        ImageStep::LayerPacking => "packing",
        ImageStep::LayerPushing => "pushing",
        ImageStep::LayerResuming => "resuming",
        _ => "",
    }
}

fn ended(step: ImageStep, bytes: u64) -> String {
    match step {
        ImageStep::LayerPresent => "there already".to_owned(),
        ImageStep::LayerMounted => "there already, in another repository".to_owned(),
        _ if bytes > 0 => format!("done  {}", amount(bytes)),
        _ => "done".to_owned(),
    }
}

/// How a bar looks. Amounts are as everywhere else in the program.
pub(super) fn style(template: &str, width: usize) -> ProgressStyle {
    let template = template.replace("{bar}", &format!("[{{bar:{width}}}]"));
    // It is ours, and a test draws each.
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style
        .progress_chars("=> ")
        .with_key("so_far", |state: &ProgressState, out: &mut dyn std::fmt::Write| said(out, &amount(state.pos())))
        .with_key("whole", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            said(out, &state.len().map_or_else(String::new, amount));
        })
        .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| said(out, &rate(state.per_sec())))
        .with_key("left", |state: &ProgressState, out: &mut dyn std::fmt::Write| said(out, &left(state)))
}

fn said(out: &mut dyn std::fmt::Write, text: &str) {
    let _ = out.write_str(text); // a line that is not shown
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // what is less than a byte is of no use
fn rate(per_second: f64) -> String {
    format!("{}/s", amount(per_second.max(0.0) as u64))
}

fn left(state: &ProgressState) -> String {
    let seconds = state.eta().as_secs();
    let mut text = String::new();
    let _ = match seconds {
        _ if state.per_sec() < 1.0 => Ok(()),
        0..100 => write!(text, "{seconds}s left"),
        100..6000 => write!(text, "{}m left", (seconds + 30) / 60),
        _ => write!(text, "{}h left", (seconds + 1800) / 3600),
    };
    text
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;

    fn step(of: u8, step: ImageStep, done_bytes: u64, total: u64) -> ImageProgress {
        let total_bytes = Some(total).filter(|total| *total > 0);
        ImageProgress { step, digest: ImageDigest::new([of; 32]), done_bytes, total_bytes }
    }

    fn on(columns: u16) -> (InMemoryTerm, ImageBars) {
        let screen = InMemoryTerm::new(24, columns);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255);
        (screen, ImageBars::on(target, columns.into()))
    }

    #[test]
    fn layers_that_are_done_are_lines_above_the_bars_of_others() {
        let (screen, mut bars) = on(80);
        for of in 1..=3 {
            bars.show(&step(of, ImageStep::LayerWaiting, 0, 1000 << 10));
        }
        bars.show(&step(4, ImageStep::LayerPresent, 0, 0));
        bars.show(&step(1, ImageStep::LayerPulling, 500 << 10, 1000 << 10));
        bars.show(&step(2, ImageStep::LayerPulling, 1000 << 10, 1000 << 10));
        bars.show(&step(2, ImageStep::LayerDone, 1000 << 10, 1000 << 10));
        // Said again.
        bars.show(&step(2, ImageStep::LayerDone, 1000 << 10, 1000 << 10));
        let shown = screen.contents();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[..2], ["040404040404  there already", "020202020202  done  1.0M"], "{shown}");
        assert!(lines[2].starts_with("010101010101  [===========>          ]  pulling   500K of 1.0M "), "{shown}");
        assert!(lines[3].starts_with("2 of 4        [===========>          ]  1.5M of 2.9M "), "{shown}");
        assert_eq!(lines.len(), 4, "{shown}");
        assert!(lines.iter().all(|line| line.len() < 80), "{shown}");
        drop(bars);
        assert_eq!(screen.contents(), lines[..2].join("\n"));
    }

    #[test]
    fn where_a_layer_goes_on_is_said_once() {
        let (screen, mut bars) = on(80);
        bars.show(&step(1, ImageStep::LayerResuming, 500 << 10, 1000 << 10));
        bars.show(&step(1, ImageStep::LayerResuming, 500 << 10, 1000 << 10));
        let shown = screen.contents();
        assert!(shown.starts_with("010101010101  goes on at 500K of 1.0M\n010101010101  [====="), "{shown}");
        assert_eq!(shown.lines().count(), 2, "{shown}");
    }

    #[test]
    fn a_narrow_screen_has_short_bars_and_an_unknown_length_none() {
        let (screen, mut bars) = on(62);
        bars.show(&step(1, ImageStep::LayerPushing, 1 << 20, 2 << 20));
        bars.show(&step(2, ImageStep::LayerPacking, 0, 0));
        bars.show(&step(3, ImageStep::LayerUnpacking, 5 << 20, 0));
        let shown = screen.contents();
        assert!(shown.contains("010101010101  [==> ]  pushing   1.0M of 2.0M "), "{shown}");
        assert!(shown.contains("020202020202  ") && shown.contains("  packing "), "{shown}");
        assert!(shown.contains("  unpacking 5.0M "), "{shown}");
        assert!(shown.lines().all(|line| line.len() < 62), "{shown}");
    }
}
