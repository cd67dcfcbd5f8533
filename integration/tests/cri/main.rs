//! Kubernetes' side: containerd's CRI plugin of 1.6, 1.7 and 2.1 over its socket, with README's configuration, a pause image
//! and CNI's plugins. One daemon serves all scenarios of a test, several at a time.

mod checkpoints;
mod client;
mod deaths;
mod ends;
mod execs;
mod limits;
mod namespaces;
mod node;
mod pods;
mod restarts;
mod security;
mod soak;
mod streams;

use std::thread;

use davit_integration::setup::{self, Release};
use davit_integration::skip;

use node::Node;

/// A scenario: it has pods of its own and removes them.
type Scenario = (&'static str, fn(&Node));

/// In groups that run side by side, each group in order.
const GROUPS: &[&[Scenario]] = &[
    &[
        ("one-shim", pods::several_containers_in_one_shim),
        ("rotation", pods::log_and_its_rotation),
        ("host-net", namespaces::of_the_node),
        ("pids", namespaces::pids_of_pod_container_and_target),
        ("userns", namespaces::a_user_namespace),
    ],
    &[
        ("sync", execs::results_time_outs_and_limits),
        ("storm", execs::a_storm_of_probes),
        ("stats", limits::stats_and_updates),
        ("oom", limits::out_of_memory),
        ("streams", streams::exec_attach_and_port_forward),
    ],
    &[
        ("grace", ends::a_hook_then_the_grace_period),
        ("twice", ends::what_is_stopped_or_removed_twice),
        ("security", security::contexts),
        ("profiles", security::seccomp_and_apparmor),
        ("wrong", ends::what_cannot_start),
    ],
];

/// With the daemon to themselves.
const ALONE: &[fn(&mut Node)] = &[restarts::shim_killed, restarts::daemon_restarted];

/// One scenario on a daemon of its own.
fn alone_on_a_node(release: Release, scenario: fn(&mut Node)) {
    if let Some(reason) = setup::missing() {
        skip!("{reason}");
    }
    if let Err(e) = release.bin().and_then(|_| node::plugins()) {
        skip!("packages of {release:?} or CNI's plugins: {e:#}");
    }
    let mut node = Node::start(release).expect("containerd with CRI");
    scenario(&mut node);
    node.finish();
}

fn on_a_node(release: Release) {
    alone_on_a_node(release, all);
}

fn all(node: &mut Node) {
    let wanted = std::env::var("CRI_SCENARIO").unwrap_or_default();
    thread::scope(|scope| {
        for group in GROUPS {
            let (node, wanted) = (&*node, &wanted);
            let most = if node.release == Release::Trixie { 2 } else { group.len() };
            scope.spawn(move || {
                let named = group.iter().filter(|(name, _)| name.contains(wanted.as_str()));
                for (name, scenario) in named.take(most) {
                    eprintln!("scenario {name}");
                    scenario(node);
                }
            });
        }
    });
    if "alone".contains(wanted.as_str()) {
        ALONE.iter().for_each(|scenario| scenario(node));
    }
}

#[test]
fn cri_1_6() {
    on_a_node(Release::Bookworm);
}

/// README's configuration of 1.7, with a part of the scenarios.
#[test]
fn cri_1_7() {
    on_a_node(Release::Trixie);
}

#[test]
fn cri_2_1() {
    on_a_node(Release::Sid);
}

#[test]
fn deaths_1_6() {
    alone_on_a_node(Release::Bookworm, deaths::at_random_points);
}

#[test]
fn deaths_2_1() {
    alone_on_a_node(Release::Sid, deaths::at_random_points);
}

/// CRI has had them since containerd 2.0.
#[test]
fn checkpoint_2_1() {
    alone_on_a_node(Release::Sid, checkpoints::taken_of_a_running_container);
}

#[test]
fn soak_2_1() {
    alone_on_a_node(Release::Sid, soak::pods_and_execs);
}
