//! `/etc/hosts`: what a root directory says in it, and what every program expects there besides: `localhost` and the
//! machine's own name. The root's file is covered, never changed.

use std::fs;
use std::io;
use std::net::IpAddr;

use crate::covered::cover;
use crate::log::log;
use crate::root_file;

/// Where it is.
pub const HOSTS: &str = "/etc/hosts";
/// Larger ones stay as they are: they are somebody's own, and a copy is memory.
const MAX: u64 = 256 << 10;

/// Makes sure that both names lead somewhere. Call it inside of the new root; it never fails, since few programs need it.
///
/// `extra` names and addresses come first, where the C library finds them before others of the same name.
///
/// # Errors
/// Extra names that cannot be there: whoever asked for them needs them.
pub fn complete(hostname: &str, extra: &[(String, IpAddr)]) -> Result<(), HostsError> {
    match try_complete(hostname, extra) {
        Err(error) if extra.is_empty() => {
            log!("{HOSTS} stays as it is in the root directory: {error}");
            Ok(())
        }
        completed => completed.map_err(HostsError),
    }
}

/// The file cannot have the names that it is to have.
#[derive(Debug, thiserror::Error)]
#[error("putting the additional names of hosts into {HOSTS}")]
pub struct HostsError(#[source] io::Error);

fn try_complete(hostname: &str, extra: &[(String, IpAddr)]) -> io::Result<()> {
    let found = match root_file::read(HOSTS, MAX) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The mount point.
            fs::create_dir_all("/etc")?;
            fs::OpenOptions::new().write(true).create_new(true).open(HOSTS)?;
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    match completed(&found, hostname, extra) {
        Some(content) => cover(HOSTS, &content),
        None => Ok(()),
    }
}

/// The file with the entries that it lacks, `extra` ones at its beginning and others at its end; `None` where it lacks none.
fn completed(found: &[u8], hostname: &str, extra: &[(String, IpAddr)]) -> Option<Vec<u8>> {
    let names = |name: &str| {
        found.split(|byte| *byte == b'\n').any(|line| {
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.next().is_some() && words.any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
        })
    };
    let mut added = Vec::new();
    if !names("localhost") {
        added.extend_from_slice(b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    if !hostname.is_empty() && hostname != "localhost" && !names(hostname) {
        added.extend_from_slice(format!("127.0.0.1\t{hostname}\n").as_bytes());
    }
    if added.is_empty() && extra.is_empty() {
        return None;
    }
    let mut content: Vec<u8> = extra.iter().flat_map(|(name, to)| format!("{to}\t{name}\n").into_bytes()).collect();
    content.extend_from_slice(found);
    if content.last().is_some_and(|byte| *byte != b'\n') {
        content.push(b'\n');
    }
    content.extend_from_slice(&added);
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(found: &str) -> String {
        completed(found.as_bytes(), "web", &[])
            .map_or("(as it is)".to_owned(), |content| String::from_utf8(content).unwrap())
    }

    #[test]
    fn what_is_there_stays_and_what_is_missing_is_added() {
        const BOTH: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tweb\n";
        assert_eq!(text(""), BOTH);
        assert_eq!(text("10.0.0.7 db"), format!("10.0.0.7 db\n{BOTH}"));
        assert_eq!(text("127.0.0.1 LOCALHOST\n"), "127.0.0.1 LOCALHOST\n127.0.0.1\tweb\n");
        assert_eq!(text("127.0.0.1 localhost\n10.1.1.1\tother web # mine\n"), "(as it is)");
        let extra = [("db".to_owned(), [10, 0, 0, 7].into()), ("db".to_owned(), std::net::Ipv6Addr::LOCALHOST.into())];
        let content = completed(b"127.0.0.1 localhost web", "web", &extra).unwrap();
        assert_eq!(String::from_utf8(content).unwrap(), "10.0.0.7\tdb\n::1\tdb\n127.0.0.1 localhost web\n");
        // A comment, an address alone and a longer name are none.
        assert!(text("# localhost web\nlocalhost\n127.0.0.1 web.example localhost.example\n").ends_with(BOTH));
        assert!(completed(b"\xff\xfe 1", "localhost", &[]).unwrap().starts_with(b"\xff\xfe 1\n127"));
    }
}
