//! `spec`, the log, and global flags.

use std::fs;
use std::path::Path;

use davit_tests::{RUNC, View, World, skip};
use serde_json::{Value, json};

fn enter(test: &str) -> Option<World> {
    let world = World::enter_with_runc(test)?;
    if world.is_runc() { skip(test, "compares davit with runc") } else { Some(world) }
}

/// The document that a runtime writes into an empty directory.
fn spec(world: &World, program: &Path, flags: &[&str], view: View) -> String {
    let dir = world.path(&davit_tests::unique("spec"));
    fs::create_dir(&dir).unwrap();
    let words = [&["spec"][..], flags].concat();
    world.call(&words).with(program).view(view).dir(&dir).run().ok();
    fs::read_to_string(dir.join("config.json")).unwrap()
}

#[test]
fn spec_is_runcs_but_for_what_newer_runc_changed() {
    let Some(world) = enter("spec_is_runcs_but_for_what_newer_runc_changed") else { return };
    for view in [View::Host, View::PureV2] {
        for flags in [&[][..], &["--rootless"]] {
            let runc = spec(&world, Path::new(RUNC), flags, view);
            // Newer specification; no ambient capabilities since runc 1.2, as none are inheritable.
            let ambient = runc.find(",\n\t\t\t\"ambient\": [").expect("ambient in runc's document");
            let end = ambient + runc[ambient..].find(']').unwrap() + 1;
            let expected = format!("{}{}", &runc[..ambient], &runc[end..])
                .replace("\"ociVersion\": \"1.0.2-dev\"", "\"ociVersion\": \"1.3.0\"");
            assert_eq!(spec(&world, world.runtime(), flags, view), expected, "{view:?} {flags:?}");
        }
    }
}

#[test]
fn spec_does_not_overwrite() {
    let Some(world) = World::enter("spec_does_not_overwrite") else { return };
    let dir = world.path("bundle");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("config.json"), "mine").unwrap();
    let text = "File config.json exists. Remove it first";
    world.call(&["spec"]).dir(&dir).run().fails(1, text);
    world.call(&["spec", "--bundle", dir.to_str().unwrap()]).run().fails(1, text);
    assert_eq!(fs::read_to_string(dir.join("config.json")).unwrap(), "mine");
    world.call(&["spec", "extra"]).run().fails(1, "\"spec\" requires exactly 0 argument(s)");
}

#[test]
fn the_default_document_runs() {
    let Some(world) = World::enter("the_default_document_runs") else { return };
    let mut bundle = world.bundle();
    bundle.config = serde_json::from_str(&spec(&world, world.runtime(), &[], View::Host)).unwrap();
    bundle.set("/process/terminal", json!(false)).args(&["echo", "hello"]);
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).ok().stdout, "hello\n");
    c.assert_nothing_left();
}

#[test]
fn the_log_is_appended_to_in_both_formats() {
    let Some(world) = World::enter("the_log_is_appended_to_in_both_formats") else { return };
    let log = world.path("log");
    let call = |format: &str| {
        let words = ["--log", log.to_str().unwrap(), "--log-format", format, "state", "nobody"];
        world.call(&words).without_log().run().exits(1)
    };
    assert_eq!(call("text").stderr, "container does not exist\n");
    assert_eq!(call("json").stderr, "container does not exist\n");
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("time=\"20"), "{text}");
    assert!(lines[0].ends_with(" level=error msg=\"container does not exist\""), "{text}");
    let object: Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!((&object["level"], &object["msg"]), (&json!("error"), &json!("container does not exist")));
    let time = object["time"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z') || time.len() == 25, "RFC 3339: {time}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn wrong_global_flags() {
    let Some(world) = World::enter("wrong_global_flags") else { return };
    let fails = |words: &[&str], text: &str| {
        let call = world.call(words).without_log().run().exits(1);
        assert!(call.stderr.contains(text), "{words:?}: {}", call.stderr);
    };
    fails(&["--log-format", "xml", "list"], "invalid log-format: xml");
    fails(&["--log", "/nosuch/log", "list"], "/nosuch/log: no such file or directory");
    fails(&["--frob", "list"], "flag provided but not defined: -frob");
    fails(&["--root"], "flag needs an argument: -root");
    if world.is_runc() {
        // runc 1.1 lists / and ignores a wrong --rootless unless it makes a container.
        return;
    }
    fails(&["--root", "/", "list"], "option --root argument should not be set to /");
    fails(&["--rootless=maybe", "list"], "invalid --rootless value");
    fails(&["checkpoint", "x"], "container does not exist");
    fails(&["--systemd-cgroup", "run", "x"], "");
    // Deprecated, and without a meaning here.
    let call = world.call(&["--criu", "/x", "list", "-q"]).without_log().run().ok();
    assert!(call.stderr.contains("level=warning") && call.stderr.contains("--criu"), "{}", call.stderr);
}

#[test]
fn flags_in_gos_syntax() {
    let Some(world) = World::enter("flags_in_gos_syntax") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["echo", "hi"]);
    let c = world.container(&bundle);
    let dir = bundle.dir().to_str().unwrap();
    for flags in [
        &["-bundle", dir][..],
        &["-bundle="],
        &["--bundle", dir, "-no-subreaper"],
        &["-b", dir, "--keep=false", "-no-new-keyring=true"],
    ] {
        let call = c.call("run", flags, &[]).dir(bundle.dir()).run().ok();
        assert_eq!(call.stdout, "hi\n", "{flags:?}");
        c.assert_nothing_left();
    }
    // Flags may follow the id, as urfave/cli sorts them.
    assert_eq!(c.call("run", &[], &["--bundle", dir]).run().ok().stdout, "hi\n");
    c.assert_nothing_left();
}

#[test]
fn preserved_descriptors_of_run() {
    let Some(world) = World::enter("preserved_descriptors_of_run") else { return };
    let mut bundle = world.bundle();
    bundle.script("ls /proc/self/fd | tr '\\n' ' '; cat <&3");
    let c = world.container(&bundle);
    let wrapper = ["sh", "-c", "exec \"$@\" 3<<E\nthree\nE\n", "sh"];
    let run = c.call("run", &["--preserve-fds", "1"], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
    assert_eq!(run.stdout, "0 1 2 3 4 three\n");
    c.assert_nothing_left();
}
