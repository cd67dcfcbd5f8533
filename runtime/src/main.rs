//! The `davit` binary: arguments to a command, nothing else.
#![forbid(unsafe_code)]

use davit::sys::bump::Bump;

#[global_allocator]
static ALLOCATOR: Bump = Bump::new();

fn main() {
    davit::cli::main()
}
