//! Whether a specification makes sense: names lead nowhere else, each role and name is there once.

use sandpen_waiter::wire::{
    DESCRIPTORS_MAX, DescriptorSpec, INIT_ROLE, RESERVED, StdioSpec, VMM_ROLE, WAITER_ROLE, WaiterSpec,
};

use super::WaiterError;

pub(super) fn check(spec: &WaiterSpec) -> Result<(), WaiterError> {
    let invalid = |what: String| Err(WaiterError::Invalid(what));
    let plain = |name: &str| {
        let shape = !name.is_empty() && name.len() <= 64 && !name.starts_with('.');
        shape
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !RESERVED.contains(&name)
    };
    let mut names: Vec<&str> = Vec::new();
    for fifo in &spec.fifos {
        if !plain(fifo) || names.contains(&fifo.as_str()) {
            return invalid(format!("{fifo:?} is no name for a FIFO of its own"));
        }
        names.push(fifo);
    }
    let mut listening: Vec<&str> = Vec::new();
    let mut roles: Vec<&str> = vec![WAITER_ROLE, INIT_ROLE];
    for process in &spec.processes {
        let role = process.role.as_str();
        let shape = (1..=32).contains(&role.len());
        if !shape
            || !role.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
            || roles.contains(&role)
        {
            return invalid(format!("{role:?} is no role of its own"));
        }
        roles.push(role);
        for (stdio, output) in [(&process.stdin, false), (&process.stdout, true), (&process.stderr, true)] {
            match stdio {
                StdioSpec::Null => {}
                StdioSpec::VmmLog if output => {}
                StdioSpec::VmmLog => return invalid(format!("{role} would read the VMM log")),
                StdioSpec::Data(_) if !output => {}
                StdioSpec::Data(_) => return invalid(format!("{role} would write to given data")),
                StdioSpec::Fifo(name) if spec.fifos.contains(name) => {}
                StdioSpec::Fifo(name) => return invalid(format!("{role} uses FIFO {name:?}, which nobody makes")),
                StdioSpec::Listener(name) => {
                    if !plain(name) || names.contains(&name.as_str()) {
                        return invalid(format!("{name:?} is no name for a socket of its own"));
                    }
                    names.push(name);
                    listening.push(name);
                }
            }
        }
    }
    let mut connected: Vec<&str> = Vec::new();
    for process in &spec.processes {
        if process.descriptors.len() > usize::from(DESCRIPTORS_MAX) {
            return invalid(format!(
                "{} gets {} descriptors, more than {DESCRIPTORS_MAX}",
                process.role,
                process.descriptors.len()
            ));
        }
        for descriptor in &process.descriptors {
            match descriptor {
                DescriptorSpec::File(path) if path.is_absolute() => {}
                DescriptorSpec::File(path) => {
                    return invalid(format!("the file {} is not an absolute path", path.display()));
                }
                DescriptorSpec::Listening(name) if plain(name) && !names.contains(&name.as_str()) => names.push(name),
                DescriptorSpec::Listening(name) => {
                    return invalid(format!("{name:?} is no name for a socket of its own"));
                }
                DescriptorSpec::Connected(name)
                    if listening.contains(&name.as_str()) && !connected.contains(&name.as_str()) =>
                {
                    connected.push(name);
                }
                DescriptorSpec::Connected(name) => {
                    return invalid(format!(
                        "nobody listens at the socket {name:?}, or another one is connected to it"
                    ));
                }
            }
        }
    }
    if !roles.contains(&VMM_ROLE) {
        return invalid("no process is the VMM".into());
    }
    if !spec.vmm_log.is_absolute() {
        return invalid(format!("the VMM log {} is not an absolute path", spec.vmm_log.display()));
    }
    if let Some(lease) = spec.leases.iter().find(|lease| !lease.is_absolute()) {
        return invalid(format!("the file {}, which it is to lock, is not an absolute path", lease.display()));
    }
    Ok(())
}
