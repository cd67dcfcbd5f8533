//! The process file of `exec --process`, and its flags. Errors of exec have exit code 255, as runc's.

use davit_tests::{Container, World, skip};
use serde_json::{Value, json};

use crate::{assert_sentence, each};

/// A field of process.json, a wrong value as JSON text (empty: removed), what the error says.
type Row = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const FILES: &[Row] = &[
    ("/user", "\"root\"", "process.json: user: invalid type"),
    ("/user/uid", "\"root\"", "process.json: user.uid: invalid type"),
    ("/user/uid", "-1", "process.json: user.uid: invalid value"),
    ("/user/uid", "4294967295", "process.user.uid"),
    ("/user/gid", "4294967295", "process.user.gid"),
    ("/user/additionalGids", "[4294967295]", "process.user.additionalGids"),
    ("/user", "", "missing field `user`"),
    ("/cwd", "5", "process.json: cwd: invalid type"),
    ("/cwd", "", "missing field `cwd`"),
    ("/cwd", "\"\"", "Cwd property must not be empty"),
    ("/cwd", "\"tmp\"", "Cwd must be an absolute path"),
    ("/cwd", "\"/etc/passwd\"", "/etc/passwd"),
    ("/cwd", "\"/t\\u0000mp\"", "cwd"),
    ("/args", "[]", "args must not be empty"),
    ("/args", "", "args must not be empty"),
    ("/args", "\"sh\"", "process.json: args: invalid type"),
    ("/args", "[\"nosuch\"]", "\"nosuch\": executable file not found in $PATH"),
    ("/args", "[\"/etc\"]", "\"/etc\": is a directory"),
    ("/args", "[\"/etc/passwd\"]", "\"/etc/passwd\": permission denied"),
    ("/args", "[\"a\\u0000b\"]", "process.args"),
    ("/env", "[\"NOVALUE\"]", "invalid environment variable \"NOVALUE\""),
    ("/env", "[\"A=b\\u0000c\"]", "invalid environment variable"),
    ("/env", "{}", "process.json: env: invalid type"),
    ("/rlimits", "[{\"type\":\"RLIMIT_BOGUS\",\"soft\":1,\"hard\":1}]", "process.json: rlimits[0].type: unknown variant `RLIMIT_BOGUS`"),
    ("/rlimits", "[{\"type\":\"RLIMIT_CORE\",\"soft\":2,\"hard\":1}]", "RLIMIT_CORE"),
    ("/oomScoreAdj", "5000", "oomScoreAdj"),
    ("/scheduler", "{\"policy\":\"SCHED_OTHER\",\"nice\":50}", "scheduler.nice"),
    ("/ioPriority", "{\"class\":\"IOPRIO_CLASS_BE\",\"priority\":9}", "ioPriority"),
    ("/execCPUAffinity", "{\"initial\":\"999999\"}", "execCPUAffinity"),
    ("/apparmorProfile", "\"nosuch\"", "apparmor"),
    ("/selinuxLabel", "\"nosuch\"", "selinux"),
];

#[rustfmt::skip]
const FLAGS: &[(&[&str], &[&str], &str)] = &[
    (&[], &[], "process args cannot be empty"),
    (&[], &["nosuch"], "\"nosuch\": executable file not found in $PATH"),
    (&["--cwd", "tmp"], &["true"], "Cwd must be an absolute path"),
    (&["--cwd", "/etc/passwd"], &["true"], "/etc/passwd"),
    (&["--user", "root"], &["true"], "\"root\" as uid"),
    (&["--user", "0:x"], &["true"], "\"x\" as gid"),
    (&["--user", "-1"], &["true"], "\"-1\" as uid"),
    (&["--user", "4294967295"], &["true"], "\"4294967295\" as uid"),
    (&["--user", "0:0:0"], &["true"], "\"0:0\" as gid"),
    (&["--additional-gids", "x"], &["true"], "\"x\" as additional gid"),
    (&["--env", "NOVALUE"], &["true"], "invalid environment variable \"NOVALUE\""),
    (&["--preserve-fds", "50"], &["true"], "preserve"),
    (&["--process", "/nosuch"], &[], "/nosuch: no such file or directory"),
    (&["--process", "/etc"], &[], "/etc: is a directory"),
    (&["--process", "/dev/null"], &[], "/dev/null: EOF while parsing"),
    (&["--console-socket", "/nosuch"], &["true"], "console socket"),
    (&["--tty", "--detach", "--console-socket", "/nosuch"], &["true"], "/nosuch"),
    (&["--tty", "--detach"], &["true"], "cannot allocate tty"),
    (&["--pid-file", "/nosuch/pid"], &["true"], "/nosuch"),
    (&["--pidfd-socket", "/nosuch"], &["true"], "/nosuch"),
    (&["--apparmor", "nosuch"], &["true"], "apparmor"),
    (&["--process-label", "nosuch"], &["true"], "selinux"),
    (&["--cgroup", "../.."], &["true"], "cgroup"),
    (&["--cgroup", "nosuch"], &["true"], "nosuch"),
];

fn container(test: &str, check: impl FnOnce(&World, &Container<'_>)) {
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return skip(test, "davit's words").unwrap_or_default();
    }
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    // Their pids: the table has times, too.
    let processes = || c.call("ps", &["--format", "json"], &[]).run().ok().json();
    let before = processes();
    check(&world, &c);
    // Nothing that failed is left in the container, and it goes on.
    assert_eq!(processes(), before);
    c.finish();
}

#[test]
fn a_wrong_process_file() {
    container("a_wrong_process_file", |world, c| {
        each(
            FILES,
            |(field, text, _)| format!("{field} = {text}"),
            |(field, text, words)| {
                let mut bundle = world.bundle();
                bundle.config = json!({"process": bundle.config["process"]});
                let pointer = format!("/process{field}");
                match text.is_empty() {
                    true => bundle.remove(&pointer),
                    false => bundle.set(&pointer, serde_json::from_str::<Value>(text).unwrap()),
                };
                if !field.starts_with("/args") {
                    bundle.args(&["true"]);
                }
                let process = &bundle.config["process"];
                let file = bundle.dir().join("process.json");
                std::fs::write(&file, process.to_string()).unwrap();
                let exec = c.exec(&["--process", file.to_str().unwrap()], &[]);
                assert_sentence(&exec.error());
                exec.fails(255, words);
            },
        );
    });
}

#[test]
fn wrong_flags_of_exec() {
    container("wrong_flags_of_exec", |_, c| {
        each(
            FLAGS,
            |(flags, args, _)| format!("{flags:?} {args:?}"),
            |(flags, args, words)| {
                let exec = c.exec(flags, args);
                assert_sentence(&exec.error());
                exec.fails(255, words);
            },
        );
    });
}
