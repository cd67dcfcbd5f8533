//! Seccomp's listener: an agent on a socket answers calls of the container (`listenerPath`, SCMP_ACT_NOTIFY).

use std::fs;

use davit_tests::agent::Agent;
use davit_tests::calls::{self, Bits};
use davit_tests::tty::ConsoleSocket;
use davit_tests::user::{self, Ranges};
use davit_tests::{Bundle, Container, World, host, skip, wait_until};
use serde_json::{Value, json};

const NO_NEW_PRIVILEGES: [bool; 2] = [false, true];

fn enter(test: &str) -> Option<World> {
    World::enter(&format!("seccomp_notify::{test}"))
}

/// Answers by call number; every other call goes on.
fn answers(calls: &[(i64, Value)]) -> Value {
    calls
        .iter()
        .map(|(nr, answer)| (nr.to_string(), answer.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A bundle whose profile asks the agent about these calls.
fn asking(world: &World, agent: &Agent, names: &[&str]) -> Bundle {
    let mut bundle = world.bundle();
    bundle.set("/root/readonly", json!(false));
    bundle.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": agent.path, "listenerMetadata": "about the container",
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]
        }),
    );
    bundle
}

/// The command line that makes these calls, installed in the bundle.
fn calling(bundle: &Bundle, calls: &[&[&str]]) -> Option<Vec<String>> {
    match calls::install(bundle, Bits::Native) {
        Ok(program) => Some(calls::words(program, calls)),
        Err(reason) => skip("seccomp_notify", &reason),
    }
}

fn args(bundle: &mut Bundle, words: &[String]) {
    bundle.set("/process/args", json!(words));
}

fn exec(c: &Container<'_>, flags: &[&str], words: &[String]) -> davit_tests::Output {
    c.exec(flags, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn nr(number: libc::c_long) -> String {
    number.to_string()
}

#[test]
fn the_agent_answers_with_errno_value_and_continue() {
    let Some(world) = enter("the_agent_answers_with_errno_value_and_continue") else { return };
    let answers = answers(&[
        (libc::SYS_mkdirat, json!({"errno": libc::ENOMEDIUM})),
        (libc::SYS_getppid, json!({"value": 4242})),
        (libc::SYS_unlinkat, json!({"continue": true})),
    ]);
    let Some(agent) = Agent::start(&world, &answers) else { return };
    let mut bundle = asking(&world, &agent, &["mkdirat", "getppid", "unlinkat"]);
    let (mkdirat, getppid, unlinkat) = (nr(libc::SYS_mkdirat), nr(libc::SYS_getppid), nr(libc::SYS_unlinkat));
    let calls: &[&[&str]] =
        &[&[&mkdirat, "-100", "@/tmp/x", "0x1ff"], &[&getppid], &[&unlinkat, "-100", "@/tmp/file", "0"]];
    let Some(words) = calling(&bundle, calls) else { return };
    let expected = format!("-{}\n4242\n0\n", libc::ENOMEDIUM);
    for no_new_privileges in NO_NEW_PRIVILEGES {
        args(&mut bundle, &words);
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        fs::write(bundle.rootfs("/tmp/file"), "").unwrap();
        let c = world.container(&bundle);
        assert_eq!(c.run(&[]).ok().stdout, expected, "run, {no_new_privileges}");
        assert!(!bundle.rootfs("/tmp/file").exists() && !bundle.rootfs("/tmp/x").exists());
        c.assert_nothing_left();

        // create and start.
        fs::write(bundle.rootfs("/tmp/file"), "").unwrap();
        let c = world.container(&bundle);
        let create = c.create(&[]).ok();
        c.simple("start").ok();
        c.wait_for("stopped");
        assert_eq!(create.stdout_now(), expected, "create, {no_new_privileges}");
        c.finish();

        // exec.
        bundle.args(&["sleep", "1000"]);
        let c = world.container(&bundle).started();
        fs::write(bundle.rootfs("/tmp/file"), "").unwrap();
        assert_eq!(exec(&c, &[], &words).ok().stdout, expected, "exec, {no_new_privileges}");
        c.finish();
    }
    // One state per process, one descriptor with each.
    assert!(agent.wait_for_states(8).iter().all(|state| state["descriptors"] == 1));
}

#[test]
fn the_agent_adds_a_descriptor() {
    let Some(world) = enter("the_agent_adds_a_descriptor") else { return };
    let file = world.path("of-the-host");
    fs::write(&file, "from the agent\n").unwrap();
    let Some(agent) = Agent::start(&world, &answers(&[(libc::SYS_openat2, json!({"addfd": file}))])) else {
        return;
    };
    let mut bundle = asking(&world, &agent, &["openat2"]);
    let (openat2, read, write) = (nr(libc::SYS_openat2), nr(libc::SYS_read), nr(libc::SYS_write));
    let calls: &[&[&str]] =
        &[&[&openat2, "-100", "@/nosuch", "%", "24"], &[&read, "$", "%", "15"], &[&write, "1", "%", "$"]];
    let Some(words) = calling(&bundle, calls) else { return };
    args(&mut bundle, &words);
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).ok().stdout, "3\n15\nfrom the agent\n15\n");
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    assert_eq!(exec(&c, &[], &words).ok().stdout, "3\n15\nfrom the agent\n15\n");
    c.finish();
}

#[test]
fn the_agent_is_told_of_the_process() {
    let Some(world) = enter("the_agent_is_told_of_the_process") else { return };
    let Some(agent) = Agent::start(&world, &json!({})) else { return };
    let mut bundle = asking(&world, &agent, &["mkdir", "mkdirat"]);
    bundle.args(&["sleep", "1000"]).set("/annotations", json!({"who": "me", "b": "c"}));
    let c = world.container(&bundle);
    c.create(&[]).ok();
    let pid = c.pid();
    // The agent notes what it was told after the runtime has sent it.
    let state = agent.wait_for_states(1).remove(0);
    let expected = json!({
        "ociVersion": bundle.config["ociVersion"], "fds": ["seccompFd"], "pid": pid,
        "metadata": "about the container",
        "state": {"ociVersion": bundle.config["ociVersion"], "id": c.id, "status": "creating", "pid": pid,
                  "bundle": bundle.dir(), "annotations": {"who": "me", "b": "c"}},
    });
    assert_eq!(state["state"], expected);
    c.simple("start").ok();

    let pid_file = world.path("pid");
    c.exec(&["--detach", "--pid-file", pid_file.to_str().unwrap()], &["sleep", "1000"]).ok();
    let execed: i32 = fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert_ne!(execed, pid);
    let mut expected = expected;
    expected["pid"] = json!(execed);
    expected["state"]["status"] = json!("running");
    assert_eq!(agent.wait_for_states(2)[1]["state"], expected);
    c.finish();
}

#[test]
fn metadata_is_left_out_when_there_is_none() {
    let Some(world) = enter("metadata_is_left_out_when_there_is_none") else { return };
    let Some(agent) = Agent::start(&world, &json!({})) else { return };
    let mut bundle = asking(&world, &agent, &["mkdir"]);
    bundle.args(&["true"]).remove("/linux/seccomp/listenerMetadata");
    world.container(&bundle).run(&[]).ok();
    let state = agent.wait_for_states(1).remove(0);
    assert!(state["state"].get("metadata").is_none() && state["state"]["state"].get("annotations").is_none());
}

/// runc refuses NOTIFY as the default and for write(2): its init hands the descriptor over by a message.
#[test]
fn every_call_may_be_notified_of() {
    let Some(world) = enter("every_call_may_be_notified_of") else { return };
    let Some(agent) = Agent::start(&world, &json!({})) else { return };
    for allowed in [&["execve"][..], &[]] {
        for no_new_privileges in NO_NEW_PRIVILEGES {
            let mut bundle = world.bundle();
            let rules = json!([{"names": ["execve"], "action": "SCMP_ACT_ALLOW"}]);
            bundle.set(
                "/linux/seccomp",
                json!({
                    "defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": agent.path,
                    "syscalls": if allowed.is_empty() { json!([]) } else { rules }
                }),
            );
            bundle.set("/process/noNewPrivileges", json!(no_new_privileges)).args(&["echo", "hi"]);
            assert_eq!(
                world.container(&bundle).run(&[]).ok().stdout,
                "hi\n",
                "{allowed:?} {no_new_privileges}"
            );
            bundle.args(&["sleep", "1000"]);
            let c = world.container(&bundle).started();
            assert_eq!(c.exec(&[], &["echo", "hi"]).ok().stdout, "hi\n", "{allowed:?} {no_new_privileges}");
            c.finish();
        }
    }
    let calls = agent.calls();
    assert!(calls.contains(&libc::SYS_write) && calls.contains(&libc::SYS_execve));
}

/// runc's "important syscalls", and those that other runtimes hung on.
#[test]
fn calls_of_the_runtimes_own_are_notified_of() {
    let Some(world) = enter("calls_of_the_runtimes_own_are_notified_of") else { return };
    let Some(agent) = Agent::start(&world, &json!({})) else { return };
    let sets: [&[&str]; 3] = [
        &["execve", "openat", "open", "read", "close"],
        &["write", "sendmsg", "recvmsg", "fcntl", "futex"],
        &["close", "close_range", "prctl", "capset", "setresuid", "chdir", "getcwd"],
    ];
    for names in sets {
        for no_new_privileges in NO_NEW_PRIVILEGES {
            let mut bundle = asking(&world, &agent, names);
            bundle.set("/process/noNewPrivileges", json!(no_new_privileges)).args(&["echo", "hi"]);
            assert_eq!(
                world.container(&bundle).run(&[]).ok().stdout,
                "hi\n",
                "{names:?} {no_new_privileges}"
            );
            bundle.args(&["sleep", "1000"]);
            let c = world.container(&bundle).started();
            assert_eq!(c.exec(&[], &["echo", "hi"]).ok().stdout, "hi\n", "{names:?} {no_new_privileges}");
            c.finish();
        }
    }
}

/// The descriptor closes at execve then.
#[test]
fn a_refused_close_is_no_failure() {
    let Some(world) = enter("a_refused_close_is_no_failure") else { return };
    let answers = answers(&[(libc::SYS_close, json!({"errno": libc::EPERM}))]);
    let Some(mut agent) = Agent::start(&world, &answers) else { return };
    let mut bundle = asking(&world, &agent, &["close", "mkdirat"]);
    let mkdirat = nr(libc::SYS_mkdirat);
    let Some(words) = calling(&bundle, &[&[&mkdirat, "-100", "@/tmp/x", "0x1ff"]]) else { return };
    args(&mut bundle, &words);
    let c = world.container(&bundle);
    let create = c.create(&[]).ok();
    agent.kill();
    c.simple("start").ok();
    c.wait_for("stopped");
    assert_eq!(create.stdout_now(), format!("-{}\n", libc::ENOSYS));
    c.finish();
}

#[test]
fn without_its_agent_a_call_is_not_implemented() {
    let Some(world) = enter("without_its_agent_a_call_is_not_implemented") else { return };
    let Some(mut agent) = Agent::start(&world, &json!({})) else { return };
    let mut bundle = asking(&world, &agent, &["mkdir", "mkdirat"]);
    bundle.script("while ! [ -e /tmp/go ]; do sleep 0.05; done; mkdir /tmp/x");
    let c = world.container(&bundle);
    let run = c.call("run", &[], &[]).dir(bundle.dir()).spawn();
    wait_until("its state", || agent.states().len() == 1);
    agent.kill();
    fs::write(bundle.rootfs("/tmp/go"), "").unwrap();
    let out = run.wait().exits(1);
    assert!(out.stderr.contains("Function not implemented"), "{}", out.stderr);
}

#[test]
fn a_container_whose_agent_does_not_answer_can_be_killed() {
    let Some(world) = enter("a_container_whose_agent_does_not_answer_can_be_killed") else { return };
    for flags in [&[][..], &["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]] {
        let answers = answers(&[(libc::SYS_mkdirat, json!({"wait": true}))]);
        let Some(agent) = Agent::start(&world, &answers) else { return };
        let mut bundle = asking(&world, &agent, &["mkdirat"]);
        bundle.set("/linux/seccomp/flags", json!(flags));
        let mkdirat = nr(libc::SYS_mkdirat);
        let Some(words) = calling(&bundle, &[&[&mkdirat, "-100", "@/tmp/x", "0x1ff"]]) else { return };
        args(&mut bundle, &words);
        let c = world.container(&bundle).started();
        wait_until("the call", || agent.calls().contains(&libc::SYS_mkdirat));
        c.stop();
        c.finish();
    }
}

#[test]
fn profiles_that_ask_nobody_are_refused() {
    let Some(world) = enter("profiles_that_ask_nobody_are_refused") else { return };
    let Some(agent) = Agent::start(&world, &json!({})) else { return };
    let fails = |change: &dyn Fn(&mut Bundle), words: &str| {
        let mut bundle = asking(&world, &agent, &["mkdir"]);
        bundle.args(&["true"]);
        change(&mut bundle);
        for command in ["create", "run"] {
            let c = world.container(&bundle);
            c.call(command, &[], &[]).dir(bundle.dir()).run().fails(1, words);
            c.assert_nothing_left();
        }
    };
    let path = "/linux/seccomp/listenerPath";
    fails(&|b| _ = b.set(path, json!("")), "linux.seccomp.listenerPath is required by SCMP_ACT_NOTIFY");
    fails(&|b| _ = b.remove(path), "linux.seccomp.listenerPath is required by SCMP_ACT_NOTIFY");
    fails(
        &|b| _ = b.remove(path).set("/linux/seccomp/syscalls", json!([])),
        "linux.seccomp.listenerMetadata is set without linux.seccomp.listenerPath",
    );
    let words = "failed to connect with seccomp agent specified in the seccomp profile: ";
    fails(&|b| _ = b.set(path, json!("/nosuch.sock")), words);
    // An abstract one is no path.
    fails(&|b| _ = b.set(path, json!("@nosuch")), words);
    agent.settle();
    assert!(agent.states().is_empty());
}

#[test]
fn exec_fails_when_its_agent_is_gone() {
    let Some(world) = enter("exec_fails_when_its_agent_is_gone") else { return };
    let Some(mut agent) = Agent::start(&world, &json!({})) else { return };
    let mut bundle = asking(&world, &agent, &["mkdir"]);
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    agent.kill();
    let words = "failed to connect with seccomp agent specified in the seccomp profile: ";
    c.exec(&[], &["touch", "/tmp/ran"]).fails(255, words);
    assert!(!bundle.rootfs("/tmp/ran").exists());
    assert_eq!(host::processes_in_cgroup(&c.id).len(), 1);
    c.finish();
}

#[test]
fn an_agent_without_a_call_to_answer_hears_nothing() {
    let Some(world) = enter("an_agent_without_a_call_to_answer_hears_nothing") else { return };
    let Some(agent) = Agent::start(&world, &json!({})) else { return };
    let mut bundle = asking(&world, &agent, &[]);
    bundle.script("mkdir /tmp/x && echo made").set("/linux/seccomp/syscalls", json!([]));
    assert_eq!(world.container(&bundle).run(&[]).ok().stdout, "made\n");
    agent.settle();
    assert!(agent.states().is_empty());
}

#[test]
fn neither_hooks_nor_the_program_have_the_listener() {
    let Some(world) = enter("neither_hooks_nor_the_program_have_the_listener") else { return };
    let Some(agent) = Agent::start(&world, &json!({})) else { return };
    let count = "ls /proc/self/fd | wc -l";
    for no_new_privileges in NO_NEW_PRIVILEGES {
        let mut bundle = asking(&world, &agent, &["mkdir"]);
        let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", format!("[ $({count}) = 4 ] || exit 9")],
                          "env": ["PATH=/bin"]});
        bundle.set("/hooks/startContainer", json!([hook])).script(count);
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        assert_eq!(world.container(&bundle).run(&[]).ok().stdout.trim(), "4");
        bundle.args(&["sleep", "1000"]);
        let c = world.container(&bundle).started();
        assert_eq!(c.sh(count), "4");
        c.finish();
    }
}

/// seccomp(2): a process has one filter with a listener at most.
#[test]
fn a_second_listener_is_an_error_that_says_so() {
    let Some(world) = enter("a_second_listener_is_an_error_that_says_so") else { return };
    let Some(agent) = Agent::start(&world, &json!({})) else { return };
    // Inside: the program loads one more filter, `return ALLOW`, with SECCOMP_FILTER_FLAG_NEW_LISTENER.
    let load = "import ctypes, os, sys, struct\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        code = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7fff0000))\n\
        class Program(ctypes.Structure):\n    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]\n\
        program = Program(1, ctypes.addressof(code))\n\
        fd = libc.syscall(int(sys.argv[1]), 1, 8, ctypes.byref(program))\n\
        assert fd >= 0, ctypes.get_errno()\n\
        os.set_inheritable(fd, True)\n\
        os.execvp(sys.argv[2], sys.argv[2:])\n";
    let mut bundle = asking(&world, &agent, &["mkdir"]);
    bundle.args(&["true"]);
    let c = world.container(&bundle);
    let seccomp = nr(libc::SYS_seccomp);
    let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&["python3", "-c", load, &seccomp]).run();
    run.fails(
        1,
        "load seccomp filter: device or resource busy (davit itself runs under a filter with a listener)",
    );
    c.assert_nothing_left();
    agent.settle();
    assert!(agent.states().iter().all(|state| state["descriptors"] == 0), "no listener was handed over");
}

#[test]
fn with_a_terminal() {
    let Some(world) = enter("with_a_terminal") else { return };
    let Some(agent) = Agent::start(&world, &json!({})) else { return };
    let socket = ConsoleSocket::bind(&world.path("console.sock"));
    let mut bundle = world.bundle();
    bundle.set("/process/terminal", json!(true)).args(&["sleep", "1000"]);
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": agent.path}));
    let c = world.container(&bundle);
    c.create(&["--console-socket", socket.path.to_str().unwrap()]).ok();
    let _init = socket.receive();
    c.simple("start").ok();
    let flags = ["--tty", "--detach", "--console-socket", socket.path.to_str().unwrap()];
    c.exec(&flags, &["sh", "-c", "tty && echo 'its ''end'; sleep 1000"]).ok();
    let (master, _) = socket.receive();
    davit_tests::tty::Terminal::new(master).expect("its end");
    c.finish();
}

#[test]
fn in_a_user_namespace() {
    let Some(world) = enter("in_a_user_namespace") else { return };
    let Some(agent) = Agent::start(&world, &answers(&[(libc::SYS_getppid, json!({"value": 7}))])) else {
        return;
    };
    for no_new_privileges in NO_NEW_PRIVILEGES {
        let mut bundle = asking(&world, &agent, &["getppid"]);
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        bundle.push("/linux/namespaces", json!({"type": "user"}));
        bundle.set("/linux/uidMappings", ids.clone()).set("/linux/gidMappings", ids);
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges)).args(&["sleep", "1000"]);
        let getppid = nr(libc::SYS_getppid);
        let Some(words) = calling(&bundle, &[&[&getppid]]) else { return };
        bundle.for_user_namespace(100_000);
        let c = world.container(&bundle).started();
        assert_eq!(exec(&c, &[], &words).ok().stdout, "7\n");
        assert_eq!(exec(&c, &["--user", "1000"], &words).ok().stdout, "7\n");
        c.finish();
    }
}

/// An ordinary user may take a descriptor only from a process that is dumpable: its own container's while that is
/// made, but not in one that runs, whose processes could look into it (as with runc).
#[test]
fn of_an_ordinary_user() {
    let test = "seccomp_notify::of_an_ordinary_user";
    let Some(world) = World::enter_as_user(test, Ranges::None) else { return };
    let Some(agent) = Agent::start(&world, &answers(&[(libc::SYS_getppid, json!({"value": 7}))])) else {
        return;
    };
    // For everybody.
    let status = std::process::Command::new("chmod").arg("777").arg(&agent.path).status().unwrap();
    assert!(status.success());
    for no_new_privileges in NO_NEW_PRIVILEGES {
        let mut bundle = asking(&world, &agent, &["getppid"]);
        user::map_to_user(&mut bundle);
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let getppid = nr(libc::SYS_getppid);
        let Some(words) = calling(&bundle, &[&[&getppid]]) else { return };
        args(&mut bundle, &words);
        assert_eq!(world.container(&bundle).run(&[]).ok().stdout, "7\n");
        bundle.args(&["sleep", "1000"]);
        let c = world.container(&bundle).started();
        exec(&c, &[], &words).fails(255, "take seccomp listener: operation not permitted");
        c.finish();
    }
}
