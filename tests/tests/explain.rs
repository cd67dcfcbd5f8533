//! `davit explain`: the plan in words is what really happens, and printing it changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use davit_tests::{World, copy_program, skip};
use serde_json::{Value, json};

fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if world.is_runc() { skip(test, "runc has no such command") } else { Some(world) }
}

/// Calls that only making a container needs: each one in a trace must be explained, and the reverse.
const OF_CONTAINERS: [&str; 24] = [
    "bpf",
    "capset",
    "chroot",
    "fsconfig",
    "fsmount",
    "fsopen",
    "keyctl",
    "mknodat",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "personality",
    "pivot_root",
    "setdomainname",
    "setgroups",
    "sethostname",
    "setns",
    "setresgid",
    "setresuid",
    "setsid",
    "symlinkat",
    "umask",
    "unshare",
];

fn explained(world: &World, flags: &[&str], bundle: &Path) -> Value {
    let words = [&["explain", "--json"][..], flags, &[bundle.to_str().unwrap()]].concat();
    let document = world.call(&words).run().ok().json();
    assert_eq!(document["version"], 1);
    document
}

fn calls(document: &Value, by: Option<&str>) -> BTreeSet<String> {
    let steps = document["steps"].as_array().unwrap().iter();
    let taken = steps.filter(|step| by.is_none_or(|by| step["by"] == by));
    let all = taken.flat_map(|step| step["calls"].as_array().unwrap());
    all.map(|call| call.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_explained_calls_are_made_and_no_others() {
    let Some(world) = enter("the_explained_calls_are_made_and_no_others") else { return };
    if !Path::new("/usr/bin/strace").exists() {
        skip::<()>("the_explained_calls_are_made_and_no_others", "no strace");
        return;
    }
    let mut bundle = world.bundle();
    bundle.args(&["true"]).set("/domainname", json!("d"));
    bundle.mount("/mnt", "bind", "/tmp", &["bind", "ro"]);
    let c = world.container(&bundle);
    let document = explained(&world, &[], bundle.dir());
    let trace = world.path("trace");
    let strace = ["strace", "-f", "-o", trace.to_str().unwrap()];
    c.call("run", &["-b", bundle.dir().to_str().unwrap()], &[]).wrapper(&strace).run().ok();
    let text = fs::read_to_string(trace).unwrap();
    let name = |line: &str| line.split_whitespace().nth(1)?.split('(').next().map(str::to_owned);
    // What the runtime does before clone3 protects its own binary: that is no step of the container.
    let after = text.lines().skip_while(|line| !line.contains(" clone3("));
    let mut traced: BTreeSet<String> = after.filter_map(name).collect();
    // Which of these a stat is made of is the C library's choice.
    if ["fstat", "stat", "lstat", "statx"].iter().any(|call| traced.contains(*call)) {
        traced.insert("newfstatat".to_owned());
    }
    let said = calls(&document, None);
    for call in calls(&document, Some("init")) {
        assert!(traced.contains(&call), "explained, but not made: {call}");
    }
    for call in OF_CONTAINERS.iter().filter(|call| traced.contains(**call)) {
        assert!(said.contains(*call), "made, but not explained: {call}");
    }
    c.assert_nothing_left();
}

#[test]
fn explaining_needs_no_root_and_changes_nothing() {
    let Some(world) = enter("explaining_needs_no_root_and_changes_nothing") else { return };
    let mut bundle = world.bundle();
    // An ordinary user's container has a user namespace with that user's ids alone: no gid 5 for terminals.
    bundle.set("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
    let c = world.container(&bundle);
    // The scratch directory is root's alone.
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let davit = world.path("davit");
    copy_program(world.runtime(), &davit);
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let dir = bundle.dir().to_str().unwrap();
    let twice = world.call(&["explain", "--bundle", dir, dir]).run();
    twice.fails(1, "the bundle is given twice: by --bundle and as an argument");
    let words = ["explain", "--id", &c.id, "--bundle", dir];
    let call = world.call(&words).with(&davit).without_log().wrapper(&user).run().ok();
    let lines: Vec<&str> = call.stdout.lines().collect();
    assert!(lines[0].starts_with("  1 runtime make cgroup ") && lines[0].contains(&c.id), "{}", lines[0]);
    assert!(call.stdout.contains(" init    mount proc on /proc [fsopen fsconfig fsmount move_mount]\n"));
    assert!(call.stdout.contains(" in new user,mount,") && call.stdout.contains(" map ids uids 0:65534:1 "));
    assert!(call.stdout.contains(&format!("join session keyring _ses.{}", c.id)));
    assert!(lines.last().unwrap().ends_with("[close_range execve]"));
    c.assert_nothing_left();
}

#[test]
fn what_the_runtime_does_from_outside_is_explained() {
    let Some(world) = enter("what_the_runtime_does_from_outside_is_explained") else { return };
    let mut bundle = world.bundle();
    bundle
        .push("/linux/namespaces", json!({"type": "time"}))
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 7}}))
        .set("/linux/intelRdt", json!({"closID": "gold"}))
        .set("/linux/netDevices", json!({"dv0": {"name": "eth0"}}));
    bundle.write();
    let document = explained(&world, &[], bundle.dir());
    let steps = document["steps"].as_array().unwrap();
    for (step, object) in [
        ("make time namespace", "boottime 7 0"),
        ("join resctrl group", "gold"),
        ("move network device", "dv0 as eth0"),
        ("set CPUs", "all of the cgroup's"),
    ] {
        assert!(steps.iter().any(|s| s["step"] == step && s["object"] == object), "{step}: {steps:?}");
    }
}

#[test]
fn hooks_limits_and_seccomp_are_explained_in_their_places() {
    let Some(world) = enter("hooks_limits_and_seccomp_are_explained_in_their_places") else { return };
    let mut bundle = world.bundle();
    for kind in ["prestart", "createContainer", "poststart"] {
        bundle.set(&format!("/hooks/{kind}"), json!([{ "path": format!("/hook-{kind}") }]));
    }
    bundle.set("/linux/resources/pids/limit", json!(7));
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    bundle.write();
    let document = explained(&world, &[], bundle.dir());
    let steps = document["steps"].as_array().unwrap();
    let at = |step: &str, object: &str| {
        let found =
            steps.iter().position(|s| s["step"] == step && s["object"].as_str().unwrap().contains(object));
        found.unwrap_or_else(|| panic!("no {step} {object}: {document:#}"))
    };
    let order = [
        at("make cgroup", ""),
        at("make the process", ""),
        at("write limits", "pids {\"limit\":7}"),
        at("compile and send the seccomp filter", "0 rules"),
        at("mount", "proc"),
        at("wait for the runtime's hooks", ""),
        at("run hooks", "prestart: /hook-prestart"),
        at("run hooks", "createContainer: /hook-createContainer"),
        at("switch root", ""),
        at("wait for start", ""),
        at("load seccomp filter", ""),
        at("execute", "sh"),
        at("run hooks", "poststart: /hook-poststart"),
    ];
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn an_exec_is_explained_by_its_process() {
    let Some(world) = enter("an_exec_is_explained_by_its_process") else { return };
    let bundle = world.bundle();
    bundle.write();
    let file = world.path("process.json");
    fs::write(&file, r#"{"cwd":"/","args":["ls"],"user":{"uid":7,"gid":8}}"#).unwrap();
    let document = explained(&world, &["--process", file.to_str().unwrap()], bundle.dir());
    let text = document.to_string();
    assert!(text.contains("join namespaces") && text.contains("uid 7 gid 8") && !text.contains("fsopen"));
    let last = document["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["step"], &last["object"]), (&json!("execute"), &json!("ls")));
}

#[test]
fn mistakes_are_found_without_making_anything() {
    let Some(world) = enter("mistakes_are_found_without_making_anything") else { return };
    let mut bundle = world.bundle();
    bundle.mount("/", "proc", "proc", &[]).write();
    let dir = bundle.dir().to_str().unwrap();
    world
        .call(&["explain", dir])
        .run()
        .fails(1, "mounts[]: /: only a bind or a filesystem of its own can be mounted over /");
    let other = world.path("other.json");
    fs::write(&other, "{").unwrap();
    world.call(&["explain", "--config", other.to_str().unwrap(), dir]).run().fails(1, "other.json");
    world.call(&["explain", "/nosuch"]).run().fails(1, "open bundle /nosuch: no such file or directory");
}
