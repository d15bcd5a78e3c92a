//! From a directory or a tar archive to a file system and back, looked at by other programs.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;

use crate::directory_disk;
use crate::erofs::{self, Placement};
use crate::layer::entry::Meta;
use crate::layer::tar_writer::TarWriter;
use crate::layer::{self, Expected, LayerInfo};
use crate::tree::Tree;
use crate::walk::{self, Found, Owners, Sink, WalkError};

fn sh(script: &str, directory: &Path) {
    let status = Command::new("bash").args(["-ec", script]).current_dir(directory).status().unwrap();
    assert!(status.success(), "{script}");
}

fn unpack(tar: &Path, directory: &Path) -> LayerInfo {
    fs::create_dir(directory).unwrap();
    layer::unpack(File::open(tar).unwrap(), &Expected::default(), directory, &|_| {}).unwrap()
}

/// The disk of layers as one file.
fn disk(layers: &[(&Path, LayerInfo)], path: &Path) {
    let mut tree = Tree::new();
    for (directory, _) in layers {
        tree.apply(&File::open(directory.join(layer::ENTRIES)).unwrap()).unwrap();
    }
    let blobs: Vec<u32> = layers.iter().map(|(_, info)| u32::try_from(info.blob_bytes / 4096).unwrap()).collect();
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut at = erofs::write(&mut tree, &blobs, Placement::Before, &file).unwrap();
    for (directory, _) in layers.iter().rev() {
        let blob = fs::read(directory.join(layer::BLOB)).unwrap();
        file.write_all_at(&blob, at).unwrap();
        at += blob.len() as u64;
    }
}

/// Whether erofs-utils are installed.
fn has_fsck() -> bool {
    Command::new("fsck.erofs").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Another implementation reads the disk as the directory is: names, kinds, modes, owners, times, names of a file, targets,
/// extended attributes and contents, holes included.
fn is_read_elsewhere(disk: &Path, root: &Path) {
    let bytes = fs::read(disk).unwrap();
    let erofs = EroFS::new(SliceImage::new(&bytes)).unwrap();
    let mut found = 0;
    for entry in erofs.walk_dir("/").unwrap() {
        let entry = entry.unwrap();
        let path = root.join(std::str::from_utf8(entry.dir_entry.path().as_bytes()).unwrap().trim_start_matches('/'));
        let (meta, inode) = (fs::symlink_metadata(&path).unwrap(), entry.inode);
        let kind = (inode.is_dir(), inode.is_file(), inode.is_symlink());
        assert_eq!(kind, (meta.is_dir(), meta.is_file(), meta.is_symlink()), "{path:?}");
        assert_eq!(
            (inode.permissions().mode(), inode.uid(), inode.gid()),
            (meta.mode() & 0o7777, meta.uid(), meta.gid())
        );
        assert_eq!(inode.modified_unix(), (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap()), "{path:?}");
        if meta.is_dir() {
            found += 1;
            continue;
        }
        assert_eq!(u64::from(inode.nlink()), meta.nlink(), "{path:?}");
        if meta.is_symlink() {
            let target = erofs.read_link_inode(inode).unwrap();
            assert_eq!(target.as_bytes(), fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes());
        } else if meta.is_file() {
            let mut contents = Vec::new();
            erofs.open_inode_file(inode).unwrap().read_to_end(&mut contents).unwrap();
            assert!(contents == fs::read(&path).unwrap(), "{path:?}");
        }
        found += 1;
    }
    assert!(found > 3000, "{found}");
    let attributes = erofs.xattrs("/a/hello").unwrap();
    assert_eq!(attributes.len(), 1, "{attributes:?}");
}

#[test]
fn a_directory_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let script = r#"
        mkdir -p root/a/b root/many root/empty && cd root
        echo hello >a/hello; head -c 300000 /dev/urandom >a/random; : >a/nothing
        truncate -s 5M a/sparse; printf end | dd of=a/sparse bs=1 seek=3000000 conv=notrunc status=none
        truncate -s 30M a/sparse-in-parts; head -c 3M /dev/urandom | dd of=a/sparse-in-parts bs=1M seek=4 conv=notrunc status=none
        truncate -s 40M a/sparse-all; truncate -s 100 a/sparse-small
        ln a/hello a/b/again; ln -s ../hello a/b/link; ln -s "$(head -c 4000 /dev/zero | tr '\0' x)" a/long
        mkfifo a/fifo; chmod 751 a/hello; chmod 1777 empty; touch -d '1960-01-01 00:00:00.5' a/random
        for i in $(seq 3000); do echo $i >many/file-with-a-name-$i; done
        : >"$(head -c 255 /dev/zero | tr '\0' n)"; : >-before-dots; : >'...'
        python3 -c 'import os; os.setxattr("a/hello", "user.key", b"a\nb"); os.setxattr("empty", "user.none", b"")'
        cd .. && tar --format=posix --xattrs --xattrs-include='*' -C root -cf root.tar . && gzip -k root.tar
    "#;
    sh(script, dir);
    let plain = unpack(&dir.join("root.tar"), &dir.join("plain"));
    let packed = unpack(&dir.join("root.tar.gz"), &dir.join("packed"));
    assert_eq!(plain, packed);
    let mut again = Vec::new();
    LayerInfo::tar_split(&dir.join("plain")).open().unwrap().read_to_end(&mut again).unwrap();
    assert!(again == fs::read(dir.join("root.tar")).unwrap());
    disk(&[(&dir.join("plain"), plain)], &dir.join("disk"));
    // The same from the directory itself, in one file.
    let direct = File::options().read(true).write(true).create_new(true).open(dir.join("direct")).unwrap();
    let scratch = tempfile::tempfile_in(dir).unwrap();
    let root = File::open(dir.join("root")).unwrap();
    directory_disk::write(root, &dir.join("root"), Owners::Same, &direct, scratch).unwrap();
    for disk in ["disk", "direct"] {
        is_read_elsewhere(&dir.join(disk), &dir.join("root"));
    }
    if !has_fsck() {
        sandpen_skip::skip(sandpen_skip::Reason::NoErofsUtils, "fsck.erofs");
        return;
    }
    // It makes no hard links and keeps no times before 1970; what erofs-utils 1.5 make of holes is wrong, and a kernel reads
    // them right.
    let script = r"
        list() { (cd $1 && find . ! -name 'sparse*' -printf '%P %y %m %U %G %s %l\n' | sed -E 's/ d ([0-9]+ [0-9]+ [0-9]+) [0-9]+ / d \1 /' | sort); }
        (cd root && find . -type f ! -name 'sparse*' -print0 | sort -z | xargs -0 sha256sum) >sums
        for disk in disk direct; do
            rm -rf out; fsck.erofs $disk; fsck.erofs --extract=out --preserve $disk
            diff <(list root) <(list out)
            (cd out && sha256sum -c --quiet ../sums)
        done
    ";
    sh(script, dir);
}

/// Makes each file shorter before it reads it.
struct Shrinks(std::path::PathBuf);
impl Sink for Shrinks {
    fn take(&mut self, _: &[u8], _: Meta, found: Found<'_>) -> std::io::Result<()> {
        let Found::File(mut file, bytes) = found else { return Ok(()) };
        fs::write(&self.0, b"short")?;
        std::io::Read::read_exact(&mut file, &mut vec![0; usize::try_from(bytes).unwrap()])
    }
}

/// A file that ends while it is read, and a directory that another one takes the place of.
#[test]
fn a_directory_that_changes_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("root/f"), vec![1; 100_000]).unwrap();
    let mut sink = Shrinks(dir.path().join("root/f"));
    let root = File::open(dir.path().join("root")).unwrap();
    let error = walk::walk(root, Path::new("/shown"), Owners::Same, true, &mut sink).unwrap_err();
    assert!(matches!(&error, WalkError::Changed(path) if path == Path::new("/shown/f")), "{error:?}");
}

#[test]
fn a_directory_makes_the_same_archive_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let script = r#"
        mkdir -p root/d && cd root && echo x >d/f && ln d/f d/g && ln -s f d/l && mkfifo d/p && touch -d @1.5 d/f
        mkdir -p "$(head -c 200 /dev/zero | tr '\0' n)/deep"; ln -s "$(head -c 300 /dev/zero | tr '\0' t)" d/long
        python3 -c 'import os, socket; os.setxattr("d/f", "user.k", b"v\n"); socket.socket(socket.AF_UNIX).bind("d/s")'
    "#;
    sh(script, dir);
    let archive = || {
        let mut writer = TarWriter::new(Vec::new());
        walk::walk(File::open(dir.join("root")).unwrap(), dir, Owners::Same, true, &mut writer).unwrap();
        writer.finish().unwrap()
    };
    let first = archive();
    assert!(first == archive());
    fs::write(dir.join("root.tar"), &first).unwrap();
    unpack(&dir.join("root.tar"), &dir.join("layer"));
    let script = r"
        mkdir out && tar --xattrs --xattrs-include='*' -C out -xpf root.tar
        list() { (cd $1 && find . ! -name 'sparse*' -printf '%P %y %m %U %G %n %T@ %l\n' | grep -v ' s ' | sort); }
        diff <(list root) <(list out)
    ";
    sh(script, dir);
}
