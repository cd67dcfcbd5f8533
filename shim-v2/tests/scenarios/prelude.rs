//! What every group of scenarios uses.

pub use std::fs;
pub use std::io::{Read, Write};
pub use std::path::{Path, PathBuf};
pub use std::process::Command;
pub use std::time::{Duration, Instant};

pub use containerd_shim_protos::api as pb;
pub use containerd_shim_protos::types::task::Status;
pub use nix::sys::signal::Signal;
pub use protobuf::{Message, MessageField};

pub use crate::harness::*;

/// Ends a shim as the OOM killer would.
pub fn kill_shim(client: &mut Client) {
    let shim = client.shim_pid();
    signal(shim, Signal::SIGKILL);
    until("the end of the shim", || (!alive(shim)).then_some(()));
}

/// An Any of runtime options.
pub fn any(url: &str, value: Vec<u8>) -> protobuf::well_known_types::any::Any {
    protobuf::well_known_types::any::Any { type_url: url.into(), value, ..Default::default() }
}

/// The status of a process as State has it.
pub fn status(client: &mut Client, id: &str, exec: &str) -> Status {
    client.state(id, exec).unwrap().status.unwrap()
}

/// Memory of a process that is no file's, in KB: what it alone costs.
pub fn anonymous_kb(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
