//! The targets of `hack/fuzz`, and the inputs that are kept for them in `corpus/<target>/`.
//!
//! A target is a function of the crate whose parser it calls (`davit::fuzz`, `containerd_shim_davit_v2::fuzz`). Two
//! drivers call it: libFuzzer (`src/bin/davit-fuzz.rs`), and the test `corpus`, which repeats all that is kept and
//! simple changes of it.

pub mod json;

use std::path::{Path, PathBuf};

pub use davit::fuzz::Run;

/// All targets by name.
pub fn targets() -> impl Iterator<Item = &'static (&'static str, Run)> {
    davit::fuzz::TARGETS.iter().chain(containerd_shim_davit_v2::fuzz::TARGETS)
}

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<Run> {
    targets().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

/// Targets whose bytes are a JSON document.
#[must_use]
pub fn is_json(name: &str) -> bool {
    matches!(name, "config" | "process" | "resources" | "seccomp" | "state" | "bundle-files")
}

/// Where the inputs of a target are kept.
#[must_use]
pub fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}
