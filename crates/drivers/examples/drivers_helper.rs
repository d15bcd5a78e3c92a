//! What an application that embeds the drivers does first in its `main`: the tests of the drivers run it as the
//! helper of their microVMs.

fn main() {
    sandpen_drivers::run_helper_if_asked();
    eprintln!("this program is only run by the drivers, as their helper");
    std::process::exit(2);
}
