//! Rules of `process.scheduler`, `process.ioPriority`, `process.execCPUAffinity` and `linux.memoryPolicy`
//! (config.md "POSIX process", config-linux.md "Memory policy"): what the kernel would refuse without a name.

use oci_spec::runtime::{
    LinuxIOPriority, LinuxMemoryPolicy, LinuxSchedulerPolicy as Policy, MemoryPolicyModeType as Mode,
    Process, Scheduler,
};

use super::bits::{self, Bits};
use super::rules::invalid;
use super::{Error, list};

/// One more than the largest CPU number that any kernel can have (NR_CPUS).
const MAX_CPUS: usize = 8192;
/// One more than the largest node number that any kernel can have (MAX_NUMNODES).
const MAX_NODES: usize = 1024;

/// Checks a process's scheduling; wording follows runc's.
pub(super) fn check(process: &Process) -> Result<(), Error> {
    process.scheduler().as_ref().map_or(Ok(()), scheduler)?;
    process.io_priority().as_ref().map_or(Ok(()), io_priority)?;
    cpu_affinity(process).map(drop)
}

fn scheduler(scheduler: &Scheduler) -> Result<(), Error> {
    let policy = *scheduler.policy();
    let nice = scheduler.nice().unwrap_or(0);
    if matches!(policy, Policy::SchedOther | Policy::SchedBatch) && !(-20..=19).contains(&nice) {
        return invalid(format!("invalid scheduler.nice: {nice} when scheduler.policy is {policy}"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    if priority != 0 && !matches!(policy, Policy::SchedFifo | Policy::SchedRr) {
        return invalid("scheduler.priority can only be specified for SchedFIFO or SchedRR policy");
    }
    if matches!(policy, Policy::SchedFifo | Policy::SchedRr) && !(1..=99).contains(&priority) {
        return invalid(format!(
            "invalid scheduler.priority: {priority} when scheduler.policy is {policy}: must be from 1 to 99"
        ));
    }
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()];
    if policy != Policy::SchedDeadline && times.iter().any(|time| time.unwrap_or(0) != 0) {
        return invalid("scheduler runtime/deadline/period can only be specified for SchedDeadline policy");
    }
    Ok(())
}

fn io_priority(priority: &LinuxIOPriority) -> Result<(), Error> {
    match priority.priority() {
        0..=7 => Ok(()),
        other => invalid(format!("invalid ioPriority.Priority: {other}")),
    }
}

/// `process.execCPUAffinity`: the CPUs before and after the process joins the container's cgroup; `None`
/// where the field is absent or empty.
///
/// # Errors
/// [`Error::Invalid`] naming the field.
pub fn cpu_affinity(process: &Process) -> Result<[Option<Bits>; 2], Error> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok([None, None]) };
    let cpus = |field: &str, text: &Option<String>| {
        let bits = bits::parse(text.as_deref().unwrap_or_default(), MAX_CPUS)
            .map_err(|phrase| Error::Invalid(format!("process.execCPUAffinity.{field}: {phrase}")))?;
        Ok(Some(bits).filter(|bits| bits.count() > 0))
    };
    Ok([cpus("initial", affinity.initial())?, cpus("final", affinity.cpu_affinity_final())?])
}

/// The nodes of `linux.memoryPolicy`, checked against what its mode takes.
///
/// # Errors
/// [`Error::Invalid`] naming the field.
pub fn memory_nodes(policy: &LinuxMemoryPolicy) -> Result<Bits, Error> {
    let nodes = bits::parse(policy.nodes().as_deref().unwrap_or_default(), MAX_NODES)
        .map_err(|phrase| Error::Invalid(format!("linux.memoryPolicy.nodes: {phrase}")))?;
    let mode = policy.mode();
    match (mode, nodes.count()) {
        (Mode::MpolDefault | Mode::MpolLocal, 1..) => {
            invalid(format!("linux.memoryPolicy.nodes: mode {mode} takes no nodes"))
        }
        (
            Mode::MpolBind | Mode::MpolInterleave | Mode::MpolWeightedInterleave | Mode::MpolPreferredMany,
            0,
        ) => invalid(format!("linux.memoryPolicy.nodes: mode {mode} needs at least one node")),
        // MPOL_PREFERRED without a node means the local one.
        _ if list(policy.flags()).len() > 1 && static_and_relative(policy) => invalid(
            "linux.memoryPolicy.flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other",
        ),
        _ => Ok(nodes),
    }
}

fn static_and_relative(policy: &LinuxMemoryPolicy) -> bool {
    use oci_spec::runtime::MemoryPolicyFlagType::{MpolFRelativeNodes, MpolFStaticNodes};
    let flags = list(policy.flags());
    flags.contains(&MpolFRelativeNodes) && flags.contains(&MpolFStaticNodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(field: &str, value: serde_json::Value) -> Option<String> {
        let mut process = serde_json::json!({"cwd": "/", "user": {"uid": 0, "gid": 0}});
        process[field] = value;
        check(&serde_json::from_value(process).unwrap()).err().map(|e| e.to_string())
    }

    #[test]
    fn schedulers() {
        use serde_json::json;
        for (value, expected) in [
            (json!({"policy": "SCHED_OTHER", "nice": -20}), None),
            (json!({"policy": "SCHED_RR", "priority": 99}), None),
            (json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}), None),
            (json!({"policy": "SCHED_BATCH", "nice": 20}), Some("invalid scheduler.nice: 20")),
            (json!({"policy": "SCHED_OTHER", "priority": 1}), Some("scheduler.priority can only")),
            (json!({"policy": "SCHED_FIFO"}), Some("invalid scheduler.priority: 0")),
            (json!({"policy": "SCHED_FIFO", "priority": 100}), Some("invalid scheduler.priority: 100")),
            (json!({"policy": "SCHED_IDLE", "runtime": 1}), Some("only be specified for SchedDeadline")),
        ] {
            let got = words("scheduler", value.clone());
            assert_eq!(got.is_some(), expected.is_some(), "{value}: {got:?}");
            assert!(expected.is_none_or(|e| got.as_ref().unwrap().contains(e)), "{value}: {got:?}");
        }
    }

    #[test]
    fn io_priorities() {
        let with =
            |n: i64| words("ioPriority", serde_json::json!({"class": "IOPRIO_CLASS_BE", "priority": n}));
        assert_eq!((with(0), with(7)), (None, None));
        assert_eq!(with(8).unwrap(), "invalid ioPriority.Priority: 8");
        assert_eq!(with(-1).unwrap(), "invalid ioPriority.Priority: -1");
    }

    #[test]
    fn affinities_have_a_limit() {
        let with = |text: &str| words("execCPUAffinity", serde_json::json!({"final": text}));
        assert_eq!(with("0,1500-8191"), None);
        assert_eq!(with("8192").unwrap(), "process.execCPUAffinity.final: 8192 is larger than 8191");
        assert_eq!(with("3-1").unwrap(), "process.execCPUAffinity.final: invalid range 3-1");
    }

    #[test]
    fn memory_policies() {
        use serde_json::json;
        let nodes = |value: serde_json::Value| {
            memory_nodes(&serde_json::from_value(value).unwrap()).map_err(|e| e.to_string())
        };
        assert_eq!(nodes(json!({"mode": "MPOL_BIND", "nodes": "0-1"})).unwrap().words(), [3]);
        assert_eq!(nodes(json!({"mode": "MPOL_PREFERRED"})).unwrap().count(), 0);
        for (value, expected) in [
            (json!({"mode": "MPOL_BIND"}), "mode MPOL_BIND needs at least one node"),
            (json!({"mode": "MPOL_DEFAULT", "nodes": "0"}), "mode MPOL_DEFAULT takes no nodes"),
            (json!({"mode": "MPOL_BIND", "nodes": "x"}), "linux.memoryPolicy.nodes: \"x\" is not a number"),
            (json!({"mode": "MPOL_BIND", "nodes": "1024"}), "1024 is larger than 1023"),
            (
                json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
                "exclude each other",
            ),
        ] {
            let error = nodes(value.clone()).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
        }
    }
}
