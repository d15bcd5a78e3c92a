//! Messages on the machine's console, for the VMM's log.

/// Prints a line on the console. Never fails: `eprintln!` would panic where there is no console.
macro_rules! log {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "sandpen-guest: {}", format_args!($($text)*));
    }};
}

pub(crate) use log;
