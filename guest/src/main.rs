//! PID 1 of every Linux microVM: see the library.

fn main() -> std::process::ExitCode {
    sandpen_guest::main()
}
