//! v1 metrics.
use crate::cgroup::stats::v1::Metrics;
use crate::cgroup::{Cgroup, Error};

pub(in crate::cgroup) fn read(_cgroup: &Cgroup) -> Result<Metrics, Error> {
    Err(Error::Unsupported("stats"))
}
