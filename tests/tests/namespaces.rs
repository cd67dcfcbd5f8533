//! Namespaces: new ones, the host's, joined ones, and user namespaces with mappings.

use std::fs;
use std::process::{Child, Command, Stdio};

use davit_tests::{Bundle, World, wait_until};
use serde_json::json;

/// Spec name and the name below /proc/<pid>/ns.
const KINDS: [(&str, &str); 5] =
    [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt")];

fn namespace(pid: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn listed_namespaces_are_new_and_others_are_the_hosts() {
    let Some(world) = World::enter("listed_namespaces_are_new_and_others_are_the_hosts") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).push("/linux/namespaces", json!({"type": "cgroup"}));
    let c = world.container(&bundle).started();
    let pid = c.pid().to_string();
    for (_, kind) in KINDS {
        assert_ne!(namespace(&pid, kind), namespace("self", kind), "{kind}");
    }
    assert_ne!(namespace(&pid, "cgroup"), namespace("self", "cgroup"));
    assert_eq!(namespace(&pid, "user"), namespace("self", "user"));
    assert_eq!(c.sh("cat /proc/1/cgroup | sed 's/.*:/:/' | sort -u"), ":/");
    c.finish();

    for (name, kind) in KINDS {
        if name == "mount" {
            continue;
        }
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]).without_namespace(name).remove("/hostname");
        if name == "network" {
            // sysfs can be mounted only by the owner of the network namespace, which root of the host is.
            assert!(bundle.config["mounts"].is_array());
        }
        let c = world.container(&bundle).started();
        assert_eq!(namespace(&c.pid().to_string(), kind), namespace("self", kind), "{kind}");
        c.finish();
    }
}

/// What is around the runtime: who may leave its network namespace and come back has the container's made while init
/// mounts; else the clone makes it.
#[test]
fn a_new_network_namespace_has_its_loopback_device_whoever_makes_it() {
    let test = "a_new_network_namespace_has_its_loopback_device_whoever_makes_it";
    let full = "no space left on device (the limit of a kind of namespaces is reached: see /proc/sys/user)";
    let in_user_namespace: &[&str] = &["unshare", "--map-root-user"];
    let with_network: &[&str] = &["unshare", "--map-root-user", "--net"];
    for (around, maker) in
        [(&[][..], ""), (in_user_namespace, "clone3"), (with_network, "make network namespace")]
    {
        let Some(mut world) = World::enter(test) else { return };
        world.through(around);
        let mut bundle = world.bundle();
        bundle.args(&[
            "sh",
            "-c",
            "cat /sys/class/net/lo/flags; ls /sys/class/net; readlink /proc/self/ns/net",
        ]);
        // Of devpts: the user namespace has one group.
        for mount in bundle.config["mounts"].as_array_mut().unwrap() {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|option| option != "gid=5");
            }
        }
        let c = world.container(&bundle);
        let output = c.run(&[]).ok();
        let lines: Vec<&str> = output.stdout.lines().collect();
        // IFF_UP and IFF_LOOPBACK; no device of the host's.
        assert_eq!(lines[..2], ["0x9", "lo"], "through {around:?}");
        assert_ne!(lines[2], namespace("self", "net"), "through {around:?}");
        c.assert_nothing_left();
        if around.is_empty() || world.is_runc() {
            // The limit would be the host's; the words are davit's.
            continue;
        }
        drop(c);
        world.through(&["sh", "-c", "echo 0 > /proc/sys/user/max_net_namespaces; exec \"$@\"", "sh"]);
        let c = world.container(&bundle);
        c.run(&[]).fails(1, &format!("{maker}: {full}"));
        c.assert_nothing_left();
    }
}

/// A process in new namespaces, ended when dropped.
struct Holder(Child);

impl Holder {
    fn new(flags: &[&str]) -> Self {
        let child = Command::new("unshare")
            .args(flags)
            .args(["sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut holder = Holder(child);
        let mut line = String::new();
        let out = holder.0.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        holder
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
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

#[test]
fn namespaces_are_joined_by_path() {
    let Some(world) = World::enter("namespaces_are_joined_by_path") else { return };
    let holder = Holder::new(&["--net", "--ipc", "--uts"]);
    let mut bundle = world.bundle();
    for (name, kind) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        join(&mut bundle, name, &format!("/proc/{}/ns/{kind}", holder.pid()));
    }
    bundle.args(&["sleep", "1000"]).remove("/hostname");
    let c = world.container(&bundle).started();
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(&c.pid().to_string(), kind), namespace(&holder.pid(), kind), "{kind}");
    }
    assert_ne!(namespace(&c.pid().to_string(), "pid"), namespace("self", "pid"));
    // exec joins all of them, whatever made them.
    for (_, kind) in KINDS {
        let inside = c.sh(&format!("readlink /proc/self/ns/{kind}"));
        assert_eq!(inside, namespace(&c.pid().to_string(), kind), "exec: {kind}");
    }
    c.finish();
}

#[test]
fn a_pid_namespace_is_shared_between_containers() {
    let Some(world) = World::enter("a_pid_namespace_is_shared_between_containers") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let sandbox = world.container(&bundle).started();
    let mut second = world.bundle();
    join(&mut second, "pid", &format!("/proc/{}/ns/pid", sandbox.pid()));
    second.args(&["sleep", "1001"]);
    let c = world.container(&second).started();
    assert_eq!(namespace(&c.pid().to_string(), "pid"), namespace(&sandbox.pid().to_string(), "pid"));
    // The sandbox's init is process 1, the container's is not.
    assert_eq!(c.sh("cat /proc/1/cmdline | tr '\\0' ' '"), "sleep 1000");
    let code = c.exec(&[], &["sh", "-c", "exit 9"]);
    code.exits(9);
    c.finish();
    assert_eq!(sandbox.status(), "running", "the sandbox survives");
    sandbox.finish();
}

fn with_user_namespace(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]))
        .set("/linux/gidMappings", json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]));
    // Mapped root must be able to reach the rootfs and to make mount points in it.
    for dir in [bundle.dir().parent().unwrap(), bundle.dir(), &bundle.rootfs("")] {
        Command::new("chmod").arg("755").arg(dir).status().unwrap();
    }
    Command::new("chown").args(["-R", "100000:200000"]).arg(bundle.rootfs("")).status().unwrap();
    bundle
}

#[test]
fn user_namespace_with_mappings() {
    let Some(world) = World::enter("user_namespace_with_mappings") else { return };
    let mut bundle = with_user_namespace(&world);
    bundle.args(&["sleep", "1000"]).set("/root/readonly", json!(false));
    let c = world.container(&bundle).started();
    let pid = c.pid().to_string();
    assert_ne!(namespace(&pid, "user"), namespace("self", "user"));
    let words = |file: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words("uid_map"), ["0", "100000", "65536"]);
    assert_eq!(words("gid_map"), ["0", "200000", "65536"]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("\nUid:\t100000\t100000\t100000\t100000\n"), "{status}");
    assert!(status.contains("\nGid:\t200000\t200000\t200000\t200000\n"), "{status}");

    assert_eq!(c.sh("id -u; id -g; echo $HOME"), "0\n0\n/root");
    assert_eq!(c.sh("touch /tmp/made; stat -c '%u %g' /tmp/made"), "0 0");
    let made = fs::metadata(bundle.rootfs("tmp/made")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((made.uid(), made.gid()), (100_000, 200_000));
    // Devices are the host's, bound; they work.
    assert_eq!(
        c.sh("echo x > /dev/null; head -c 3 /dev/zero | wc -c; stat -c %F /dev/null"),
        "3\ncharacter special file"
    );
    let other = c.exec(&["--user", "1000:1000"], &["id", "-u"]).ok();
    assert_eq!(other.stdout, "1000\n");
    c.finish();
}

#[test]
fn a_user_namespace_is_joined_by_path() {
    let Some(world) = World::enter("a_user_namespace_is_joined_by_path") else { return };
    let mut first = with_user_namespace(&world);
    first.args(&["sleep", "1000"]);
    let sandbox = world.container(&first).started();
    let pid = sandbox.pid();
    let mut second = with_user_namespace(&world);
    join(&mut second, "user", &format!("/proc/{pid}/ns/user"));
    join(&mut second, "network", &format!("/proc/{pid}/ns/net"));
    join(&mut second, "ipc", &format!("/proc/{pid}/ns/ipc"));
    if !world.is_runc() {
        // runc 1.1 wants mappings even then.
        second.remove("/linux/uidMappings").remove("/linux/gidMappings");
    }
    second.args(&["sleep", "1001"]);
    let c = world.container(&second).started();
    for kind in ["user", "net", "ipc"] {
        assert_eq!(namespace(&c.pid().to_string(), kind), namespace(&pid.to_string(), kind), "{kind}");
    }
    assert_eq!(c.sh("id -u"), "0");
    c.finish();
    sandbox.finish();
}

#[test]
fn hostname_and_domainname() {
    let Some(world) = World::enter("hostname_and_domainname") else { return };
    let mut bundle = world.bundle();
    bundle.script("hostname; cat /proc/sys/kernel/domainname").set("/hostname", json!("my-host"));
    if !world.is_runc() {
        // runc 1.1 does not know it.
        bundle.set("/domainname", json!("my.domain"));
    }
    let c = world.container(&bundle);
    let expected = if world.is_runc() { "my-host\n(none)\n" } else { "my-host\nmy.domain\n" };
    assert_eq!(c.run(&[]).ok().stdout, expected);
    c.assert_nothing_left();
}

#[test]
fn loopback_is_up_in_a_new_network_namespace() {
    let Some(world) = World::enter("loopback_is_up_in_a_new_network_namespace") else { return };
    let mut bundle = world.bundle();
    bundle.script("cat /sys/class/net/lo/flags; ls /sys/class/net");
    let c = world.container(&bundle);
    // IFF_UP | IFF_LOOPBACK
    assert_eq!(c.run(&[]).ok().stdout, "0x9\nlo\n");
    c.assert_nothing_left();
}

#[test]
fn sysctls_are_set_in_the_namespaces() {
    let Some(world) = World::enter("sysctls_are_set_in_the_namespaces") else { return };
    let host = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let mut bundle = world.bundle();
    bundle
        .set("/linux/sysctl", json!({"kernel.msgmax": "7777", "net.ipv4.ip_forward": "1"}))
        .script("cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward");
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).ok().stdout, "7777\n1\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), host);
    wait_until("nothing left", || !world.root().join(&c.id).exists());
    c.assert_nothing_left();
}
