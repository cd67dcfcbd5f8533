//! Device rules.
use oci_spec::runtime::LinuxDeviceCgroup;

use super::{Cgroup, Error};

pub(super) fn apply(_cgroup: &Cgroup, _rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    Err(Error::Unsupported("linux.resources.devices"))
}
pub(super) fn update(_cgroup: &Cgroup, _rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    Err(Error::Unsupported("linux.resources.devices"))
}
