//! The six kinds of hooks: order, standard input, environment, namespaces, failures.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use davit_tests::{Bundle, World, host, unique, wait_until, write_program};
use serde_json::{Value, json};

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A script on the host that appends `$1` and what it reads to files in a directory.
fn recorder(world: &World) -> String {
    let script = world.path("hook.sh");
    let dir = world.path("hooks");
    fs::create_dir_all(&dir).unwrap();
    write_program(
        &script,
        &format!(
            "#!/bin/sh\ncat > {0}/$1.json\necho $1 >> {0}/order\nreadlink /proc/self/ns/mnt > {0}/$1.mnt\n\
             echo \"$0 $#\" > {0}/$1.args\nenv > {0}/$1.env\npwd > {0}/$1.cwd\n",
            dir.display()
        ),
    );
    script.to_str().unwrap().to_owned()
}

/// Hooks of all kinds; the one that runs in the container gets a directory of the host to write to.
fn with_hooks(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    let script = recorder(world);
    let dir = world.path("hooks");
    bundle.mount(dir.to_str().unwrap(), "bind", dir.to_str().unwrap(), &["bind"]);
    bundle.mount(&script, "bind", &script, &["bind", "ro"]);
    for kind in KINDS {
        let hook = json!({"path": script, "args": ["hook", kind], "env": [format!("KIND={kind}"), "PATH=/bin:/usr/bin"]});
        bundle.set(&format!("/hooks/{kind}"), json!([hook]));
    }
    bundle.args(&["sleep", "1000"]).set("/annotations", json!({"k": "v"}));
    bundle
}

fn recorded(world: &World, name: &str) -> String {
    fs::read_to_string(world.path("hooks").join(name)).unwrap_or_default()
}

fn order(world: &World) -> Vec<String> {
    recorded(world, "order").lines().map(str::to_owned).collect()
}

#[test]
fn order_over_the_life() {
    let Some(world) = World::enter("order_over_the_life") else { return };
    let bundle = with_hooks(&world);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    // runc 1.1 runs poststart at the end of create already; runc 1.4 and the specification after the start.
    let created: &[&str] =
        if world.is_runc() { &[KINDS[0], KINDS[1], KINDS[2], KINDS[4]] } else { &KINDS[..3] };
    assert_eq!(order(&world), created);
    if world.is_runc() {
        return;
    }
    c.simple("start").ok();
    assert_eq!(order(&world), KINDS[..5]);
    c.stop();
    assert_eq!(order(&world), KINDS[..5]);
    c.simple("delete").ok();
    assert_eq!(order(&world), KINDS);
    c.assert_nothing_left();
}

#[test]
fn standard_input_is_the_state() {
    let Some(world) = World::enter("standard_input_is_the_state") else { return };
    let bundle = with_hooks(&world);
    let c = world.container(&bundle).started();
    let pid = c.pid();
    c.stop();
    c.simple("delete").ok();
    // runc 1.1 runs poststart before the program.
    let poststart = if world.is_runc() { "created" } else { "running" };
    let statuses = ["creating", "creating", "creating", "created", poststart, "stopped"];
    for (kind, status) in KINDS.into_iter().zip(statuses) {
        let text = recorded(&world, &format!("{kind}.json"));
        let state: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{kind}: {e}: {text:?}"));
        assert_eq!(state["id"], c.id, "{kind}");
        assert_eq!(state["status"], status, "{kind}");
        assert_eq!(state["bundle"], bundle.dir().to_str().unwrap(), "{kind}");
        assert_eq!(state["annotations"], json!({"k": "v"}), "{kind}");
        assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{kind}");
        match kind {
            // Those run in the container's namespaces, where its process is number 1.
            "createContainer" | "startContainer" => assert_eq!(state["pid"], 1, "{kind}"),
            "poststop" => assert!(state.get("pid").is_none_or(|pid| *pid == 0), "{kind}: {state}"),
            _ => assert_eq!(state["pid"], pid, "{kind}"),
        }
    }
    c.assert_nothing_left();
}

#[test]
fn namespaces_arguments_and_environment() {
    let Some(world) = World::enter("namespaces_arguments_and_environment") else { return };
    let bundle = with_hooks(&world);
    let c = world.container(&bundle).started();
    let host = fs::read_link("/proc/self/ns/mnt").unwrap().to_str().unwrap().to_owned();
    let container = c.sh("readlink /proc/self/ns/mnt");
    c.stop();
    c.simple("delete").ok();
    for kind in KINDS {
        let expected = if ["createContainer", "startContainer"].contains(&kind) { &container } else { &host };
        assert_eq!(recorded(&world, &format!("{kind}.mnt")).trim(), expected, "{kind}");
        let env: Vec<_> = recorded(&world, &format!("{kind}.env")).lines().map(str::to_owned).collect();
        assert!(env.contains(&format!("KIND={kind}")), "{kind}: {env:?}");
        assert!(
            !env.iter().any(|line| line.starts_with("CARGO")),
            "{kind}: the caller's environment leaks: {env:?}"
        );
        // The kernel gives the interpreter the script's path for $0.
        assert_eq!(recorded(&world, &format!("{kind}.args")).trim().rsplit(' ').next(), Some("1"), "{kind}");
    }
    c.assert_nothing_left();
}

fn failing(path: &Path, body: &str) -> Value {
    write_program(path, &format!("#!/bin/sh\n{body}\n"));
    json!([{"path": path}])
}

#[test]
fn a_failing_hook_fails_the_create() {
    let Some(world) = World::enter("a_failing_hook_fails_the_create") else { return };
    let script = world.path("fail.sh");
    let marker = world.path("poststop");
    for kind in ["prestart", "createRuntime"] {
        let mut bundle = world.bundle();
        bundle.set(
            &format!("/hooks/{kind}"),
            failing(&script, "cat >/dev/null; echo why it failed >&2; exit 3"),
        );
        let touch = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("touch {}", marker.display())]}]);
        bundle.set("/hooks/poststop", touch);
        let c = world.container(&bundle);
        let create = c.create(&[]);
        let error = create.error();
        create.fails(1, "hook");
        assert!(error.contains("exit status 3"), "{kind}: {error}");
        assert!(error.contains("why it failed"), "{kind}: the hook's stderr is told: {error}");
        c.assert_nothing_left();
        assert!(marker.exists(), "poststop runs after a failed {kind}");
        fs::remove_file(&marker).unwrap();
    }
}

#[test]
fn a_failing_start_container_hook_fails_the_start() {
    let Some(world) = World::enter("a_failing_start_container_hook_fails_the_start") else { return };
    let mut bundle = world.bundle();
    bundle.set("/hooks/startContainer", json!([{"path": "/bin/false", "args": ["false"]}]));
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    let run = c.run(&["--detach"]);
    assert!(run.stderr.contains("hook"), "{}", run.stderr);
    // runc finds out after it has ended itself.
    assert_eq!(run.code, if world.is_runc() { 0 } else { 1 });
    c.finish();
}

#[test]
fn failing_poststop_is_only_logged() {
    let Some(world) = World::enter("failing_poststop_is_only_logged") else { return };
    let mut bundle = world.bundle();
    bundle.set("/hooks/poststop", failing(&world.path("fail.sh"), "exit 4")).args(&["true"]);
    let c = world.container(&bundle).started();
    c.wait_for("stopped");
    let delete = c.simple("delete").ok();
    assert!(delete.log.contains("exit status 4"), "{}", delete.log);
    if !world.is_runc() {
        assert_eq!(delete.error(), "", "a warning: callers would take an error for the command's");
    }
    c.assert_nothing_left();
}

#[test]
fn timeouts_end_hooks() {
    let Some(world) = World::enter("timeouts_end_hooks") else { return };
    let mut bundle = world.bundle();
    // Known by its environment: it may be stopped before it has done anything.
    let mark = format!("MARK={}", unique("hook"));
    let hook =
        json!({"path": "/bin/sh", "args": ["sh", "-c", "exec sleep 1000"], "env": [mark], "timeout": 1});
    bundle.set("/hooks/createRuntime", json!([hook]));
    let c = world.container(&bundle);
    let create = c.create(&[]);
    let words = if world.is_runc() { "hook ran past specified timeout of 1" } else { "timed out after 1 s" };
    create.fails(1, words);
    wait_until("the hook's end", || host::processes_with(&mark).is_empty());
    c.assert_nothing_left();
}

#[test]
fn several_hooks_of_a_kind_run_in_order() {
    let Some(world) = World::enter("several_hooks_of_a_kind_run_in_order") else { return };
    let mut bundle = world.bundle();
    let file = world.path("order");
    let hook = |n: u32| {
        let script = format!("echo {n} >> {}", file.display());
        json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
    };
    bundle.set("/hooks/createRuntime", json!([hook(1), hook(2), hook(3)])).args(&["true"]);
    let c = world.container(&bundle);
    c.run(&[]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "1\n2\n3\n");
    c.assert_nothing_left();
}

/// Six hooks that write a line each into files of a directory, seen from both sides.
fn probing(world: &World, probe: &str) -> Bundle {
    let mut bundle = world.bundle();
    let dir = world.path("probes");
    fs::create_dir_all(&dir).unwrap();
    let dir = dir.to_str().unwrap();
    bundle.mount(dir, "bind", dir, &["bind"]).args(&["sleep", "0.1"]);
    for kind in KINDS {
        let script = format!("cat >/dev/null; {{ {probe}; }} > {dir}/{kind}");
        let hook = json!({"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["PATH=/bin"]});
        bundle.set(&format!("/hooks/{kind}"), json!([hook]));
    }
    bundle
}

fn probed(world: &World, kind: &str) -> String {
    fs::read_to_string(world.path("probes").join(kind)).unwrap_or_default().trim().to_owned()
}

#[test]
fn working_directories() {
    let Some(world) = World::enter("hooks::working_directories") else { return };
    let mut bundle = probing(&world, "busybox pwd");
    bundle.set("/process/cwd", json!("/tmp"));
    let c = world.container(&bundle);
    let at = bundle.dir().to_str().unwrap();
    // From elsewhere, so that it is not the caller's directory.
    c.call("run", &["--bundle", at], &[]).run().ok();
    for kind in KINDS {
        let expected = match kind {
            "createContainer" => format!("{at}/rootfs"),
            "startContainer" => "/tmp".to_owned(),
            // After its end: where the caller is, as in runc's delete. runc's run has gone to the bundle.
            "poststop" if !world.is_runc() => std::env::current_dir().unwrap().to_str().unwrap().to_owned(),
            _ => at.to_owned(),
        };
        assert_eq!(probed(&world, kind), expected, "{kind}");
    }
    c.assert_nothing_left();
}

#[test]
fn descriptors_and_signals_are_clean() {
    let Some(world) = World::enter("hooks::descriptors_and_signals_are_clean") else { return };
    if world.is_runc() {
        // runc passes on descriptors of its own and of its caller.
        return;
    }
    let bundle =
        probing(&world, "busybox ls /proc/self/fd | busybox wc -l; busybox grep SigBlk /proc/self/status");
    let c = world.container(&bundle);
    let wrapper = ["sh", "-c", "exec \"$@\" 3</dev/null 4</dev/null 9</dev/null", "sh"];
    c.call("run", &["--preserve-fds", "2"], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
    for kind in KINDS {
        // Stdio, and the directory that ls reads. The foreground run itself blocks every signal.
        let expected = "4\nSigBlk:\t0000000000000000";
        assert_eq!(probed(&world, kind), expected, "{kind}");
    }
    c.assert_nothing_left();
}

#[test]
fn without_env_only_start_container_gets_the_programs() {
    let Some(world) = World::enter("hooks::without_env_only_start_container_gets_the_programs") else {
        return;
    };
    if world.is_runc() {
        // runc 1.1 and 1.3 hand out their own environment; 1.4 none, as davit.
        return;
    }
    let mut bundle = probing(&world, "busybox env | busybox grep -E '^(HOME|OF|CARGO)' | busybox sort");
    for kind in KINDS {
        bundle.remove(&format!("/hooks/{kind}/0/env"));
        let mut hook = bundle.config["hooks"][kind][0].clone();
        hook.as_object_mut().unwrap().remove("env");
        bundle.set(&format!("/hooks/{kind}/0"), hook);
    }
    bundle.push("/process/env", json!("OF=program"));
    let c = world.container(&bundle);
    c.run(&[]).ok();
    for kind in KINDS {
        let expected = if kind == "startContainer" { "HOME=/root\nOF=program" } else { "" };
        assert_eq!(probed(&world, kind), expected, "{kind}");
    }
    c.assert_nothing_left();
}

#[test]
fn output_goes_to_the_files_of_annotations() {
    let Some(world) = World::enter("hooks::output_goes_to_the_files_of_annotations") else { return };
    if world.is_runc() {
        // crun's.
        return;
    }
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "0.1"]);
    for kind in KINDS {
        let script = format!("cat >/dev/null; echo out {kind}; echo err {kind} >&2");
        let hook = json!({"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["PATH=/bin"]});
        bundle.set(&format!("/hooks/{kind}"), json!([hook]));
    }
    let (out, err) = (world.path("hooks.out"), world.path("hooks.err"));
    fs::write(&out, "before\n").unwrap();
    let annotations = json!({"run.oci.hooks.stdout": out, "run.oci.hooks.stderr": err});
    bundle.set("/annotations", annotations.clone());
    let c = world.container(&bundle);
    c.create(&[]).ok();
    c.simple("start").ok();
    c.wait_for("stopped");
    c.simple("delete").ok();
    let lines = |word: &str| KINDS.map(|kind| format!("{word} {kind}\n")).concat();
    assert_eq!(fs::read_to_string(&out).unwrap(), format!("before\n{}", lines("out")));
    assert_eq!(fs::read_to_string(&err).unwrap(), lines("err"));
    assert_eq!(fs::metadata(&err).unwrap().permissions().mode() & 0o777, 0o600);
    c.assert_nothing_left();

    // A link could lead to any file of the host; a relative path depends on the caller.
    let link = world.path("link");
    std::os::unix::fs::symlink(&out, &link).unwrap();
    for (path, words) in [(link.to_str().unwrap(), "too many symbolic links"), ("rel", "must be absolute")] {
        bundle.set("/annotations/run.oci.hooks.stdout", json!(path));
        let c = world.container(&bundle);
        c.create(&[]).fails(1, words);
        c.assert_nothing_left();
    }
}

#[test]
fn an_error_has_the_end_of_a_long_output() {
    let Some(world) = World::enter("hooks::an_error_has_the_end_of_a_long_output") else { return };
    if world.is_runc() {
        // runc quotes all of it.
        return;
    }
    let mut bundle = world.bundle();
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i >&2; i=$((i+1)); done; exit 9";
    bundle.set("/hooks/createRuntime", failing(&world.path("long.sh"), script));
    let c = world.container(&bundle);
    let error = c.create(&[]).error();
    assert!(error.contains("exit status 9") && error.ends_with("line 19999"), "{error}");
    assert!(error.len() > 4000 && error.len() < 4500, "{}", error.len());
    c.assert_nothing_left();
}

#[test]
fn a_time_out_ends_what_the_hook_has_started() {
    let Some(world) = World::enter("hooks::a_time_out_ends_what_the_hook_has_started") else { return };
    if world.is_runc() {
        // runc kills the hook alone.
        return;
    }
    let mut bundle = world.bundle();
    for kind in ["prestart", "createContainer", "startContainer", "poststart"] {
        // Both are known by their environment: the time may be over before there is a child.
        let mark = format!("MARK={}", unique("hook"));
        let args = ["sh", "-c", "sleep 1000 & wait"];
        let hook = json!({"path": "/bin/sh", "args": args, "env": ["PATH=/bin", mark], "timeout": 1});
        bundle.set("/hooks", json!({kind: [hook]})).args(&["sleep", "1000"]);
        let c = world.container(&bundle);
        c.run(&["--detach"]).fails(1, &format!("error running {kind} hook #0: /bin/sh: timed out after 1 s"));
        wait_until("the end of both", || host::processes_with(&mark).is_empty());
        c.assert_nothing_left();
    }
}

#[test]
fn a_failing_poststart_hook_ends_the_container() {
    let Some(world) = World::enter("hooks::a_failing_poststart_hook_ends_the_container") else { return };
    if world.is_runc() {
        // Since 1.5.
        return;
    }
    let mut bundle = world.bundle();
    bundle.set("/hooks/poststart", failing(&world.path("fail.sh"), "exit 5")).args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    c.simple("start").fails(1, "error running poststart hook #0");
    c.wait_for("stopped");
    c.simple("delete").ok();
    c.assert_nothing_left();
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "error running poststart hook #0");
    c.assert_nothing_left();
}

#[test]
fn later_hooks_of_a_kind_do_not_run_after_a_failure() {
    let Some(world) = World::enter("hooks::later_hooks_of_a_kind_do_not_run_after_a_failure") else { return };
    let mut bundle = world.bundle();
    let file = world.path("ran");
    let hook = |n: u32, code: u32| {
        let script = format!("echo {n} >> {}; exit {code}", file.display());
        json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
    };
    bundle.set("/hooks/prestart", json!([hook(1, 0), hook(2, 1), hook(3, 0)]));
    bundle
        .set("/hooks/createRuntime", json!([hook(4, 0)]))
        .set("/hooks/poststop", json!([hook(5, 1), hook(6, 0)]));
    let c = world.container(&bundle);
    c.create(&[]).exits(1);
    // All hooks of poststop run, whatever becomes of one; runc stops at the first that fails.
    let expected = if world.is_runc() { "1\n2\n5\n" } else { "1\n2\n5\n6\n" };
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    c.assert_nothing_left();
}

#[test]
fn a_poststop_hook_that_hangs_does_not_keep_the_delete() {
    let Some(world) = World::enter("hooks::a_poststop_hook_that_hangs_does_not_keep_the_delete") else {
        return;
    };
    let mut bundle = world.bundle();
    let hook = json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1});
    bundle.set("/hooks/poststop", json!([hook])).args(&["true"]);
    let c = world.container(&bundle).started();
    c.wait_for("stopped");
    let delete = c.simple("delete").ok();
    let words = if world.is_runc() { "hook ran past specified timeout" } else { "timed out after 1 s" };
    assert!(delete.log.contains(words), "{}", delete.log);
    c.assert_nothing_left();
}
