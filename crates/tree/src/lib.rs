//! A directory tree as a tar stream, both ways, through descriptors.
//!
//! ```text
//!   a path ── pack ──▶ tar: POSIX (pax), GNU's sparse files ── unpack ──▶ a path, by the rules of `cp` of containers
//!               │                                               │
//!               ▼                                               ▼
//!            Report: what could not be read                  Report: what could not be made
//! ```
//!
//! | | |
//! | --- | --- |
//! | [`pack`] | walks a path and writes a tar |
//! | [`unpack`] | reads a tar, decides what its destination means, and makes what it tells of |
//! | [`Reader`], [`Writer`] | the tar itself, entry by entry |
//! | [`header`], [`record`], [`pax`], [`sparse`], [`name`] | what readers and writers of tars have in common |
//!
//! Either end may be hostile, and so may whoever changes the same directories meanwhile. Nothing is followed but the path
//! that was asked for: all below is opened from descriptors, by `openat2` with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and
//! `RESOLVE_NO_MAGICLINKS`. A file has its name when all of it is there, and on the disk. Memory is bounded, whatever
//! comes: how many entries, how long headers, how many links.
//!
//! What is wrong with one entry is noted in the [`Report`], and the others go on; what is wrong with the stream or the disk
//! ends all.
//!
//! May know: files, and the reader or writer that it is given; rustix and nix. May not: sandboxes, sessions, how the stream
//! gets from one end to the other, tokio.

mod beneath;
mod entry;
pub mod header;
pub mod name;
mod pack;
pub mod pax;
mod reader;
pub mod record;
mod report;
pub mod sparse;
mod top;
mod unpack;
mod writer;
mod xattrs;

pub use entry::{Entry, Kind, Meta};
pub use name::{NAME_MAX, NameProblem, PATH_MAX};
pub use pack::{PackError, PackOptions, pack, pack_to_pipe};
pub use pax::PaxProblem;
pub use reader::{Reader, StreamError, StreamProblem};
pub use report::{Noted, Report};
pub use sparse::{Segment, SparseProblem};
pub use top::{Top, top};
pub use unpack::{Destination, Owners, Special, UnpackError, UnpackOptions, Wait, unpack};
pub use writer::{ContentsError, Writer};
pub use xattrs::Attributes;

#[cfg(test)]
mod tests;
