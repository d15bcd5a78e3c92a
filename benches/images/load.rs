//! From the request until a start could begin, everything on the disk; against `umoci unpack`, and against unpacking its
//! layers one after the other without doing anything with them.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::inputs::{self, Image, Layout, TAG};
use super::report::Report;
use super::setup::{Setup, disk_bytes, settle};
use super::{Result, number};

const NAME: &str = "bench-load";

/// Figures that there are of sandpen alone.
const COLUMNS: [&str; 6] =
    ["s", "× umoci", "× flate2 alone", "MiB memory at most", "MiB on disk", "× disk of unpacked files"];

/// An image of one layer and one of twenty.
pub fn measure(setup: &Setup, one: &Image, twenty: &Image) -> Result<()> {
    let has_umoci = inputs::is_installed("umoci");
    if !has_umoci {
        println!("umoci is not installed: its side is left out");
    }
    let mut report = Report::new("images-load", &COLUMNS);
    for (case, image) in [("one layer", one), ("20 layers", twenty)] {
        // Everything is in the page cache from then on, for all of them.
        unpack_alone(&image.layers)?;
        for run in 1..=number("RUNS", 3) {
            settle()?;
            let loaded = setup.load(image, NAME)?;
            let bytes = mib(disk_bytes(&setup.store())?);
            setup.remove(NAME)?;
            settle()?;
            let (umoci, unpacked) = if has_umoci {
                let bundle = setup.directory.path().join(format!("bundle-{run}-{case}"));
                let time = umoci(&image.directory, &bundle)?;
                (time, mib(disk_bytes(&bundle.join("rootfs"))?))
            } else {
                (f64::NAN, f64::NAN)
            };
            settle()?;
            let flate2 = unpack_alone(&image.layers)?.as_secs_f64();
            let zcat = zcat(&image.layers)?.as_secs_f64();
            let ours = loaded.time.as_secs_f64();
            println!("{case}, round {run}: sandpen {ours:.2} s, umoci {umoci:.2} s, flate2 {flate2:.2} s");
            let peak = mib(loaded.peak_kib * 1024);
            report.add(case, "sandpen", vec![ours, ours / umoci, ours / flate2, peak, bytes, bytes / unpacked]);
            let other = |time: f64, disk: f64| vec![time, time / umoci, time / flate2, f64::NAN, disk, disk / unpacked];
            report.add(case, "umoci unpack", other(umoci, unpacked));
            report.add(case, "flate2 alone", other(flate2, f64::NAN));
            report.add(case, "zcat alone", other(zcat, f64::NAN));
        }
    }
    Ok(report.publish()?)
}

/// Layers with very many entries.
pub fn measure_crowds(setup: &Setup) -> Result<()> {
    let mut report = Report::new("images-crowd", &["s", "MiB memory at most", "MiB on disk"]);
    for (case, directories, files) in [("10^6 in one directory", 1, 1_000_000), ("1.9 × 10^6 in 1,900", 1900, 999)] {
        let layout = Layout::new(setup.directory.path().join(format!("crowd-{directories}")))?;
        let layer = layout.layer(1, |out| inputs::crowd(directories, files, out))?;
        let image = layout.finish(&[layer])?;
        for _ in 0..number("RUNS", 3) {
            settle()?;
            let loaded = setup.load(&image, NAME)?;
            let bytes = mib(disk_bytes(&setup.store())?);
            setup.remove(NAME)?;
            report.add(case, "sandpen", vec![loaded.time.as_secs_f64(), mib(loaded.peak_kib * 1024), bytes]);
        }
    }
    Ok(report.publish()?)
}

#[expect(clippy::cast_precision_loss, reason = "sizes of files, and shown with three digits")]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// Seconds. Nothing of it is synced.
pub fn umoci(layout: &Path, bundle: &Path) -> Result<f64> {
    let begun = Instant::now();
    let mut command = Command::new("umoci");
    command.args(["unpack", "--image"]).arg(format!("{}:{TAG}", layout.display()));
    if !nix::unistd::geteuid().is_root() {
        command.arg("--rootless");
    }
    let status = command.arg(bundle).stdout(Stdio::null()).status()?;
    let time = begun.elapsed().as_secs_f64();
    if status.success() { Ok(time) } else { Err(format!("umoci ended with {status}").into()) }
}

/// What a loop over the same decompressor takes that loading an image uses, on one processor.
fn unpack_alone(layers: &[PathBuf]) -> Result<Duration> {
    let (begun, mut buffer) = (Instant::now(), vec![0; 256 << 10]);
    for layer in layers {
        let packed = BufReader::with_capacity(128 << 10, File::open(layer)?);
        let mut unpacked = flate2::bufread::MultiGzDecoder::new(packed);
        while unpacked.read(&mut buffer)? > 0 {}
    }
    Ok(begun.elapsed())
}

fn zcat(layers: &[PathBuf]) -> Result<Duration> {
    let begun = Instant::now();
    for layer in layers {
        let status = Command::new("zcat").stdin(File::open(layer)?).stdout(Stdio::null()).status()?;
        if !status.success() {
            return Err("zcat failed".into());
        }
    }
    Ok(begun.elapsed())
}
