//! Each field of config.json.

use davit_tests::{Bundle, World};
use serde_json::{Value, json};

use crate::{assert_sentence, each};

/// A field by its JSON pointer, a wrong value as JSON text (empty: the field is removed), and what the error
/// says. Where that is empty, the value is of the wrong type and the error starts with the field's path.
type Row = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const TYPES: &[Row] = &[
    ("/ociVersion", "1", ""),
    ("/process", "\"x\"", ""),
    ("/process/terminal", "\"yes\"", ""),
    ("/process/consoleSize/height", "-1", ""),
    ("/process/user", "\"root\"", ""),
    ("/process/user/uid", "\"root\"", ""),
    ("/process/user/uid", "-1", ""),
    ("/process/user/uid", "4294967296", ""),
    ("/process/user/uid", "1.5", ""),
    ("/process/user/gid", "\"0\"", ""),
    ("/process/user/umask", "\"022\"", ""),
    ("/process/user/additionalGids", "5", ""),
    ("/process/user/additionalGids/0", "\"x\"", ""),
    ("/process/args", "\"sh\"", ""),
    ("/process/args/0", "1", ""),
    ("/process/env", "\"A=b\"", ""),
    ("/process/env/0", "null", ""),
    ("/process/cwd", "5", ""),
    ("/process/capabilities", "[\"CAP_KILL\"]", "process.capabilities[0]: invalid type"),
    ("/process/capabilities/bounding", "\"CAP_KILL\"", ""),
    ("/process/rlimits", "{}", ""),
    ("/process/rlimits/0/type", "\"RLIMIT_BOGUS\"", ""),
    ("/process/rlimits/0/soft", "\"1\"", ""),
    ("/process/rlimits/0/hard", "-1", ""),
    ("/process/noNewPrivileges", "\"true\"", ""),
    ("/process/apparmorProfile", "5", ""),
    ("/process/selinuxLabel", "[]", ""),
    ("/process/oomScoreAdj", "\"1\"", ""),
    ("/process/scheduler", "\"SCHED_FIFO\"", ""),
    ("/process/scheduler/policy", "\"SCHED_BOGUS\"", ""),
    ("/process/ioPriority/class", "\"IOPRIO_CLASS_BOGUS\"", ""),
    ("/process/execCPUAffinity", "\"0\"", ""),
    ("/root", "\"rootfs\"", ""),
    ("/root/path", "5", ""),
    ("/root/readonly", "\"yes\"", ""),
    ("/hostname", "5", ""),
    ("/domainname", "{}", ""),
    ("/mounts", "{}", ""),
    ("/mounts/0", "\"/proc\"", ""),
    ("/mounts/0/destination", "5", ""),
    ("/mounts/0/type", "5", ""),
    ("/mounts/0/source", "5", ""),
    ("/mounts/1/options", "\"ro\"", ""),
    ("/mounts/1/options/0", "1", ""),
    ("/hooks", "\"x\"", ""),
    ("/hooks/prestart", "{}", ""),
    ("/hooks/prestart/0/timeout", "\"5\"", ""),
    ("/hooks/prestart/0/args", "\"x\"", ""),
    ("/annotations", "[]", ""),
    ("/annotations/a", "1", ""),
    ("/linux/namespaces", "{}", ""),
    ("/linux/namespaces/0/type", "\"bogus\"", ""),
    ("/linux/namespaces/0/path", "5", ""),
    ("/linux/uidMappings", "5", ""),
    ("/linux/uidMappings/0/hostID", "\"x\"", ""),
    ("/linux/timeOffsets", "[]", ""),
    ("/linux/devices", "{}", ""),
    ("/linux/devices/0/type", "\"q\"", ""),
    ("/linux/devices/0/major", "\"1\"", ""),
    ("/linux/devices/0/fileMode", "\"0666\"", ""),
    ("/linux/cgroupsPath", "5", ""),
    ("/linux/resources", "\"x\"", ""),
    ("/linux/resources/memory/limit", "\"1g\"", ""),
    ("/linux/resources/pids/limit", "\"x\"", ""),
    ("/linux/resources/cpu/shares", "-1", ""),
    ("/linux/resources/cpu/cpus", "0", ""),
    ("/linux/resources/devices/0/allow", "\"no\"", ""),
    ("/linux/resources/devices/0/type", "\"z\"", ""),
    ("/linux/resources/hugepageLimits/0/limit", "\"x\"", ""),
    ("/linux/resources/unified", "[]", ""),
    ("/linux/sysctl", "[\"x\"]", ""),
    ("/linux/sysctl/net.ipv4.ip_forward", "1", ""),
    ("/linux/seccomp", "\"x\"", ""),
    ("/linux/seccomp/defaultAction", "\"SCMP_ACT_BOGUS\"", ""),
    ("/linux/seccomp/architectures/0", "\"SCMP_ARCH_BOGUS\"", ""),
    ("/linux/seccomp/flags/0", "\"SECCOMP_FILTER_FLAG_BOGUS\"", ""),
    ("/linux/seccomp/syscalls/0/action", "\"SCMP_ACT_BOGUS\"", ""),
    ("/linux/seccomp/syscalls/0/args/0/op", "\"SCMP_CMP_BOGUS\"", ""),
    ("/linux/seccomp/syscalls/0/errnoRet", "-1", ""),
    ("/linux/rootfsPropagation", "5", ""),
    ("/linux/maskedPaths", "\"x\"", ""),
    ("/linux/readonlyPaths/0", "5", ""),
    ("/linux/mountLabel", "5", ""),
    ("/linux/personality/domain", "\"BOGUS\"", ""),
    ("/linux/netDevices", "[]", ""),
    ("/linux/memoryPolicy/mode", "\"MPOL_BOGUS\"", ""),
];

#[rustfmt::skip]
const VALUES: &[Row] = &[
    ("/ociVersion", "\"\"", "ociVersion"),
    ("/ociVersion", "\"2.0.0\"", "ociVersion"),
    ("/ociVersion", "", "ociVersion"),
    ("/process", "", "process"),
    ("/process/user", "", "process: missing field `user`"),
    ("/process/user/uid", "4294967295", "process.user.uid"),
    ("/process/user/gid", "4294967295", "process.user.gid"),
    ("/process/user/additionalGids", "[4294967295]", "process.user.additionalGids"),
    ("/process/args", "[]", "args must not be empty"),
    ("/process/args", "[\"\"]", "exec: \"\": executable file not found"),
    ("/process/args", "[\"a\\u0000b\"]", "process.args"),
    ("/process/args", "[\"nosuch\"]", "\"nosuch\": executable file not found in $PATH"),
    ("/process/args", "[\"/bin/nosuch\"]", "/bin/nosuch"),
    ("/process/args", "[\"/etc\"]", "/etc"),
    ("/process/args", "[\"/etc/passwd\"]", "/etc/passwd"),
    ("/process/args", "[\"/etc/passwd/x\"]", "/etc/passwd/x"),
    ("/process/args", "[\"/script\"]", "/no/interpreter"),
    ("/process/args", "[\"/loop\"]", "/loop"),
    ("/process/env/0", "\"NOVALUE\"", "invalid environment variable"),
    ("/process/env/0", "\"=value\"", "invalid environment variable"),
    ("/process/env/0", "\"A=b\\u0000c\"", "invalid environment variable"),
    ("/process/cwd", "\"\"", "Cwd"),
    ("/process/cwd", "\"tmp\"", "Cwd"),
    ("/process/cwd", "", "process: missing field `cwd`"),
    ("/process/cwd", "\"/etc/passwd\"", "/etc/passwd"),
    ("/process/cwd", "\"/a\\u0000b\"", "process.cwd"),
    ("/process/rlimits", "[{\"type\":\"RLIMIT_CORE\",\"soft\":2,\"hard\":1}]", "process.rlimits"),
    ("/process/rlimits", "[{\"type\":\"RLIMIT_CORE\",\"soft\":1,\"hard\":1},{\"type\":\"RLIMIT_CORE\",\"soft\":1,\"hard\":1}]", "process.rlimits"),
    ("/process/oomScoreAdj", "1001", "process.oomScoreAdj 1001"),
    ("/process/scheduler", "{}", "process.scheduler: missing field"),
    ("/process/scheduler", "{\"policy\":\"SCHED_OTHER\",\"nice\":50}", "nice"),
    ("/process/scheduler", "{\"policy\":\"SCHED_FIFO\",\"priority\":500}", "scheduler.priority"),
    ("/process/ioPriority", "{\"class\":\"IOPRIO_CLASS_BE\",\"priority\":9}", "ioPriority"),
    ("/process/execCPUAffinity", "{\"initial\":\"x\"}", "execCPUAffinity"),
    ("/process/execCPUAffinity", "{\"initial\":\"3-1\"}", "execCPUAffinity"),
    ("/process/terminal", "true", "cannot allocate tty"),
    ("/process/apparmorProfile", "\"nosuch\"", "apparmor"),
    ("/process/selinuxLabel", "\"nosuch\"", "selinux"),
    ("/root", "", "root"),
    ("/root/path", "\"\"", "root.path"),
    ("/root/path", "\"nosuch\"", "nosuch"),
    ("/root/path", "\"config.json\"", "not a directory"),
    ("/root/path", "\"a\\u0000b\"", "root.path"),
    ("/hostname", "\"this-name-is-longer-than-the-kernel-takes-which-is-sixty-four-bytes\"", "hostname"),
    ("/domainname", "\"this-name-is-longer-than-the-kernel-takes-which-is-sixty-four-bytes\"", "domainname"),
    ("/hostname", "\"a\\u0000b\"", "hostname"),
    ("/mounts/0/destination", "", "mounts[0]: missing field"),
    ("/mounts/4/type", "\"bogusfs\"", "bogusfs"),
    ("/mounts/0/type", "", "type is required"),
    ("/mounts/1/options", "[\"size=bogus\"]", "/dev"),
    ("/mounts/1/options", "[\"bogus=1\"]", "/dev"),
    ("/mounts/1/options", "[\"no\\u0000option\"]", "NUL byte"),
    ("/mounts/2/options", "[\"gid=bogus\"]", "/dev/pts"),
    ("/mounts/-", "{\"destination\":\"/\",\"type\":\"proc\"}", "mounts"),
    ("/mounts/-", "{\"destination\":\"/proc/sys\",\"type\":\"tmpfs\"}", "inside /proc"),
    ("/mounts/-", "{\"destination\":\"/proc/self/attr\",\"type\":\"bind\",\"source\":\"/tmp\",\"options\":[\"bind\"]}", "/proc/self/attr"),
    ("/mounts/-", "{\"destination\":\"/toproc/sys\",\"type\":\"tmpfs\"}", "inside /proc"),
    ("/mounts/-", "{\"destination\":\"/link\",\"type\":\"proc\",\"source\":\"proc\"}", "\"proc\" must be mounted on ordinary directory"),
    ("/mounts/-", "{\"destination\":\"/link\",\"type\":\"sysfs\",\"source\":\"sysfs\"}", "\"sysfs\" must be mounted on ordinary directory"),
    ("/mounts/-", "{\"destination\":\"/etc/passwd/x\",\"type\":\"tmpfs\"}", "/etc/passwd/x"),
    ("/mounts/-", "{\"destination\":\"/etc/passwd\",\"type\":\"tmpfs\"}", "/etc/passwd"),
    ("/mounts/-", "{\"destination\":\"/etc/passwd\",\"source\":\"/tmp\",\"options\":[\"bind\"]}", "/etc/passwd"),
    ("/mounts/-", "{\"destination\":\"/tmp\",\"source\":\"/etc/passwd\",\"options\":[\"bind\"]}", "/tmp"),
    ("/mounts/-", "{\"destination\":\"/mnt\",\"source\":\"/nosuch\",\"options\":[\"rbind\"]}", "/nosuch"),
    ("/mounts/-", "{\"destination\":\"/mnt\",\"source\":\"nosuch\",\"options\":[\"rbind\"]}", "/nosuch"),
    ("/mounts/-", "{\"destination\":\"/mnt\",\"source\":\"/tmp\",\"options\":[\"rbind\",\"size=1m\"]}", "filesystem-specific options applied: size"),
    ("/mounts/-", "{\"destination\":\"/m\\u0000nt\",\"source\":\"/tmp\",\"options\":[\"rbind\"]}", "mounts"),
    ("/mounts/-", "{\"destination\":\"/mnt\",\"source\":\"/t\\u0000mp\",\"options\":[\"rbind\"]}", "mounts"),
    ("/mounts/-", "{\"destination\":\"/mnt\",\"type\":\"ext4\",\"source\":\"/nosuch/device\"}", "/mnt"),
    ("/mounts/-", "{\"destination\":\"/mnt\",\"type\":\"overlay\",\"source\":\"overlay\",\"options\":[\"lowerdir=/nosuch\"]}", "/mnt"),
    ("/mounts/-", "{\"destination\":\"/mnt\",\"source\":\"/tmp\",\"options\":[\"bind\",\"idmap\"]}", "mounts[]: /mnt: id-mapped"),
    ("/mounts/-", "{\"destination\":\"/mnt\",\"source\":\"/tmp\",\"options\":[\"bind\"],\"uidMappings\":[{\"containerID\":0,\"hostID\":1,\"size\":1}]}", "mounts"),
    ("/hooks/prestart", "[{\"path\":\"hook\"}]", "hooks.prestart"),
    ("/hooks/createRuntime", "[{\"path\":\"\"}]", "hooks.createRuntime"),
    ("/hooks/createContainer", "[{\"path\":\"/nosuch/hook\"}]", "createContainer hook #0: /nosuch/hook: no such"),
    ("/hooks/prestart", "[{\"args\":[\"x\"]}]", "hooks.prestart[0]: missing field `path`"),
    ("/hooks/prestart", "[{\"path\":\"/bin/true\",\"timeout\":0}]", "hooks.prestart"),
    ("/hooks/prestart", "[{\"path\":\"/bin/true\",\"timeout\":-1}]", "hooks.prestart"),
    ("/hooks/prestart", "[{\"path\":\"/bin/true\"},{\"path\":\"/bin/false\"}]", "prestart hook #1: /bin/false: exit status 1"),
    ("/hooks/createRuntime", "[{\"path\":\"/etc/passwd\"}]", "createRuntime hook #0: /etc/passwd: permission"),
    ("/hooks/prestart", "[{\"path\":\"/bin/sh\",\"args\":[\"sh\",\"-c\",\"echo why >&2; kill -9 $$\"]}]", "killed by signal 9, output: why"),
    ("/hooks/createRuntime", "[{\"path\":\"/bin/a\\u0000b\"}]", "hooks.createRuntime"),
    ("/hooks/prestart", "[{\"path\":\"/bin/sleep\",\"args\":[\"sleep\",\"100\"],\"timeout\":1}]", "timed out after 1 s"),
    ("/linux/namespaces/0/type", "", "linux.namespaces[0]: missing field `type`"),
    ("/linux/namespaces/-", "{\"type\":\"pid\"}", "duplicated namespace"),
    ("/linux/namespaces/1/path", "\"relative\"", "path of namespace net must be absolute"),
    ("/linux/namespaces/1/path", "\"/nosuch/net\"", "/nosuch/net"),
    ("/linux/namespaces/1/path", "\"/proc/self/ns/ipc\"", "/proc/self/ns/ipc"),
    ("/linux/namespaces/1/path", "\"/etc/passwd\"", "/etc/passwd"),
    ("/linux/namespaces/1/path", "\"/a\\u0000b\"", "namespace"),
    ("/linux/namespaces", "[{\"type\":\"mount\"},{\"type\":\"pid\"}]", "hostname"),
    ("/linux/namespaces/-", "{\"type\":\"user\"}", "no uid mappings"),
    ("/linux/uidMappings", "[{\"containerID\":0,\"hostID\":1000,\"size\":1}]", "user namespace mappings"),
    ("/linux/uidMappings", "[{\"containerID\":0,\"hostID\":1000}]", "user namespace mappings"),
    ("/linux/timeOffsets", "{\"monotonic\":{\"secs\":1}}", "time"),
    ("/linux/devices/0", "{\"type\":\"c\",\"major\":1,\"minor\":3}", "linux.devices[0]: path must not be empty"),
    ("/linux/devices/0", "{\"path\":\"/dev/x\",\"major\":1,\"minor\":3}", "linux.devices[0]"),
    ("/linux/devices/0", "{\"path\":\"/etc/passwd/x\",\"type\":\"c\",\"major\":1,\"minor\":3}", "/etc/passwd/x"),
    ("/linux/devices/0", "{\"path\":\"/dev/a\\u0000b\",\"type\":\"c\",\"major\":1,\"minor\":3}", "linux.devices"),
    ("/linux/cgroupsPath", "\"/a\\u0000b\"", "cgroupsPath"),
    ("/linux/resources/cpu", "{\"cpus\":\"bogus\"}", "cpuset.cpus"),
    ("/linux/resources/cpu", "{\"mems\":\"99\"}", "cpuset.mems"),
    ("/linux/resources/cpu", "{\"quota\":1,\"period\":1}", "cpu.cfs"),
    ("/linux/resources/memory", "{\"limit\":1}", "memory"),
    ("/linux/resources/memory", "{\"limit\":100000000,\"swap\":1000}", "memory"),
    ("/linux/resources/hugepageLimits", "[{\"pageSize\":\"3MB\",\"limit\":1}]", "hugetlb"),
    ("/linux/resources/devices", "[{\"allow\":true,\"access\":\"xyz\"}]", "access"),
    ("/linux/sysctl", "{\"kernel.panic\":\"1\"}", "kernel.panic"),
    ("/linux/sysctl", "{\"kernel.hostname\":\"x\"}", "kernel.hostname"),
    ("/linux/sysctl", "{\"net..x\":\"1\"}", "net..x"),
    ("/linux/sysctl", "{\"net/../../kernel/panic\":\"1\"}", "panic"),
    ("/linux/sysctl", "{\"net.nosuch.x\":\"1\"}", "net/nosuch/x"),
    ("/linux/sysctl", "{\"net.ipv4.ip_forward\":\"bogus\"}", "net/ipv4/ip_forward"),
    ("/linux/seccomp", "{}", "linux.seccomp: missing field `defaultAction`"),
    ("/linux/seccomp", "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"read\"]}]}", "linux.seccomp.syscalls[0]: missing field `action`"),
    ("/linux/seccomp", "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"read\"],\"action\":\"SCMP_ACT_ERRNO\",\"args\":[{\"index\":6,\"value\":1,\"op\":\"SCMP_CMP_EQ\"}]}]}", "seccomp"),
    ("/linux/seccomp", "{\"defaultAction\":\"SCMP_ACT_NOTIFY\"}", "SCMP_ACT_NOTIFY"),
    ("/linux/rootfsPropagation", "\"bogus\"", "rootfsPropagation"),
    ("/linux/maskedPaths", "[\"proc/keys\"]", "linux.maskedPaths"),
    ("/linux/readonlyPaths", "[\"proc/sys\"]", "linux.readonlyPaths"),
    ("/linux/maskedPaths", "[\"/a\\u0000b\"]", "linux.maskedPaths"),
    ("/linux/mountLabel", "\"nosuch\"", "mountLabel"),
    ("/linux/intelRdt", "{\"closID\":\"x\"}", "intelRdt"),
    ("/linux/netDevices", "{\"nosuch0\":{}}", "nosuch0"),
    ("/linux/netDevices", "{\"lo\":{\"name\":\"a/b\"}}", "netDevices"),
    ("/linux/memoryPolicy", "{\"mode\":\"MPOL_BIND\",\"nodes\":\"x\"}", "memoryPolicy"),
    ("/linux/memoryPolicy", "{\"mode\":\"MPOL_BIND\",\"nodes\":\"999\"}", "memoryPolicy"),
];

/// `/process/args/0` as `process.args[0]`.
fn path_of(pointer: &str) -> String {
    let mut path = String::new();
    for key in pointer.split('/').skip(1) {
        match key.parse::<usize>() {
            Ok(index) => path += &format!("[{index}]"),
            Err(_) if path.is_empty() => path += key,
            Err(_) => path += &format!(".{key}"),
        }
    }
    path
}

/// Files that some values need.
fn prepare(bundle: &mut Bundle) {
    davit_tests::write_program(&bundle.rootfs("script"), "#!/no/interpreter\n");
    for (target, link) in [("/tmp", "link"), ("/proc", "toproc"), ("/loop", "loop")] {
        std::os::unix::fs::symlink(target, bundle.rootfs(link)).unwrap();
    }
}

/// Something to spoil, where the template has nothing.
fn fill(bundle: &mut Bundle, pointer: &str) {
    let lists = [
        ("/process/user/additionalGids", json!([1])),
        ("/hooks/prestart", json!([{"path": "/bin/true"}])),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}])),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}])),
        ("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 1}])),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["sync"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
        ),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER"})),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 0})),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_DEFAULT", "nodes": ""})),
        ("/linux/personality", json!({"domain": "LINUX"})),
        ("/process/consoleSize", json!({"height": 1, "width": 1})),
    ];
    for (list, value) in lists {
        if pointer.starts_with(&format!("{list}/")) && bundle.config.pointer(list).is_none() {
            bundle.set(list, value);
        }
    }
}

fn spoil(bundle: &mut Bundle, pointer: &str, text: &str) {
    prepare(bundle);
    fill(bundle, pointer);
    if text.is_empty() {
        bundle.remove(pointer);
        return;
    }
    let value: Value = serde_json::from_str(text).unwrap();
    match pointer.strip_suffix("/-") {
        Some(list) => bundle.push(list, value),
        None => bundle.set(pointer, value),
    };
}

fn check(world: &World, row: &Row) {
    let (pointer, text, words) = row;
    let mut bundle = world.bundle();
    bundle.args(&["true"]);
    spoil(&mut bundle, pointer, text);
    let c = world.container(&bundle);
    let mut create = c.create(&[]);
    assert_eq!(create.stdout, "");
    if create.code == 0 {
        // A wrong interpreter is found by execve, and so by start.
        create = c.simple("start");
        c.call("delete", &["--force"], &[]).run().ok();
    }
    let error = create.error();
    let path = format!("config.json: {}: ", path_of(pointer));
    create.fails(1, if words.is_empty() { &path } else { words });
    assert_sentence(&error);
    c.assert_nothing_left();
}

fn table(test: &str, rows: &[Row]) {
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return davit_tests::skip(test, "davit's words").unwrap_or_default();
    }
    each(rows, |(pointer, text, _)| format!("{pointer} = {text}"), |row| check(&world, row));
}

#[test]
fn a_value_of_the_wrong_type_is_named_by_its_path() {
    table("a_value_of_the_wrong_type_is_named_by_its_path", TYPES);
}

#[test]
fn a_value_that_makes_no_sense_is_named() {
    table("a_value_that_makes_no_sense_is_named", VALUES);
}
