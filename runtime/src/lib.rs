//! davit: an OCI container runtime as a library. The binary `davit` and the shim are its two users.
//!
//! Modules depend one way: `cli` → `container` → {`plan`, `init`, `cgroup`, `seccomp`, `security`} →
//! {`rootfs`, `path`} → `sys`. `spec` and `plan` are pure: no I/O, no root.

pub mod cgroup;
pub mod cli;
pub mod container;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod init;
pub mod logging;
pub mod net;
pub mod path;
pub mod plan;
pub mod probe;
pub mod resctrl;
pub mod rootfs;
pub mod seccomp;
pub mod security;
pub mod selfexe;
pub mod spec;
pub mod sys;
pub mod time;
