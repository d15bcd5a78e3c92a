//! What the starts of a sandbox use of the cache: a list for each start (see [`StateDir::cache_uses`]), which a driver
//! writes, and which goes here.
//!
//! ```text
//!   start 5, complete ─▶ list 5
//!   start 6, fails half-way ─▶ lists 5, 6     neither is known to be all that a microVM needs
//!   start 7, complete ─▶ list 7               older ones go
//!   ended for good ─▶ (none)
//! ```

use std::fs;
use std::io;
use std::ops::RangeBounds;

use sandpen_types::spec::SandboxKey;
use sandpen_types::state_dir::StateDir;

/// Removes the lists of these starts of a sandbox, whatever became of them: what only they name may go. Blocking.
pub fn forget(dir: &StateDir, key: &SandboxKey, generations: impl RangeBounds<u64>) {
    let lists = fs::read_dir(dir.cache_users().join(key.config.as_str())).into_iter().flatten().flatten();
    let is_one = |(name, generation)| name == key.name && generations.contains(&generation);
    for list in lists.filter(|list| StateDir::cache_user(&list.file_name()).is_some_and(is_one)) {
        if let Err(error) = fs::remove_file(list.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, list = ?list.path(), "what a start used of the cache stays for now");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sandpen_cache::{Cache, CacheUser};
    use sandpen_types::spec::SandboxName;

    use super::*;

    #[test]
    fn a_complete_start_forgets_all_before_it_and_an_end_all() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(temp.path().to_owned());
        let cache = Cache::new(dir.cache(), 0);
        let key = |name: &str| SandboxKey::new(SandboxName::new(name).unwrap());
        let (web, other) = (key("web"), key("web.6"));
        let uses = |key: &SandboxKey, generation: u64, entry: &str| {
            let user = CacheUser::new(cache.clone(), dir.cache_uses(key, generation));
            user.uses(&cache.directory().join(entry)).unwrap();
        };
        let listed =
            |key: &SandboxKey| (0..10).filter(|start| dir.cache_uses(key, *start).exists()).collect::<Vec<_>>();
        uses(&other, 1, "other");
        uses(&web, 5, "image-5");
        forget(&dir, &web, ..5);
        // Fails before it has said all that it uses.
        uses(&web, 6, "image-6");
        assert_eq!(listed(&web), [5, 6]);
        uses(&web, 7, "image-7");
        forget(&dir, &web, ..7);
        assert_eq!(listed(&web), [7]);
        for entry in ["image-5", "image-6", "image-7", "other", "newest"] {
            sandpen_cache::write(&cache.directory().join(entry), 0o600, b"x").unwrap();
        }
        cache.keep_within_budget();
        let is_there = |entry: &&str| Path::new(&cache.directory().join(entry)).exists();
        let left: Vec<_> = ["image-5", "image-6", "image-7", "other"].into_iter().filter(is_there).collect();
        assert_eq!(left, ["image-7", "other"]);
        uses(&web, 8, "image-8");
        forget(&dir, &web, ..=8);
        assert!(listed(&web).is_empty());
        assert_eq!(listed(&other), [1], "another one's stays");
        forget(&dir, &SandboxKey { config: "elsewhere".parse().unwrap(), ..web }, ..);
    }
}
