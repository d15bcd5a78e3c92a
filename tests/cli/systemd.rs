//! The unit of `contrib/systemd`, as systemd reads it.

use std::fs;
use std::path::Path;
use std::process::Command;

use sandpen_skip::{Reason, skip};

use crate::support::{Home, explain, output};

/// What systemd has to say of the unit, with or without its drop-in.
fn verify(unit: &str, drop_in: Option<&str>) -> String {
    let home = Home::new();
    let path = home.path().join("sandpen.service");
    fs::write(&path, unit.replace("/usr/local/bin/sandpen", env!("CARGO_BIN_EXE_sandpen"))).unwrap();
    if let Some(drop_in) = drop_in {
        fs::create_dir(home.path().join("sandpen.service.d")).unwrap();
        fs::write(home.path().join("sandpen.service.d/delegate.conf"), drop_in).unwrap();
    }
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).arg(path);
    let said = output(command);
    assert!(said.status.success(), "{}", explain(&said));
    String::from_utf8(said.stderr).unwrap()
}

#[test]
fn systemd_understands_the_unit() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    let Ok(version) = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()) else {
        return skip(Reason::NoSystemd, "there is no systemd-analyze");
    };
    let version: u32 = version.split_whitespace().nth(1).unwrap().parse().unwrap();
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    let unit = fs::read_to_string(contrib.join("sandpen.service")).unwrap();
    let drop_in = fs::read_to_string(contrib.join("sandpen.service.d/delegate.conf")).unwrap();
    assert_eq!(verify(&unit, None), "");
    // It would say what it does not understand.
    assert!(verify(&unit.replace("NoNewPrivileges=", "NoNewPrivilege="), None).contains("NoNewPrivilege"));
    let said = verify(&unit, Some(&drop_in));
    let said: Vec<_> = said.lines().filter(|line| version >= 254 || !line.contains("'DelegateSubgroup'")).collect();
    assert!(said.is_empty(), "{said:?}");
}
