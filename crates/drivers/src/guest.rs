//! The static program that is PID 1 of every Linux guest, built by `build.rs` and embedded here.

/// The program: an ELF file, to be `/init` of an initramfs.
pub fn guest_binary() -> &'static [u8] {
    include_bytes!(env!("SANDPEN_GUEST"))
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSegment};

    #[test]
    fn it_is_a_small_static_program() {
        let binary = super::guest_binary();
        assert!(binary.len() < 2 << 20, "{} bytes live in the memory of every guest", binary.len());
        let file = object::File::parse(binary).unwrap();
        assert!(file.dynamic_symbols().next().is_none(), "it would need a dynamic loader");
        assert!(file.segments().all(|segment| !segment.name().is_ok_and(|name| name == Some(".interp"))));
    }
}
