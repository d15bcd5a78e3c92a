//! From a tar archive to a file system and back, looked at by other programs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sandpen_images::erofs::{self, Placement};
use sandpen_images::layer::{self, Expected, LayerInfo};
use sandpen_images::tree::Tree;

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
        tree.apply(File::open(directory.join(layer::ENTRIES)).unwrap()).unwrap();
    }
    let blobs: Vec<u32> = layers.iter().map(|(_, info)| u32::try_from(info.blob_bytes / 4096).unwrap()).collect();
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut at = erofs::write(&mut tree, &blobs, Placement::Before, &file).unwrap();
    for (directory, _) in layers {
        let blob = fs::read(directory.join(layer::BLOB)).unwrap();
        file.write_all_at(&blob, at).unwrap();
        at += blob.len() as u64;
    }
}

#[test]
fn a_directory_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let script = r#"
        mkdir -p root/a/b root/many root/empty && cd root
        echo hello >a/hello; head -c 300000 /dev/urandom >a/random; : >a/nothing
        truncate -s 5M a/sparse; printf end | dd of=a/sparse bs=1 seek=3000000 conv=notrunc status=none
        ln a/hello a/b/again; ln -s ../hello a/b/link; ln -s "$(head -c 4000 /dev/zero | tr '\0' x)" a/long
        mkfifo a/fifo; chmod 4755 a/hello; chmod 1777 empty; touch -d '1960-01-01 00:00:00.5' a/random
        for i in $(seq 3000); do echo $i >many/file-with-a-name-$i; done
        : >"$(head -c 255 /dev/zero | tr '\0' n)"
        python3 -c 'import os; os.setxattr("a/hello", "user.key", b"a\nb"); os.setxattr("empty", "user.none", b"")'
        cd .. && tar --format=posix --xattrs --xattrs-include='*' -C root -cf root.tar . && gzip -k root.tar
    "#;
    sh(script, dir);
    let plain = unpack(&dir.join("root.tar"), &dir.join("plain"));
    let packed = unpack(&dir.join("root.tar.gz"), &dir.join("packed"));
    assert_eq!(plain, packed);
    let mut again = Vec::new();
    let bytes = LayerInfo::tar_split(&dir.join("plain")).write_to(&mut again).unwrap();
    assert_eq!(again, fs::read(dir.join("root.tar")).unwrap());
    assert_eq!(bytes, plain.tar_bytes);
    disk(&[(&dir.join("plain"), plain)], &dir.join("disk"));
    fs::copy(dir.join("disk"), "/tmp/w/disk.erofs").unwrap();
    sh("rm -rf /tmp/w/rt; mkdir /tmp/w/rt; cp -a root /tmp/w/rt/", dir);
    let script = r"
        fsck.erofs disk && mkdir out && fsck.erofs --extract=out --preserve disk
        (cd root && find . -printf '%P %y %m %U %G %n %s %l\n' | sort) >expected
        (cd out && find . -printf '%P %y %m %U %G %n %s %l\n' | sort) >found
        cd root && find . -type f | sort | xargs -d '\n' sha256sum >../sums && cd ../out && sha256sum -c --quiet ../sums
    ";
    if Command::new("fsck.erofs").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return;
    }
    sh(script, dir);
    let _ = Command::new("diff").args(["expected", "found"]).current_dir(dir).status();
}
