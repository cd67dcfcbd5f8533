//! `davit features`: each thing that it claims works when it is used, and what runc and crun claim is claimed.

use std::fs;
use std::path::Path;
use std::process::Command;

use davit_tests::sources::root;
use davit_tests::{Bundle, Output, RUNC, World, skip, write_program};
use serde_json::{Value, json};

fn enter(test: &str) -> Option<World> {
    let world = World::enter_with_runc(test)?;
    if world.is_runc() { skip(test, "about davit's document") } else { Some(world) }
}

fn document(world: &World) -> Value {
    world.call(&["features"]).run().ok().json()
}

#[track_caller]
fn list(document: &Value, pointer: &str) -> Vec<String> {
    let values = document.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer}"));
    values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

fn run(world: &World, bundle: &Bundle) -> Output {
    let c = world.container(bundle);
    let out = c.run(&[]);
    c.assert_nothing_left();
    out
}

/// Keys of objects, as paths.
fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
    for (key, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{key}");
        keys(inner, &path, found);
        found.push(path);
    }
}

/// What a peer claims and davit does not, with the reason.
const NOT_CLAIMED: [(&str, &str); 3] = [
    ("/linux/seccomp/archs", "davit runs on x86_64 and aarch64 only, and their 32-bit modes"),
    ("/mountOptions acl", "runc 1.1 takes it for a flag; the kernel takes it as data of the filesystem"),
    ("/mountOptions noacl", "as acl"),
];

#[test]
fn what_peers_claim_is_claimed() {
    let test = "what_peers_claim_is_claimed";
    let Some(world) = enter(test) else { return };
    let davit = document(&world);
    assert!(!davit.to_string().contains("null"), "no claim is null: callers take that for unknown");
    let mut peers = vec![Path::new(RUNC).to_owned()];
    let tree =
        Command::new(root().join("hack/debian-tree")).args(["sid", "containerd", "runc", "crun"]).output();
    match tree.ok().filter(|out| out.status.success()) {
        Some(out) => {
            let bin = Path::new(String::from_utf8(out.stdout).unwrap().trim()).join("bin");
            peers.extend([bin.join("runc"), bin.join("crun")]);
        }
        None => skip::<()>(test, "without the newest runc and crun").unwrap_or_default(),
    }
    let excused = |claim: &str| {
        NOT_CLAIMED.iter().any(|(known, _)| claim == *known || claim.starts_with(&format!("{known} ")))
    };
    let mut lacking = Vec::new();
    for peer in &peers {
        let theirs = world.call(&["features"]).with(peer).without_log().run().ok().json();
        let mut paths = Vec::new();
        keys(&theirs, "", &mut paths);
        for path in paths.iter().filter(|path| !path.starts_with("/annotations")) {
            let (their, own) = (theirs.pointer(path).unwrap(), davit.pointer(path));
            let missing = match (their, own) {
                (Value::Array(items), own) if path != "/potentiallyUnsafeConfigAnnotations" => {
                    let has =
                        |item: &Value| own.and_then(Value::as_array).is_some_and(|own| own.contains(item));
                    items
                        .iter()
                        .filter(|item| !has(item))
                        .map(|item| format!("{path} {}", item.as_str().unwrap()))
                        .collect()
                }
                (Value::Bool(true), own) if own != Some(&json!(true)) => vec![path.clone()],
                (_, None) => vec![path.clone()],
                _ => Vec::new(),
            };
            lacking.extend(missing.into_iter().filter(|claim| !excused(claim)));
        }
        assert_eq!(davit["hooks"], theirs["hooks"]);
    }
    assert_eq!(lacking, Vec::<String>::new());
}

/// The words that mountinfo has for an option, besides those that are always there.
fn shown(option: &str) -> Option<&str> {
    let plain =
        option.strip_prefix('r').filter(|rest| rest.len() > 2 && !["elatime", "emount"].contains(rest));
    let word =
        if ["ro", "rw", "remount", "relatime"].contains(&option) { option } else { plain.unwrap_or(option) };
    match word {
        "ro" | "nosuid" | "nodev" | "noexec" | "noatime" | "nodiratime" | "nosymfollow" | "sync"
        | "dirsync" | "lazytime" => Some(word),
        "shared" => Some("shared:"),
        "unbindable" => Some("unbindable"),
        _ => None,
    }
}

#[test]
fn claimed_mount_options_are_taken() {
    let Some(world) = enter("claimed_mount_options_are_taken") else { return };
    let options = list(&document(&world), "/mountOptions");
    assert!(options.is_sorted());
    let mut failed = Vec::new();
    for option in options {
        let mut bundle = world.bundle();
        let source = bundle.rootfs("tmp").to_str().unwrap().to_owned();
        match option.as_str() {
            "bind" | "rbind" | "src-nofollow" | "dest-nofollow" | "copy-symlink" => {
                bundle.mount("/mnt", "bind", &source, &["bind", &option]);
            }
            "idmap" | "ridmap" => {
                let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
                bundle.push(
                    "/mounts",
                    json!({"destination": "/mnt", "type": "bind", "source": source, "options": ["bind", option],
                           "uidMappings": map, "gidMappings": map}),
                );
            }
            "remount" => {
                bundle.mount("/mnt", "tmpfs", "tmpfs", &[]).mount(
                    "/mnt",
                    "tmpfs",
                    "tmpfs",
                    &["remount", "ro"],
                );
            }
            _ => drop(bundle.mount("/mnt", "tmpfs", "tmpfs", &[&option]).config.is_object()),
        }
        bundle.script("grep ' /mnt ' /proc/self/mountinfo");
        let out = run(&world, &bundle);
        if out.code != 0 {
            failed.push(format!("{option}: {}", out.error()));
        }
        let word = if option == "remount" { Some("ro") } else { shown(&option) };
        if word.is_some_and(|word| !out.stdout.contains(word)) {
            failed.push(format!("{option}: not in {}", out.stdout));
        }
    }
    assert_eq!(failed, Vec::<String>::new());
}

#[test]
fn claimed_namespaces_are_made() {
    let Some(world) = enter("claimed_namespaces_are_made") else { return };
    for kind in list(&document(&world), "/linux/namespaces") {
        let file = match kind.as_str() {
            "mount" => "mnt",
            "network" => "net",
            other => other,
        };
        let mut bundle = world.bundle();
        let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "pid"})];
        if !["mount", "pid"].contains(&kind.as_str()) {
            namespaces.push(json!({"type": kind}));
        }
        bundle.set("/linux/namespaces", json!(namespaces)).remove("/hostname");
        bundle.set("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
        if kind == "user" {
            let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        }
        bundle.args(&["readlink", &format!("/proc/self/ns/{file}")]);
        let inside = run(&world, &bundle).ok().stdout;
        let own = fs::read_link(format!("/proc/self/ns/{file}")).unwrap();
        assert_ne!(Path::new(inside.trim()), own, "{kind}");
    }
}

#[test]
fn claimed_capabilities_are_given() {
    let Some(world) = enter("claimed_capabilities_are_given") else { return };
    let names = list(&document(&world), "/linux/capabilities");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a capability set");
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let host = mask(&status, "CapBnd:");
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    assert!(names.len() > usize::try_from(last).unwrap(), "the kernel knows {last}");
    // Those that this machine withholds even from root can't be given; runc fails on them too.
    let given: Vec<_> = (0..=last).zip(&names).filter(|(number, _)| host & 1 << number != 0).collect();
    let given: Vec<_> = given.into_iter().map(|(_, name)| name).collect();
    let mut bundle = world.bundle();
    bundle.args(&["cat", "/proc/self/status"]);
    for set in ["bounding", "permitted", "effective"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(given));
    }
    let inside = run(&world, &bundle).ok().stdout;
    for key in ["CapBnd:", "CapPrm:", "CapEff:"] {
        assert_eq!(mask(&inside, key), host, "{key}");
    }
}

#[test]
fn claimed_hooks_run() {
    let Some(world) = enter("claimed_hooks_run") else { return };
    let script = world.path("hook.sh");
    write_program(&script, &format!("#!/bin/sh\n: > {}/$1\n", world.path("").display()));
    let dir = world.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    for kind in list(&document(&world), "/hooks") {
        let mut bundle = world.bundle();
        bundle.mount(&dir, "bind", &dir, &["bind"]).args(&["true"]);
        let hook =
            json!({"path": script, "args": ["hook", kind], "env": ["PATH=/usr/bin:/bin"], "timeout": 10});
        bundle.set(&format!("/hooks/{kind}"), json!([hook]));
        run(&world, &bundle).ok();
        assert!(world.path(&kind).exists(), "{kind}");
    }
}

/// A container with this filter runs a script.
fn filtered(world: &World, seccomp: Value, script: &str) -> Output {
    let mut bundle = world.bundle();
    bundle.script(script).set("/linux/seccomp", seccomp).set("/root/readonly", json!(false));
    run(world, &bundle)
}

#[test]
fn claimed_seccomp_actions_act() {
    let Some(world) = enter("claimed_seccomp_actions_act") else { return };
    for action in list(&document(&world), "/linux/seccomp/actions") {
        let seccomp = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}]
        });
        if action == "SCMP_ACT_NOTIFY" {
            // It asks an agent: seccomp_notify.rs.
            filtered(&world, seccomp, "true").fails(1, "linux.seccomp.listenerPath is required");
            continue;
        }
        // In a child, so that a killed one shows in its code.
        let out =
            filtered(&world, seccomp, "mkdir /tmp/new 2>&1; echo code $?; [ -d /tmp/new ] && echo made")
                .stdout;
        let expected: &[&str] = match action.as_str() {
            "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" => &["code 0\n", "made"],
            "SCMP_ACT_ERRNO" => &["Operation not permitted", "code 1\n"],
            // Nobody traces it.
            "SCMP_ACT_TRACE" => &["Function not implemented", "code 1\n"],
            // 128 + SIGSYS.
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_PROCESS" | "SCMP_ACT_KILL_THREAD" | "SCMP_ACT_TRAP" => {
                &["code 159\n"]
            }
            other => panic!("{other}: what does it do?"),
        };
        assert!(expected.iter().all(|text| out.contains(text)), "{action}: {out}");
        assert_eq!(out.contains("made"), expected.contains(&"made"), "{action}: {out}");
    }
}

#[test]
fn claimed_seccomp_operators_compare() {
    let Some(world) = enter("claimed_seccomp_operators_compare") else { return };
    for operator in list(&document(&world), "/linux/seccomp/operators") {
        // Signals 1, 10 and 12 are told apart by kill's second argument.
        let (value, value_two, refused) = match operator.as_str() {
            "SCMP_CMP_EQ" => (10, 0, "10"),
            "SCMP_CMP_NE" => (10, 0, "1 12"),
            "SCMP_CMP_LT" => (10, 0, "1"),
            "SCMP_CMP_LE" => (10, 0, "1 10"),
            "SCMP_CMP_GE" => (10, 0, "10 12"),
            "SCMP_CMP_GT" => (10, 0, "12"),
            "SCMP_CMP_MASKED_EQ" => (8, 8, "10 12"),
            other => panic!("{other}: how does it compare?"),
        };
        let arg = json!({"index": 1, "value": value, "valueTwo": value_two, "op": operator});
        let seccomp = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [arg]}]
        });
        let script = "trap '' HUP USR1 USR2; for s in 1 10 12; do kill -$s $$ 2>/dev/null || echo $s; done";
        let out = filtered(&world, seccomp, script).ok().stdout;
        assert_eq!(out.split_whitespace().collect::<Vec<_>>().join(" "), refused, "{operator}");
    }
}

#[test]
fn claimed_seccomp_flags_and_architectures_are_taken() {
    let Some(world) = enter("claimed_seccomp_flags_and_architectures_are_taken") else { return };
    let document = document(&world);
    let known = list(&document, "/linux/seccomp/knownFlags");
    for flag in list(&document, "/linux/seccomp/supportedFlags") {
        assert!(known.contains(&flag));
        let seccomp = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "flags": [flag], "defaultErrnoRet": 38,
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]
        });
        let out = filtered(&world, seccomp, "mkdir /tmp/x 2>&1; grep Seccomp_filters /proc/self/status");
        assert!(out.stdout.contains("No space left on device"), "{flag}: {}{}", out.stdout, out.log);
    }
    for arch in list(&document, "/linux/seccomp/archs") {
        let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch],
                             "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
        // The host's own architecture is added: its calls are filtered whatever is listed.
        let out = filtered(&world, seccomp, "mkdir /tmp/x 2>/dev/null || echo refused");
        assert_eq!(out.stdout, "refused\n", "{arch}: {}", out.log);
    }
}

#[test]
fn claimed_memory_policies_are_taken() {
    let Some(world) = enter("claimed_memory_policies_are_taken") else { return };
    let document = document(&world);
    let taken = |policy: Value| {
        let mut bundle = world.bundle();
        bundle.args(&["true"]).set("/linux/memoryPolicy", policy.clone());
        let out = run(&world, &bundle);
        // Some sandboxes refuse the call itself; davit has made it then.
        assert!(
            out.code == 0 || out.error().contains("operation not permitted"),
            "{policy}: {}",
            out.error()
        );
    };
    for mode in list(&document, "/linux/memoryPolicy/modes") {
        match mode.as_str() {
            "MPOL_DEFAULT" | "MPOL_LOCAL" => taken(json!({"mode": mode, "nodes": ""})),
            _ => taken(json!({"mode": mode, "nodes": "0"})),
        }
    }
    for flag in list(&document, "/linux/memoryPolicy/flags") {
        taken(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]}));
    }
}
