//! cgroup v1: what differs by hierarchy version.

pub(super) mod resources;
pub(super) mod stats;

use std::path::Path;

use super::dir::Dir;
use super::error::Error;

/// A new cpuset has no CPUs and nodes, and no process can enter it: it gets its parent's, which may be as new.
pub(super) fn inherit_cpuset(dir: &Dir, mountpoint: Option<&Path>) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        // From the cgroup upwards to the first that has some, then back down.
        let mut empty = vec![dir.path().to_owned()];
        let mut value = String::new();
        for path in dir.path().ancestors().skip(1) {
            value = Dir::open(path)?.read(file)?;
            if !value.is_empty() || Some(path) == mountpoint {
                break;
            }
            empty.push(path.to_owned());
        }
        for path in empty.iter().rev() {
            if path == dir.path() {
                dir.write(file, &value)?
            } else {
                Dir::open(path)?.write(file, &value)?
            }
        }
    }
    Ok(())
}
