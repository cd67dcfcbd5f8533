//! What a container must not change of the host's cgroup hierarchy.

use std::fs;
use std::process::Command;

use davit_tests::World;

/// The hierarchy's options, as the mount table has them: those of all its mounts.
fn options() -> String {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(1) == Some("/sys/fs/cgroup"));
    line.expect("cgroup2 is mounted").split(' ').nth(3).unwrap().to_owned()
}

/// Gives the hierarchy systemd's options, whoever has taken them away.
fn set_options() -> String {
    let again = "remount,nsdelegate,memory_recursiveprot";
    assert!(Command::new("mount").args(["-o", again, "/sys/fs/cgroup"]).status().unwrap().success());
    options()
}

/// A container that sees the host's cgroups has a mount of them, and a mount of cgroup2 that is made in the first cgroup
/// namespace sets the options of the whole hierarchy (runc #5258, moby #50466). Other tests' containers, runc's and those
/// that CRIU restores, do so at any time, so that one of several tries has to show it.
#[test]
fn a_container_without_a_cgroup_namespace_leaves_the_hosts_mount_options() {
    let test = "vm::hierarchy::a_container_without_a_cgroup_namespace_leaves_the_hosts_mount_options";
    let Some(world) = World::enter_with_runc(test) else { return };
    let mut bundle = world.bundle();
    bundle.script(
        "grep ' /sys/fs/cgroup ' /proc/self/mounts; cat /sys/fs/cgroup/init.scope/cgroup.procs | grep -c .",
    );
    let mut outputs = Vec::new();
    let kept = (0..10).any(|_| {
        let before = set_options();
        let container = world.container(&bundle);
        let output = container.run(&[]).ok().stdout;
        container.assert_nothing_left();
        let words: Vec<&str> = output.lines().next().unwrap().split(' ').collect();
        assert_eq!(words[2], "cgroup2");
        assert!(words[3].starts_with("ro,nosuid,nodev,noexec,relatime"), "{output}");
        // The host's tree, not the container's part of it.
        assert_eq!(output.lines().nth(1), Some("1"), "{output}");
        let kept = words[3].contains("nsdelegate") && before.contains("nsdelegate") && options() == before;
        outputs.push(output);
        kept
    });
    assert!(kept, "{outputs:?}");

    // A runtime that mounts it does take them away.
    set_options();
    let other = world.container(&bundle);
    let run = Command::new(davit_tests::RUNC).args(["run", &other.id]).current_dir(bundle.dir()).output();
    assert!(run.unwrap().status.success());
    assert!(!options().contains("nsdelegate"), "runc: {}", options());
    assert!(set_options().contains("memory_recursiveprot"));
}
