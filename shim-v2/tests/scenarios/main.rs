//! What a shim is to do, as scenarios over the shim's socket: with davit inside the shim, with runc outside of it, and on
//! Debian unstable's containerd-shim-runc-v2, where [`DIFFERENCES`] lists what davit's shim does better. Most scenarios come from other people's bugs: the numbers in their comments are issues of containerd.
//!
//! `cargo test -p containerd-shim-davit-v2 --test scenarios go::` runs the last ones alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

mod bootstrap;
mod checkpoint;
mod differences;
mod durability;
mod events;
mod execs;
#[path = "../harness/mod.rs"]
mod harness;
mod lifecycle;
mod mounts;
mod prelude;
mod protocol;
mod runtimes;
mod stdio;

use std::panic::{AssertUnwindSafe, catch_unwind};

use differences::{DIFFERENCES, Often};
use harness::{Daemon, Runtime, Shim, can_run};

type Scenario = fn(&Daemon);

fn davit(name: &str, runtime: Runtime, scenario: Scenario) {
    let test = if runtime == Runtime::Runc { format!("runc::{name}") } else { format!("davit::{name}") };
    if can_run(&test, runtime) {
        scenario(&Daemon::with(Shim::Davit, runtime));
    }
}

/// Runs a scenario on Go's shim. It must pass, unless the table says why not; a difference that is none any more
/// fails too.
fn go(name: &str, scenario: Scenario) {
    let test = format!("go::{name}");
    let dir = match harness::go_dir() {
        Ok(dir) if dir.join("containerd-shim-runc-v2").exists() => dir,
        Ok(_) => return eprintln!("SKIPPED {test}: no containerd-shim-runc-v2 of Debian unstable"),
        Err(e) => return eprintln!("SKIPPED {test}: {e}"),
    };
    if !can_run(&test, Runtime::Davit) {
        return;
    }
    let difference = DIFFERENCES.iter().find(|d| d.scenario == name);
    if let Some(d) = difference.filter(|d| d.often == Often::NotAsked) {
        return eprintln!("not asked of Go's shim: {name}: {}", d.why);
    }
    harness::talk_to_go(difference.is_some());
    let attempt =
        || catch_unwind(AssertUnwindSafe(|| scenario(&Daemon::with(Shim::Go(dir.clone()), Runtime::Runc))));
    let mut outcome = attempt();
    // A busy machine hits the slower shim harder; what is none of davit's failures gets a second try.
    if outcome.is_err() && difference.is_none() {
        outcome = attempt();
    }
    match (outcome, difference) {
        (Ok(()), None) => {}
        (Err(_), Some(d)) => eprintln!("as listed, Go's shim differs: {}", d.why),
        (Ok(()), Some(d)) if d.often == Often::Sometimes => {}
        // How Go's shim fares depends on the machine, and says nothing of davit's: seen as skipped, an error on demand.
        _ if std::env::var_os("GO_STRICT").is_none() => {
            let how =
                if difference.is_some() { "passes, though it is listed" } else { "fails, and is not listed" };
            eprintln!("SKIPPED {test}: Go's shim {how} in differences.rs");
        }
        (Err(panic), None) => std::panic::resume_unwind(panic),
        (Ok(()), Some(_)) => panic!("{name} is listed as a difference, but Go's shim passes"),
    }
}

#[test]
fn every_difference_names_a_scenario() {
    for difference in DIFFERENCES {
        assert!(NAMES.contains(&difference.scenario), "{}", difference.scenario);
        assert!(difference.why.len() > 20, "{}: say why", difference.scenario);
    }
    assert!(NAMES.len() >= 100, "{} scenarios", NAMES.len());
}

/// What [`bootstrap::a_peer_of_another_user_is_refused`] runs as another user.
#[test]
fn peer_program() {
    use std::io::{Read, Write};
    if std::env::var_os("DAVIT_SHIM_PEER").is_none() {
        return;
    }
    let mut stream = std::os::unix::net::UnixStream::connect("/proc/self/fd/0").unwrap();
    // A request of no service: any answer will do. A shim that refuses closes, perhaps before this is written.
    let _ = stream.write_all(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
    let answered = stream.read(&mut [0; 10]).is_ok_and(|n| n > 0);
    println!("peer: {}", if answered { "answered" } else { "refused" });
}

/// Makes the tests: one per scenario and shim.
macro_rules! tests {
    ($($group:ident: $($scenario:ident),* $(,)?;)*) => {
        const NAMES: &[&str] = &[$($(stringify!($scenario)),*),*];
        mod davit_inside {
            $(mod $group {$(
                #[test]
                fn $scenario() {
                    crate::davit(
                        stringify!($scenario),
                        crate::harness::Runtime::Davit,
                        crate::$group::$scenario,
                    );
                }
            )*})*
        }
        mod go {
            $(mod $group {$(
                #[test]
                fn $scenario() {
                    crate::go(stringify!($scenario), crate::$group::$scenario);
                }
            )*})*
        }
    };
}

/// Those that depend on the runtime, with runc outside of the shim.
macro_rules! tests_with_runc {
    ($($group:ident: $($scenario:ident),* $(,)?;)*) => {
        mod runc_outside {
            $(mod $group {$(
                #[test]
                fn $scenario() {
                    crate::davit(
                        stringify!($scenario),
                        crate::harness::Runtime::Runc,
                        crate::$group::$scenario,
                    );
                }
            )*})*
        }
    };
}

tests! {
    bootstrap: shim_joins_the_cgroup_of_its_option, reply_follows_the_daemon_s_generation, containers_of_a_group_share_a_shim, reply_to_1_6_is_the_plain_address, reply_to_1_7_is_json, address_file_is_there_before_the_shim, starts_of_a_group_at_once, group_of_the_first_annotation, a_dead_socket_is_replaced, socket_is_for_its_owner_only, socket_path_that_is_too_long, start_without_a_bundle_says_why, flags_of_go_s_kind, info_names_what_callers_look_for, daemon_lets_go_of_bundle_and_stdio, core_scheduling_is_asked_for, a_full_log_holds_nobody, log_lines_are_containerd_s_kind, sigterm_ends_the_shim_and_its_socket, a_peer_of_another_user_is_refused;
    checkpoint: restored_where_it_was, checkpoint_that_leaves_it_running, checkpoint_of_a_paused_container, terminal_of_a_restored_container, failed_checkpoint_names_criu_s_log, work_directories_of_criu, failed_restore_leaves_nothing, created_checkpoint_that_is_deleted, created_checkpoint_of_a_killed_shim, killed_restore_worker_leaves_nothing, metrics_after_a_checkpoint_that_ends_it, killed_checkpoint_worker_leaves_it_running, words_for_the_runtime, killed_shim_in_the_middle_of_restore;
    durability: exit_code_outlives_a_killed_shim, running_container_of_a_killed_shim_is_removed, killed_shim_of_a_pod, delete_kills_nobody_else, delete_of_a_clean_bundle, exit_code_that_waits_for_an_exec_is_recorded, killed_shim_in_the_middle_of_create, churn_leaves_nothing, shutdown_is_prompt, delete_reads_the_recorded_options;
    events: exec_exits_come_before_inits, oom_comes_before_exit, an_event_in_the_moment_the_daemon_goes, metrics_outlive_a_scope_that_systemd_removes, events_wait_for_an_absent_daemon, exit_before_start_has_answered, fifty_execs_in_the_host_s_pid_namespace, a_shim_that_was_stopped_misses_no_exit, quick_oom_kills_come_before_their_exits, oom_kills_of_children_are_told_while_init_runs, a_stalled_event_service_holds_nobody, refused_exits_are_tried_again, events_survive_twenty_seconds_without_a_daemon, daemon_that_restarts_again_and_again, without_an_event_service_all_works, shutdown_delivers_what_is_queued, pause_and_resume_have_events;
    execs: failed_exec_leaves_the_rest_alone, execs_leave_nothing_behind_in_the_shim, exec_has_a_session_of_its_own, many_execs_at_once, leftovers_of_an_exec_live_until_the_container_ends, kill_of_a_group_by_annotation, leftovers_go_with_their_exec_by_annotation, kill_of_a_group_by_runtime_option, kill_of_one_exec_leaves_the_others, exec_in_a_created_container, exec_after_init_s_end_is_refused, execs_during_init_s_end, kill_of_an_exec_that_was_not_started, delete_of_a_running_exec_is_refused, exec_id_that_is_a_path_is_refused, exec_id_that_is_taken, delete_of_an_exec_has_no_event, second_delete_of_an_exec, probe_that_times_out, storm_of_short_execs, exec_with_a_terminal;
    lifecycle: life_of_a_container, missing_executable_is_create_s_error, pause_and_resume, delete_of_a_created_container, host_pid_namespace_leaves_nothing_behind, statistics_of_the_cgroup, update_changes_limits, create_is_finished_for_a_client_that_went_away, nothing_of_the_shim_reaches_the_container, state_after_delete_and_the_id_again, delete_that_is_given_up_and_tried_again, two_deletes_at_once_have_one_answer, pids_of_sub_cgroups, pids_of_a_stopped_task, daemon_that_dies_during_create, a_shim_that_is_never_used_ends, failed_create_leaves_nothing, create_of_an_id_that_exists, unknown_ids_are_not_found, words_of_what_a_state_forbids, kill_of_an_ended_container_is_not_found, container_that_was_removed_behind_the_shim, signal_that_there_is_not, exit_codes_of_codes_and_signals, a_shim_at_rest_is_one_thread_that_sleeps, kill_while_start_hangs_in_a_hook, shutdown_with_a_container_is_nothing, delete_of_a_busy_rootfs, orphans_are_reaped;
    mounts: overlay_of_layers, overlay_with_options_longer_than_a_page, overlay_with_mapped_ids, filesystem_in_a_file, helper_program_for_fuse, target_below_the_rootfs_is_not_led_out, second_mount_below_the_first, failing_mount_undoes_the_others, options_of_the_mount_manager_are_refused, read_only_bind, rootfs_that_is_there_already;
    protocol: unknown_calls_and_malformed_frames, made_by_v2_and_asked_by_v3, unknown_service_and_method_are_unimplemented, a_frame_above_the_limit, stream_ids_are_odd_and_rise, a_payload_that_is_no_message, bytes_of_another_protocol, a_hundred_connections, calls_that_overtake_each_other, a_client_that_reads_nothing, looking_is_quick_while_others_hang;
    runtimes: a_killed_worker_leaves_nothing_behind, a_killed_runtime_leaves_no_empty_cgroup, state_answers_while_create_is_slow, missing_runtime_is_named, crun_by_binary_name, newest_runc_by_binary_name, wrapper_script_by_binary_name, wrapper_script_of_davit_s_name, options_as_toml, runtime_of_the_toml_options, runtime_that_talks_too_much, runtime_s_last_error_is_the_answer, a_failed_pause_leaves_nothing_frozen;
    stdio: a_megabyte_of_output_and_its_end, stdin_ends_with_close_io, terminal_has_the_size_that_came_before_start, grandchild_that_holds_the_output_does_not_hold_delete, a_reader_that_comes_back_misses_nothing, output_without_a_reader_waits_for_one, a_reader_that_sleeps_does_not_hold_delete, output_goes_to_a_file_or_a_logging_program, the_tail_of_every_size, terminal_output_goes_on_after_stdin_s_end, terminal_is_closed_though_stdin_is_held, grandchild_that_writes_on_and_on, five_megabytes_of_input, input_that_nobody_reads, close_io_without_stdin_is_nothing, terminal_is_resized_while_it_runs, resize_without_a_terminal_is_nothing, terminal_hangs_up_at_its_end, terminal_reader_that_comes_back, terminal_to_a_logging_program, logging_program_that_crashes, logging_program_s_environment_and_end, output_to_a_file_is_appended, both_outputs_into_one_plain_file, a_scheme_that_there_is_not, owner_of_the_pipes, owner_of_the_pipes_in_a_user_namespace, a_stalled_reader_stops_its_own_container_only, bulk_output_leaves_no_memory, stdin_without_a_writer_holds_nobody, no_stdio_is_dev_null;
}

tests_with_runc! {
    lifecycle: life_of_a_container, missing_executable_is_create_s_error, pause_and_resume, delete_of_a_created_container, host_pid_namespace_leaves_nothing_behind, statistics_of_the_cgroup, update_changes_limits, create_is_finished_for_a_client_that_went_away, nothing_of_the_shim_reaches_the_container, two_deletes_at_once_have_one_answer, failed_create_leaves_nothing, container_that_was_removed_behind_the_shim;
    checkpoint: restored_where_it_was, checkpoint_that_leaves_it_running, checkpoint_of_a_paused_container, terminal_of_a_restored_container, failed_checkpoint_names_criu_s_log, work_directories_of_criu, failed_restore_leaves_nothing, created_checkpoint_that_is_deleted, created_checkpoint_of_a_killed_shim, killed_restore_worker_leaves_nothing, metrics_after_a_checkpoint_that_ends_it, killed_checkpoint_worker_leaves_it_running;
    durability: exit_code_outlives_a_killed_shim, running_container_of_a_killed_shim_is_removed, killed_shim_of_a_pod, killed_shim_in_the_middle_of_create;
    events: exec_exits_come_before_inits, oom_comes_before_exit, exit_before_start_has_answered;
    execs: failed_exec_leaves_the_rest_alone, execs_leave_nothing_behind_in_the_shim, exec_has_a_session_of_its_own, many_execs_at_once, exec_with_a_terminal, kill_of_a_group_by_annotation;
    stdio: a_megabyte_of_output_and_its_end, stdin_ends_with_close_io, terminal_has_the_size_that_came_before_start, grandchild_that_holds_the_output_does_not_hold_delete, a_reader_that_comes_back_misses_nothing, output_without_a_reader_waits_for_one, a_reader_that_sleeps_does_not_hold_delete, owner_of_the_pipes, terminal_to_a_logging_program;
}
