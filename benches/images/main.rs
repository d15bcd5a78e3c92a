//! Images: from an archive to where a start could begin, against `umoci unpack` and against unpacking alone; a start
//! from an image against one from a root directory's disk; a hundred of each at once; and how a guest reads from it.
//! All in one run, the sides in turn.
//!
//! `make bench-images`, or `cargo bench --bench images`. Environment: `SANDPEN` (the binary to measure), `ROOTFS` (a small
//! root directory with a shell), `RUNS` (rounds; 3 by default), `PAIRS` (starts; 20 by default), `FLEET` (sandboxes at
//! once; 100 by default), `PARTS` (of `load,crowd,start,fleet,guest`; all by default), `OUT` (a directory for JSON and
//! SVG), `TMPDIR` (on a disk, with 15 GB free). `PARTS=pull`, which is `make bench-pull`, gets the same images from a
//! registry (`RUNS` rounds, 5 by default, and `LINE_RUNS` over a slow line, 3 by default).
//!
//! ```text
//!   files of /usr ─┬─▶ one layer ──┐             ┌─▶ load   umoci, zcat, the same decompressor alone
//!                  └─▶ 20 layers ──┼─ OCI layout ┼─▶ pull   skopeo and umoci, a slow line
//!                                  │             ├─▶ crowd  time and memory alone
//!   empty files ──────▶ one layer ─┘             └─▶ start, fleet, guest   the same tree as a directory
//! ```

mod fleet;
mod guest;
mod inputs;
mod link;
mod load;
#[path = "../support/pss.rs"]
mod pss;
mod pull;
mod registry;
#[path = "../support/report.rs"]
mod report;
mod setup;
mod start;

use std::error::Error;

use inputs::{Files, Image, Layout};
use setup::Setup;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes of the files of one layer, and of all twenty.
const ONE: u64 = 250 << 20;
const TWENTY: u64 = 1 << 30;
const LAYERS: u64 = 20;

fn main() -> Result<()> {
    if std::env::var_os("CARGO_BENCH").is_none() && !std::env::args().any(|argument| argument == "--bench") {
        println!("bench images: skipped (use `make bench-images`)");
        return Ok(());
    }
    let parts = std::env::var("PARTS").unwrap_or_else(|_| "load,crowd,start,fleet,guest".to_owned());
    let wanted = |name: &str| parts.split(',').any(|part| part == name);
    let setup = Setup::new()?;
    let mut files = Files::find()?;
    let tree = setup.directory.path().join("tree");
    let one = one_layer(&setup, &mut files, &tree)?;
    if wanted("load") {
        load::measure(&setup, &one, &twenty_layers(&setup, &mut files)?)?;
    }
    if wanted("pull") {
        let twenty = twenty_layers(&setup, &mut files)?;
        let more = pull::on_top(&setup, &mut files, &tree)?;
        pull::measure(&setup, &one, &twenty, &more)?;
    }
    if wanted("crowd") {
        load::measure_crowds(&setup)?;
    }
    if ["start", "fleet", "guest"].into_iter().any(wanted) {
        setup.load(&one, start::NAME)?;
    }
    if wanted("start") {
        start::measure(&setup, &tree)?;
    }
    if wanted("fleet") {
        fleet::measure(&setup, &tree)?;
    }
    if wanted("guest") {
        guest::measure(&setup, &tree)?;
    }
    setup.end()
}

/// A number of the environment.
fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A root directory with a shell and many files, and the image of it.
fn one_layer(setup: &Setup, files: &mut Files, tree: &std::path::Path) -> Result<Image> {
    let copied = std::process::Command::new("cp").arg("-a").arg(&setup.rootfs).arg(tree).status()?;
    if !copied.success() {
        return Err("copying the root directory failed".into());
    }
    let taken = files.take(ONE);
    println!("one layer: {} files", taken.len());
    inputs::copy(&taken, tree)?;
    let layout = Layout::new(setup.directory.path().join("one"))?;
    let layer = layout.layer(6, |out| inputs::archive(tree, &[], out))?;
    layout.finish(&[layer])
}

fn twenty_layers(setup: &Setup, files: &mut Files) -> Result<Image> {
    let layout = Layout::new(setup.directory.path().join("twenty"))?;
    let mut layers = Vec::new();
    let mut count = 0;
    for _ in 0..LAYERS {
        let taken = files.take(TWENTY / LAYERS);
        if taken.is_empty() {
            println!("/usr has not enough files: {} layers", layers.len());
            break;
        }
        count += taken.len();
        layers.push(layout.layer(6, |out| inputs::archive("/".as_ref(), &taken, out))?);
    }
    println!("{} layers: {count} files", layers.len());
    layout.finish(&layers)
}
