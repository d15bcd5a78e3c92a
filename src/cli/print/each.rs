//! One action on each of several things.

use sandpen::api::Sandbox;
use sandpen::client::ClientError;
use sandpen_types::spec::SandboxKey;

use super::super::FAILED;
use super::{CliError, Named, bytes, detached, error};

/// The result of one action on each of several things: names that worked on stdout, errors on
/// stderr.
pub fn each<K: Named, T>(keys: &[K], results: Vec<Result<T, ClientError>>, debug: bool) -> Result<u8, CliError> {
    let mut code = 0;
    for (key, result) in keys.iter().zip(results) {
        match result {
            Ok(_) => {
                bytes(format!("{}\n", key.shown()).as_bytes())?;
            }
            Err(failure) => {
                error(&failure.into(), debug);
                code = FAILED;
            }
        }
    }
    Ok(code)
}

/// The same for sandboxes that were started: one that failed at once is no success.
pub fn each_started(
    keys: &[SandboxKey],
    results: Vec<Result<Sandbox, ClientError>>,
    debug: bool,
) -> Result<u8, CliError> {
    let mut code = 0;
    for (key, result) in keys.iter().zip(results) {
        let of_one = match result {
            Ok(sandbox) => detached(&sandbox)?,
            failed => each::<_, Sandbox>(std::slice::from_ref(key), vec![failed], debug)?,
        };
        code = if of_one == 0 { code } else { of_one };
    }
    Ok(code)
}
