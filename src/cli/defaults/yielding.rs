//! Where a file's default gives way: to a flag that was given and that it contradicts. Whoever gives a flag has decided, and
//! the file says what holds where nobody does. Such a default is as if the file did not have it.

use clap::ArgMatches;
use clap::parser::ValueSource;
use sandpen::driver;
use sandpen_types::spec::{DriverChoice, Network, RestartPolicy};
use sandpen_types::units::{ByteSize, MemorySize};

/// The keys of such defaults on a command line of `run`; `of_files` is what they say of a key.
pub fn yielding<'a>(run: &ArgMatches, of_files: impl Fn(&str) -> Option<&'a str>) -> Vec<&'static str> {
    let is_set = |key| of_files(key).is_some();
    let given = |id| run.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue);
    let of_file = |key, id| is_set(key) && !given(id);
    let restart = run.get_one::<RestartPolicy>("restart").is_some_and(|policy| *policy != RestartPolicy::No);
    let memory = run.get_one::<MemorySize>("memory").map(|size| u64::from(size.mebibytes()) << 20);
    let shared = run.get_one::<ByteSize>("shm_size").map(|size| size.bytes());
    let is_too_small = memory.zip(shared).is_some_and(|(memory, shared)| memory < shared);
    let driver = run.get_one::<DriverChoice>("driver").map(ToString::to_string);
    let is_another_driver = of_files("driver").is_some_and(|of_file| driver.as_deref() != Some(of_file));
    let published = given("publish");
    let net = run.get_one::<Network>("net").copied();
    let net_yields = of_file("net", "net")
        && ((published && net == Some(Network::None)) || (given("driver") && !net.is_none_or(|net| makes(run, net))));
    // As `run` has it without the file.
    let fallback = if published { Network::Published } else { Network::None };
    let network = net.filter(|_| !net_yields).unwrap_or(fallback);
    let candidates = [
        ("net", net_yields),
        ("driver", of_file("driver", "driver") && (given("net") || published) && !makes(run, network)),
        // Both belong together, and another driver may not boot it.
        ("kernel", of_file("kernel", "kernel") && given("driver") && is_another_driver),
        ("restart", of_file("restart", "restart") && given("rm") && restart),
        // A disk that is kept has the size that it was made with.
        ("disk", of_file("disk", "disk") && given("keep_disk")),
        ("shm-size", of_file("shm-size", "shm_size") && given("memory") && is_too_small),
        ("memory", of_file("memory", "memory") && given("shm_size") && is_too_small),
    ];
    candidates.into_iter().filter_map(|(key, yields)| yields.then_some(key)).collect()
}

/// Whether the driver of this command line makes such a network, as far as is known here.
fn makes(run: &ArgMatches, network: Network) -> bool {
    match run.get_one::<DriverChoice>("driver") {
        Some(DriverChoice::Named(name)) => driver::networks(name).is_none_or(|made| made.contains(&network)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::file::Entry;
    use super::super::{Defaults, KEYS, Origin, Source};
    use crate::cli::Cli;

    /// What gives way of a file with these entries, on a command line with these flags of `run`.
    fn yielding(file: &str, flags: &str) -> Vec<&'static str> {
        let entries = file.split_whitespace().map(|entry| {
            let (key, value) = entry.split_once('=').unwrap();
            Entry { key: KEYS.iter().find(|known| known.name == key).unwrap(), values: vec![value.to_owned()], line: 1 }
        });
        let source = Source { kind: Origin::UserFile, path: "/c".into(), entries: entries.collect() };
        let defaults = Defaults(vec![source]);
        let args = ["sandpen", "run"].into_iter().chain(flags.split_whitespace()).chain(["/"]);
        let matches = defaults.apply(Cli::command(), &[]).try_get_matches_from(args).unwrap();
        defaults.yielding(&matches)
    }

    #[test]
    fn what_a_given_flag_contradicts_gives_way() {
        for (file, flags, expected) in [
            ("net=none", "", &[][..]),
            ("net=none", "-p 8080:80", &["net"]),
            ("net=none", "-p 8080:80 --net on", &[]),
            ("net=on", "-p 8080:80", &[]),
            ("net=tsi", "--driver qemu", &["net"]),
            ("net=user", "--driver qemu -p 8080:80", &[]),
            ("net=tsi driver=qemu", "", &[]),
            ("driver=qemu", "--net tsi", &["driver"]),
            ("driver=qemu", "--net user", &[]),
            ("driver=qemu net=tsi", "--net none", &[]),
            ("driver=qemu kernel=/k", "--driver qemu", &[]),
            ("driver=qemu kernel=/k", "--driver other", &["kernel"]),
            ("driver=qemu kernel=/k", "--driver other --kernel /l", &[]),
            ("kernel=/k", "--driver qemu", &[]),
            ("restart=always", "", &[]),
            ("restart=always", "--rm", &["restart"]),
            ("restart=always", "-it --rm", &["restart"]),
            ("restart=no", "--rm", &[]),
            ("restart=always", "--rm --restart always", &[]),
            ("disk=1G", "", &[]),
            ("disk=1G", "--keep-disk work", &["disk"]),
            ("disk=1G", "--keep-disk work --disk 2G", &[]),
            ("shm-size=300M", "--memory 200M", &["shm-size"]),
            ("shm-size=300M", "--memory 300M", &[]),
            ("memory=200M", "--shm-size 201M", &["memory"]),
            ("memory=200M shm-size=300M", "", &[]),
            ("health-interval=5s health-start-period=5s", "--rm", &[]),
            ("net=none restart=always cpus=2", "--rm -p 1:2", &["net", "restart"]),
        ] {
            assert_eq!(yielding(file, flags), expected, "{file}: {flags}");
        }
    }

    #[cfg(feature = "krun-driver")]
    #[test]
    fn so_does_a_driver_that_makes_no_such_network() {
        for (file, flags, expected) in [
            ("driver=krun", "-p 8080:80", &["driver"][..]),
            ("driver=krun", "--net user", &["driver"]),
            ("driver=krun net=tsi", "-p 8080:80", &[]),
            ("driver=krun net=none", "-p 8080:80", &["net", "driver"]),
            ("net=published", "--driver krun", &["net"]),
        ] {
            assert_eq!(yielding(file, flags), expected, "{file}: {flags}");
        }
    }
}
