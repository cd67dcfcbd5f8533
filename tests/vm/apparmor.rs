//! AppArmor: the profile of config.json and of `exec --apparmor` confines the process.

use std::process::Command;

use davit_tests::{World, unique};
use serde_json::json;

/// A profile in the kernel, removed with this value.
struct Profile {
    name: String,
    file: std::path::PathBuf,
}

impl Profile {
    /// Loads a profile that allows everything but reading `/etc/group`.
    fn load(world: &World) -> Profile {
        let name = unique("davit-vm");
        let file = world.path(&name);
        let rules = "file, capability, network, mount, umount, signal, ptrace, unix, deny /etc/group r,";
        let text = format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{ {rules} }}\n");
        std::fs::write(&file, text).unwrap();
        parser(&["--replace", "--skip-cache"], &file);
        Profile { name, file }
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        parser(&["--remove"], &self.file);
    }
}

fn parser(flags: &[&str], file: &std::path::Path) {
    let output = Command::new("/sbin/apparmor_parser").args(flags).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const SHOW: &str = "cat /proc/self/attr/current; cat /etc/passwd >/dev/null && cat /etc/group";

#[test]
fn the_profile_confines_init_and_exec() {
    let Some(world) = World::enter("vm::apparmor::the_profile_confines_init_and_exec") else { return };
    let (profile, other) = (Profile::load(&world), Profile::load(&world));
    let mut bundle = world.bundle();
    bundle.set("/process/apparmorProfile", json!(profile.name)).script(SHOW);
    let container = world.container(&bundle);
    let output = container.run(&[]).exits(1);
    assert_eq!(output.stdout.trim_end(), format!("{} (enforce)", profile.name));
    assert!(output.stderr.contains("Permission denied"), "{}", output.stderr);

    bundle.args(&["sleep", "1000"]);
    let container = world.container(&bundle).started();
    let label = |output: davit_tests::Output| output.stdout.lines().next().unwrap_or_default().to_owned();
    let inherited = container.exec(&[], &["sh", "-c", SHOW]).exits(1);
    assert_eq!(label(inherited), format!("{} (enforce)", profile.name));
    let chosen = container.exec(&["--apparmor", &other.name], &["sh", "-c", SHOW]).exits(1);
    assert_eq!(label(chosen), format!("{} (enforce)", other.name));
    container.finish();
}

#[test]
fn no_profile_is_unconfined() {
    let Some(world) = World::enter("vm::apparmor::no_profile_is_unconfined") else { return };
    let mut bundle = world.bundle();
    bundle.script(SHOW);
    let output = world.container(&bundle).run(&[]).ok();
    assert_eq!(output.stdout.lines().next(), Some("unconfined"));
}

#[test]
fn an_unknown_profile_is_refused() {
    let Some(world) = World::enter("vm::apparmor::an_unknown_profile_is_refused") else { return };
    let mut bundle = world.bundle();
    bundle.set("/process/apparmorProfile", json!("davit-no-such-profile"));
    let container = world.container(&bundle);
    let output = container.create(&[]).exits(1);
    assert!(output.error().contains("davit-no-such-profile"), "{}", output.error());
    container.assert_nothing_left();
}

#[test]
fn an_unknown_profile_is_refused_in_exec() {
    let Some(world) = World::enter("vm::apparmor::an_unknown_profile_is_refused_in_exec") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let container = world.container(&bundle).started();
    let output = container.exec(&["--apparmor", "davit-no-such-profile"], &["true"]).exits(255);
    assert!(output.error().contains("davit-no-such-profile"), "{}", output.error());
    assert_eq!(container.status(), "running");
    container.finish();
}
