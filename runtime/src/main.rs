//! The `davit` binary: arguments to a command, nothing else.

use davit::sys::bump::Bump;

#[global_allocator]
static ALLOCATOR: Bump = Bump::new();

fn main() {
    davit::cli::main()
}
