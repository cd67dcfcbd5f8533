//! What confines containers: seccomp, modules, capabilities.

use std::path::Path;

use super::{Finding, Verdict, read};
use crate::security::{apparmor, capabilities, selinux};
use crate::sys::prctl;
use crate::sys::probe::seccomp_flag;

pub(super) fn findings() -> Vec<Finding> {
    vec![seccomp(), seccomp_flags(), seccomp_notify(), modules(), bounding_set(), oom_score()]
}

fn seccomp() -> Finding {
    let name = "seccomp actions";
    match read("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) => Finding::new(name, Verdict::Ok, actions, "linux.seccomp works with these actions"),
        None => Finding::there(name, false, "", "configs with linux.seccomp are refused"),
    }
}

/// Flags of `linux.seccomp.flags`, as the runtime-spec names them, with the kernel's numbers.
const FLAGS: [(&str, u64); 4] =
    [("TSYNC", 1), ("LOG", 2), ("SPEC_ALLOW", 4), ("WAIT_KILLABLE_RECV", 1 << 5 | 1 << 3)];

fn seccomp_flags() -> Finding {
    let (there, missing): (Vec<_>, Vec<_>) = FLAGS.iter().partition(|(_, flag)| seccomp_flag(*flag));
    let names = |flags: &[&(&str, u64)]| flags.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",");
    match missing.is_empty() {
        true => Finding::new(
            "seccomp flags",
            Verdict::Ok,
            names(&there),
            "linux.seccomp.flags may have any of these",
        ),
        false => Finding::new(
            "seccomp flags",
            Verdict::Limited,
            format!("{}; not {}", names(&there), names(&missing)),
            "configs with the others are refused",
        ),
    }
}

fn seccomp_notify() -> Finding {
    Finding::there(
        "seccomp notify",
        seccomp_flag(1 << 3),
        "system calls can be handed to an agent",
        "configs with SCMP_ACT_NOTIFY are refused",
    )
}

fn modules() -> Finding {
    let mut active = Vec::new();
    if apparmor::enabled() {
        active.push("AppArmor");
    }
    if selinux::enabled() {
        active.push("SELinux");
    }
    if read("/sys/kernel/security/lsm").is_some_and(|list| list.split(',').any(|name| name == "landlock")) {
        active.push("Landlock");
    }
    match active.is_empty() {
        true => Finding::new(
            "security modules",
            Verdict::Limited,
            "none",
            "configs with an AppArmor profile or a SELinux label are refused",
        ),
        false => {
            Finding::new("security modules", Verdict::Ok, active.join(", "), "profiles of these are applied")
        }
    }
}

/// What the lack of a capability in the bounding set means.
const CONSEQUENCES: [(&str, &str); 4] = [
    ("CAP_SYS_RESOURCE", "limits above the hard ones and a lower oom_score_adj are refused"),
    ("CAP_SYS_ADMIN", "only rootless containers run"),
    ("CAP_MKNOD", "device nodes can't be made"),
    ("CAP_NET_ADMIN", "the loopback device of a container stays down"),
];

fn bounding_set() -> Finding {
    let all = capabilities::named();
    let last = capabilities::last_cap();
    let known = all.iter().filter(|cap| u32::from(cap.index()) <= last);
    let missing: Vec<_> = known
        .filter(|cap| prctl::bounding_has(u32::from(cap.index())).is_ok_and(|has| !has))
        .map(ToString::to_string)
        .collect();
    if missing.is_empty() {
        return Finding::new(
            "capabilities",
            Verdict::Ok,
            "all in the bounding set",
            "containers can be given any of them",
        );
    }
    let named = CONSEQUENCES.iter().filter(|(name, _)| missing.iter().any(|m| m == name));
    let mut text = "containers can't be given these".to_owned();
    for (_, consequence) in named {
        text.push_str("; ");
        text.push_str(consequence);
    }
    Finding::new("capabilities", Verdict::Limited, format!("not {}", missing.join(",")), text)
}

fn oom_score() -> Finding {
    let own = read("/proc/self/oom_score_adj").unwrap_or_default();
    let raising_only = read("/proc/self/status")
        .and_then(|status| {
            status.lines().find_map(|l| l.strip_prefix("CapEff:").map(|v| v.trim().to_owned()))
        })
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .is_none_or(|mask| mask & 1 << caps::Capability::CAP_SYS_RESOURCE.index() == 0);
    if !Path::new("/proc/self/oom_score_adj").exists() {
        return Finding::there("oom_score_adj", false, "", "process.oomScoreAdj is refused");
    }
    match raising_only {
        true => Finding::new(
            "oom_score_adj",
            Verdict::Limited,
            own.clone(),
            format!("without CAP_SYS_RESOURCE process.oomScoreAdj below {own} is refused"),
        ),
        false => Finding::new("oom_score_adj", Verdict::Ok, own, "process.oomScoreAdj may have any value"),
    }
}
