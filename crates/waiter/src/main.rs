//! The waiter: see the library.

fn main() {
    sandpen_waiter::main();
}
