//! Which sockets a process makes: of the internet where the guest has a network, and no others (unix, netlink, vsock,
//! packets, the kernel's ciphers …). What it needs of others it has got open.

use nix::libc;
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use crate::confine::Policy;

/// Bits of a socket's type; what is above are flags.
const TYPE_MASK: u64 = 0xF;
/// Streams and datagrams.
const TYPES: [i32; 2] = [libc::SOCK_STREAM, libc::SOCK_DGRAM];
/// The usual ones of both, and echo requests. MPTCP and SCTP are none.
const PROTOCOLS: [i32; 5] = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6];

/// The domains that `policy` allows.
pub(super) fn domains(policy: &Policy) -> &'static [i32] {
    if policy.tcp { &[libc::AF_INET, libc::AF_INET6] } else { &[] }
}

/// Alternatives that allow a call of socket(2).
pub(super) fn allowed(domains: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = Vec::new();
    for domain in domains {
        for kind in TYPES {
            for protocol in PROTOCOLS {
                rules.push(SeccompRule::new(vec![is(0, *domain)?, is_type(kind)?, is(2, protocol)?])?);
            }
        }
    }
    Ok(rules)
}

/// Alternatives that refuse one. None, which refuses all, where there are no domains.
pub(super) fn refused(domains: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    if domains.is_empty() {
        return Ok(Vec::new());
    }
    let other = |argument, allowed: &[i32]| {
        SeccompRule::new(allowed.iter().map(|value| is_not(argument, *value)).collect::<Result<_, _>>()?)
    };
    let mut rules = vec![other(0, domains)?, other(2, &PROTOCOLS)?];
    rules.extend(other_types(&TYPES)?);
    Ok(rules)
}

/// Alternatives that refuse a call of socketpair(2) to a VMM: QEMU asks virtiofsd back on one. Streams alone, as their
/// ends stay each other's for ever; datagrams could be sent elsewhere.
pub(super) fn refused_pairs() -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = vec![SeccompRule::new(vec![is_not(0, libc::AF_UNIX)?])?];
    rules.extend(other_types(&[libc::SOCK_STREAM])?);
    Ok(rules)
}

/// Alternatives for all types but these.
fn other_types(allowed: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    let all = (0..=TYPE_MASK).filter_map(|kind| i32::try_from(kind).ok());
    all.filter(|kind| !allowed.contains(kind)).map(|kind| SeccompRule::new(vec![is_type(kind)?])).collect()
}

fn is(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    super::is_not(argument, value.cast_unsigned().into())
}

fn is_type(kind: i32) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(kind.cast_unsigned());
    SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(TYPE_MASK), value)
}
