//! Drivers of this host.

pub mod initramfs;
pub mod qemu_args;
pub mod tsc;
