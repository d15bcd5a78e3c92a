//! Migrations are embedded by a macro, whose files cargo does not see.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../migrations");
}
