//! Extended attributes of an inode, behind it (`erofs_xattr_ibody_header`, `erofs_xattr_entry`).

type Xattr = (Vec<u8>, Vec<u8>);

/// What names begin with, and its number.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 4;
/// What the count of an inode can say: (65,535 - 1) * 4 + 12.
const BYTES_MAX: usize = 262_148;

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let (prefix, number) = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))?;
    Some((*number, &name[prefix.len()..]))
}

/// Bytes of all, a multiple of four; zero for none. `None` where they do not fit.
pub(super) fn bytes(xattrs: &[Xattr]) -> Option<u64> {
    let mut sum = 0;
    for (name, value) in xattrs {
        let Some((_, name)) = split(name) else { continue };
        if name.len() > 255 || value.len() > usize::from(u16::MAX) {
            return None;
        }
        sum += (ENTRY_BYTES + name.len() + value.len()).next_multiple_of(4);
    }
    match sum {
        0 => Some(0),
        sum if sum + HEADER_BYTES > BYTES_MAX => None,
        sum => Some((sum + HEADER_BYTES) as u64),
    }
}

/// As they lie behind the inode.
pub(super) fn encode(xattrs: &[Xattr]) -> Vec<u8> {
    let mut encoded = vec![0; HEADER_BYTES];
    for (name, value) in xattrs {
        let Some((number, name)) = split(name) else { continue };
        encoded.push(u8::try_from(name.len()).unwrap_or_default());
        encoded.push(number);
        encoded.extend(u16::try_from(value.len()).unwrap_or_default().to_le_bytes());
        encoded.extend_from_slice(name);
        encoded.extend_from_slice(value);
        encoded.resize(encoded.len().next_multiple_of(4), 0);
    }
    if encoded.len() == HEADER_BYTES { Vec::new() } else { encoded }
}
