//! From a registry into the store until a start could begin: on loopback against `skopeo copy` and `umoci unpack`, over a
//! slow line against the time that the bytes alone take, and a second image on the same base.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::inputs::{self, Files, Image, Layout, TAG};
use super::link::{Link, Speed};
use super::load::{mib, umoci};
use super::registry::Registry;
use super::report::Report;
use super::setup::{Setup, disk_bytes, settle};
use super::{Result, number};

/// The slow line.
const LINE: Speed = Speed { rate: 100_000_000, round_trip: Duration::from_millis(40) };
/// Bytes of the files that the second image has besides.
const MORE: u64 = 8 << 20;

/// An image of one layer and one of twenty, and `more` on the one.
pub fn measure(setup: &Setup, one: &Image, twenty: &Image, more: &Image) -> Result<()> {
    for program in ["docker-registry", "skopeo", "umoci"] {
        if !inputs::is_installed(program) {
            println!("{program} is not installed: nothing is pulled");
            return Ok(());
        }
    }
    let registry = Registry::start(&setup.directory.path().join("registry"))?;
    for (image, name) in [(one, "one:1"), (twenty, "twenty:1"), (more, "more:1")] {
        registry.push(image, name)?;
    }
    let cases = [("one layer", one, "one:1"), ("20 layers", twenty, "twenty:1")];
    near(setup, &registry, &cases)?;
    far(setup, &registry, &cases)?;
    second(setup, &registry, more)
}

/// The image with the one layer of another, and a small one.
pub fn on_top(setup: &Setup, files: &mut Files, tree: &Path) -> Result<Image> {
    let layout = Layout::new(setup.directory.path().join("more"))?;
    let taken = files.take(MORE);
    let layers = [
        layout.layer(6, |out| inputs::archive(tree, &[], out))?,
        layout.layer(6, |out| inputs::archive("/".as_ref(), &taken, out))?,
    ];
    layout.finish(&layers)
}

type Case<'a> = (&'a str, &'a Image, &'a str);

fn near(setup: &Setup, registry: &Registry, cases: &[Case<'_>]) -> Result<()> {
    let mut report = Report::new("images-pull", &["s", "× skopeo and umoci"]);
    for (case, _, name) in cases {
        for run in 1..=number("RUNS", 5) {
            settle()?;
            let ours = pull(setup, registry.port, name)?;
            remove(setup, registry.port, name)?;
            settle()?;
            let theirs = peers(setup, registry.port, name)?;
            println!("{case}, round {run}: sandpen {ours:.2} s, skopeo and umoci {theirs:.2} s");
            report.add(case, "sandpen pull", vec![ours, ours / theirs]);
            report.add(case, "skopeo copy, umoci unpack", vec![theirs, 1.0]);
        }
    }
    Ok(report.publish()?)
}

fn far(setup: &Setup, registry: &Registry, cases: &[Case<'_>]) -> Result<()> {
    let mut report = Report::new("images-pull-line", &["s", "× the bytes alone"]);
    for (case, image, name) in cases {
        let link = Link::before(registry.port, Some(LINE))?;
        let alone = packed(image)? * 8.0 / f64::from(LINE.rate);
        for run in 1..=number("LINE_RUNS", 3) {
            settle()?;
            let ours = pull(setup, link.port, name)?;
            remove(setup, link.port, name)?;
            println!("{case} over the line, round {run}: {ours:.2} s, its bytes alone {alone:.2} s");
            report.add(case, "sandpen pull", vec![ours, ours / alone]);
        }
        let theirs = peers(setup, link.port, name)?;
        report.add(case, "skopeo copy, umoci unpack", vec![theirs, theirs / alone]);
        report.add(case, "the bytes alone", vec![alone, 1.0]);
    }
    Ok(report.publish()?)
}

fn second(setup: &Setup, registry: &Registry, more: &Image) -> Result<()> {
    let link = Link::before(registry.port, None)?;
    let mut report =
        Report::new("images-pull-second", &["s", "MiB fetched", "MiB of its own layer, packed", "MiB more on disk"]);
    pull(setup, link.port, "one:1")?;
    settle()?;
    let (came, before) = (link.came(), disk_bytes(&setup.store())?);
    let time = pull(setup, link.port, "more:1")?;
    let own = std::fs::metadata(more.layers.last().ok_or("no layer")?)?.len();
    let more = mib(disk_bytes(&setup.store())?.saturating_sub(before));
    report.add("a second image", "sandpen pull", vec![time, mib(link.came() - came), mib(own), more]);
    Ok(report.publish()?)
}

/// Bytes of the layers as they come.
fn packed(image: &Image) -> Result<f64> {
    let sizes = image.layers.iter().map(std::fs::metadata).collect::<std::io::Result<Vec<_>>>()?;
    Ok(mib(sizes.iter().map(std::fs::Metadata::len).sum()) * 1_048_576.0)
}

fn reference(port: u16, name: &str) -> String {
    format!("127.0.0.1:{port}/{name}")
}

/// Seconds; everything is on the disk then.
fn pull(setup: &Setup, port: u16, name: &str) -> Result<f64> {
    let mut command = setup.command(&["pull", "--quiet", &reference(port, name)]);
    let begun = Instant::now();
    let status = command.stdout(Stdio::null()).status()?;
    let time = begun.elapsed().as_secs_f64();
    if status.success() { Ok(time) } else { Err(format!("sandpen pull ended with {status}").into()) }
}

fn remove(setup: &Setup, port: u16, name: &str) -> Result<()> {
    setup.remove(&reference(port, name))
}

/// Seconds. Nothing of it is synced.
fn peers(setup: &Setup, port: u16, name: &str) -> Result<f64> {
    let directory = tempfile::tempdir_in(setup.directory.path())?;
    let layout = directory.path().join("layout");
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
    command.arg(format!("docker://{}", reference(port, name))).arg(format!("oci:{}:{TAG}", layout.display()));
    let begun = Instant::now();
    let status = command.status()?;
    let copied = begun.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("skopeo ended with {status}").into());
    }
    Ok(copied + umoci(&layout, &directory.path().join("bundle"))?)
}
