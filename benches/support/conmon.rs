//! conmon with a command under it. It wants an OCI runtime: a script takes that place, which starts the command and
//! does nothing else, so that only conmon is measured.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

const RUNTIME: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    --pid-file) pid_file=$2; shift ;;
    --bundle) bundle=$2; shift ;;
    create) creates=1 ;;
    esac
    shift
done
[ "$creates" ] || exit 0
setsid "$bundle/command" &
echo $! >"$pid_file"
"#;

/// The `number`th conmon, with its files in `dir` and the log `dir/NUMBER`, in conmon's format with a time a line. Stays
/// in the place of the caller's child until the command has ended.
pub fn command(peers: &Path, dir: &Path, number: usize, command: &[OsString]) -> Result<Command, Box<dyn Error>> {
    let bundle = dir.join(format!("bundle-{number}"));
    fs::create_dir(&bundle)?;
    let executable = |path: &Path, text: &str| {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    let words: Vec<_> = command.iter().map(|word| format!("'{}'", word.to_string_lossy())).collect();
    executable(&bundle.join("command"), &format!("#!/bin/sh\nexec {}\n", words.join(" ")))?;
    executable(&bundle.join("runtime"), RUNTIME)?;
    let id = format!("{number:064x}");
    let mut conmon = Command::new(peers.join("usr/bin/conmon"));
    // --sync: it does not leave its parent.
    conmon.args(["--sync", "--cid", &id, "--name", &id, "--cuuid", &id]);
    conmon.arg("--runtime").arg(bundle.join("runtime")).arg("--bundle").arg(&bundle);
    conmon.arg("--container-pidfile").arg(bundle.join("pid")).arg("--socket-dir-path").arg(dir);
    conmon.arg("--log-path").arg(format!("k8s-file:{}", dir.join(number.to_string()).display()));
    conmon.env("LD_LIBRARY_PATH", peers.join("usr/lib/x86_64-linux-gnu"));
    conmon.stdin(Stdio::null()).stderr(Stdio::null());
    Ok(conmon)
}
