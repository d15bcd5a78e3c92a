//! Embeds the waiter.

fn main() -> Result<(), sandpen_embed::EmbedError> {
    println!("cargo::rerun-if-changed=../migrations");
    sandpen_embed::build(sandpen_embed::WAITER)
}
