//! Where a user of a sandbox is at home, by its `/etc/passwd`.

use sandpen_files::{DATA_MAX, FileErrorKind, FilesClient, FilesError, OpenFlags};

/// Where homes are looked up.
const USERS: &[u8] = b"/etc/passwd";
/// Most bytes of that.
const USERS_MAX: u64 = 1 << 20;

/// The home of a user, by name or number; `None` where the sandbox knows none.
pub(super) async fn of(files: &FilesClient, user: &[u8]) -> Result<Option<Vec<u8>>, FilesError> {
    let file = match files.open(USERS, OpenFlags::READ, 0).await {
        Err(error) if error.kind() == Some(FileErrorKind::NotFound) => return Ok(None),
        file => file?,
    };
    let (mut users, piece) = (Vec::new(), u32::try_from(DATA_MAX).unwrap_or(u32::MAX));
    while (users.len() as u64) < USERS_MAX {
        let more = file.read_at(users.len() as u64, piece).await?;
        if more.is_empty() {
            break;
        }
        users.extend(more);
    }
    file.close().await?;
    Ok(find(&users, user).map(<[u8]>::to_vec))
}

fn find<'a>(users: &'a [u8], user: &[u8]) -> Option<&'a [u8]> {
    users.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<_> = line.split(|byte| *byte == b':').collect();
        match fields[..] {
            [name, _, number, _, _, home, ..] if name == user || number == user => {
                Some(home).filter(|home| home.starts_with(b"/"))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_found_by_name_and_number() {
        let users = b"root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:\nodd:x:5:5::relative:\n";
        assert_eq!(find(users, b"web"), Some(&b"/var/www"[..]));
        assert_eq!(find(users, b"33"), Some(&b"/var/www"[..]));
        assert_eq!((find(users, b"odd"), find(users, b"no"), find(b"", b"root")), (None, None, None));
    }
}
