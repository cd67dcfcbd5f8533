//! The command line: one file per command.

/// Runs the command that the process's arguments name and returns its exit code.
#[must_use]
pub fn main() -> i32 {
    1
}
