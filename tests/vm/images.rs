//! Images of layers that are hard to put together, seen in a guest as another tool unpacks them: umoci, which applies
//! layers with Go's `archive/tar` as Docker, Podman and containerd do. Paths, kinds, permissions, owners, times, contents,
//! names of one file, targets of links, numbers of devices and extended attributes are the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandpen_images::store::Store;
use sandpen_skip::{Reason, skip};
use sandpen_types::image::ImageDigest;
use serde_json::json;

use crate::support::images::{load, said, start, store};
use crate::support::{self, Home, explain, output, succeeds};
use crate::user::ordinary_user;

mod made;

use made::{Made, has_tools};

/// What a guest mounts or makes, and where the lister is.
const NOT_OF_THE_IMAGE: [&str; 9] =
    ["/dev", "/proc", "/sys", "/run", "/tmp", "/lister", "/etc/hosts", "/lib/modules", "/usr/lib/modules"];
/// Directories whose times are not compared: the guest makes something in the first ones; of the last ones no layer says
/// anything but what is in them, for which umoci takes the time at which it unpacks, and an image here always the same.
const TIMELESS: [&str; 6] = ["/", "/etc", "/lib", "/usr/lib", "/inserted", "/ustar"];
/// What a tree has at least: busybox and its names.
const FEWEST: usize = 250;

/// The example `list_tree` of the images' crate, with the libraries that it needs, in a directory for a guest.
struct Lister(PathBuf);

impl Lister {
    fn new(home: &Home) -> Self {
        // Below this program's own, so that it is what was built with it.
        let target = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).arg("build").arg("--target-dir").arg(target.parent().unwrap());
        cargo.args(["--locked", "--offline", "--workspace", "--all-features", "--example", "list_tree"]);
        succeeds(cargo);
        let directory = home.path().join("lister");
        fs::create_dir(&directory).unwrap();
        let program = target.join("examples/list_tree");
        let mut ldd = Command::new("ldd");
        ldd.arg(&program);
        let libraries = String::from_utf8(succeeds(ldd).stdout).unwrap();
        let paths = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
        for path in paths.chain([program.as_path()]) {
            fs::copy(path, directory.join(path.file_name().unwrap())).unwrap();
        }
        Self(directory)
    }

    /// The tree below a directory of the host.
    fn here(&self, root: &Path) -> Tree {
        let mut command = Command::new(self.0.join("list_tree"));
        command.arg(root);
        tree(&String::from_utf8(succeeds(command).stdout).unwrap())
    }

    /// That of a guest.
    fn there(&self, home: &Home, digest: ImageDigest, name: &str) -> Tree {
        let script = "cd /lister; exec ./ld-linux-x86-64.so.2 --library-path . ./list_tree /";
        let volumes = json!({"volumes": [{"host": self.0, "guest": "/lister", "read_only": true}]});
        start(home, digest, name, script, &volumes);
        let tree = tree(&said(home, name));
        home.ok(&["rm", name]);
        tree
    }
}

/// Lines by path.
type Tree = BTreeMap<String, String>;

fn tree(text: &str) -> Tree {
    let lines = text.lines().map(|line| line.split_once(' ').unwrap_or_else(|| panic!("{line}")));
    let is_of_the_image = |path: &str| {
        let below = |other: &str| path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        !NOT_OF_THE_IMAGE.iter().any(|other| below(other))
    };
    let kept = lines.filter(|(path, _)| is_of_the_image(path));
    let mut tree: Tree = kept.map(|(path, line)| (path.to_owned(), line.to_owned())).collect();
    for path in TIMELESS {
        if let Some(line) = tree.get_mut(path).filter(|line| line.starts_with("directory ")) {
            *line = line.split(' ').take(3).collect::<Vec<_>>().join(" ");
        }
    }
    assert!(tree.len() > FEWEST, "{tree:?}");
    tree
}

/// What differs, a line each.
fn differences(umoci: &Tree, guest: &Tree) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = umoci.keys().chain(guest.keys()).collect();
    let differ = paths.into_iter().filter(|path| umoci.get(*path) != guest.get(*path));
    let nothing = || "nothing".to_owned();
    let shown = |tree: &Tree, path: &String| tree.get(path).cloned().unwrap_or_else(nothing);
    differ.map(|path| format!("{path}\n    umoci: {}\n    guest: {}", shown(umoci, path), shown(guest, path))).collect()
}

/// Whether `fsck.erofs` finds nothing wrong with an image's file system.
fn check(store: &Store, digest: ImageDigest, scratch: &Path) {
    let disk = store.disk(&digest).unwrap();
    let mut whole = File::create(scratch).unwrap();
    // Without the padding, which is last.
    for extent in disk.extents.split_last().unwrap().1 {
        assert_eq!(io::copy(&mut File::open(&extent.path).unwrap(), &mut whole).unwrap(), extent.bytes);
    }
    let mut fsck = Command::new("fsck.erofs");
    fsck.arg(scratch);
    let looked = output(fsck);
    let is_silent = looked.stdout.is_empty() && looked.stderr.is_empty();
    assert!(looked.status.success() && is_silent, "{}", explain(&looked));
}

fn has_fsck() -> bool {
    let is_here = Command::new("fsck.erofs").arg("-V").output().is_ok();
    if !is_here {
        skip(Reason::NoErofsUtils, "fsck.erofs");
    }
    is_here
}

/// Compares these images.
fn compare(home: &Home, names: &[&str]) {
    let (made, lister) = (Made::new(home, names), Lister::new(home));
    let has_fsck = has_fsck();
    let mut wrong = Vec::new();
    for name in names {
        let digest = load(home, &made.handed_out(name), &format!("test/{name}:2"));
        if has_fsck {
            check(&store(home), digest, &home.path().join("disk"));
        }
        let umoci = lister.here(&made.unpacked(name));
        let guest = lister.there(home, digest, &name.replace('_', "-"));
        let different = differences(&umoci, &guest);
        if !different.is_empty() {
            wrong.push(format!("{name}: {} of {} differ\n{}", different.len(), umoci.len(), different.join("\n")));
        }
        println!("{name}: {} entries, {} differ", umoci.len(), different.len());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn can_be_made() -> bool {
    if !nix::unistd::Uid::effective().is_root() {
        skip(Reason::NotRoot, "umoci makes devices and files of other owners for root alone");
        return false;
    }
    has_tools() && support::has_mke2fs()
}

#[test]
fn a_guest_sees_of_the_files_of_an_image_what_umoci_unpacks() {
    if can_be_made() {
        compare(&Home::with_data(), &["attributes", "large", "names", "sparse", "special"]);
    }
}

#[test]
fn a_guest_sees_of_layers_of_an_image_over_one_another_what_umoci_unpacks() {
    if can_be_made() {
        compare(&Home::with_data(), &["behind_links", "hard_links", "opaque", "replaced", "whiteouts"]);
    }
}

#[test]
fn a_guest_of_an_ordinary_user_sees_the_same_of_an_image() {
    if !can_be_made() {
        return;
    }
    let Some(home) = ordinary_user() else { return };
    let store = home.data().join(Store::DIRECTORY);
    fs::create_dir(&store).unwrap();
    home.own(store.to_str().unwrap());
    compare(&home, &["attributes", "hard_links", "special"]);
}
