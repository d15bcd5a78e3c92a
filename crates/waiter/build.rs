//! Tells the build script of the crate that embeds this program where its sources are: in this tree, or wherever cargo
//! has unpacked the package.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::metadata=source={}", env!("CARGO_MANIFEST_DIR"));
}
