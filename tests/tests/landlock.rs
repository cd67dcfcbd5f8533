//! Landlock by annotation: what programs may reach of the container's own files and ports.

use davit_tests::calls::{self, Bits};
use davit_tests::{Bundle, World, skip};
use serde_json::{Value, json};

const ANNOTATION: &str = "io.github.davit.landlock";

/// A world on a kernel that has enough of Landlock.
fn enter(test: &str) -> Option<World> {
    let world = World::enter(&format!("landlock::{test}"))?;
    match davit::sys::landlock::version() {
        Ok(4..) => Some(world),
        other => skip(test, &format!("the kernel's version of landlock is {other:?}, 4 is needed")),
    }
}

fn restricted(world: &World, rules: &Value) -> Bundle {
    let mut bundle = world.bundle();
    bundle.set("/root/readonly", json!(false)).set("/annotations", json!({ANNOTATION: rules.to_string()}));
    bundle
}

#[test]
fn files_are_reached_as_the_rules_say() {
    let Some(world) = enter("files_are_reached_as_the_rules_say") else { return };
    let rules = json!({"readOnly": ["/bin", "/etc/passwd"], "readWrite": ["/tmp", "/dev/null"]});
    let script = "head -c 4 /etc/passwd; echo; cat /etc/group 2>&1; ls / 2>&1; echo x >> /etc/passwd; \
                  echo x > /tmp/made && cat /tmp/made; echo x > /dev/null && echo null; mkdir /tmp/dir && echo dir; \
                  mkdir /mnt/dir 2>&1; cat /proc/self/status 2>&1";
    let expected = "root\ncat: can't open '/etc/group': Permission denied\nls: can't open '/': Permission denied\n\
                    x\nnull\ndir\nmkdir: can't create directory '/mnt/dir': Permission denied\n\
                    cat: can't open '/proc/self/status': Permission denied\n";
    let mut bundle = restricted(&world, &rules);
    bundle.script(script);
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).stdout, expected);
    c.assert_nothing_left();
    std::fs::remove_dir(bundle.rootfs("/tmp/dir")).unwrap();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    assert_eq!(c.exec(&[], &["sh", "-c", script]).stdout, expected);
    c.finish();
}

#[test]
fn ports_are_bound_and_connected_as_the_rules_say() {
    let Some(world) = enter("ports_are_bound_and_connected_as_the_rules_say") else { return };
    let mut bundle = restricted(&world, &json!({"readOnly": ["/"], "bindTcp": [], "connectTcp": [80]}));
    let program = match calls::install(&bundle, Bits::Native) {
        Ok(program) => program,
        Err(reason) => return skip("landlock::ports", &reason).unwrap_or_default(),
    };
    // struct sockaddr_in of port 0x5050 is text: family 2, then the port; the rest is zero behind the text.
    let (socket, bind) = (libc::SYS_socket.to_string(), libc::SYS_bind.to_string());
    let address = "@\u{2}";
    let words = calls::words(program, &[&[&socket, "2", "1", "0"], &[&bind, "$", address, "16"]]);
    bundle.set("/process/args", json!(words));
    let out = world.container(&bundle).run(&[]);
    // Without the rule it is port 0 at an odd address: anything but EACCES.
    assert_eq!(out.stdout.lines().nth(1), Some(format!("-{}", libc::EACCES).as_str()), "{}", out.stdout);
    bundle.set("/annotations", json!({ANNOTATION: json!({"readOnly": ["/"]}).to_string()}));
    let out = world.container(&bundle).run(&[]);
    assert_ne!(out.stdout.lines().nth(1), Some(format!("-{}", libc::EACCES).as_str()), "{}", out.stdout);
}

#[test]
fn rules_that_cannot_hold_are_errors() {
    let Some(world) = enter("rules_that_cannot_hold_are_errors") else { return };
    let fails = |bundle: &mut Bundle, words: &str| {
        bundle.args(&["true"]);
        let c = world.container(bundle);
        c.run(&[]).fails(1, words);
        c.assert_nothing_left();
    };
    let everything = json!({"readWrite": ["/"]});
    let mut bundle = restricted(&world, &everything);
    bundle.set("/annotations", json!({ANNOTATION: "{\"readonly\": []}"}));
    fails(&mut bundle, "io.github.davit.landlock: unknown field `readonly`");
    let mut bundle = restricted(&world, &everything);
    bundle.set("/process/noNewPrivileges", json!(false));
    fails(&mut bundle, "io.github.davit.landlock needs process.noNewPrivileges");
    fails(
        &mut restricted(&world, &json!({"readOnly": ["/nosuch"]})),
        "allow by landlock /nosuch: no such file",
    );
    fails(&mut restricted(&world, &json!({"readOnly": ["/etc"]})), "exec: \"/bin/true\": permission denied");
}

#[test]
fn together_with_a_filter_and_created() {
    let Some(world) = enter("together_with_a_filter_and_created") else { return };
    let mut bundle = restricted(&world, &json!({"readOnly": ["/bin"]}));
    let rule = json!({"names": ["landlock_restrict_self"], "action": "SCMP_ACT_KILL_PROCESS"});
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
    bundle.script("cat /etc/passwd 2>&1; sleep 1000");
    let c = world.container(&bundle);
    let create = c.create(&[]).ok();
    c.simple("start").ok();
    davit_tests::wait_until("the words", || create.stdout_now().ends_with("Permission denied\n"));
    c.finish();
}
