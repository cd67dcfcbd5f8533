//! Device rules: nodes inside the container can be made and opened exactly as under runc.

use std::path::{Path, PathBuf};

use davit_tests::device_rules::{lists, prepare};
use davit_tests::{Container, View, World, host, newest_runc, skip};
use serde_json::{Value, json};

/// What a container of these rules may do, or that it can't be created, with one runtime.
fn run(world: &World, view: View, rules: &Value, runtime: &Path) -> Result<String, String> {
    let mut bundle = world.bundle();
    let script = prepare(&mut bundle);
    bundle.script(script).set("/linux/resources/devices", rules.clone());
    let mut c = world.container(&bundle);
    c.view = view;
    let run = c.call("run", &[], &[]).dir(bundle.dir()).with(runtime).run();
    c.assert_nothing_left();
    if run.code == 0 { Ok(run.stdout) } else { Err(run.error()) }
}

/// What a started container may do.
fn probe(c: &Container<'_>, script: &str) -> String {
    c.exec(&[], &["sh", "-c", script]).ok().stdout
}

fn started<'w>(world: &'w World, view: View, rules: &Value) -> (Container<'w>, &'static str) {
    let mut bundle = world.bundle();
    let script = prepare(&mut bundle);
    bundle.args(&["sleep", "1000"]).set("/linux/resources/devices", rules.clone());
    let mut c = world.container(&bundle);
    c.view = view;
    (c.started(), script)
}

/// Lists that the two take differently, where, and why.
const MEANT: [(&str, &[View], &str); 3] = [
    (
        "numbers without a type",
        &[View::Host, View::PureV2],
        "runc opens every device there is; davit the ones of this number, of both kinds",
    ),
    (
        "wrong access",
        &[View::Host, View::PureV2],
        "runc drops the rule without a word; davit refuses the letter",
    ),
    (
        "all but writing one",
        &[View::PureV2],
        "runc's filter lets a device that may not be written be opened for reading and writing",
    ),
];

/// The lists that both run, with what they come to.
fn compare(world: &World, view: View, runc: &Path) -> Vec<(&'static str, Value, String)> {
    let mut problems = Vec::new();
    let mut good = Vec::new();
    for (name, rules) in lists() {
        let (ours, theirs) = (run(world, view, &rules, world.runtime()), run(world, view, &rules, runc));
        let meant = MEANT.iter().find(|(meant, views, _)| *meant == name && views.contains(&view));
        match (ours, theirs, meant) {
            (Ok(ours), Ok(theirs), None) if ours == theirs => good.push((name, rules, ours)),
            (Err(ours), Err(_), None) => println!("{view:?} {name}: both refuse: {ours}"),
            (ours, theirs, Some((.., reason))) if ours != theirs => {
                println!("{view:?} {name}: {reason}: davit {ours:?}, runc {theirs:?}");
            }
            (ours, theirs, _) => problems.push(format!("{view:?} {name}:\ndavit {ours:?}\nrunc  {theirs:?}")),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(good.len() >= 20, "{}", good.len());
    good
}

/// Every list once more on one container that goes from each to the next: by `update`, with an update of something
/// else behind it, and while a container with other rules comes and goes beside it.
fn change(world: &World, view: View, lists: &[(&str, Value, String)]) {
    let (_, first, _) = &lists[0];
    let (c, script) = started(world, view, first);
    let (_, _, all) = lists.iter().find(|(name, ..)| *name == "allow all").expect("a list");
    for (name, rules, expected) in lists {
        let input = json!({"devices": rules}).to_string();
        c.call("update", &["-r", "-"], &[]).stdin(input.as_bytes()).run().ok();
        let input = json!({"cpu": {}, "blockIO": {}}).to_string();
        c.call("update", &["-r", "-"], &[]).stdin(input.as_bytes()).run().ok();
        let (other, script) = started(world, view, &json!([{"allow": true, "access": "rwm"}]));
        assert_eq!(&probe(&c, script), expected, "{view:?}: {name}, beside another container");
        assert_eq!(&probe(&other, script), all, "{view:?}: {name}, the other container");
        other.finish();
    }
    let (name, _, expected) = lists.last().expect("a list");
    assert_eq!(&probe(&c, script), expected, "{view:?}: {name}, after the other container");
    c.finish();
}

fn test(test: &str, view: View) {
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return skip(test, "compares davit with runc").unwrap_or_default();
    }
    let runc: PathBuf = match newest_runc() {
        Ok(runc) => runc,
        Err(reason) => return skip(test, &reason).unwrap_or_default(),
    };
    let good = compare(&world, view, &runc);
    change(&world, view, &good);
}

#[test]
fn nodes_open_as_under_runc() {
    if !host::has_v1() {
        return skip("devices::nodes_open_as_under_runc", "no cgroup v1 hierarchies").unwrap_or_default();
    }
    test("devices::nodes_open_as_under_runc", View::Host);
}

#[test]
fn nodes_open_as_under_runc_on_v2() {
    test("devices::nodes_open_as_under_runc_on_v2", View::PureV2);
}
