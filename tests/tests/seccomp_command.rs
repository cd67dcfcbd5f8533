//! `davit seccomp`: profiles and their programs for people.

use std::fs;
use std::path::Path;

use davit_tests::World;
use davit_tests::sources::root;
use serde_json::{Value, json};

const ENTRIES: [&str; 3] = ["docker", "containerd", "podman"];

fn enter(test: &str) -> Option<World> {
    World::enter(&format!("seccomp_command::{test}"))
}

/// The default profile of a daemon.
fn default_profile(name: &str) -> String {
    let file = root().join(format!("runtime/src/seccomp/testdata/defaults/{name}.json"));
    file.to_str().unwrap().to_owned()
}

fn file(world: &World, profile: &Value) -> String {
    let path = world.path("profile.json");
    fs::write(&path, profile.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn simulate_tells_the_decision_and_its_cost() {
    let Some(world) = enter("simulate_tells_the_decision_and_its_cost") else { return };
    let docker = default_profile("docker");
    let decision = |words: &[&str]| {
        let out = world.call(&[&["seccomp", "simulate", &docker], words].concat()).run().ok().stdout;
        out.lines().next().unwrap().to_owned()
    };
    assert_eq!(decision(&["read"]), "allow");
    assert_eq!(decision(&["0"]), "allow");
    assert_eq!(decision(&["reboot"]), "errno 1 (operation not permitted)");
    assert_eq!(decision(&["personality", "0xffffffff"]), "allow");
    assert_eq!(decision(&["personality", "2"]), "errno 1 (operation not permitted)");
    assert_eq!(decision(&["clone", "0x10000000"]), "errno 1 (operation not permitted)");
    assert_eq!(decision(&["clone", "17"]), "allow");
    assert_eq!(decision(&["700"]), "errno 38 (function not implemented)");
    assert_eq!(decision(&["--arch", "x86", "socketcall", "1"]), "allow");
    assert_eq!(decision(&["--arch", "aarch64", "read"]), "allow");
    let json = world.call(&["seccomp", "--json", "simulate", &docker, "personality", "8"]).run().ok().json();
    assert_eq!((&json["action"], &json["readsArguments"]), (&json!("allow"), &json!(true)));
    assert_eq!(json["path"].as_array().unwrap().len() as u64, json["instructions"].as_u64().unwrap());
    let traced = world.call(&["seccomp", "--trace", "simulate", &docker, "read"]).run().ok().stdout;
    assert!(traced.starts_with("   0: ld [4]") && traced.contains("; nr\n"), "{traced}");
    assert!(traced.contains("ret #0x7fff0000"), "{traced}");
}

/// The counts only go down. Docker's profile without the jump tree of libseccomp 2.5.4: 960 instructions.
#[test]
fn the_daemons_profiles_are_short() {
    let Some(world) = enter("the_daemons_profiles_are_short") else { return };
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    for (name, length, worst) in [("docker", 308, 12), ("containerd", 338, 12), ("podman", 378, 12)] {
        let profile = default_profile(name);
        let json = world.call(&["seccomp", "--json", "compile", &profile]).run().ok().json();
        let program = json["program"].as_array().unwrap().len();
        assert!(program <= length, "{name}: {program} instructions");
        let mut counts = Vec::new();
        for call in ["read", "getppid", "openat", "futex", "mount", "reboot", "open_tree", "700"] {
            let words = ["seccomp", "--json", "simulate", &profile, call];
            counts.push(world.call(&words).run().ok().json()["instructions"].as_u64().unwrap());
        }
        println!("{name}: {program} instructions, {counts:?} executed");
        assert!(counts.iter().all(|count| *count <= worst), "{name}: {counts:?}");
    }
}

#[test]
fn compile_prints_the_program() {
    let Some(world) = enter("compile_prints_the_program") else { return };
    let rule = json!({"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2,
                      "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}]});
    let profile =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [rule]});
    let file = file(&world, &profile);
    let text = world.call(&["seccomp", "compile", &file]).run().ok().stdout;
    assert!(text.contains("ld [24]                      ; args[1], low half"), "{text}");
    assert!(text.contains("; errno 2 (no such file or directory)"), "{text}");
    assert!(text.ends_with("instructions, flags: SECCOMP_FILTER_FLAG_LOG\n"), "{text}");
    let raw = world.call(&["seccomp", "--raw", "compile", &file]).run().ok();
    let bytes = fs::read(raw.stdout_path()).unwrap();
    let instructions = text.lines().count() - 1;
    assert_eq!(bytes.len(), instructions * 8);
    // BPF_LD | BPF_W | BPF_ABS of offset 4: the architecture.
    assert_eq!(bytes[..8], [0x20, 0, 0, 0, 4, 0, 0, 0]);
}

#[test]
fn compile_tells_how_long_it_takes() {
    let Some(world) = enter("compile_tells_how_long_it_takes") else { return };
    let profile = default_profile("containerd");
    let compile = |flags: &[&str]| world.call(&[&["seccomp"], flags, &["compile", &profile]].concat()).run();
    let json = compile(&["--json", "--rounds", "3"]).ok().json();
    assert_eq!(json["rounds"], 3);
    assert!(json["leastNanoseconds"].as_u64().unwrap() > 0, "{json}");
    let text = compile(&["--rounds", "1"]).ok().stdout;
    assert!(text.ends_with(" µs, the least of 1 rounds\n"), "{text}");
    compile(&["--rounds", "0"]).fails(1, "invalid value \"0\" for flag -rounds");
}

#[test]
fn explain_tells_what_becomes_of_each_call() {
    let Some(world) = enter("explain_tells_what_becomes_of_each_call") else { return };
    for name in ENTRIES {
        let profile = default_profile(name);
        let json =
            world.call(&["seccomp", "--json", "--arch", "x86_64", "explain", &profile]).run().ok().json();
        let abi = &json["archs"]["x86_64"];
        assert!(abi["fixed"]["allow"].as_array().unwrap().contains(&json!("read")), "{name}");
        let rules = abi["byArguments"]["personality"].as_array().unwrap();
        assert!(rules.contains(&json!("SCMP_ACT_ALLOW if args[0] == 0x20008")), "{name}: {rules:?}");
        assert!(abi["newer"].as_str().unwrap().starts_with("errno 38"), "{name}");
    }
    let text = world.call(&["seccomp", "explain", &default_profile("docker")]).run().ok().stdout;
    for line in [
        "x86_64:",
        "x32:",
        "x86:",
        "  numbers above those of today's kernels: errno 38 (function not implemented)",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    assert!(text.lines().all(|line| line.len() < 400), "{text}");
}

#[test]
fn profiles_come_from_configs_and_bundles_too() {
    let Some(world) = enter("profiles_come_from_configs_and_bundles_too") else { return };
    let mut bundle = world.bundle();
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_LOG"})).write();
    let config = bundle.dir().join("config.json");
    for place in [bundle.dir(), &config] {
        let out = world.call(&["seccomp", "simulate", place.to_str().unwrap(), "read"]).run().ok();
        assert!(out.stdout.starts_with("log and allow\n"), "{}", out.stdout);
    }
    bundle.remove("/linux/seccomp").write();
    let fails =
        |words: &[&str], text: &str| drop(world.call(&[&["seccomp"], words].concat()).run().fails(1, text));
    fails(&["compile", config.to_str().unwrap()], "it has no linux.seccomp");
    fails(&["compile", "/nosuch"], "read /nosuch: no such file or directory");
    let docker = default_profile("docker");
    assert!(Path::new(&docker).exists());
    fails(&["simulate", &docker, "nosuchcall"], "has no call \"nosuchcall\"");
    fails(&["simulate", &docker, "read", "x"], "argument \"x\" is no number");
    fails(&["simulate", &docker], "simulate wants a call");
    fails(&["frobnicate", &docker], "unknown action \"frobnicate\"");
    fails(&["--arch", "vax", "compile", &docker], "unknown architecture \"vax\"");
    let bad = file(
        &world,
        &json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}),
    );
    fails(&["compile", &bad], "argument index 6 is not in 0..=5");
}
