//! Whether the host has the memory that a guest is to have.

use sandpen_vmm::driver::DriverError;

/// Refuses a guest that is larger than the host: it would be killed, or its VMM would not start. A
/// system that does not say how large it is refuses nothing.
pub(super) fn check(memory_mib: u32, driver: &str) -> Result<(), DriverError> {
    match nix::sys::sysinfo::sysinfo() {
        Ok(info) => check_against(memory_mib, info.ram_total() >> 20, driver),
        Err(_) => Ok(()),
    }
}

fn check_against(memory_mib: u32, host_mib: u64, driver: &str) -> Result<(), DriverError> {
    if u64::from(memory_mib) <= host_mib {
        return Ok(());
    }
    let what = format!("memory of {memory_mib} MiB, this host has {host_mib} MiB in all; ask for less with --memory");
    Err(DriverError::Unsupported { driver: driver.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused() {
        assert!(check(1, "x").is_ok());
        assert!(check_against(512, 512, "x").is_ok());
        let error = check_against(513, 512, "x").unwrap_err().to_string();
        assert!(error.contains("513 MiB") && error.contains("512 MiB"), "{error}");
    }
}
