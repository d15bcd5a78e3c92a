//! State directories with everything that may be wrong about them.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, chown, symlink};

use sandpen_skip::{Reason, skip};

use super::*;

/// A user that no package makes.
const STRANGER: u32 = 61_617;

#[test]
fn a_missing_directory_is_made_private() {
    let temp = tempfile::tempdir().unwrap();
    let dir = prepare_state_dir(&temp.path().join("a/b")).unwrap();
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    prepare_state_dir(dir.path()).unwrap();
    let own = PrivateDir::of_daemon(&temp.path().join("c/d")).unwrap();
    assert_eq!(fs::metadata(own.state_dir().path()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(own.state_dir().path()).unwrap().count(), 0, "nothing is made in it");
}

#[test]
fn an_open_directory_is_refused_and_left_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(matches!(prepare_state_dir(temp.path()), Err(PrivateDirError::Open { mode: 0o755, .. })));
    assert!(matches!(PrivateDir::own(temp.path()), Err(PrivateDirError::Open { mode: 0o755, .. })));
    assert_eq!(fs::metadata(temp.path()).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn a_file_is_no_directory() {
    let temp = tempfile::NamedTempFile::new().unwrap();
    for path in [temp.path().to_owned(), temp.path().join("below")] {
        assert!(matches!(prepare_state_dir(&path), Err(PrivateDirError::NotADirectory(_))));
        assert!(matches!(PrivateDir::own(&path), Err(PrivateDirError::NotADirectory(_))));
    }
}

#[test]
fn a_long_path_is_refused_before_anything_is_made() {
    let temp = tempfile::tempdir().unwrap();
    let long = temp.path().join("x".repeat(100));
    for refused in [prepare_state_dir(&long).unwrap_err(), PrivateDir::of_daemon(&long).unwrap_err()] {
        assert!(refused.to_string().contains("shorter --state-dir"), "{refused}");
    }
    assert!(!long.exists());
}

#[test]
fn root_looks_into_somebody_elses_and_starts_nothing_there() {
    if effective_user() != 0 {
        return skip(Reason::NotRoot, "only root can give files away");
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
    chown(&dir, Some(STRANGER), None).unwrap();
    prepare_state_dir(&dir).unwrap();
    let refused = PrivateDir::own(&dir).unwrap_err();
    assert!(matches!(refused, PrivateDirError::NotOurs { owner: STRANGER, user: 0, .. }), "{refused}");
    // Nor does root make one below a directory that somebody else may put another one into.
    chown(temp.path(), Some(STRANGER), None).unwrap();
    let below = temp.path().join("new");
    for refused in [prepare_state_dir(&below).unwrap_err(), PrivateDir::own(&below).unwrap_err()] {
        assert!(matches!(refused, PrivateDirError::Below { owner: Some(STRANGER), .. }), "{refused}");
    }
    assert!(!below.exists());
}

/// Every name, with everything that may lie there: nothing of it is opened, made or changed.
#[test]
fn what_leads_elsewhere_is_refused_by_name_and_left_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let (state, outside) = (temp.path().join("state"), temp.path().join("outside"));
    let refused = |what: &str, fault: EntryFault, name: &str| {
        let refused = PrivateDir::own(&state).expect_err(what);
        let text = refused.to_string();
        assert!(text.contains(name) && text.contains("--state-dir"), "{what}: {text}");
        let PrivateDirError::Entry { path, fault: found, .. } = refused else { panic!("{what}: {text}") };
        assert_eq!((path, found), (state.join(name), fault), "{what}");
        assert_eq!(fs::read(&outside).unwrap(), b"as it was", "{what}");
    };
    let fresh = || {
        let _ = fs::remove_dir_all(&state);
        PrivateDir::own(&state).unwrap();
        let _ = fs::remove_file(&outside);
        fs::write(&outside, "as it was").unwrap();
        fs::create_dir(state.join("disks")).unwrap();
    };
    for name in StateDir::FILES {
        fresh();
        symlink(&outside, state.join(name)).unwrap();
        refused("a link", EntryFault::Link, name);
        fresh();
        symlink(temp.path().join("not there"), state.join(name)).unwrap();
        refused("a link to nothing", EntryFault::Link, name);
        assert!(!temp.path().join("not there").exists());
        fresh();
        fs::hard_link(&outside, state.join(name)).unwrap();
        refused("a hard link", EntryFault::Names(2), name);
        fresh();
        fs::create_dir(state.join(name)).unwrap();
        refused("a directory", EntryFault::NotAFile, name);
        fresh();
        nix::unistd::mkfifo(&state.join(name), Mode::S_IRWXU).unwrap();
        refused("a FIFO", EntryFault::NotAFile, name);
        fresh();
        fs::write(state.join(name), "").unwrap();
        PrivateDir::own(&state).expect("a plain file");
    }
    for name in StateDir::DIRECTORIES {
        let place = || {
            fresh();
            let _ = fs::remove_dir(state.join(name));
        };
        place();
        symlink(temp.path(), state.join(name)).unwrap();
        refused("a link", EntryFault::Link, name);
        place();
        fs::write(state.join(name), "").unwrap();
        refused("a file", EntryFault::NotADirectory, name);
        place();
        fs::create_dir(state.join(name)).unwrap();
        PrivateDir::own(&state).expect("a directory");
        fs::set_permissions(state.join(name), PermissionsExt::from_mode(0o770)).unwrap();
        refused("an open directory", EntryFault::Writable(0o770), name);
    }
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    if effective_user() != 0 {
        return skip(Reason::NotRoot, "only root can give files away");
    }
    let temp = tempfile::tempdir().unwrap();
    let all = StateDir::FILES.into_iter().chain(StateDir::DIRECTORIES);
    for (number, name) in all.enumerate() {
        let dir = PrivateDir::own(&temp.path().join(number.to_string())).unwrap();
        let path = dir.state_dir().path().join(name);
        if StateDir::FILES.contains(&name) {
            fs::write(&path, "").unwrap();
        } else {
            fs::create_dir_all(&path).unwrap();
        }
        chown(&path, Some(STRANGER), None).unwrap();
        let refused = PrivateDir::own(dir.state_dir().path()).unwrap_err();
        assert!(matches!(refused, PrivateDirError::Entry { fault: EntryFault::Owner(STRANGER), .. }), "{refused}");
    }
}

/// What is put there after the look: the opening itself follows nothing and cuts nothing.
#[test]
fn a_link_that_comes_later_is_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = PrivateDir::own(&temp.path().join("state")).unwrap();
    let outside = temp.path().join("outside");
    fs::write(&outside, "as it was").unwrap();
    let path = dir.state_dir().lock();
    let open = || dir.open_file(StateDir::LOCK, OFlag::O_RDWR | OFlag::O_CREAT);
    symlink(&outside, &path).unwrap();
    assert!(matches!(open(), Err(PrivateDirError::Entry { fault: EntryFault::Link, .. })));
    fs::remove_file(&path).unwrap();
    fs::hard_link(&outside, &path).unwrap();
    assert!(matches!(open(), Err(PrivateDirError::Entry { fault: EntryFault::Names(2), .. })));
    fs::remove_file(&path).unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"as it was");
    open().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Another directory under its name: what is opened is in the one that was looked at.
    let moved = temp.path().join("moved");
    fs::rename(dir.state_dir().path(), &moved).unwrap();
    fs::DirBuilder::new().mode(0o700).create(dir.state_dir().path()).unwrap();
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
    fs::write(moved.join("daemon.lock"), "the one").unwrap();
    assert_eq!(io::read_to_string(open().unwrap()).unwrap(), "the one");
}
