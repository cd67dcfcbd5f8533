//! `kill` and `delete`: forms of signals, several containers at once, processes beside init.

use davit_tests::{Bundle, Container, World, host, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

#[test]
fn signal_words() {
    let Some(world) = World::enter("kill::signal_words") else { return };
    let mut bundle = world.bundle();
    // A shell's trap takes numbers of real-time signals.
    bundle.script(
        "trap 'echo 37 > /tmp/got' 37; trap 'echo 64 > /tmp/got' 64; touch /tmp/ready; \
                   while true; do sleep 0.01; done",
    );
    bundle.set("/root/readonly", false.into());
    let c = world.container(&bundle).started();
    wait_until("traps", || bundle.rootfs("tmp/ready").exists());
    let mut words = vec![("37", "37"), ("64", "64")];
    if !world.is_runc() {
        // crun's forms; runc has numbers only.
        words.extend([("RTMIN+3", "37"), ("SIGRTMAX", "64"), ("sigrtmin+3", "37"), ("RTMAX", "64")]);
    }
    for (word, number) in words {
        let _ = std::fs::remove_file(bundle.rootfs("tmp/got"));
        c.call("kill", &[], &[word]).run().ok();
        wait_until(word, || {
            std::fs::read_to_string(bundle.rootfs("tmp/got")).is_ok_and(|text| text.trim() == number)
        });
    }
    for word in ["NOSUCH", "RTMIN+31", "SIG", "9x"] {
        c.call("kill", &[], &[word]).run().fails(1, "unknown signal");
    }
    for number in ["65", "-1"] {
        assert_eq!(c.call("kill", &[], &["--", number]).run().code, 1, "{number}");
    }
    assert_eq!(c.status(), "running");
    c.finish();
}

#[test]
fn states_that_take_no_signal() {
    let Some(world) = World::enter("kill::states_that_take_no_signal") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    c.stop();
    // The words that containerd takes for "it is gone already".
    c.call("kill", &[], &["TERM"]).run().fails(1, "container not running");
    c.call("kill", &[], &["0"]).run().fails(1, "container not running");
    if !world.is_runc() {
        // runc since 1.2.
        c.call("kill", &["--all"], &["KILL"]).run().ok();
    }
    c.finish();
}

#[test]
fn a_created_container_takes_signals() {
    let Some(world) = World::enter("kill::a_created_container_takes_signals") else { return };
    let bundle = sleeping(&world);
    for signal in ["KILL", "TERM"] {
        let c = world.container(&bundle);
        c.create(&[]).ok();
        c.call("kill", &[], &[signal]).run().ok();
        c.wait_for("stopped");
        c.simple("delete").ok();
        c.assert_nothing_left();
    }
}

#[test]
fn a_paused_container_takes_kill() {
    let Some(world) = World::enter("kill::a_paused_container_takes_kill") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    c.simple("pause").ok();
    c.call("kill", &[], &["KILL"]).run().ok();
    c.wait_for("stopped");
    c.simple("delete").ok();
    c.assert_nothing_left();
}

/// Init and five execs that share the host's pid namespace (runc issues 4145, 4040).
fn crowd<'w>(world: &'w World, bundle: &mut Bundle) -> Container<'w> {
    bundle.without_namespace("pid");
    let c = world.container(bundle).started();
    for _ in 0..5 {
        c.exec(&["--detach"], &["sleep", "1000"]).ok();
    }
    assert_eq!(host::processes_in_cgroup(&c.id).len(), 6);
    c
}

#[test]
fn sigkill_without_a_pid_namespace_reaches_all() {
    let Some(world) = World::enter("kill::sigkill_without_a_pid_namespace_reaches_all") else { return };
    let c = crowd(&world, &mut sleeping(&world));
    // runc before 1.2 needs to be told.
    let flags: &[&str] = if world.is_runc() { &["--all"] } else { &[] };
    c.call("kill", flags, &["KILL"]).run().ok();
    wait_until("the end of all", || host::processes_in_cgroup(&c.id).is_empty());
    c.wait_for("stopped");
    c.simple("delete").ok();
    c.assert_nothing_left();
}

#[test]
fn other_signals_reach_init_alone() {
    let Some(world) = World::enter("kill::other_signals_reach_init_alone") else { return };
    let c = crowd(&world, &mut sleeping(&world));
    c.call("kill", &[], &["TERM"]).run().ok();
    c.wait_for("stopped");
    assert_eq!(host::processes_in_cgroup(&c.id).len(), 5);
    c.finish();
}

#[test]
fn processes_that_outlive_a_shared_init_are_killed() {
    let Some(world) = World::enter("kill::processes_that_outlive_a_shared_init_are_killed") else { return };
    for delete in [&["kill", "delete"][..], &["delete"], &["delete --force"]] {
        let c = crowd(&world, &mut sleeping(&world));
        let init = c.pid();
        kill(Pid::from_raw(init), Signal::SIGKILL).unwrap();
        c.wait_for("stopped");
        assert_eq!(host::processes_in_cgroup(&c.id).len(), 5);
        for command in delete {
            match *command {
                // runc finds no init and kills nobody.
                "kill" if world.is_runc() => {}
                "kill" => {
                    c.call("kill", &[], &["KILL"]).run().ok();
                    wait_until("the end of all", || host::processes_in_cgroup(&c.id).is_empty());
                }
                "delete" => drop(c.simple("delete").ok()),
                _ => drop(c.call("delete", &["--force"], &[]).run().ok()),
            }
        }
        c.assert_nothing_left();
    }
}

#[test]
fn regex_means_all_that_match() {
    let Some(world) = World::enter("kill::regex_means_all_that_match") else { return };
    if world.is_runc() {
        // crun's.
        return;
    }
    let bundle = sleeping(&world);
    let [a, b, c] = [0; 3].map(|_| world.container(&bundle).started());
    let both = format!("^({}|{})$", a.id, b.id);
    world.call(&["kill", "--regex", &both, "KILL"]).run().ok();
    a.wait_for("stopped");
    b.wait_for("stopped");
    assert_eq!(c.status(), "running");
    // Running ones do not match with --force missing, and do not keep the others.
    let delete = world.call(&["delete", "-r", "^davit-test"]).run().ok();
    assert!(delete.log.contains(&format!("cannot delete container {}", c.id)), "{}", delete.log);
    a.assert_nothing_left();
    b.assert_nothing_left();
    assert_eq!(c.status(), "running");
    world.call(&["delete", "--regex", "--force", "."]).run().ok();
    c.assert_nothing_left();
    world.call(&["kill", "--regex", "nosuch"]).run().ok();
    world.call(&["kill", "--regex", "("]).run().fails(1, "invalid regular expression \"(\"");
}
