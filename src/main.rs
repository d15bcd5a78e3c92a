//! The `sandpen` program: see `cli`.

mod cli;
#[cfg(feature = "testing")]
mod testing_tools;

fn main() -> std::process::ExitCode {
    // The daemon starts this program again for its helpers; they need a process without threads.
    sandpen::run_helper_if_asked();
    #[cfg(feature = "testing")]
    testing_tools::run_if_asked();
    cli::main()
}
