//! How davit is meant to differ from the runc of Debian unstable.

use crate::difference::Difference;

const MASKS: &str = "the source of file masks is the host's /dev/null, verified, and not the container's, which an \
                     image could replace (CVE-2025-31133)";
const TMPFS: &str = "runc limits the tmpfs of a masked directory, which is read-only either way";
const MQUEUE: &str =
    "one clone3 makes all namespaces, before ids are mapped; the mode lets all in either way";
const CGROUP_TMPFS: &str =
    "the mount of type cgroup asks for ro; runc loses it for the tmpfs that holds the v1 hierarchies";
const HOSTS_CGROUPS: &str = "without a cgroup namespace it is the host's own mount: a new one changes the host's mount \
                             options (runc #5258)";
const VERSION: &str = "the version is the config's, whose terms the state uses; runc writes its own";
const POSTSTART: &str =
    "poststart hooks run once the program has started (runtime.md \"Lifecycle\"), as by runc 1.4";
const PASSWD: &str =
    "a line without a home directory is no answer: the next one is, or /; runc sets it empty";

pub const DIFFERENCES: &[Difference] = &[
    Difference {
        cases: &["*", "default"],
        section: "mountinfo",
        davit: Some("/null /proc/keys rw,relatime tags: devtmpfs"),
        runc: Some("/null /proc/keys "),
        reason: MASKS,
    },
    Difference {
        cases: &["*", "default"],
        section: "mountinfo",
        davit: Some("/null /proc/timer_list rw,relatime tags: devtmpfs"),
        runc: Some("/null /proc/timer_list "),
        reason: MASKS,
    },
    Difference {
        cases: &["*", "default"],
        section: "mountinfo",
        davit: Some("/ /proc/acpi ro,relatime tags: tmpfs tmpfs ro"),
        runc: Some("/ /proc/acpi ro,relatime tags: tmpfs tmpfs ro,size=4k,nr_inodes=1"),
        reason: TMPFS,
    },
    Difference {
        cases: &["*", "default"],
        section: "mountinfo",
        davit: Some("/ /sys/firmware ro,relatime tags: tmpfs tmpfs ro"),
        runc: Some("/ /sys/firmware ro,relatime tags: tmpfs tmpfs ro,size=4k,nr_inodes=1"),
        reason: TMPFS,
    },
    Difference {
        cases: &["*", "default"],
        section: "mountinfo",
        davit: Some("/sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tags: tmpfs tmpfs rw,mode=755"),
        runc: Some("/sys/fs/cgroup rw,nosuid,nodev,noexec,relatime tags: tmpfs tmpfs rw,mode=755"),
        reason: CGROUP_TMPFS,
    },
    Difference {
        cases: &["pure v2"],
        section: "mountinfo",
        davit: Some("/ /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tags: cgroup2 "),
        runc: Some("/ /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tags: cgroup2 cgroup rw"),
        reason: HOSTS_CGROUPS,
    },
    Difference {
        cases: &["*", "user namespace"],
        section: "devices",
        davit: Some(" /dev/mqueue"),
        runc: Some(" /dev/mqueue"),
        reason: MQUEUE,
    },
    Difference {
        cases: &["*", "user namespace"],
        section: "directories",
        davit: Some("/dev/mqueue 1777"),
        runc: Some("/dev/mqueue 1777"),
        reason: MQUEUE,
    },
    Difference {
        cases: &["*", "default"],
        section: "state",
        davit: Some("ociVersion: \"1.0.2\""),
        runc: Some("ociVersion: \"1.2.1\""),
        reason: VERSION,
    },
    Difference {
        cases: &["prestart", "all hooks, annotations"],
        section: "hook prestart",
        davit: Some("{\"ociVersion\":\"1.0.2\""),
        runc: Some("{\"ociVersion\":\"1.2.1\""),
        reason: VERSION,
    },
    Difference {
        cases: &["createRuntime", "all hooks, annotations"],
        section: "hook createRuntime",
        davit: Some("{\"ociVersion\":\"1.0.2\""),
        runc: Some("{\"ociVersion\":\"1.2.1\""),
        reason: VERSION,
    },
    Difference {
        cases: &["createContainer", "all hooks, annotations"],
        section: "hook createContainer",
        davit: Some("{\"ociVersion\":\"1.0.2\""),
        runc: Some("{\"ociVersion\":\"1.2.1\""),
        reason: VERSION,
    },
    Difference {
        cases: &["startContainer", "all hooks, annotations"],
        section: "hook startContainer",
        davit: Some("{\"ociVersion\":\"1.0.2\""),
        runc: Some("{\"ociVersion\":\"1.2.1\""),
        reason: VERSION,
    },
    Difference {
        cases: &["poststop", "all hooks, annotations"],
        section: "hook poststop",
        davit: Some("{\"ociVersion\":\"1.0.2\""),
        runc: Some("{\"ociVersion\":\"1.2.1\""),
        reason: VERSION,
    },
    Difference {
        cases: &["poststart", "all hooks, annotations"],
        section: "hook poststart",
        davit: Some("\"status\":\"running\""),
        runc: Some("\"status\":\"created\""),
        reason: POSTSTART,
    },
    Difference {
        cases: &["hooks without args and env"],
        section: "hook bare",
        davit: Some("CARGO "),
        runc: Some("CARGO as the caller's"),
        reason: "a hook without env gets an empty one, as by runc 1.4; older ones hand on the caller's",
    },
    Difference {
        cases: &["no capabilities field"],
        section: "status",
        davit: Some("Cap"),
        runc: Some("Cap"),
        reason: "none are given where none are asked for, as by runc 1.1; newer ones leave all of the caller's",
    },
    Difference {
        cases: &["no capabilities field"],
        section: "process",
        davit: None,
        runc: Some("timerslack_ns:50000"),
        reason: "as above: it can be read with CAP_SYS_NICE",
    },
    Difference {
        cases: &["no environment"],
        section: "environment",
        davit: Some("HOME=/root"),
        runc: None,
        reason: "HOME is set as with an empty list, where runc sets it too",
    },
    Difference {
        cases: &["malformed passwd file"],
        section: "environment",
        davit: Some("HOME="),
        runc: Some("HOME="),
        reason: PASSWD,
    },
    Difference {
        cases: &["bind over a file"],
        section: "environment",
        davit: Some("HOME=/"),
        runc: Some("HOME="),
        reason: PASSWD,
    },
    Difference {
        cases: &["/dev is bound from the host"],
        section: "descriptors",
        davit: Some("0:flags:\t0100002"),
        runc: Some("0:flags:\t0100000"),
        reason: "the standard descriptors on /dev/null are opened in the container in any case; runc does not when /dev is a bind",
    },
    Difference {
        cases: &["exec of a process file"],
        section: "status",
        davit: Some("Umask:\t0027"),
        runc: Some("Umask:\t0022"),
        reason: "process.user.umask of the process file is applied; runc's exec leaves it out",
    },
    Difference {
        cases: &["exec of a process file with limits"],
        section: "process",
        davit: Some("oom_score_adj:400"),
        runc: Some("oom_score_adj:100"),
        reason: "process.oomScoreAdj of the process file is applied; runc's exec takes the container's",
    },
    Difference {
        cases: &["rootfsPropagation rshared"],
        section: "mountinfo",
        davit: Some("/ /proc/acpi ro,relatime tags: shared tmpfs tmpfs ro"),
        runc: Some("/ /proc/acpi ro,relatime tags: shared tmpfs tmpfs ro,size=4k,nr_inodes=1"),
        reason: TMPFS,
    },
    Difference {
        cases: &["rootfsPropagation rshared"],
        section: "mountinfo",
        davit: Some("/ /sys/firmware ro,relatime tags: shared tmpfs tmpfs ro"),
        runc: Some("/ /sys/firmware ro,relatime tags: shared tmpfs tmpfs ro,size=4k,nr_inodes=1"),
        reason: TMPFS,
    },
    Difference {
        cases: &["rootfsPropagation rshared"],
        section: "mountinfo",
        davit: Some("/null /proc/keys rw,relatime tags: shared devtmpfs"),
        runc: None,
        reason: MASKS,
    },
    Difference {
        cases: &["rootfsPropagation rshared"],
        section: "mountinfo",
        davit: Some("/null /proc/timer_list rw,relatime tags: shared devtmpfs"),
        runc: None,
        reason: MASKS,
    },
    Difference {
        cases: &["rootfsPropagation rshared"],
        section: "mountinfo",
        davit: Some("/sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tags: shared tmpfs tmpfs rw,mode=755"),
        runc: Some("/sys/fs/cgroup rw,nosuid,nodev,noexec,relatime tags: shared tmpfs tmpfs rw,mode=755"),
        reason: CGROUP_TMPFS,
    },
    Difference {
        cases: &["masked files and directories"],
        section: "mountinfo",
        davit: Some("/ /etc ro,relatime tags: tmpfs tmpfs ro"),
        runc: Some("/ /etc ro,relatime tags: tmpfs tmpfs ro,size=4k,nr_inodes=1"),
        reason: TMPFS,
    },
    Difference {
        cases: &["masked files and directories", "masked paths behind links"],
        section: "mountinfo",
        davit: Some("/ /mnt ro,relatime tags: tmpfs tmpfs ro"),
        runc: Some("/ /mnt ro,relatime tags: tmpfs tmpfs ro,size=4k,nr_inodes=1"),
        reason: TMPFS,
    },
    Difference {
        cases: &["masked paths behind links"],
        section: "mountinfo",
        davit: Some("/null /proc/1/environ rw,relatime tags: devtmpfs"),
        runc: Some("/null /proc/1/environ rw,nosuid tags: tmpfs"),
        reason: MASKS,
    },
    Difference {
        cases: &["devices in a user namespace"],
        section: "cgroup of the host",
        davit: Some("c 1:7 rwm"),
        runc: Some("c 1:5 rwm; c 1:8 rwm"),
        reason: "the default devices are allowed whether or not the config names them too",
    },
    Difference {
        cases: &["root behind a link"],
        section: "failure",
        davit: Some("invalid rootfs: not an absolute path, or a symlink"),
        runc: Some("invalid rootfs: not an absolute path, or a symlink"),
        reason: "both refuse it; the sentence begins with the program's name",
    },
    Difference {
        cases: &["sysctls with a user namespace"],
        section: "failure",
        davit: None,
        runc: Some("sysctl \"user.max_net_namespaces\" is not in a separate kernel namespace"),
        reason: "sysctls of a user namespace of its own are set, as by runc 1.4",
    },
    Difference {
        cases: &["*", "cpu limits"],
        section: "state.json",
        davit: None,
        runc: Some("/config/cgroups/"),
        reason: "the limits that hold now are in the cgroup's files: an update would make a copy stale",
    },
    Difference {
        cases: &["unknown capability"],
        section: "config in state.json",
        davit: Some("capabilities: "),
        runc: Some("CAP_OF_THE_FUTURE"),
        reason: "only capabilities that the container can have are written",
    },
    Difference {
        cases: &["memory policy"],
        section: "process",
        davit: Some("memory policy interleave:0"),
        runc: Some("memory policy default"),
        reason: "linux.memoryPolicy came with runc 1.4",
    },
];
