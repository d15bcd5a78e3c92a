//! Images that are made on the spot with other tools, as archives and directories, and what those tools unpack of them.
//!
//! ```text
//!   layers.py ─▶ tars ─▶ umoci ─▶ one OCI layout ─┬─▶ umoci unpack ─▶ a tree per image
//!                                                 └─▶ skopeo copy ─▶ OCI directory, OCI archive or Docker archive
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandpen_skip::{Reason, has_programs};

use crate::support::{self, Home, succeeds};

/// Images of a directory of a test's own.
pub struct Made {
    directory: PathBuf,
    names: Vec<String>,
}

/// The image that umoci unpacks in the place of one that it cannot: GNU's old entries with holes (`S`) are of an unknown
/// type for it. The twin has the same files.
const TWINS: [(&str, &str); 1] = [("sparse", "sparse_twin")];

/// Whether the other tools are here.
pub fn has_tools() -> bool {
    has_programs(&[("umoci", Reason::NoUmoci), ("skopeo", Reason::NoSkopeo)])
}

fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments);
    succeeds(command);
}

impl Made {
    /// Makes these images, each of a layer with busybox and the layers of `layers.py`.
    pub fn new(home: &Home, names: &[&str]) -> Self {
        let directory = home.path().join("made");
        let made = Self { names: Vec::new(), directory };
        run("python3", &[concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/images/layers.py"), &made.path("")]);
        let (base, base_tar) = (made.path("base"), made.path("base.tar"));
        support::make_rootfs(Path::new(&base));
        // Where a guest's modules are.
        fs::create_dir(Path::new(&base).join("lib")).unwrap();
        support::images::tar(Path::new(&base), Path::new(&base_tar));
        fs::write(made.path("inserted"), "inserted\n").unwrap();
        run("umoci", &["init", "--layout", &made.path("layout")]);
        let twins = TWINS.iter().filter(|(one, _)| names.contains(one)).map(|(_, twin)| *twin);
        for name in names.iter().copied().chain(twins) {
            let image = made.reference(name);
            run("umoci", &["new", "--image", &image]);
            let layers = made.path(&format!("layers/{name}"));
            let numbers = 1..=names_in(&layers).len();
            for layer in std::iter::once(base_tar.clone()).chain(numbers.map(|number| format!("{layers}/{number}.tar")))
            {
                run("umoci", &["raw", "add-layer", "--image", &image, &layer]);
            }
            run("umoci", &["insert", "--image", &image, &made.path("inserted"), "/inserted/of-umoci"]);
        }
        Self { names: names.iter().map(|name| (*name).to_owned()).collect(), ..made }
    }

    fn path(&self, below: &str) -> String {
        self.directory.join(below).to_str().unwrap().to_owned()
    }

    fn reference(&self, name: &str) -> String {
        format!("{}:{name}", self.path("layout"))
    }

    /// The image of this name as somebody would be given it, readable for everybody: by turns as a directory and as an
    /// archive with packed layers, and as an archive with plain ones.
    pub fn handed_out(&self, name: &str) -> PathBuf {
        let number = self.names.iter().position(|other| other == name).unwrap();
        let kind = ["oci", "oci-archive", "docker-archive"][number % 3];
        let path = self.path(&format!("{kind}-{name}"));
        let (from, to) = (format!("oci:{}", self.reference(name)), format!("{kind}:{path}:test/{name}:1"));
        // A directory has one image, and its name is a tag.
        let to = if kind == "oci" { format!("{kind}:{path}:v1") } else { to };
        run("skopeo", &["--insecure-policy", "copy", "--quiet", &from, &to]);
        run("chmod", &["-R", "a+rX", &path]);
        path.into()
    }

    /// The tree that umoci unpacks.
    pub fn unpacked(&self, name: &str) -> PathBuf {
        let twin = TWINS.iter().find(|(one, _)| *one == name).map_or(name, |(_, twin)| twin);
        let bundle = self.path(&format!("bundle-{name}"));
        run("umoci", &["unpack", "--image", &self.reference(twin), &bundle]);
        Path::new(&bundle).join("rootfs")
    }
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}
