//! create → start → exec → pause → resume → kill → delete, and what is refused on the way.

use std::fs;
use std::path::Path;

use davit_tests::{World, host, skip, wait_until};
use serde_json::{Value, json};

#[test]
fn statuses_from_create_to_delete() {
    let Some(world) = World::enter("statuses_from_create_to_delete") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).set("/annotations", json!({"b": "2", "a": "1 <&>"}));
    let c = world.container(&bundle);
    let pid_file = world.path("pid");

    c.create(&["--pid-file", pid_file.to_str().unwrap()]).ok();
    let state = c.state();
    let pid = c.pid();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid.to_string());
    assert!(host::is_alive(pid));
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], c.id);
    // The version of the document, which is the runtime's, not that of config.json.
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."));
    assert_eq!(state["bundle"], bundle.dir().to_str().unwrap());
    assert_eq!(state["rootfs"], bundle.rootfs("").to_str().unwrap().trim_end_matches('/'));
    assert_eq!(state["annotations"], json!({"a": "1 <&>", "b": "2"}));
    assert_eq!(state["owner"], "");

    c.simple("start").ok();
    assert_eq!(c.status(), "running");
    assert_eq!(c.pid(), pid, "start keeps the process");
    c.simple("pause").ok();
    assert_eq!(c.status(), "paused");
    c.simple("resume").ok();
    assert_eq!(c.status(), "running");

    c.stop();
    assert_eq!(c.pid(), 0);
    c.simple("delete").ok();
    c.assert_nothing_left();
    c.simple("state").fails(1, "container does not exist");
}

#[test]
fn state_is_printed_as_runc_prints_it() {
    let Some(world) = World::enter("state_is_printed_as_runc_prints_it") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).set("/annotations", json!({"a": "<&>"}));
    let c = world.container(&bundle);
    c.create(&[]).ok();
    let printed = c.simple("state").ok().stdout;
    let created = c.state()["created"].as_str().unwrap().to_owned();
    let version = c.state()["ociVersion"].as_str().unwrap().to_owned();
    let expected = format!(
        "{{\n  \"ociVersion\": \"{version}\",\n  \"id\": \"{}\",\n  \"pid\": {},\n  \"status\": \"created\",\n  \
         \"bundle\": \"{}\",\n  \"rootfs\": \"{}/rootfs\",\n  \"created\": \"{created}\",\n  \"annotations\": {{\n    \
         \"a\": \"\\u003c\\u0026\\u003e\"\n  }},\n  \"owner\": \"\"\n}}",
        c.id,
        c.pid(),
        bundle.dir().display(),
        bundle.dir().display()
    );
    assert_eq!(printed, expected);
    // RFC 3339 in UTC with a fraction: 2026-11-23T04:10:49.228985279Z
    assert_eq!(created.len(), created.trim_end_matches('Z').len() + 1, "{created}");
    assert_eq!(&created[10..11], "T");
    assert!((20..=30).contains(&created.len()), "{created}");
    c.finish();
}

#[test]
fn a_created_container_can_be_killed_and_deleted() {
    let Some(world) = World::enter("a_created_container_can_be_killed_and_deleted") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let killed = world.container(&bundle);
    killed.create(&[]).ok();
    killed.stop();
    killed.simple("start").fails(1, "cannot start a container that has stopped");
    killed.simple("delete").ok();
    killed.assert_nothing_left();

    // runc deletes a created container without --force.
    let created = world.container(&bundle);
    created.create(&[]).ok();
    let pid = created.pid();
    created.simple("delete").ok();
    created.assert_nothing_left();
    assert!(!host::is_alive(pid));
}

#[test]
fn refusals_in_runcs_words() {
    let Some(world) = World::enter("refusals_in_runcs_words") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();

    c.create(&[]).fails(1, "container with given ID already exists");
    c.run(&[]).fails(1, "container with given ID already exists");
    c.simple("start").fails(1, "cannot start an already running container");
    c.simple("delete").fails(1, &format!("cannot delete container {} that is not stopped: running", c.id));
    c.simple("resume").fails(1, "container not paused");
    c.call("kill", &[], &["NONSENSE"]).run().fails(1, "unknown signal \"NONSENSE\"");
    c.call("kill", &[], &["99"]).run().fails(1, "invalid argument");
    assert_eq!(c.status(), "running");

    c.simple("pause").ok();
    c.exec(&[], &["true"]).fails(255, "cannot exec in a paused container (use --ignore-paused to override)");
    c.simple("resume").ok();

    c.stop();
    c.simple("kill").fails(1, "container not running");
    c.simple("start").fails(1, "cannot start a container that has stopped");
    c.exec(&[], &["true"]).fails(255, "cannot exec in a stopped container");
    c.simple("pause").fails(1, "container not running");
    c.finish();
}

#[test]
fn unknown_ids() {
    let Some(world) = World::enter("unknown_ids") else { return };
    for command in ["state", "start", "kill", "delete", "pause", "resume", "ps"] {
        world.call(&[command, "nobody"]).run().fails(1, "container does not exist");
    }
    world.call(&["exec", "nobody", "true"]).run().fails(255, "container does not exist");
    // Podman and containerd clean up twice.
    world.call(&["delete", "--force", "nobody"]).run().ok();
}

#[test]
fn container_ids_are_validated() {
    let Some(world) = World::enter("container_ids_are_validated") else { return };
    let bundle = world.bundle();
    bundle.write();
    for id in ["a/b", "../x", "..", ".", "a b", "ä", "a\n", "a:b", "*"] {
        let call = world.call(&["create", id]).dir(bundle.dir()).run();
        call.fails(1, "invalid container ID format");
    }
    world.call(&["create", ""]).dir(bundle.dir()).run().fails(1, "container id cannot be empty");
    assert_eq!(fs::read_dir(world.root()).unwrap().count(), 0, "nothing is made for a bad id");
}

#[test]
fn a_failed_create_keeps_an_existing_container() {
    let Some(world) = World::enter("a_failed_create_keeps_an_existing_container") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let pid = c.pid();
    c.create(&[]).fails(1, "already exists");
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    assert!(host::is_alive(pid));
    c.finish();
}

#[test]
fn delete_by_force_kills() {
    let Some(world) = World::enter("delete_by_force_kills") else { return };
    let mut bundle = world.bundle();
    // The first process ignores SIGTERM, and there is a second one.
    bundle.script("trap '' TERM; sleep 1000 & sleep 1000");
    let c = world.container(&bundle).started();
    wait_until("second process", || host::processes_in_cgroup(&c.id).len() >= 2);
    c.finish();
}

#[test]
fn kill_sends_the_named_signal() {
    let Some(world) = World::enter("kill_sends_the_named_signal") else { return };
    let mut bundle = world.bundle();
    bundle.script(
        "for s in HUP INT USR1 USR2 TERM; do trap \"echo $s >> /tmp/got\" $s; done; touch /tmp/ready; \
         while true; do sleep 0.01; done",
    );
    bundle.set("/root/readonly", json!(false));
    let c = world.container(&bundle).started();
    wait_until("traps", || bundle.rootfs("tmp/ready").exists());
    let got = || fs::read_to_string(bundle.rootfs("tmp/got")).unwrap_or_default();
    let mut expected = String::new();
    for (word, name) in [("HUP", "HUP"), ("SIGINT", "INT"), ("usr1", "USR1"), ("12", "USR2"), ("", "TERM")] {
        let words: &[&str] = if word.is_empty() { &[] } else { &[word] };
        c.call("kill", &[], words).run().ok();
        expected = format!("{expected}{name}\n");
        wait_until(&format!("signal {name}"), || got() == expected);
    }
    // 0 asks whether it is there.
    c.call("kill", &[], &["0"]).run().ok();
    c.finish();
}

#[test]
fn kill_all_reaches_every_process() {
    let Some(world) = World::enter("kill_all_reaches_every_process") else { return };
    let mut bundle = world.bundle();
    bundle.script("sleep 1000 & sleep 1000 & wait");
    bundle.without_namespace("pid");
    let c = world.container(&bundle).started();
    wait_until("three processes", || host::processes_in_cgroup(&c.id).len() == 3);
    c.call("kill", &["--all"], &["KILL"]).run().ok();
    wait_until("their end", || host::processes_in_cgroup(&c.id).is_empty());
    c.wait_for("stopped");
    c.simple("delete").ok();
    c.assert_nothing_left();
}

#[test]
fn shared_pid_namespace_leaves_nothing_behind() {
    let Some(world) = World::enter("shared_pid_namespace_leaves_nothing_behind") else { return };
    let mut bundle = world.bundle();
    // The init ends, what it started does not.
    bundle.script("sleep 1000 & sleep 1000 & exit 3");
    bundle.without_namespace("pid");
    let c = world.container(&bundle);
    c.run(&[]).exits(3);
    c.assert_nothing_left();
}

#[test]
fn list_prints_a_table_and_json() {
    let Some(world) = World::enter("list_prints_a_table_and_json") else { return };
    let header = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
    assert_eq!(world.call(&["list"]).run().ok().stdout, header);
    assert_eq!(world.call(&["list", "-f", "json"]).run().ok().stdout, "null\n");
    assert_eq!(world.call(&["list", "-q"]).run().ok().stdout, "");

    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let a = world.container(&bundle).started();
    let b = world.container(&bundle);
    b.create(&[]).ok();

    assert_eq!(world.call(&["list", "-q"]).run().ok().stdout, format!("{}\n{}\n", a.id, b.id));
    let json = world.call(&["list", "--format=json"]).run().ok();
    assert_eq!(json.stdout.lines().count(), 1);
    let with_owner = |mut state: Value| {
        state["owner"] = json!("root");
        state
    };
    assert_eq!(json.json(), json!([with_owner(a.state()), with_owner(b.state())]));

    let table = world.call(&["list"]).run().ok().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3);
    for (line, c) in lines[1..].iter().zip([&a, &b]) {
        let state = c.state();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let text = |key: &str| state[key].as_str().unwrap().to_owned();
        assert_eq!(
            words,
            [&c.id, &c.pid().to_string(), &text("status"), &text("bundle"), &text("created"), "root"]
        );
    }
    // Columns are three apart and at least twelve wide.
    let column = |name| lines[0].find(name).unwrap();
    assert_eq!(column("PID"), (a.id.len() + 3).max(12));
    assert_eq!(column("STATUS"), column("PID") + 12);
    assert_eq!(lines[1].find("running"), Some(column("STATUS")));
    assert_eq!(column("CREATED"), column("BUNDLE") + (bundle.dir().to_str().unwrap().len() + 3).max(12));

    world.call(&["list", "--format", "xml"]).run().fails(1, "invalid format option");
    a.finish();
    b.finish();
}

#[test]
fn ps_prints_a_table_and_json() {
    let Some(world) = World::enter("ps_prints_a_table_and_json") else { return };
    let mut bundle = world.bundle();
    bundle.script("sleep 1001 & exec sleep 1000");
    let c = world.container(&bundle).started();
    wait_until("second process", || host::processes_in_cgroup(&c.id).len() == 2);
    wait_until("both to be executed", || {
        let table = c.simple("ps").ok().stdout;
        table.contains("sleep 1000") && table.contains("sleep 1001")
    });

    let json = c.call("ps", &["--format", "json"], &[]).run().ok().json();
    let pids: Vec<i32> = json.as_array().unwrap().iter().map(|pid| pid.as_i64().unwrap() as i32).collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.contains(&c.pid()));

    let table = c.simple("ps").ok().stdout;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    assert_eq!(lines[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!(lines.len(), 3);
    let init = lines.iter().find(|words| words[1] == c.pid().to_string()).expect("init in the table");
    assert_eq!((init[0], init[5], &init[7..]), ("root", "?", &["sleep", "1000"][..]));
    let child = lines.iter().find(|words| words[2] == c.pid().to_string()).expect("child in the table");
    assert_eq!(&child[7..], ["sleep", "1001"]);

    let chosen = c.call("ps", &[], &["-o", "pid,args"]).run().ok().stdout;
    assert!(chosen.lines().any(|line| line.trim() == format!("{} sleep 1000", c.pid())), "{chosen}");
    let bsd = c.call("ps", &[], &["aux"]).run().ok().stdout;
    assert!(bsd.starts_with("USER "), "{bsd}");
    assert_eq!(bsd.lines().count(), 3);
    c.call("ps", &["-f", "xml"], &[]).run().fails(1, "invalid format option");
    c.finish();
}

#[test]
fn run_detached_and_kept() {
    let Some(world) = World::enter("run_detached_and_kept") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let detached = world.container(&bundle);
    let pid_file = world.path("pid");
    detached.run(&["--detach", "--pid-file", pid_file.to_str().unwrap()]).ok();
    assert_eq!(detached.status(), "running");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), detached.pid().to_string());
    detached.finish();

    bundle.args(&["true"]);
    let deleted = world.container(&bundle);
    deleted.run(&[]).ok();
    deleted.assert_nothing_left();

    let kept = world.container(&bundle);
    kept.run(&["--keep"]).ok();
    assert_eq!(kept.status(), "stopped");
    kept.simple("delete").ok();
    kept.assert_nothing_left();
}

#[test]
fn bundle_is_given_by_flag_or_working_directory() {
    let Some(world) = World::enter("bundle_is_given_by_flag_or_working_directory") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["echo", "hello"]);
    let c = world.container(&bundle);
    let run = c.call("run", &["--bundle", bundle.dir().to_str().unwrap()], &[]).run().ok();
    assert_eq!(run.stdout, "hello\n");
    assert_eq!(c.run(&[]).ok().stdout, "hello\n");
    let (parent, name) = (bundle.dir().parent().unwrap(), bundle.dir().file_name().unwrap());
    let relative = c.call("run", &["-b", name.to_str().unwrap()], &[]).dir(parent).run().ok();
    assert_eq!(relative.stdout, "hello\n");
    c.assert_nothing_left();
}

/// As pid 1 of its namespace the waiting init has no default actions: it must end by itself.
#[test]
fn a_created_container_ends_on_sigterm() {
    let Some(world) = World::enter("a_created_container_ends_on_sigterm") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["true"]);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    c.call("kill", &[], &["TERM"]).run().ok();
    c.wait_for("stopped");
    c.finish();
}

/// `create` is killed with its cgroups made and no process yet (by strace, as it calls clone3).
#[test]
fn a_killed_create_is_cleaned_up_by_delete() {
    let Some(world) = World::enter("a_killed_create_is_cleaned_up_by_delete") else { return };
    if world.is_runc() || !Path::new("/usr/bin/strace").exists() {
        return skip("a_killed_create_is_cleaned_up_by_delete", "needs davit and strace").unwrap_or(());
    }
    let mut bundle = world.bundle();
    bundle.args(&["true"]);
    let c = world.container(&bundle);
    let killer = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=clone3:signal=SIGKILL:when=1"];
    let output = c.call("create", &["--bundle", bundle.dir().to_str().unwrap()], &[]).wrapper(&killer).run();
    assert_ne!(output.code, 0);
    assert!(!host::cgroups_named(&c.id).is_empty(), "killed too early to test anything");
    assert_eq!(c.status(), "creating");
    c.call("start", &[], &[]).run().fails(1, "still being created");
    c.call("exec", &[], &["true"]).run().fails(255, "still being created");
    c.call("kill", &[], &["KILL"]).run().fails(1, "container not running");
    c.call("delete", &[], &[]).run().fails(1, "that is not stopped: creating");
    c.call("delete", &["--force"], &[]).run().ok();
    c.assert_nothing_left();
}
