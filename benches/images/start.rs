//! `sandpen run IMAGE -- true` against `sandpen run --root image ROOTFS -- true` of the same tree, both restored from a
//! template, in turn; and where the time of each goes.

use std::path::Path;
use std::time::Instant;

use super::report::Report;
use super::setup::Setup;
use super::{Result, number};

/// The image's name, for this and all that follows.
pub const NAME: &str = "bench";
/// What a command shows of its steps: step, who, and milliseconds.
type Steps = Vec<(String, f64)>;

/// Pairs of starts.
pub fn measure(setup: &Setup, tree: &Path) -> Result<()> {
    let tree = tree.to_string_lossy();
    let sides = [("sandpen run IMAGE", vec![NAME]), ("sandpen run --root image", vec!["--root", "image", &tree])];
    let mut report = Report::new("images-start", &["ms", "ms more than --root image"]);
    let mut steps = Report::new("images-start-steps", &["ms"]);
    // The first start has no template, and makes one.
    for (_, arguments) in &sides {
        run(setup, arguments)?;
        run(setup, arguments)?;
    }
    for pair in 1..=number("PAIRS", 20) {
        let (image, its_steps) = run(setup, &sides[0].1)?;
        let (directory, other_steps) = run(setup, &sides[1].1)?;
        println!("pair {pair}: image {image:.1} ms, root image {directory:.1} ms");
        report.add("its end", sides[0].0, vec![image, image - directory]);
        report.add("its end", sides[1].0, vec![directory, 0.0]);
        for (who, shown) in [(sides[0].0, its_steps), (sides[1].0, other_steps)] {
            for (step, took) in shown {
                steps.add(&step, who, vec![took]);
            }
        }
    }
    steps.publish()?;
    Ok(report.publish()?)
}

/// Milliseconds from the command to its end, and its steps.
fn run(setup: &Setup, arguments: &[&str]) -> Result<(f64, Steps)> {
    let mut command = setup.command(&["run", "--rm", "--timings"]);
    let begun = Instant::now();
    let output = command.args(arguments).args(["--", "true"]).output()?;
    let time = begun.elapsed().as_secs_f64() * 1000.0;
    let shown = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("sandpen run failed: {shown}").into());
    }
    let lines = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let steps = lines.filter_map(|line| match line.as_slice() {
        [step, _, took, _] => took.parse().ok().map(|took| ((*step).to_owned(), took)),
        _ => None,
    });
    Ok((time, steps.collect()))
}
