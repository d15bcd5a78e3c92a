//! Embeds the waiter.

fn main() -> Result<(), sandpen_embed::EmbedError> {
    println!("cargo::rerun-if-changed=build.rs");
    sandpen_embed::build(sandpen_embed::WAITER)
}
