//! Cgroups with the real kernel: this host's own layout (v1 or hybrid), and pure v2 in a private mount namespace.
//! Each test uses a cgroup of its own and removes it. They need root.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy.toml allows them in test functions, not in what those share"
)]

#[path = "cgroup/common.rs"]
mod common;
#[path = "cgroup/host.rs"]
mod host;
#[path = "cgroup/host_limits.rs"]
mod host_limits;
#[path = "cgroup/oom.rs"]
mod oom;
#[path = "cgroup/pure_v2.rs"]
mod pure_v2;
#[path = "cgroup/runc.rs"]
mod runc;
