//! The `sandpen` program: see `cli`.

mod cli;

fn main() -> std::process::ExitCode {
    sandpen::run_helper_if_asked();
    cli::main()
}
