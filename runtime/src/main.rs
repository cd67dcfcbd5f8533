//! The `davit` binary: arguments to a command, nothing else.

fn main() {
    davit::cli::main()
}
