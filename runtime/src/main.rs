//! The `davit` binary: arguments to a command, nothing else.

fn main() {
    std::process::exit(davit::cli::main());
}
