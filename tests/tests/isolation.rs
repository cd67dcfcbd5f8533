//! What the container's namespaces are given: sysctls, personality, keyring, capabilities; and namespaces that are
//! joined in an order that keeps the rights over them.

use std::process::{Child, Command, Stdio};

use davit_tests::{Bundle, World, skip};
use serde_json::{Value, json};

#[track_caller]
fn runs(world: &World, change: impl FnOnce(&mut Bundle), script: &str, expected: &str) {
    let mut bundle = world.bundle();
    bundle.script(script);
    change(&mut bundle);
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).ok().stdout.trim_end(), expected);
    c.assert_nothing_left();
}

#[track_caller]
fn fails(world: &World, change: impl FnOnce(&mut Bundle), words: &str) {
    let mut bundle = world.bundle();
    change(&mut bundle);
    let c = world.container(&bundle);
    c.create(&[]).fails(1, words);
    c.assert_nothing_left();
}

fn with_user_namespace(bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .for_user_namespace(100_000);
}

#[test]
fn sysctls_of_each_namespace() {
    let Some(world) = World::enter("sysctls_of_each_namespace") else { return };
    let sysctl = |value: Value| move |b: &mut Bundle| _ = b.set("/linux/sysctl", value);
    let all = json!({"kernel.shmmni": "1234", "fs.mqueue.msg_max": "11", "net/ipv4/conf/lo/rp_filter": "2",
        "kernel.domainname": "d.example"});
    let files = "kernel/shmmni fs/mqueue/msg_max net/ipv4/conf/lo/rp_filter kernel/domainname";
    runs(&world, sysctl(all), &format!("cd /proc/sys; cat {files}"), "1234\n11\n2\nd.example");
    if world.is_runc() {
        // Older ones take no user.*, and say it in other words.
        return;
    }
    let user = |b: &mut Bundle| {
        with_user_namespace(b);
        b.set("/linux/sysctl", json!({"user.max_ipc_namespaces": "7", "net.ipv4.ip_forward": "1"}));
    };
    runs(&world, user, "cat /proc/sys/user/max_ipc_namespaces /proc/sys/net/ipv4/ip_forward", "7\n1");
    for (key, words) in [
        ("user.max_ipc_namespaces", "not allowed without a user namespace"),
        ("kernel.hostname", "conflicts with the OCI \"hostname\" field"),
        ("kernel.panic", "is not in a separate kernel namespace"),
        ("net/../kernel/panic", "is not a valid name"),
        ("net.nosuch", "write sysctl net/nosuch: no such file or directory"),
    ] {
        fails(&world, sysctl(json!({key: "1"})), words);
    }
    fails(&world, sysctl(json!({"kernel.shmmni": "x"})), "write sysctl kernel/shmmni: invalid argument");
    // A namespace that is joined may be the host's.
    for (kind, file, key) in [("network", "net", "net.ipv4.ip_forward"), ("ipc", "ipc", "kernel.shmmni")] {
        let host = json!({"type": kind, "path": format!("/proc/self/ns/{file}")});
        let change = |b: &mut Bundle| {
            b.without_namespace(kind).push("/linux/namespaces", host).set("/linux/sysctl", json!({key: "1"}));
        };
        fails(&world, change, &format!("sysctl \"{key}\" not allowed in host {kind} namespace"));
    }
}

#[test]
fn personalities() {
    let Some(world) = World::enter("personalities") else { return };
    let set = |value: Value| move |b: &mut Bundle| _ = b.set("/linux/personality", value);
    let script = "cat /proc/self/personality";
    runs(&world, set(json!({"domain": "LINUX32"})), script, "00000008");
    if world.is_runc() {
        return;
    }
    let flags = json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE", "UNAME26"]});
    runs(&world, set(flags), script, "00060000");
    fails(
        &world,
        set(json!({"domain": "LINUX", "flags": ["BOGUS"]})),
        "linux.personality.flags: unknown flag \"BOGUS\"",
    );
    fails(&world, set(json!({"domain": "LINUX64"})), "LINUX64");
}

#[test]
fn the_session_keyring_is_searchable_by_those_inside() {
    let Some(world) = World::enter("the_session_keyring_is_searchable_by_those_inside") else { return };
    if !std::path::Path::new("/proc/keys").exists() {
        skip::<()>("the_session_keyring_is_searchable_by_those_inside", "a kernel without keyrings");
        return;
    }
    // KEY_USR_SEARCH, and KEY_OTH_SEARCH in a user namespace, where users are others (keyctl(2)).
    for (user_namespace, permissions) in [(false, "3f1b0000"), (true, "3f1b0008")] {
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]).set("/linux/maskedPaths", json!([]));
        if user_namespace {
            with_user_namespace(&mut bundle);
        }
        let c = world.container(&bundle).started();
        let line = c.sh(&format!("grep '_ses.{}:' /proc/keys | awk '{{print $5}}' | sort", c.id));
        // runc's exec makes another keyring of that name in a user namespace.
        let permissions = if user_namespace && world.is_runc() { "3f130000\n3f130008" } else { permissions };
        assert_eq!(line, permissions, "in a user namespace: {user_namespace}");
        c.finish();
    }
}

#[test]
fn capabilities_that_cannot_be_given_are_warned_of() {
    let Some(world) = World::enter("capabilities_that_cannot_be_given_are_warned_of") else { return };
    let mut bundle = world.bundle();
    let kill = json!(["CAP_KILL"]);
    bundle.script("grep -E 'Cap(Prm|Amb)' /proc/self/status").set(
        "/process/capabilities",
        json!({"bounding": ["CAP_KILL", "CAP_BOGUS"], "permitted": kill, "effective": kill, "ambient": kill}),
    );
    let c = world.container(&bundle);
    let run = c.run(&[]).ok();
    assert_eq!(run.stdout, "CapPrm:\t0000000000000020\nCapAmb:\t0000000000000000\n");
    assert!(run.log.contains("ignoring unknown or unavailable capabilities: [CAP_BOGUS]"), "{}", run.log);
    assert!(run.log.contains("can't raise ambient capability CAP_KILL: "), "{}", run.log);
    assert!(!run.log.contains("\"level\":\"error\""), "{}", run.log);
    c.assert_nothing_left();
}

/// A process in new namespaces, ended when dropped.
struct Holder(Child);

impl Holder {
    fn new(flags: &[&str]) -> Self {
        let mut child = Command::new("unshare")
            .args(flags)
            .args(["sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Holder(child)
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn join(bundle: &mut Bundle, name: &str, path: &str) {
    bundle.without_namespace(name).push("/linux/namespaces", json!({"type": name, "path": path}));
}

/// runc #4492: what the host's user namespace owns is joined before the container's, what that owns after it.
#[test]
fn namespaces_of_different_owners_are_joined() {
    let Some(world) = World::enter("namespaces_of_different_owners_are_joined") else { return };
    let mut first = world.bundle();
    with_user_namespace(&mut first);
    first.args(&["sleep", "1000"]);
    let owner = world.container(&first).started();
    let of_host = Holder::new(&["--net", "--uts"]);
    let pid = owner.pid();
    let mut bundle = world.bundle();
    with_user_namespace(&mut bundle);
    join(&mut bundle, "user", &format!("/proc/{pid}/ns/user"));
    join(&mut bundle, "network", &of_host.path("net"));
    join(&mut bundle, "uts", &of_host.path("uts"));
    join(&mut bundle, "ipc", &format!("/proc/{pid}/ns/ipc"));
    join(&mut bundle, "pid", &format!("/proc/{pid}/ns/pid"));
    bundle.remove("/hostname").args(&["sleep", "1001"]);
    let mounts = bundle.config["mounts"].as_array().unwrap().iter();
    // sysfs belongs to the owner of the network namespace, which is the host's root here.
    let without_sys: Vec<_> = mounts.filter(|m| m["type"] != "sysfs").cloned().collect();
    bundle.set("/mounts", json!(without_sys));
    let c = world.container(&bundle).started();
    let link = |pid: i32, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["user", "ipc", "pid"] {
        assert_eq!(link(c.pid(), kind), link(pid, kind), "{kind}");
    }
    for kind in ["net", "uts"] {
        assert_eq!(link(c.pid(), kind), std::fs::read_link(of_host.path(kind)).unwrap(), "{kind}");
    }
    assert_eq!(c.sh("id -u"), "0");
    c.finish();
    owner.finish();
}

#[test]
fn paths_that_are_no_namespace_of_the_type() {
    let Some(world) = World::enter("paths_that_are_no_namespace_of_the_type") else { return };
    if world.is_runc() {
        return;
    }
    for (path, words) in [
        ("/proc/self/ns/uts", "(linux.namespaces: the path is a namespace of another type)"),
        ("/etc/passwd", "(linux.namespaces: the path is not a namespace)"),
        ("/nosuch", "open net namespace /nosuch: no such file or directory"),
        ("relative", "path of namespace net must be absolute"),
    ] {
        fails(&world, |b| join(b, "network", path), words);
    }
    let own = "(linux.namespaces: the runtime is in this namespace, or may not join it)";
    fails(&world, |b| join(b, "user", "/proc/self/ns/user"), own);
    let twice = "malformed spec file: duplicated namespace net";
    fails(&world, |b| _ = b.push("/linux/namespaces", json!({"type": "network"})), twice);
}

#[test]
fn a_selinux_label_without_selinux() {
    let Some(world) = World::enter("a_selinux_label_without_selinux") else { return };
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        skip::<()>("a_selinux_label_without_selinux", "this kernel runs SELinux");
        return;
    }
    let words = "selinux label is specified in config, but selinux is disabled or not supported";
    let label = json!("system_u:system_r:container_t:s0");
    fails(&world, |b| _ = b.set("/process/selinuxLabel", label), words);
    if world.is_runc() {
        return;
    }
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    c.exec(&["--process-label", "a:b:c:s0"], &["true"]).fails(255, words);
    c.finish();
}

/// Machines with resctrl are few: what is done there is tested on a fake tree in `runtime/src/resctrl.rs`.
#[test]
fn intel_rdt_without_resctrl() {
    let Some(world) = World::enter("intel_rdt_without_resctrl") else { return };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if mounts.contains(" - resctrl ") {
        skip::<()>("intel_rdt_without_resctrl", "this machine has resctrl");
        return;
    }
    let rdt = |value: Value| move |b: &mut Bundle| _ = b.set("/linux/intelRdt", value);
    if !world.is_runc() {
        // Older ones let these pass.
        let words = "intelRdt is specified in config, but Intel RDT is not enabled";
        fails(&world, rdt(json!({})), words);
        fails(&world, rdt(json!({"closID": "gold"})), words);
        fails(
            &world,
            rdt(json!({"memBwSchema": "L3:0=f"})),
            "intelRdt.memBwSchema \"L3:0=f\" must be one line",
        );
        fails(&world, rdt(json!({"schemata": ["a\nb"]})), "intelRdt.schemata: \"a\\nb\" must be one line");
        fails(&world, rdt(json!({"closID": "mon_groups"})), "invalid intelRdt.ClosID \"mon_groups\"");
    }
    let id = "..";
    fails(&world, rdt(json!({"closID": id})), "invalid intelRdt.ClosID \"..\"");
}
