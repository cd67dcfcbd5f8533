//! `regex` under its own name, implemented by `regex-lite`.
//!
//! oci-spec depends on `regex` for one ASCII pattern. The real crate adds 1.3 MB and thousands of
//! relocations to each binary; see the workspace's Cargo.toml.
pub use regex_lite::*;
