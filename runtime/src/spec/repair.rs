//! Configs that runc accepts and oci-spec 0.10 rejects, on a path taken only after a parse error.
//!
//! Three defects are known (dependency study, section 1.1): scheduler flags under wrong names, unknown
//! capability names, which runc drops with a warning, and CPU lists that are empty (the spec takes them as
//! absent) or have spaces.

use oci_spec::runtime::Capability;
use serde_json::Value;

use crate::json::convert;

/// The names that oci-spec 0.10 derives for two scheduler flags, by the names that the spec gives them.
const SCHEDULER_FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// The spec's name of a scheduler flag that oci-spec has under another.
pub fn scheduler_flag(derived: &str) -> Option<&'static str> {
    SCHEDULER_FLAGS.iter().find(|(_, other)| *other == derived).map(|(name, _)| *name)
}

/// Parses again after repairing; `None` when that doesn't help, so that the first error is reported.
pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> Option<T> {
    let mut value: Value = serde_json::from_slice(text).ok()?;
    // config.json holds a process, process.json is one.
    repair_process(&mut value);
    if let Some(process) = value.get_mut("process") {
        repair_process(process);
    }
    convert(&value).ok()
}

fn repair_process(process: &mut Value) {
    if let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.retain(|name| {
                let known = convert::<Capability>(name).is_ok();
                if !known {
                    log::warn!(
                        "ignoring unknown or unavailable capabilities: [{}]",
                        name.as_str().unwrap_or_default()
                    );
                }
                known
            });
        }
    }
    if let Some(affinity) = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut) {
        affinity.retain(|_, list| list.as_str().is_none_or(|list| elements(list).next().is_some()));
        for list in affinity.values_mut() {
            if let Some(text) = list.as_str() {
                *list = elements(text).collect::<Vec<_>>().join(",").into();
            }
        }
    }
    let flags = process.get_mut("scheduler").and_then(|s| s.get_mut("flags")).and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        if let Some((_, derived)) = SCHEDULER_FLAGS.iter().find(|(name, _)| flag == name) {
            *flag = Value::from(*derived);
        }
    }
}

/// The elements of a CPU list, as runc splits it.
fn elements(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Process;

    #[test]
    fn unknown_capabilities_are_dropped() {
        let text =
            br#"{"cwd":"/","user":{"uid":0,"gid":0},"capabilities":{"bounding":["CAP_KILL","CAP_FOO"]}}"#;
        assert!(serde_json::from_slice::<Process>(text).is_err());
        let process: Process = parse(text).unwrap();
        let bounding = process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap();
        assert_eq!(bounding.iter().copied().collect::<Vec<_>>(), [Capability::Kill]);
    }

    #[test]
    fn scheduler_flags_have_the_names_of_the_spec() {
        let text = br#"{"cwd":"/","user":{"uid":0,"gid":0},
            "scheduler":{"policy":"SCHED_OTHER","flags":["SCHED_FLAG_RESET_ON_FORK"]}}"#;
        let process: Process = parse(text).unwrap();
        assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn cpu_lists_may_be_empty() {
        let text =
            br#"{"cwd":"/","user":{"uid":0,"gid":0},"execCPUAffinity":{"initial":"","final":" 1 ,,3"}}"#;
        assert!(serde_json::from_slice::<Process>(text).is_err());
        let process: Process = parse(text).unwrap();
        let affinity = process.exec_cpu_affinity().as_ref().unwrap();
        assert_eq!(affinity.initial(), &None);
        assert_eq!(affinity.cpu_affinity_final().as_deref(), Some("1,3"));
        assert!(
            parse::<Process>(br#"{"cwd":"/","user":{"uid":0,"gid":0},"execCPUAffinity":{"final":"a"}}"#)
                .is_none()
        );
    }

    #[test]
    fn other_errors_stay_errors() {
        assert!(parse::<Process>(br#"{"cwd":"/","user":{"uid":"x","gid":0}}"#).is_none());
    }
}
