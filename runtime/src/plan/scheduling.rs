//! `process.scheduler`, `process.ioPriority`, `linux.memoryPolicy` → the numbers that the kernel takes.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxSchedulerFlag as Flag,
    LinuxSchedulerPolicy as Policy, MemoryPolicyFlagType as MemoryFlag, MemoryPolicyModeType as Mode,
    Scheduler,
};

use super::Step;
use crate::spec::{Error, list, memory_nodes};
use crate::sys::sched::SchedAttr;

pub(super) fn scheduler(scheduler: &Scheduler) -> Step {
    // `linux/sched.h`, `uapi/linux/sched.h`.
    let policy = match scheduler.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flag = |flag: &Flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    };
    let attr = SchedAttr {
        policy,
        flags: list(scheduler.flags()).iter().map(flag).fold(0, |all, flag| all | flag),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().and_then(|priority| u32::try_from(priority).ok()).unwrap_or(0),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedAttr::default()
    };
    Step::Scheduler { name: scheduler.policy().to_string(), attr }
}

pub(super) fn io_priority(priority: &LinuxIOPriority) -> Step {
    /// `uapi/linux/ioprio.h`.
    const CLASS_SHIFT: u32 = 13;
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(priority.priority()).unwrap_or(0);
    Step::IoPriority { name: format!("{} {level}", priority.class()), value: class << CLASS_SHIFT | level }
}

pub(super) fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<Step, Error> {
    // `uapi/linux/mempolicy.h`.
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryFlag| match flag {
        MemoryFlag::MpolFNumaBalancing => 1 << 13,
        MemoryFlag::MpolFRelativeNodes => 1 << 14,
        MemoryFlag::MpolFStaticNodes => 1 << 15,
    };
    let flags = list(policy.flags()).iter().map(flag).fold(0, |all, flag| all | flag);
    let name = match policy.nodes().as_deref().unwrap_or_default() {
        "" => policy.mode().to_string(),
        nodes => format!("{} with nodes {nodes}", policy.mode()),
    };
    Ok(Step::MemoryPolicy { name, mode: mode | flags, nodes: memory_nodes(policy)?.words().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_kernel() {
        let value = r#"{"policy":"SCHED_DEADLINE","flags":["SCHED_FLAG_RECLAIM","SCHED_FLAG_KEEP_PARAMS"],
            "runtime":1,"deadline":2,"period":3}"#;
        let Step::Scheduler { name, attr } = scheduler(&serde_json::from_str(value).unwrap()) else {
            panic!()
        };
        assert_eq!(name, "SCHED_DEADLINE");
        assert_eq!((attr.policy, attr.flags, attr.runtime, attr.deadline, attr.period), (6, 0x12, 1, 2, 3));

        let value = r#"{"class":"IOPRIO_CLASS_IDLE","priority":5}"#;
        let Step::IoPriority { value, .. } = io_priority(&serde_json::from_str(value).unwrap()) else {
            panic!()
        };
        assert_eq!(value, 3 << 13 | 5);

        let value = r#"{"mode":"MPOL_INTERLEAVE","nodes":"0,64","flags":["MPOL_F_STATIC_NODES"]}"#;
        let Step::MemoryPolicy { name, mode, nodes } =
            memory_policy(&serde_json::from_str(value).unwrap()).unwrap()
        else {
            panic!()
        };
        assert_eq!(
            (name.as_str(), mode, nodes),
            ("MPOL_INTERLEAVE with nodes 0,64", 3 | 1 << 15, vec![1, 1])
        );
    }
}
