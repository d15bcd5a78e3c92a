//! Files that are not libkrunfw, and where it is looked for.

use super::*;

/// The header of an ELF file for `machine`, and nothing behind it.
fn elf_header(machine: u16) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend([3, 0]); // ET_DYN
    header.extend(machine.to_le_bytes());
    header.extend([1, 0, 0, 0]);
    header.resize(52, 0);
    header.extend([64, 0, 56, 0, 0, 0, 64, 0, 0, 0, 0, 0]);
    header
}

fn refused(path: &Path) -> String {
    let error = check_named(path.to_owned()).unwrap_err();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let text: Vec<_> = causes.map(ToString::to_string).collect();
    let text = text.join(": ");
    assert!(text.contains(path.to_str().unwrap()) && text.contains("kernel install --krunfw"), "{text}");
    text
}

#[test]
fn what_is_not_libkrunfw_is_refused_by_name_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let wrong = dir.path().join(SONAME);
    let cut = fs::read(std::env::current_exe().unwrap()).unwrap()[..100_000].to_vec();
    for (content, reason) in [
        (b"".to_vec(), "it is no ELF file"),
        (b"#!/bin/sh\n".to_vec(), "it is no ELF file"),
        (vec![0x7f; 4096], "it is no ELF file"),
        (b"\x7fELF".to_vec(), "cut off"),
        (cut, "cut off"),
        (elf_header(243), "another kind of processor"),
        (elf_header(if cfg!(target_arch = "aarch64") { 183 } else { 62 }), "DT_SONAME"),
    ] {
        fs::write(&wrong, content).unwrap();
        let text = refused(&wrong);
        assert!(text.contains(reason), "{text}");
        assert!(matches!(search(&data, &[dir.path()]), Err(KrunfwError::NotFound(_))), "others may follow");
    }
    assert!(refused(&std::env::current_exe().unwrap()).contains("DT_SONAME"));
    assert!(refused(&dir.path().join("nothing")).contains("No such file"));
    assert!(refused(dir.path()).contains("no regular file"));
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(refused(&fifo).contains("no regular file"));
    assert!(refused(Path::new("/dev/zero")).contains("no regular file"));
}

#[test]
fn where_none_is_the_error_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = search(&dir.path().join("data"), &[dir.path()]).unwrap_err();
    assert!(matches!(error, KrunfwError::NotFound(_)) && error.to_string().contains("kernel install --krunfw"));
}

#[test]
fn a_damaged_installed_one_is_not_passed_over() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("kernel")).unwrap();
    fs::write(place(data.path()), "damaged").unwrap();
    assert!(matches!(search(data.path(), &[Path::new("/usr/lib")]), Err(KrunfwError::Wrong { .. })));
}

#[test]
fn a_wrong_file_is_not_installed() {
    let data = tempfile::tempdir().unwrap();
    let own = std::env::current_exe().unwrap();
    assert!(install(data.path(), Some(&own)).is_err());
    assert!(!place(data.path()).exists());
}
