//! cgroup v1: what differs by hierarchy version.

pub(super) mod resources;
pub(super) mod stats;

use std::path::Path;

use super::dir::Dir;
use super::error::Error;

const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// A new cpuset has no CPUs and nodes, and no process can enter it: it gets its parent's, which may be as new.
pub(super) fn inherit_cpuset(cgroup: &Dir, mountpoint: &Path) -> Result<(), Error> {
    // From the cgroup upwards to the first that has both, then back down.
    let mut empty = Vec::new();
    let mut given = Vec::new();
    for path in cgroup.path().ancestors().skip(1) {
        let parent = Dir::open(path)?;
        given = FILES.into_iter().map(|file| Ok((file, parent.read(file)?))).collect::<Result<_, Error>>()?;
        if given.iter().all(|(_, value)| !value.is_empty()) || path == mountpoint {
            break;
        }
        empty.push(parent);
    }
    for dir in empty.iter().rev() {
        for (file, value) in &given {
            // One that was set on purpose stays.
            if dir.read(file)?.is_empty() {
                dir.write(file, value)?;
            }
        }
    }
    given.iter().try_for_each(|(file, value)| cgroup.write(file, value))
}
