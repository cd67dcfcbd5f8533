//! Where containerd-shim-runc-v2 (containerd 2.1 of Debian unstable, with its runc) does not pass a scenario, and why
//! that is an improvement of davit's shim or its own feature.

/// How often Go's shim fails the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Often {
    /// Each time: a pass makes the test fail, so that the table stays true.
    Always,
    /// A race: it may pass.
    Sometimes,
    /// The scenario is about something that only davit's shim has, or would leave the machine in disorder.
    NotAsked,
}

/// One scenario that Go's shim does not pass.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Its function.
    pub scenario: &'static str,
    /// How often.
    pub often: Often,
    /// What Go's shim does instead.
    pub why: &'static str,
}

const fn always(scenario: &'static str, why: &'static str) -> Difference {
    Difference { scenario, often: Often::Always, why }
}

const fn sometimes(scenario: &'static str, why: &'static str) -> Difference {
    Difference { scenario, often: Often::Sometimes, why }
}

const fn not_asked(scenario: &'static str, why: &'static str) -> Difference {
    Difference { scenario, often: Often::NotAsked, why }
}

/// The table.
pub const DIFFERENCES: &[Difference] = &[
    not_asked("kill_of_a_group_by_annotation", "only davit's shim kills an exec's process group"),
    not_asked(
        "leftovers_go_with_their_exec_by_annotation",
        "only davit's shim kills an exec's process group",
    ),
    not_asked("kill_of_a_group_by_runtime_option", "only davit's shim kills an exec's process group"),
    not_asked("kill_of_one_exec_leaves_the_others", "it is about davit's annotation for process groups"),
    not_asked("a_killed_worker_leaves_nothing_behind", "Go's shim has no workers"),
    not_asked(
        "a_killed_runtime_leaves_no_empty_cgroup",
        "Go's shim leaves the cgroups of a runtime that was killed, and they would stay",
    ),
    not_asked(
        "state_answers_while_create_is_slow",
        "State waits for the runtime (#13483), and the test for State",
    ),
    always(
        "a_failed_pause_leaves_nothing_frozen",
        "the container stays frozen, is said to run, and is refused a resume",
    ),
    not_asked("a_shim_that_is_never_used_ends", "it stays for ever, and would for the test's whole time"),
    not_asked("wrapper_script_of_davit_s_name", "it is about what davit's shim takes for davit"),
    always(
        "address_file_is_there_before_the_shim",
        "it no longer writes the file that containerd up to 1.7 reads when it reloads",
    ),
    always(
        "reply_to_1_6_is_the_plain_address",
        "it replies version 3 in JSON, whatever the daemon understands (#13763)",
    ),
    always(
        "reply_follows_the_daemon_s_generation",
        "it replies version 3 in JSON, whatever the daemon understands (#13763)",
    ),
    always(
        "without_an_event_service_all_works",
        "the scenario reads the plain address that a daemon without MAX_SHIM_VERSION expects",
    ),
    always("daemon_lets_go_of_bundle_and_stdio", "it stays in the bundle's directory, which pins its mount"),
    always("flags_of_go_s_kind", "-version is not in this version's list of flags"),
    always("socket_path_that_is_too_long", "it knows no socket directory, and makes its socket elsewhere"),
    always(
        "shim_joins_the_cgroup_of_its_option",
        "the scenario reads the plain address that a daemon without MAX_SHIM_VERSION expects",
    ),
    always(
        "helper_program_for_fuse",
        "the scenario reads the plain address that a daemon without MAX_SHIM_VERSION expects",
    ),
    always("exit_code_outlives_a_killed_shim", "delete says 137 although the code was known (#14113)"),
    always(
        "exit_code_that_waits_for_an_exec_is_recorded",
        "delete says 137 although the code was known (#14113)",
    ),
    always("killed_shim_of_a_pod", "delete says 137 although the code was known (#14113)"),
    sometimes(
        "killed_shim_in_the_middle_of_create",
        "delete logs warnings about files that were not written yet",
    ),
    sometimes("daemon_that_dies_during_create", "delete logs warnings about files that were not written yet"),
    always(
        "running_container_of_a_killed_shim_is_removed",
        "the dead socket stays until somebody starts the same shim again (#10192)",
    ),
    sometimes("delete_kills_nobody_else", "delete leaves the cgroup with the process in it"),
    sometimes(
        "a_stalled_event_service_holds_nobody",
        "the event that was not answered in time is lost or late",
    ),
    sometimes(
        "oom_kills_of_children_are_told_while_init_runs",
        "it tells each notification, with a victim or without",
    ),
    sometimes("refused_exits_are_tried_again", "a later event overtakes one that was refused"),
    sometimes(
        "events_survive_twenty_seconds_without_a_daemon",
        "after five tries an event is dropped, and others overtake it (#6771)",
    ),
    sometimes("shutdown_delivers_what_is_queued", "events that were queued are dropped at Shutdown"),
    always("exec_id_that_is_a_path_is_refused", "it makes a file name of the exec's id"),
    always("exec_with_a_terminal", "a size that comes before the start is forgotten"),
    sometimes(
        "execs_leave_nothing_behind_in_the_shim",
        "Go's runtime opens and closes descriptors of its own",
    ),
    always("second_delete_of_an_exec", "a Delete that is tried again is not found (#8981)"),
    always(
        "life_of_a_container",
        "a Create of an id that exists has code Unknown, and a second Delete is not found",
    ),
    always("create_of_an_id_that_exists", "it has code Unknown instead of AlreadyExists"),
    always(
        "a_shim_at_rest_is_one_thread_that_sleeps",
        "it has eleven threads and more, and wakes up for its garbage",
    ),
    not_asked("killed_restore_worker_leaves_nothing", "Go's shim has no workers"),
    not_asked("killed_checkpoint_worker_leaves_it_running", "Go's shim has no workers"),
    not_asked(
        "killed_shim_in_the_middle_of_restore",
        "runc's delete removes the files of a rootfs that a killed restore has left mounted in its state",
    ),
    always("created_checkpoint_that_is_deleted", "Wait is never answered then"),
    always("created_checkpoint_of_a_killed_shim", "delete logs that it misses the file of init's pid"),
    always("failed_restore_leaves_nothing", "what a Start after a failed one restores has no output"),
    always(
        "pids_of_a_stopped_task",
        "a task that has ended has no pids, and containerd drops it with its exit code (#6771)",
    ),
    always(
        "state_after_delete_and_the_id_again",
        "after a Delete whose answer was lost State is not found (#11392)",
    ),
    sometimes("delete_of_a_busy_rootfs", "an unmount that stays busy fails the Delete (#4020)"),
    sometimes("pause_and_resume", "an exec of a frozen container is refused by the runtime in other words"),
    always("options_of_the_mount_manager_are_refused", "it hands X-containerd options to the mount"),
    always("options_as_toml", "this version does not take runtimeoptions.v1 for runc's options"),
    always("runtime_of_the_toml_options", "this version does not take runtimeoptions.v1 for runc's options"),
    always(
        "unknown_calls_and_malformed_frames",
        "it serves task v3 only, and keeps a connection open that speaks something else",
    ),
    sometimes(
        "create_is_finished_for_a_client_that_went_away",
        "the runtime is killed when its client goes (#5015, #6860)",
    ),
    sometimes(
        "probe_that_times_out",
        "Delete waits 10 s for the probe's children, as long as CRI waits for it (#13377)",
    ),
    sometimes(
        "grandchild_that_writes_on_and_on",
        "Delete waits 10 s for a grandchild's output, as long as CRI waits for it (#13377)",
    ),
    sometimes("two_deletes_at_once_have_one_answer", "the second Delete is not found (#12344)"),
    sometimes(
        "delete_that_is_given_up_and_tried_again",
        "the second Delete is not found, or the shim hangs (#8981)",
    ),
    sometimes(
        "a_dead_socket_is_replaced",
        "on a busy machine its first answers take longer than the scenario waits",
    ),
    sometimes(
        "fifty_execs_in_the_host_s_pid_namespace",
        "starting fifty execs takes longer than the scenario waits",
    ),
    sometimes(
        "a_shim_that_was_stopped_misses_no_exit",
        "starting a hundred execs takes longer than the scenario waits",
    ),
    not_asked("kill_while_start_hangs_in_a_hook", "Kill waits for Start (#13483), and the hook would stay"),
    not_asked(
        "looking_is_quick_while_others_hang",
        "State waits for Create (#13483), and the hook would stay",
    ),
    sometimes("the_tail_of_every_size", "the container's head ends with an error now and then"),
    sometimes(
        "oom_comes_before_exit",
        "once the cgroup is gone Stats is not found, and CRI does not see the OOM kill",
    ),
    always("metrics_outlive_a_scope_that_systemd_removes", "once the cgroup is gone Stats is not found"),
    sometimes(
        "bulk_output_leaves_no_memory",
        "its anonymous memory has grown by more than 128 KB: buffers, and garbage that waits for its collector",
    ),
    sometimes(
        "logging_program_s_environment_and_end",
        "the program inherits more descriptors than its three",
    ),
    sometimes("output_to_a_file_is_appended", "with file:// output a call is not answered in 12 s"),
    sometimes(
        "output_goes_to_a_file_or_a_logging_program",
        "with file:// output a call is not answered in 12 s",
    ),
    always(
        "owner_of_the_pipes_in_a_user_namespace",
        "without IoUid the container can't reopen its own stdout",
    ),
    sometimes(
        "terminal_output_goes_on_after_stdin_s_end",
        "a terminal whose stdin ends before the start may be lost",
    ),
    sometimes(
        "terminal_is_closed_though_stdin_is_held",
        "descriptors stay while a client holds stdin (#11160)",
    ),
    sometimes("filesystem_in_a_file", "the loop device may stay longer than the scenario waits"),
    sometimes("delete_of_a_clean_bundle", "delete may log warnings on a bundle that is clean already"),
    sometimes("churn_leaves_nothing", "a shim may live on for a while after Shutdown"),
    sometimes("quick_oom_kills_come_before_their_exits", "a quick OOM kill may have no event (#12714)"),
    sometimes(
        "close_io_without_stdin_is_nothing",
        "its end of stdin may not be open when Start has answered",
    ),
    sometimes(
        "output_without_a_reader_waits_for_one",
        "Create waits 30 s for a reader of the FIFO, and fails",
    ),
];
