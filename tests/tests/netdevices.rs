//! `linux.netDevices`: devices move from the runtime's network namespace into the container's. The runtime runs
//! in a network namespace of the test's own, so that the host's devices are never touched.

use std::process::Command;

use davit_tests::{Bundle, Container, Output, World, skip, unique};
use serde_json::{Value, json};

/// A named network namespace that plays the host's; removed with all its devices when dropped.
struct Netns(String);

impl Netns {
    fn new() -> Self {
        let name = unique("dt").replace("_", "");
        ip(&["netns", "add", &name]);
        Netns(name)
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// `ip -n NAME ARGS`.
    fn ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", &self.0][..], args].concat())
    }

    /// A pair of devices: `name` with addresses, up, and its peer.
    fn add_veth(&self, name: &str) {
        let peer = format!("{name}-p");
        self.ip(&["link", "add", name, "type", "veth", "peer", "name", &peer]);
        self.ip(&["addr", "add", "10.9.8.7/24", "brd", "+", "dev", name]);
        self.ip(&["addr", "add", "fd00::7/64", "nodad", "dev", name]);
        // Link scope, and one with a lifetime: both stay behind.
        self.ip(&["addr", "add", "169.254.1.1/16", "scope", "link", "dev", name]);
        let lifetime = ["valid_lft", "600", "preferred_lft", "600"];
        self.ip(&[&["addr", "add", "10.9.9.9/24", "dev", name][..], &lifetime].concat());
        self.ip(&["link", "set", name, "mtu", "1400", "address", "02:00:00:00:00:07", "up"]);
    }

    /// `ip -json addr show dev NAME`, or null when there is no such device.
    fn device(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.ip(&["-json", "addr", "show"])).unwrap();
        all.as_array().unwrap().iter().find(|link| link["ifname"] == name).cloned().unwrap_or(Value::Null)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().expect("ip");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Global addresses of a device as `ip -json` shows it.
fn addresses(device: &Value) -> Vec<String> {
    let mut all: Vec<_> = device["addr_info"]
        .as_array()
        .unwrap_or(&Vec::new())
        .iter()
        .filter(|address| address["scope"] == "global")
        .map(|address| format!("{}/{}", address["local"].as_str().unwrap(), address["prefixlen"]))
        .collect();
    all.sort();
    all
}

fn is_up(device: &Value) -> bool {
    device["flags"].as_array().unwrap_or_else(|| panic!("{device}")).iter().any(|flag| flag == "UP")
}

fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if world.is_runc() {
        return skip(test, "runc before 1.4 does not know the field");
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return skip(test, "no ip: apt-get install iproute2");
    }
    Some(world)
}

fn sleeping(world: &World, devices: Value) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).set("/linux/netDevices", devices);
    bundle
}

/// `create` by a runtime in that network namespace.
fn create(c: &Container<'_>, bundle: &Bundle, host: &Netns) -> Output {
    let enter = format!("--net={}", host.path());
    c.call("create", &[], &[]).dir(bundle.dir()).wrapper(&["nsenter", &enter]).run()
}

/// What a device looks like in the namespace of a process.
fn inside(pid: i32, name: &str) -> Value {
    let net = format!("--net=/proc/{pid}/ns/net");
    let output =
        Command::new("nsenter").args([&net, "ip", "-json", "addr", "show", "dev", name]).output().unwrap();
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    all[0].clone()
}

#[test]
fn a_device_moves_with_name_addresses_and_link() {
    let Some(world) = enter("a_device_moves_with_name_addresses_and_link") else { return };
    let host = Netns::new();
    host.add_veth("dv0");
    host.add_veth("dv1");
    let bundle = sleeping(&world, json!({"dv0": {"name": "eth0"}, "dv1": {}}));
    let c = world.container(&bundle);
    create(&c, &bundle, &host).ok();
    assert!(host.device("dv0").is_null() && host.device("dv1").is_null());
    for name in ["eth0", "dv1"] {
        let device = inside(c.pid(), name);
        assert!(is_up(&device), "{device}");
        assert_eq!(addresses(&device), ["10.9.8.7/24", "fd00::7/64"], "{device}");
        assert_eq!(device["mtu"], 1400);
        assert_eq!(device["address"], "02:00:00:00:00:07");
        let v4 = device["addr_info"].as_array().unwrap().iter().find(|a| a["family"] == "inet").unwrap();
        assert_eq!((&v4["broadcast"], &v4["label"]), (&json!("10.9.8.255"), &json!(name)));
    }
    c.simple("start").ok();
    assert_eq!(c.sh("cat /sys/class/net/eth0/flags"), "0x1003", "up, broadcast, multicast");
    c.finish();
    // A virtual device ends with its namespace, and its peer with it.
    davit_tests::wait_until("the peer is gone", || host.device("dv0-p").is_null());
}

#[test]
fn a_joined_namespace_keeps_the_device() {
    let Some(world) = enter("a_joined_namespace_keeps_the_device") else { return };
    let (host, pod) = (Netns::new(), Netns::new());
    host.add_veth("dv0");
    let mut bundle = sleeping(&world, json!({"dv0": {"name": "eth1"}}));
    bundle
        .without_namespace("network")
        .push("/linux/namespaces", json!({"type": "network", "path": pod.path()}));
    let c = world.container(&bundle);
    create(&c, &bundle, &host).ok();
    assert!(is_up(&inside(c.pid(), "eth1")));
    c.finish();
    assert_eq!(addresses(&pod.device("eth1")), ["10.9.8.7/24", "fd00::7/64"]);
}

#[test]
fn a_device_moves_into_a_user_namespace() {
    let Some(world) = enter("a_device_moves_into_a_user_namespace") else { return };
    let host = Netns::new();
    host.add_veth("dv0");
    let mut bundle = sleeping(&world, json!({"dv0": {}}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .for_user_namespace(100_000);
    let c = world.container(&bundle);
    create(&c, &bundle, &host).ok();
    assert_eq!(addresses(&inside(c.pid(), "dv0")), ["10.9.8.7/24", "fd00::7/64"]);
    c.finish();
}

/// A device that can't be moved, and those that were moved before it, are on the host as they were.
#[test]
fn a_failed_move_changes_nothing() {
    let Some(world) = enter("a_failed_move_changes_nothing") else { return };
    let host = Netns::new();
    host.add_veth("dv0");
    host.add_veth("dv1");
    host.ip(&["link", "set", "lo", "up"]);
    for (devices, words) in [
        (
            json!({"dv0": {"name": "lo"}}),
            "linux.netDevices: move network device dv0 (as lo): file exists \
             (the container's network namespace has a device lo already)",
        ),
        (
            json!({"dv0": {"name": "eth0"}, "dv1": {"name": "lo"}}),
            "move network device dv1 (as lo): file exists",
        ),
        (json!({"dv0": {}, "nosuch": {}}), "linux.netDevices: find network device nosuch: no such device"),
        (
            json!({"dv0": {"name": "eth0"}, "lo": {"name": "lo2"}}),
            "linux.netDevices: move network device lo (as lo2): invalid argument \
             (the kernel keeps this kind of device in its network namespace)",
        ),
    ] {
        let bundle = sleeping(&world, devices);
        let c = world.container(&bundle);
        create(&c, &bundle, &host).fails(1, words);
        c.assert_nothing_left();
        for name in ["dv0", "dv1"] {
            let device = host.device(name);
            assert!(device.is_object(), "{words}: {name} is gone");
            assert!(is_up(&device), "{words}: {device}");
            let addresses = addresses(&device);
            assert!(addresses.contains(&"10.9.8.7/24".to_owned()), "{words}: {device}");
            assert!(addresses.contains(&"fd00::7/64".to_owned()), "{words}: {device}");
        }
    }
}

#[test]
fn wrong_devices_are_named() {
    let Some(world) = enter("wrong_devices_are_named") else { return };
    let host = Netns::new();
    let join = |path: &str| json!({"type": "network", "path": path});
    for (devices, namespace, words) in [
        (json!({"a": {}}), None, "unable to move network devices without a private NET namespace"),
        (json!({"a": {}}), Some(join(&host.path())), "this network namespace is the runtime's own"),
        (json!({"a/b": {}}), Some(json!({"type": "network"})), "invalid network device name \"a/b\""),
        (
            json!({"a": {"name": "sixteen-letters-"}}),
            Some(json!({"type": "network"})),
            "\"sixteen-letters-\"",
        ),
        (
            json!({"a": {"name": "x"}, "b": {"name": "x"}}),
            Some(json!({"type": "network"})),
            "linux.netDevices: two devices would have the name \"x\"",
        ),
    ] {
        let mut bundle = sleeping(&world, devices);
        bundle.without_namespace("network");
        if let Some(namespace) = namespace {
            bundle.push("/linux/namespaces", namespace);
        }
        let c = world.container(&bundle);
        create(&c, &bundle, &host).fails(1, words);
        c.assert_nothing_left();
    }
}
