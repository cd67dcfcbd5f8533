//! `davit features`: what davit implements, for callers that choose by it.

use clap::ArgMatches;
use serde_json::{Value, json};

use super::args::Arity;
use super::global::Global;
use super::{COMMIT, Command, SPEC_VERSION, VERSION, json as go_json, print};
use crate::security::capabilities;

pub(super) const COMMAND: Command = Command {
    name: "features",
    about: "show the enabled features",
    usage: "\n\nPrints a JSON document; see features.md of the runtime-spec.",
    arity: Arity::Exactly(0),
    flags: Vec::new,
    run,
    failure: "",
    failure_code: 1,
};

fn run(_global: &Global, _matches: &ArgMatches) -> anyhow::Result<i32> {
    Ok(print(&(go_json::pretty(&document(), "    ")? + "\n")))
}

/// Flags of a filter.
const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Annotations that change what davit does on the host: callers keep them from those who may only choose images.
const UNSAFE_ANNOTATIONS: [&str; 6] = [
    "bundle",
    "org.criu.config",
    "org.opencontainers.runc.clone-self-exe",
    "run.oci.hooks.",
    "run.oci.keep_original_groups",
    "run.oci.pidfd_receiver",
];

/// The document of `davit features`. Only what is implemented: a caller that reads `true` relies on it.
#[must_use]
pub fn document() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": crate::plan::known_mount_options(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": true,
                "systemdUser": true,
                "rdma": true,
            },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": [
                    "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64",
                ],
                "knownFlags": FLAGS,
                "supportedFlags": FLAGS,
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": {
                "modes": [
                    "MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED",
                    "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE",
                ],
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
            },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": {
            "io.github.davit.version": VERSION,
            "io.github.davit.commit": COMMIT,
            // runc's key, by which callers look for it: by CRIU, if that is in $PATH.
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    })
}

/// All that the runtime-spec names, in the kernel's order.
fn capabilities() -> Vec<String> {
    capabilities::named().iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_a_features_document_without_nulls() {
        let document = document();
        assert!(!document.to_string().contains("null"));
        let features: oci_spec::runtime::Features = serde_json::from_value(document).unwrap();
        assert_eq!(features.oci_version_max(), SPEC_VERSION);
        let options = features.mount_options().as_ref().unwrap();
        // Docker and containerd choose by this one.
        assert!(options.is_sorted() && options.iter().any(|option| option == "rro"));
        assert_eq!(capabilities().first().unwrap(), "CAP_CHOWN");
        assert_eq!(capabilities().len(), 41);
    }
}
