//! Shell completions and manual pages, which are made from the tables of commands and flags.

use std::fs;
use std::path::Path;
use std::process::Command;

use davit_tests::sources::root;
use davit_tests::{World, skip};

fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if world.is_runc() { skip(test, "about davit's own commands") } else { Some(world) }
}

fn script(world: &World, shell: &str) -> String {
    world.call(&["completion", shell]).run().ok().stdout
}

/// What a command prints; nothing where it is not installed.
fn output(program: &str, args: &[&str]) -> Option<(bool, String)> {
    let out = Command::new(program).args(args).output().ok()?;
    Some((out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()))
}

fn commands(world: &World) -> Vec<String> {
    let help = world.call(&["--help"]).run().ok().stdout;
    let lines =
        help.lines().skip_while(|line| *line != "COMMANDS:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.map(|line| line.split_whitespace().next().unwrap().trim_end_matches(',').to_owned());
    names.filter(|name| name != "help").collect()
}

#[test]
fn bash_completes() {
    let Some(world) = enter("bash_completes") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let file = world.path("completion");
    fs::write(&file, script(&world, "bash")).unwrap();
    let davit = world.runtime().to_str().unwrap();
    let root = world.root().to_str().unwrap().to_owned();
    let dir = world.path("").to_str().unwrap().to_owned();
    let complete = |words: &[&str]| {
        let program =
            ". \"$0\"; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _davit; echo \"${COMPREPLY[*]}\"";
        let args = [&["-c", program, file.to_str().unwrap(), davit][..], words].concat();
        let (fine, text) = output("bash", &args).expect("bash");
        assert!(fine, "{words:?}: {text}");
        text.trim().to_owned()
    };
    assert_eq!(complete(&["cr"]), "create");
    assert_eq!(complete(&["--log-format", ""]), "text json");
    assert_eq!(complete(&["--log-format", "json", "fea"]), "features");
    assert_eq!(complete(&["--roo"]), "--root --rootless");
    assert_eq!(complete(&["exec", "--app"]), "--apparmor");
    assert_eq!(complete(&["list", "-f", "t"]), "table");
    assert_eq!(complete(&["completion", ""]), "bash zsh fish");
    assert_eq!(complete(&["run", "--config", &format!("{dir}comp")]), file.to_str().unwrap());
    // Ids come from the runtime's own list, with the global flags that were given.
    for command in ["state", "kill", "delete", "exec"] {
        assert_eq!(complete(&["--root", &root, command, "davit-"]), c.id, "{command}");
    }
    assert_eq!(complete(&["--root", &root, "exec", "--cwd", "/", &c.id[..8]]), c.id);
    // A new container's id is new; the program's words are not ours.
    assert_eq!(complete(&["--root", &root, "create", ""]), "");
    assert_eq!(complete(&["--root", &root, "exec", &c.id, "--ap"]), "");
    // Every command, and every long flag of it that the help shows.
    for name in commands(&world) {
        assert_eq!(complete(&[&name]).split(' ').next(), Some(name.as_str()));
        let help = world.call(&[&name, "--help"]).run().ok().stdout;
        let offered = complete(&[&name, "-"]);
        for line in help.lines().map(str::trim_start).filter(|line| line.starts_with('-')) {
            let flag = line.split([' ', ',', '[']).find(|word| word.starts_with("--")).unwrap();
            assert!(offered.split(' ').any(|word| word == flag), "{name} {flag}: {offered}");
        }
    }
    c.finish();
}

#[test]
fn zsh_and_fish_read_their_scripts() {
    let Some(world) = enter("zsh_and_fish_read_their_scripts") else { return };
    for shell in ["zsh", "fish"] {
        let text = script(&world, shell);
        for name in commands(&world) {
            assert!(text.contains(&name), "{shell}: {name}");
        }
        let file = world.path(shell);
        fs::write(&file, text).unwrap();
        match output(shell, &["-n", file.to_str().unwrap()]) {
            Some((fine, said)) => assert!(fine, "{shell}: {said}"),
            None => skip::<()>("zsh_and_fish_read_their_scripts", &format!("no {shell}")).unwrap_or_default(),
        }
    }
    let fish = format!("source {}; complete -C 'davit list --format '", world.path("fish").display());
    if let Some((_, offered)) = output("fish", &["-c", &fish]) {
        assert!(offered.starts_with("json\t") && offered.contains("\ntable\t"), "{offered}");
    }
    world.call(&["completion", "csh"]).run().fails(1, "the shell must be bash, zsh or fish");
}

#[test]
fn manual_pages_are_complete() {
    let Some(world) = enter("manual_pages_are_complete") else { return };
    let dir = world.path("man8");
    fs::create_dir(&dir).unwrap();
    world.call(&["man", dir.to_str().unwrap()]).run().ok();
    let page = |name: &str| {
        fs::read_to_string(dir.join(format!("{name}.8"))).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let program = page("davit");
    for name in commands(&world) {
        assert!(program.contains(&format!("\\fB{name}\\fR")), "{name}");
        let text = page(&format!("davit-{name}")).replace("\\-", "-");
        let help = world.call(&[&name, "--help"]).run().ok().stdout;
        for line in help.lines().map(str::trim_start).filter(|line| line.starts_with('-')) {
            let flag = line.split([' ', ',', '[']).find(|word| word.starts_with("--")).unwrap();
            assert!(text.contains(&format!("\\fB{flag}\\fR")), "{name} {flag}");
        }
    }
    let pages: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path().to_str().unwrap().to_owned()).collect();
    let mut args = vec!["-T", "lint", "-W", "warning"];
    args.extend(pages.iter().map(String::as_str));
    match output("mandoc", &args) {
        // The date would make two builds differ.
        Some((_, said)) => {
            let wrong: Vec<_> = said.lines().filter(|line| !line.contains("missing date")).collect();
            assert!(wrong.is_empty(), "{wrong:#?}");
        }
        None => skip::<()>("manual_pages_are_complete", "no mandoc to check them with").unwrap_or_default(),
    }
    world.call(&["man", "/nosuch"]).run().fails(1, "write /nosuch/davit.8: no such file or directory");
}

#[test]
fn install_puts_pages_and_completions_beside_the_programs() {
    let Some(world) = enter("install_puts_pages_and_completions_beside_the_programs") else { return };
    let bin = root().join("target/bin");
    if !bin.join("davit").exists() || !bin.join("containerd-shim-davit-v2").exists() {
        skip::<()>("install_puts_pages_and_completions_beside_the_programs", "no hack/build yet");
        return;
    }
    // As old a build as there may be.
    let has_man = Command::new(bin.join("davit"))
        .args(["man", "--help"])
        .output()
        .is_ok_and(|out| out.status.success());
    if !has_man {
        skip::<()>(
            "install_puts_pages_and_completions_beside_the_programs",
            "target/bin is older than davit man",
        );
        return;
    }
    let dest = world.path("dest");
    let out = Command::new(root().join("hack/install"))
        .env("DESTDIR", &dest)
        .env("PREFIX", "/usr")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for file in [
        "bin/davit",
        "bin/containerd-shim-davit-v2",
        "share/man/man8/davit-exec.8",
        "share/bash-completion/completions/davit",
        "share/zsh/site-functions/_davit",
        "share/fish/vendor_completions.d/davit.fish",
    ] {
        let path = dest.join("usr").join(file);
        assert!(Path::new(&path).metadata().is_ok_and(|found| found.len() > 0), "{file}");
    }
}
