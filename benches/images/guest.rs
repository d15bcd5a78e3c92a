//! How fast a guest reads the same tree, with nothing of it in its cache: from an image, from a directory that virtiofs
//! shares, and from ext4 on the sandbox's own disk.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use super::report::Report;
use super::setup::Setup;
use super::{Result, number, start};

/// A disk that is kept under this name, with a copy of the tree.
const DISK: &str = "bench-tree";

/// Rounds of all three.
pub fn measure(setup: &Setup, tree: &Path) -> Result<()> {
    let root = tree.to_string_lossy();
    let disk = ["--keep-disk", DISK, "--disk", "1G", start::NAME];
    // Once: it takes an emulated processor long.
    timed(setup, &disk, "cp -a /usr /copy; sync; echo")?;
    let sides = [
        ("virtiofs", vec![&*root], "/usr"),
        ("sandpen image", vec![start::NAME], "/usr"),
        ("ext4 on its disk", disk.to_vec(), "/copy"),
    ];
    let mut report = Report::new("images-guest", &["s", "× virtiofs"]);
    for run in 0..=number("RUNS", 3) {
        let mut first = None;
        for (who, arguments, place) in &sides {
            let script = format!(
                "cold() {{ echo 3 >/proc/sys/vm/drop_caches; echo; }}
                cold; find {place} -exec stat -c %s {{}} + >/dev/null; echo
                cold; find {place} -type f -exec cat {{}} + >/dev/null; echo"
            );
            let times = timed(setup, arguments, &script)?;
            let [_, walk, _, read] = times[..] else {
                return Err(format!("{who} said {} lines", times.len()).into());
            };
            println!("round {run}, {who}: walked in {walk:.2} s, read in {read:.2} s");
            let (first_walk, first_read) = *first.get_or_insert((walk, read));
            // The first round fills the host's cache.
            if run > 0 {
                report.add("find and stat all", who, vec![walk, walk / first_walk]);
                report.add("read all files", who, vec![read, read / first_read]);
            }
        }
    }
    Ok(report.publish()?)
}

/// Seconds before each line of a script's output, since the line before it.
fn timed(setup: &Setup, arguments: &[&str], script: &str) -> Result<Vec<f64>> {
    let mut command = setup.command(&["run", "--rm"]);
    let mut child = command
        .args(arguments)
        .args(["--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (mut times, mut before) = (Vec::new(), Instant::now());
    for line in BufReader::new(child.stdout.take().ok_or("no stdout")?).lines() {
        line?;
        times.push(before.elapsed().as_secs_f64());
        before = Instant::now();
    }
    let mut said = String::new();
    child.stderr.take().ok_or("no stderr")?.read_to_string(&mut said)?;
    if !child.wait()?.success() || !said.is_empty() {
        return Err(format!("sandpen run failed: {said}").into());
    }
    Ok(times)
}
