//! Streams of other programs, and what they make of ours: GNU tar and Python's tarfile.

use std::process::{Command, Stdio};

use super::*;

fn is_there(program: &str, reason: sandpen_skip::Reason) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    if !found {
        sandpen_skip::skip(reason, program);
    }
    found
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command:?}");
}

/// Lines without what an older format does not hold: fractions of seconds, and extended attributes.
fn coarse(lines: &[String]) -> Vec<String> {
    let coarse = |line: &String| {
        let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        for word in &mut words {
            if let Some((seconds, fraction)) = word.split_once('.')
                && fraction.len() == 9
            {
                *word = seconds.to_owned();
            }
        }
        words.join(" ").split(" [").next().unwrap().to_owned()
    };
    lines.iter().map(coarse).collect()
}

/// The same without the times of symbolic links, which Python does not set.
fn coarser(lines: &[String]) -> Vec<String> {
    let time = |line: &str, at: usize| line.split(' ').nth(at).is_some_and(|word| word.parse::<u64>().is_ok());
    let coarser = |line: String| match line.contains("-> ") {
        true => line.split(' ').enumerate().filter(|(at, _)| !time(&line, *at)).map(|(_, word)| word).collect(),
        false => line,
    };
    coarse(lines).into_iter().map(coarser).collect()
}

/// A tree without what is before 1970, which GNU's own format rounds in another way.
fn tree(root: &Path) {
    super::round_trip::tree(root);
    for name in ["dir/nothing", "dir/deep/er", "dir/deep", "dir"] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::open(root.join(name)).unwrap().set_modified(time).unwrap();
    }
}

#[test]
fn gnu_tar_reads_ours_and_we_read_its() {
    if !is_there("tar", sandpen_skip::Reason::NoGnuTar) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    tree(&from);
    // Ours.
    let (archive, to) = (dir.path().join("ours.tar"), dir.path().join("by tar"));
    fs::write(&archive, packed(&from.join("."))).unwrap();
    fs::create_dir(&to).unwrap();
    let args = ["--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "-xpf"];
    run(Command::new("tar").args(args).arg(&archive).arg("-C").arg(&to));
    // The directory itself is one of its entries.
    assert_eq!(told(&to), told(&from));
    // Its own, in all formats.
    for format in ["gnu", "posix", "oldgnu"] {
        for sparse in ["--no-seek", "--sparse", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"]
        {
            let archive = dir.path().join("theirs.tar");
            let mut command = Command::new("tar");
            command.arg("-cf").arg(&archive).arg(format!("--format={format}"));
            if sparse.starts_with("--sparse") {
                command.arg("--sparse").arg(sparse);
            }
            if format == "posix" {
                command.args(["--xattrs", "--xattrs-include=*"]);
            }
            run(command.arg("-C").arg(&from).arg("."));
            let to = dir.path().join(format!("of {format} {sparse}"));
            fs::create_dir(&to).unwrap();
            unpacked(&fs::read(&archive).unwrap(), &to);
            match format {
                "posix" => assert_eq!(told(&to), told(&from), "{sparse}"),
                _ => assert_eq!(coarse(&told(&to)), coarse(&told(&from)), "{format} {sparse}"),
            }
        }
    }
}

#[test]
fn pythons_tarfile_reads_ours_and_we_read_its() {
    if !is_there("python3", sandpen_skip::Reason::NoPython) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    tree(&from);
    let (archive, to) = (dir.path().join("ours.tar"), dir.path().join("by python"));
    fs::write(&archive, packed(&from)).unwrap();
    fs::create_dir(&to).unwrap();
    let script = "import sys, tarfile\nwith tarfile.open(sys.argv[1]) as tar: tar.extractall(sys.argv[2], filter='fully_trusted')";
    run(Command::new("python3").args(["-c", script]).arg(&archive).arg(&to));
    // It has no attributes, and floating times.
    assert_eq!(coarser(&told(&to.join("from"))), coarser(&told(&from)));
    let archive = dir.path().join("theirs.tar");
    for format in ["PAX", "GNU"] {
        let script = format!(
            "import sys, tarfile\nwith tarfile.open(sys.argv[1], 'w', format=tarfile.{format}_FORMAT) as tar: tar.add(sys.argv[2], 'from')"
        );
        run(Command::new("python3").args(["-c", &script]).arg(&archive).arg(&from));
        let to = dir.path().join(format);
        fs::create_dir(&to).unwrap();
        unpacked(&fs::read(&archive).unwrap(), &to);
        assert_eq!(coarser(&told(&to.join("from"))), coarser(&told(&from)), "{format}");
    }
}
