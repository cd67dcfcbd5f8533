//! Flags, ids and states that a command can't work with.

use davit_tests::{World, skip};

use crate::{assert_sentence, each};

/// Arguments, the exit code, what the error says. `ID` is a running container's, `NEW` nobody's.
type Row = (&'static [&'static str], i32, &'static str);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    (&["create", "--bundle", "/nosuch", "NEW"], 1, "/nosuch"),
    (&["create", "--bundle", "BUNDLE", "ID"], 1, "container with given ID already exists"),
    (&["create", "--bundle", "BUNDLE", "a/b"], 1, "invalid container ID format"),
    (&["create", "--bundle", "BUNDLE", ".."], 1, "invalid container ID format"),
    (&["create", "--bundle", "BUNDLE", "a b"], 1, "invalid container ID format"),
    (&["create", "--bundle", "BUNDLE", ""], 1, "container"),
    (&["create", "--bundle", "BUNDLE", "--pid-file", "/nosuch/pid", "NEW"], 1, "/nosuch"),
    (&["create", "--bundle", "BUNDLE", "--pidfd-socket", "/nosuch", "NEW"], 1, "/nosuch"),
    (&["create", "--bundle", "BUNDLE", "--console-socket", "/nosuch", "NEW"], 1, "console socket"),
    (&["create", "--bundle", "BUNDLE", "--preserve-fds", "50", "NEW"], 1, "preserve"),
    (&["run", "--bundle", "BUNDLE", "--preserve-fds", "50", "NEW"], 1, "preserve"),
    (&["run", "--bundle", "BUNDLE", "--detach", "--console-socket", "/nosuch", "NEW"], 1, "console socket"),
    (&["start", "NEW"], 1, "container does not exist"),
    (&["start", "ID"], 1, "cannot start an already running container"),
    (&["state", "NEW"], 1, "container does not exist"),
    (&["state", "../ID"], 1, "invalid container ID format"),
    (&["kill", "NEW", "KILL"], 1, "container does not exist"),
    (&["kill", "ID", "BOGUS"], 1, "BOGUS"),
    (&["kill", "ID", "99"], 1, "99"),
    (&["kill", "ID", "-1"], 1, "-1"),
    (&["delete", "NEW"], 1, "container does not exist"),
    (&["delete", "ID"], 1, "running"),
    (&["pause", "NEW"], 1, "container does not exist"),
    (&["resume", "ID"], 1, "not paused"),
    (&["resume", "NEW"], 1, "container does not exist"),
    (&["ps", "NEW"], 1, "container does not exist"),
    (&["ps", "--format", "bogus", "ID"], 1, "invalid format option"),
    (&["list", "--format", "bogus"], 1, "invalid format option"),
    (&["exec", "NEW", "true"], 255, "container does not exist"),
    (&["spec", "--bundle", "/nosuch"], 1, "/nosuch"),
    (&["spec", "--bundle", "BUNDLE"], 1, "config.json"),
];

#[test]
fn wrong_arguments() {
    let test = "wrong_arguments";
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return skip(test, "davit's words").unwrap_or_default();
    }
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    each(
        ROWS,
        |(words, ..)| format!("{words:?}"),
        |(words, code, text)| {
            let new = davit_tests::unique("davit-test-new");
            let words: Vec<String> = words
                .iter()
                .map(|word| match *word {
                    "NEW" => new.clone(),
                    "BUNDLE" => bundle.dir().to_str().unwrap().to_owned(),
                    word => word.replace("ID", &c.id),
                })
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = world.call(&words).run();
            assert_sentence(&output.error());
            output.fails(*code, text);
            assert!(davit_tests::host::cgroups_named(&new).is_empty(), "a cgroup of {new} is left");
            assert!(!world.root().join(&new).exists(), "a state directory of {new} is left");
        },
    );
    assert_eq!(c.status(), "running");
    c.finish();
}
