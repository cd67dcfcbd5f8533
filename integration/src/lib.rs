//! Tests of davit under real containerd, dockerd, podman and conmon.
//!
//! The harness runs the daemons of three Debian releases side by side on one machine: each program comes from an
//! unpacked tree (`hack/debian-tree`) and each daemon has its own root, state and socket, so that a daemon of the
//! system is not touched.
//!
//! `DAVIT_RUNTIME_TYPE` names another shim to run the same tests with (`io.containerd.runc.v2`, to prove the tests),
//! `DAVIT_RUNTIME` another command line runtime for podman and dockerd (a path).
#![forbid(unsafe_code)]

pub mod containerd;
pub mod deaths;
pub mod docker;
pub mod leaks;
pub mod net;
pub mod podman;
pub mod poll;
pub mod setup;
pub mod terminal;

/// Ends a test that cannot run here, saying why; `hack/test` counts it as skipped.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        println!("SKIPPED {}: {}", std::thread::current().name().unwrap_or("test"), format_args!($($reason)*));
        return;
    }};
}
