//! dockerd 20.10 and 28 with our programs as a runtime by path, by `runtimeType` and in the place of runc and its shim.
//!
//! One daemon serves all scenarios of a test, several at a time: they wait more than they work.

mod errors;
mod health;
mod life;
mod limits;
mod options;
mod restarts;
mod streams;

use std::thread;

use davit_integration::docker::{Docker, Through};
use davit_integration::setup::{self, Release};
use davit_integration::skip;

/// A scenario: it uses names of its own and removes its containers.
type Scenario = (&'static str, fn(&Docker));

/// Each with the daemon to itself.
const ALONE: &[fn(&mut Docker)] = &[restarts::live_restore];

/// In groups that run side by side, each group in order.
const GROUPS: &[&[Scenario]] = &[
    &[("options", options::do_what_they_do_with_runc), ("errors", errors::are_those_of_runc)],
    &[
        ("life", life::from_run_to_rm),
        ("deaf", life::a_deaf_container_is_killed),
        ("events", life::events_in_order),
        ("bridge", life::a_bridge_between_two),
        ("oom", limits::out_of_memory),
        ("update", limits::limits_and_their_update),
    ],
    &[
        ("codes", errors::exit_codes),
        ("terminal", streams::a_terminal),
        ("stdin", streams::stdin_and_attach),
        ("output", streams::large_output_is_complete),
        ("shim", restarts::a_killed_shim),
    ],
    &[
        ("health", health::healthy_then_not),
        ("timeout", health::a_check_that_hangs),
        ("policies", restarts::policies),
        ("themselves", options::do_what_they_say),
        ("default", options::the_default_is_ours),
    ],
];

fn with_daemon(release: Release, through: Through) {
    if let Some(reason) = setup::missing() {
        skip!("{reason}");
    }
    if let Err(e) = release.bin() {
        skip!("packages of {release:?}: {e:#}");
    }
    let mut docker = Docker::start(release, through).expect("dockerd");
    let wanted = std::env::var("DOCKER_SCENARIO").unwrap_or_default();
    thread::scope(|scope| {
        for group in GROUPS {
            let (docker, wanted) = (&docker, &wanted);
            scope.spawn(move || {
                for (name, scenario) in group.iter().filter(|(name, _)| name.contains(wanted.as_str())) {
                    eprintln!("scenario {name}");
                    scenario(docker);
                }
            });
        }
    });
    if "alone".contains(wanted.as_str()) {
        ALONE.iter().for_each(|scenario| scenario(&mut docker));
    }
    docker.finish();
}

#[test]
fn docker_20_by_path() {
    with_daemon(Release::Bookworm, Through::Path);
}

#[test]
fn docker_20_in_place_of_runc() {
    with_daemon(Release::Bookworm, Through::DropIn);
}

#[test]
fn docker_28_by_path() {
    with_daemon(Release::SidDocker, Through::Path);
}

#[test]
fn docker_28_by_runtime_type_as_default() {
    with_daemon(Release::SidDocker, Through::RuntimeType);
}
