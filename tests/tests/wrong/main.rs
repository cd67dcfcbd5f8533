//! Wrong configs, process files and flags: one sentence that names the field, on stderr and in the log, runc's
//! exit code, and nothing left behind.

mod fields;
mod flags;
mod process_files;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a check for each row of a table and reports all rows that fail, each with its name.
pub fn each<T>(rows: &[T], name: impl Fn(&T) -> String, check: impl Fn(&T)) {
    let mut failures = Vec::new();
    for row in rows {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(row))) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            failures.push(format!("{}: {}", name(row), text.unwrap_or_default()));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), rows.len(), failures.join("\n"));
}

/// One sentence: a line without Rust's or Go's decoration.
#[track_caller]
pub fn assert_sentence(error: &str) {
    assert!(!error.trim_end().contains('\n'), "several lines: {error:?}");
    for noise in ["os error", "Error {", "Os {", "Some(", "panicked", ".rs:", "::"] {
        assert!(!error.contains(noise), "{noise:?} in {error:?}");
    }
}
