//! The attributes of an entry: what its header says, and its pax header instead.

use sandpen_tree::header::{Header, field};
use sandpen_tree::pax::Pax;

use super::TarProblem;
use crate::fields::{number_or_nothing, octal_or_nothing};
use crate::layer::entry::Meta;

/// What an extended attribute that is the overlay file system's own begins with.
const OVERLAY_XATTR: &[u8] = b"trusted.overlay.";
/// What the names of extended attributes begin with that can be kept.
const XATTR_NAMESPACES: [&[u8]; 5] =
    [b"user.", b"trusted.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default"];
/// Most bytes of all extended attributes of an entry.
pub(super) const XATTRS_MAX: usize = 60 << 10;

/// The attributes that a header and its pax header say.
pub(super) fn meta(header: &Header, pax: &mut Pax) -> Result<Meta, TarProblem> {
    let mode = octal_or_nothing(&header.0[field::MODE]).ok_or(TarProblem::Number("mode"))?;
    let id = |pax: Option<u64>, header: &[u8], what| {
        let id = pax.or_else(|| number_or_nothing(header)).ok_or(TarProblem::Number(what))?;
        u32::try_from(id).map_err(|_| TarProblem::Range)
    };
    let uid = id(pax.uid, &header.0[field::UID], "owner")?;
    let gid = id(pax.gid, &header.0[field::GID], "group")?;
    let seconds = || number_or_nothing(&header.0[field::MTIME]).ok_or(TarProblem::Number("time"));
    let (mtime, mtime_nanos) = match pax.mtime {
        Some(moment) => moment,
        // Two's complement where it is before 1970.
        None => (seconds()?.cast_signed(), 0),
    };
    let xattrs = std::mem::take(&mut pax.xattrs);
    if let Some((name, _)) = xattrs.iter().find(|(name, _)| name.starts_with(OVERLAY_XATTR)) {
        return Err(TarProblem::OverlayXattr(String::from_utf8_lossy(name).into_owned()));
    }
    if xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>() > XATTRS_MAX {
        return Err(TarProblem::Xattrs);
    }
    // Of other systems, which no Linux file has.
    let can_be_kept = |name: &[u8]| XATTR_NAMESPACES.iter().any(|namespace| name.starts_with(namespace));
    let mut xattrs: Vec<_> = xattrs.into_iter().filter(|(name, _)| can_be_kept(name)).collect();
    xattrs.sort();
    Ok(Meta { mode: u16::try_from(mode & 0o7777).unwrap_or_default(), uid, gid, mtime, mtime_nanos, xattrs })
}
