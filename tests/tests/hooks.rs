//! The six kinds of hooks: order, standard input, environment, namespaces, failures.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use davit_tests::{Bundle, World};
use serde_json::{Value, json};

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A script on the host that appends `$1` and what it reads to files in a directory.
fn recorder(world: &World) -> String {
    let script = world.path("hook.sh");
    let dir = world.path("hooks");
    fs::create_dir_all(&dir).unwrap();
    fs::write(
        &script,
        format!(
            "#!/bin/sh\ncat > {0}/$1.json\necho $1 >> {0}/order\nreadlink /proc/self/ns/mnt > {0}/$1.mnt\n\
             echo \"$0 $#\" > {0}/$1.args\nenv > {0}/$1.env\npwd > {0}/$1.cwd\n",
            dir.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
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
    fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
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
    let pid_file = world.path("hook.pid");
    let script = format!("echo $$ > {}; exec sleep 1000", pid_file.display());
    bundle.set(
        "/hooks/createRuntime",
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}]),
    );
    let c = world.container(&bundle);
    let create = c.create(&[]);
    let words = if world.is_runc() { "hook ran past specified timeout of 1" } else { "timed out after 1 s" };
    create.fails(1, words);
    let pid = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    davit_tests::wait_until("the hook's end", || !davit_tests::host::is_alive(pid));
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
