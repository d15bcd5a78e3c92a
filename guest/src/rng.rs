//! Seeds the kernel's random number generator with bytes from the host. Without, two machines that
//! were restored from one snapshot would draw the same numbers.
#![allow(unsafe_code)] // two ioctls that nix has no safe wrapper for

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc::c_int;

/// The entropy could not be handed over.
#[derive(Debug, thiserror::Error)]
#[error("seeding the random number generator")]
pub struct RngError(#[from] io::Error);

/// `struct rand_pool_info` of linux/random.h with room for our seed.
#[repr(C)]
struct PoolInfo {
    entropy_bits: c_int,
    seed_bytes: c_int,
    seed: [[u8; 32]; 2],
}

mod ioctl {
    // _IOW('R', 0x03, int[2]) and _IO('R', 0x07) of linux/random.h.
    nix::ioctl_write_ptr_bad!(add_entropy, nix::request_code_write!(b'R', 0x03, 8), super::PoolInfo);
    nix::ioctl_none!(reseed, b'R', 0x07);
}

/// Mixes `seed` in, credits it, and makes every later read depend on it.
pub fn reseed(seed: &[[u8; 32]; 2]) -> Result<(), RngError> {
    let random = File::options().write(true).open("/dev/urandom").map_err(RngError)?;
    let info = PoolInfo { entropy_bits: 512, seed_bytes: 64, seed: *seed };
    // SAFETY: `info` has the layout that RNDADDENTROPY reads (two ints, then `seed_bytes` bytes) and
    // outlives the call; the kernel only reads it.
    unsafe { ioctl::add_entropy(random.as_raw_fd(), &raw const info) }.map_err(io::Error::from)?;
    // SAFETY: RNDRESEEDCRNG takes no argument and touches no memory of ours.
    unsafe { ioctl::reseed(random.as_raw_fd()) }.map_err(io::Error::from)?;
    Ok(())
}
