//! Exit codes and words of what goes wrong, beside runc's.

use davit_integration::docker::{Docker, Through};
use davit_integration::setup::Release;

pub fn exit_codes(docker: &Docker) {
    let code = |options: &[&str], command: &[&str]| {
        let call = docker.run(&[&["--name", "codes"], options].concat(), command);
        let kept = docker.docker(&["inspect", "--format", "{{.State.ExitCode}}", "codes"]);
        docker.docker(&["rm", "--force", "codes"]);
        (call.code, kept.out.trim_end().to_owned())
    };
    let both = |n: i32| (n, n.to_string());
    assert_eq!(code(&[], &["true"]), both(0));
    assert_eq!(code(&[], &["sh", "-c", "exit 7"]), both(7));
    assert_eq!(code(&[], &["sh", "-c", "exit 255"]), both(255));
    assert_eq!(code(&[], &["/no/such/program"]), both(127));
    assert_eq!(code(&[], &["no-such-program"]), both(127));
    assert_eq!(code(&[], &["/etc/passwd"]), both(126));
    // runc built with Go 1.20 and newer says "is a directory", and so does davit; 20.10 does not know these words.
    let directory = if docker.release == Release::Bookworm { (125, "128".to_owned()) } else { both(126) };
    assert_eq!(code(&[], &["/etc"]), directory);
    assert_eq!(code(&["--pid", "host"], &["sh", "-c", "kill -KILL $$"]), both(137));
    assert_eq!(code(&["--pid", "host"], &["sh", "-c", "kill -TERM $$"]), both(143));
    // Docker's own refusals.
    assert_eq!(code(&["--no-such-option"], &["true"]).0, 125);
    let unknown = docker.docker(&["run", "--rm", "--runtime", "no-such-runtime", "busybox:davit", "true"]);
    assert_eq!(unknown.code, 125, "{}", unknown.err);
    crate::life::start(docker, "codes", &[], "sleep 1000");
    let exec = |words: &[&str]| docker.docker(&[&["exec", "codes"], words].concat()).code;
    assert_eq!(exec(&["sh", "-c", "exit 9"]), 9);
    assert_eq!(exec(&["sh", "-c", "kill -KILL $$"]), 137);
    docker.ok(&["rm", "--force", "codes"]);
}

/// What cannot be run: the options, and the command. The words are runc's, whose exit code dockerd makes of them.
const WRONG: &[(&str, &str)] = &[
    ("", "/no/such/program"),
    ("", "no-such-program"),
    ("", "/etc/passwd"),
    ("", "/etc"),
    ("--entrypoint /etc/group", "x"),
    ("--workdir /etc/passwd", "true"),
    ("--device /no/such/device", "true"),
    ("--sysctl kernel.no_such=1", "true"),
];

/// What davit has words of its own for; the code is runc's.
const REFUSED: &[&str] = &[
    "--sysctl net.no.such=1",
    "-v /etc/passwd:/etc",
    "-v /etc:/etc/passwd",
    "--ulimit nofile=2000000:2000000",
];

pub fn are_those_of_runc(docker: &Docker) {
    if docker.through() == Through::DropIn {
        // There is no runc beside it.
        return;
    }
    let answer = |runtime: &'static str, name: &str, options: &str, command: &str| {
        let words: Vec<&str> = ["--name", name].into_iter().chain(options.split_whitespace()).collect();
        let call = docker.docker(&docker.run_words(runtime, &words, &[command]));
        docker.docker(&["rm", "--force", name]);
        let text = call.err.replace(name, "NAME");
        (call.code, text.replace(&format!("{runtime} create failed"), "create failed"))
    };
    let mut different = Vec::new();
    for (options, command) in WRONG {
        let ours = answer("davit", "wrong-davit", options, command);
        let peer = answer("runc", "wrong-runc", options, command);
        assert_ne!(ours.0, 0, "{options} {command}");
        // With 20.10 goes runc 1.1, whose words have changed since; the codes have not.
        let same = match docker.release {
            Release::Bookworm => ours.0 == peer.0 || *command == "/etc",
            _ => ours == peer,
        };
        if !same {
            different.push(format!("{options} {command}\n--- davit\n{ours:?}\n--- runc\n{peer:?}"));
        }
    }
    for options in REFUSED {
        let (ours, peer) =
            (answer("davit", "wrong-davit", options, "true"), answer("runc", "wrong-runc", options, "true"));
        assert_ne!(ours.0, 0, "{options}");
        if ours.0 != peer.0 {
            different.push(format!("{options}\n--- davit\n{ours:?}\n--- runc\n{peer:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
    execs_are_those_of_runc(docker);
}

fn execs_are_those_of_runc(docker: &Docker) {
    for (runtime, name) in [("davit", "execs-davit"), ("runc", "execs-runc")] {
        docker.ok(&docker.run_words(runtime, &["-d", "--name", name], &["sleep", "1000"]));
    }
    let wrong: [&[&str]; 6] = [
        &["/no/such/program"],
        &["no-such-program"],
        &["/etc/passwd"],
        &["/etc"],
        &["sh", "-c", "no-such-program"],
        &["sh", "-c", "kill -TERM $$"],
    ];
    for command in wrong {
        let answer = |name: &str| docker.docker(&[&["exec", name], command].concat());
        let (ours, peer) = (answer("execs-davit"), answer("execs-runc"));
        assert_ne!(ours.code, 0, "{command:?}");
        assert_eq!(ours.code, peer.code, "{command:?}: {}\n{}", ours.err, peer.err);
        if docker.release != Release::Bookworm {
            assert_eq!(ours.err, peer.err, "{command:?}");
        }
    }
    docker.ok(&["rm", "--force", "execs-davit", "execs-runc"]);
}
