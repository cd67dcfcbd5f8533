//! davit: an OCI container runtime as a library. The binary `davit` and the shim are its two users.
//!
//! Modules depend one way: `cli` → `container` → {`plan`, `init`, `cgroup`, `seccomp`, `security`, `criu`} →
//! {`rootfs`, `path`} → `sys`. `spec` and `plan` are pure: no I/O, no root.
//! `unsafe` does not compile but in `sys` (rule 17).

#[forbid(unsafe_code)]
pub mod cgroup;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod container;
#[forbid(unsafe_code)]
pub mod criu;
#[cfg(feature = "fuzz")]
#[forbid(unsafe_code)]
pub mod fuzz;
#[forbid(unsafe_code)]
pub mod init;
#[forbid(unsafe_code)]
mod json;
#[forbid(unsafe_code)]
pub mod logging;
#[forbid(unsafe_code)]
pub mod net;
#[forbid(unsafe_code)]
pub mod path;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
pub mod probe;
#[forbid(unsafe_code)]
pub mod resctrl;
#[forbid(unsafe_code)]
pub mod rootfs;
#[forbid(unsafe_code)]
pub mod seccomp;
#[forbid(unsafe_code)]
pub mod security;
#[forbid(unsafe_code)]
pub mod selfexe;
mod sorted;
#[forbid(unsafe_code)]
pub mod spec;
pub mod sys;
#[forbid(unsafe_code)]
pub mod time;
