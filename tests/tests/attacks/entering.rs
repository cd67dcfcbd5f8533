//! While davit enters a container, its processes look for it (CVE-2016-9962).

use std::fs;

use davit_tests::{unique, wait_until};
use serde_json::json;

use crate::support::{Canary, creates, enter, until_met};

/// Looks at every process that it can see: its descriptors, root, working directory, memory, environment. `met` is a
/// process that is not the container's own program; `ROOT` and the like say what could be reached of it, and `EXE` that
/// all could.
///
/// `/out/turn` makes it write to another file: what it has seen before and not told yet, it tells in the first.
const WATCHER: &str = r#"
log=/out/log
echo ready >>$log
while :; do
    if [ $log = /out/log ] && [ -e /out/turn ]; then
        log=/out/second
        echo ready >>$log
    fi
    for p in /proc/[0-9]*; do
        # A process whose file can not be seen is none of the container's, unless it has ended.
        if [ -e $p/exe ]; then
            # One that can be looked into runs the container's program, or it has ended meanwhile.
            [ $p/exe -ef /bin/busybox ] || { [ -e $p/exe ] && echo EXE >>$log; }
            continue
        fi
        read -r pid name state rest <$p/stat || continue
        if [ "$state" = Z ] || [ "$state" = X ]; then continue; fi
        echo met >>$log
        [ -e $p/root/CANARY ] && echo ROOT >>$log
        [ -e $p/cwd/CANARY ] && echo CWD >>$log
        # It may execute its program meanwhile, which is the container's and has the first three.
        for f in $p/fd/*; do
            case ${f##*/} in [012]) ;; *) [ -e $f ] && echo FD >>$log ;; esac
        done
        line=
        read -r line <$p/maps
        # The new program's, or its stack alone while it is being executed.
        case $line in "" | */bin/busybox | *'[stack]') ;; *) echo MEMORY >>$log; echo "$line" >>$log ;; esac
    done
done 2>/dev/null
"#;

#[test]
fn cve_2016_9962_nothing_of_an_exec_can_be_taken() {
    let Some(world) = enter("cve_2016_9962_nothing_of_an_exec_can_be_taken") else { return };
    let canary = Canary::new(&world, "canary");
    let out = world.path(&unique("out"));
    fs::create_dir(&out).unwrap();
    let mut bundle = world.bundle();
    bundle.mount("/out", "bind", out.to_str().unwrap(), &["rbind", "rw"]);
    bundle.script(&WATCHER.replace("CANARY", &canary.text()[1..]));
    crate::binary::entry(&bundle, "/proc/self/exe");
    let c = world.container(&bundle).started();
    let said = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
    let count = |name: &str, word: &str| said(name).lines().filter(|line| *line == word).count();
    wait_until("the watcher", || count("log", "ready") > 0);
    // A program that enters without becoming undumpable is caught.
    let (weak, pid) = (crate::binary::weak(&world), c.pid().to_string());
    until_met("the watcher catches a program without the defence", || {
        let _ = std::process::Command::new(&weak).args([&pid, "/entry"]).status();
        count("log", "EXE") > 0
    });
    fs::write(out.join("turn"), "").unwrap();
    wait_until("the watcher to turn to davit", || count("second", "ready") > 0);
    for _ in 0..creates() {
        c.exec(&[], &["true"]).ok();
    }
    // Until it was met at all: on a busy machine the watcher is seldom on.
    until_met("the watcher meets an exec", || {
        c.exec(&[], &["true"]).ok();
        count("second", "met") > 2
    });
    println!("met {} times", count("second", "met"));
    for word in ["EXE", "ROOT", "CWD", "FD", "MEMORY"] {
        assert_eq!(count("second", word), 0, "{word}: {}", said("second"));
    }
    c.finish();
}

/// Init of a container in a pid namespace that others are in already, from its first instruction until it is started.
#[test]
fn cve_2016_9962_nothing_of_a_create_can_be_taken() {
    let Some(world) = enter("cve_2016_9962_nothing_of_a_create_can_be_taken") else { return };
    let canary = Canary::new(&world, "canary");
    let out = world.path(&unique("out"));
    fs::create_dir(&out).unwrap();
    let mut bundle = world.bundle();
    bundle.mount("/out", "bind", out.to_str().unwrap(), &["rbind", "rw"]);
    bundle.script(&WATCHER.replace("CANARY", &canary.text()[1..]));
    let watcher = world.container(&bundle).started();
    let count = |word: &str| {
        let text = fs::read_to_string(out.join("log")).unwrap_or_default();
        text.lines().filter(|line| *line == word).count()
    };
    wait_until("the watcher", || count("ready") > 0);
    let mut bundle = world.bundle();
    let shared = json!({"type": "pid", "path": format!("/proc/{}/ns/pid", watcher.pid())});
    bundle.without_namespace("pid").push("/linux/namespaces", shared).args(&["true"]);
    for _ in 0..creates() / 4 {
        let c = world.container(&bundle);
        c.create(&[]).ok();
        c.call("delete", &["--force"], &[]).run().ok();
    }
    let c = world.container(&bundle);
    c.create(&[]).ok();
    let before = count("met");
    wait_until("the watcher to meet a created container", || count("met") > before);
    for word in ["EXE", "ROOT", "CWD", "FD", "MEMORY"] {
        assert_eq!(count(word), 0, "{word}: {}", fs::read_to_string(out.join("log")).unwrap_or_default());
    }
    c.finish();
    watcher.finish();
}
