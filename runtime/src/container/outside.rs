//! What is done to a process in its cgroup before it acts on its plan, mostly by the runtime that has made it.

use std::path::Path;

use super::idmap::is_ordinary_user;
use crate::init::{Context, Failure, limit_name};
use crate::path::ProcFs;
use crate::plan::{Affinity, Plan};
use crate::sys::process::{RLimit, Resource, limit, prlimit};
use crate::sys::sched::set_affinity;

/// Does all of it. The process is in its cgroup, and its ids are mapped.
///
/// # Errors
/// A [`Failure`] naming the field.
pub(super) fn apply(pid: i32, plan: &Plan) -> Result<(), Failure> {
    let outside = &plan.outside;
    place(pid, &outside.affinity)?;
    // Else the process has done it itself, see set_own_oom_score.
    if let Some(value) = outside.oom_score_adj.filter(|_| !is_ordinary_user() || plan.id_maps.is_some()) {
        let path = format!("/proc/{pid}/oom_score_adj");
        std::fs::write(&path, value.to_string())
            .during("write", || format!("{value} to {path}"))
            .map_err(oom_score_hint)?;
    }
    outside.raise_limits.iter().try_for_each(|(resource, limit)| raise(pid, *resource, *limit))?;
    super::netdevices::take(pid, plan)
}

/// What of it a process can do itself, before it enters namespaces: it is in its cgroup, and has no ids to be mapped.
///
/// # Errors
/// A [`Failure`] naming the field.
pub(super) fn apply_to_self(plan: &Plan, proc: &ProcFs) -> Result<(), Failure> {
    place(0, &plan.outside.affinity)?;
    // Else it has done so before it was made undumpable.
    if is_ordinary_user() { Ok(()) } else { set_own_oom_score(plan, proc) }
}

/// oom_score_adj of the calling process, where the runtime can't write it once the process is undumpable.
///
/// # Errors
/// EACCES when it is lowered without CAP_SYS_RESOURCE.
pub(super) fn set_own_oom_score(plan: &Plan, proc: &ProcFs) -> Result<(), Failure> {
    let Some(value) = plan.outside.oom_score_adj else { return Ok(()) };
    proc.write(Path::new("self/oom_score_adj"), value.to_string().as_bytes())
        .during("write", || format!("{value} to /proc/self/oom_score_adj"))
        .map_err(oom_score_hint)
}

/// EACCES has one reason, which its words do not say.
fn oom_score_hint(failure: Failure) -> Failure {
    if failure.errno != libc::EACCES {
        return failure;
    }
    failure.with_detail("lowering process.oomScoreAdj below the caller's own needs CAP_SYS_RESOURCE")
}

/// Enough bits for every CPU that a kernel can have (NR_CPUS is at most 8192).
const ALL_CPUS: [u64; 128] = [u64::MAX; 128];

/// CPUs, once the process is in its cgroup. The kernel leaves out what the cpuset has not; since 6.2 it no
/// longer widens the mask by itself when a process joins a cpuset (da019032819a).
///
/// 0 is the calling process.
fn place(pid: i32, affinity: &Affinity) -> Result<(), Failure> {
    match affinity {
        Affinity { last: Some(cpus), .. } => {
            set_affinity(pid, cpus.words()).during("set process.execCPUAffinity.final", String::new)
        }
        Affinity { initial: Some(_), .. } => Ok(()),
        Affinity { .. } => {
            if let Err(error) = set_affinity(pid, &ALL_CPUS) {
                // As in runc: the process runs, on fewer CPUs than it might.
                log::warn!("resetting the CPU affinity of the process failed: {error}");
            }
            Ok(())
        }
    }
}

/// Raises a hard limit for a process in a user namespace, which may not. The soft limit stays: init still has
/// to open files and start processes.
fn raise(pid: i32, resource: Resource, wanted: RLimit) -> Result<(), Failure> {
    // It has inherited the runtime's.
    let own = limit(resource).during("read resource limit", || limit_name(resource))?;
    if wanted.hard <= own.hard {
        return Ok(());
    }
    prlimit(pid, resource, RLimit { hard: wanted.hard, ..own }).during("set resource limit", || {
        format!("{} to {} (hard {})", limit_name(resource), wanted.soft, wanted.hard)
    })
}
