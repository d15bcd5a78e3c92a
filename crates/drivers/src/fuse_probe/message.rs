//! Requests and replies with the headers of linux/fuse.h.

use nix::errno::Errno;

/// Bytes before a reply's body (`struct fuse_out_header`).
const REPLY_HEADER: usize = 16;

/// `struct fuse_in_header` and what follows it, from the guest's root.
pub(super) fn request(operation: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(40 + body.len()).unwrap_or(u32::MAX);
    let words = [length, operation].map(u32::to_le_bytes).concat();
    // The request's number is of no use to one that waits for each.
    let numbers = [1, node].map(u64::to_le_bytes).concat();
    [words, numbers, vec![0; 16], body.to_vec()].concat()
}

/// How long a reply is that begins with these bytes.
pub(super) fn length(reply: &[u8]) -> usize {
    usize::try_from(u32::from_le_bytes(word(reply, 0))).unwrap_or(0)
}

/// What follows a reply's header, or its error.
pub(super) fn body(reply: &[u8]) -> Result<Vec<u8>, Errno> {
    let error = i32::from_le_bytes(word(reply, 4));
    if error != 0 {
        return Err(Errno::from_raw(-error));
    }
    Ok(reply.get(REPLY_HEADER..length(reply)).unwrap_or_default().to_vec())
}

fn word(bytes: &[u8], at: usize) -> [u8; 4] {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
}
