//! States of a process, and the one table of what is allowed in which.

use crate::api::{ApiError, Status};

/// Life of an init process or of an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Made (init) or recorded (exec).
    Created,
    /// To be restored by Start, and not made before; init only (`createdCheckpointState` of Go's shim).
    CreatedCheckpoint,
    /// The user's program runs.
    Running,
    /// Being frozen; init only.
    Pausing,
    /// Frozen; init only.
    Paused,
    /// Ended.
    Stopped,
}

impl Phase {
    /// As State reports it.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Phase::Created | Phase::CreatedCheckpoint => Status::Created,
            Phase::Running => Status::Running,
            Phase::Pausing => Status::Pausing,
            Phase::Paused => Status::Paused,
            Phase::Stopped => Status::Stopped,
        }
    }
}

/// A call that depends on the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Start.
    Start,
    /// Delete.
    Delete,
    /// Pause.
    Pause,
    /// Resume.
    Resume,
    /// Exec: record a new process.
    Exec,
    /// Update.
    Update,
    /// Checkpoint.
    Checkpoint,
    /// ResizePty.
    Resize,
}

/// Whose state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The container's first process.
    Init,
    /// A further one.
    Exec,
}

/// Whether `op` is allowed, in the words of Go's shim.
///
/// # Errors
/// The refusal, code Unknown as Go's.
pub fn allowed(role: Role, op: Op, phase: Phase) -> Result<(), ApiError> {
    match refusal(role, op, phase) {
        None => Ok(()),
        Some(text) => Err(ApiError::unknown(text)),
    }
}

fn refusal(role: Role, op: Op, phase: Phase) -> Option<&'static str> {
    use Phase::{Created, CreatedCheckpoint, Paused, Pausing, Running, Stopped};
    match (op, phase) {
        (Op::Start, Created | CreatedCheckpoint) => None,
        (Op::Start, Running) => Some("cannot start a running process"),
        (Op::Start, Pausing | Paused) => Some("cannot start a paused process"),
        (Op::Start, Stopped) => Some("cannot start a stopped process"),
        (Op::Delete, Created | CreatedCheckpoint | Stopped) => None,
        (Op::Delete, Running) => Some("cannot delete a running process"),
        (Op::Delete, Pausing | Paused) => Some("cannot delete a paused process"),
        (Op::Pause, Created | CreatedCheckpoint) => Some("cannot pause task in created state"),
        (Op::Pause, Running) => None,
        (Op::Pause, Pausing | Paused) => Some("cannot pause a paused container"),
        (Op::Pause, Stopped) => Some("cannot pause a stopped container"),
        (Op::Resume, Created | CreatedCheckpoint) => Some("cannot resume task in created state"),
        (Op::Resume, Running) => Some("cannot resume a running process"),
        (Op::Resume, Pausing | Paused) => None,
        (Op::Resume, Stopped) => Some("cannot resume a stopped container"),
        (Op::Exec, Created | Running) => None,
        (Op::Exec, CreatedCheckpoint) => Some("cannot exec in a created state"),
        (Op::Exec, Pausing | Paused) => Some("cannot exec in a paused state"),
        (Op::Exec, Stopped) => Some("cannot exec in a stopped state"),
        (Op::Update, Stopped) => Some("cannot update a stopped container"),
        (Op::Update, _) => None,
        (Op::Checkpoint, Created | CreatedCheckpoint) => Some("cannot checkpoint a task in created state"),
        (Op::Checkpoint, Running | Pausing | Paused) => None,
        (Op::Checkpoint, Stopped) => Some("cannot checkpoint a stopped container"),
        (Op::Resize, Stopped) if role == Role::Exec => Some("cannot resize a stopped container"),
        (Op::Resize, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 6] = [
        Phase::Created,
        Phase::CreatedCheckpoint,
        Phase::Running,
        Phase::Pausing,
        Phase::Paused,
        Phase::Stopped,
    ];

    /// Every pair of operation and state, one letter each for created, created checkpoint, running, pausing, paused,
    /// stopped.
    const TABLE: [(Op, &str); 8] = [
        (Op::Start, "yy...."),
        (Op::Delete, "yy...y"),
        (Op::Pause, "..y..."),
        (Op::Resume, "...yy."),
        (Op::Exec, "y.y..."),
        (Op::Update, "yyyyy."),
        (Op::Checkpoint, "..yyy."),
        (Op::Resize, "yyyyyy"),
    ];

    #[test]
    fn init_table_is_complete() {
        for (op, row) in TABLE {
            for (phase, expected) in PHASES.into_iter().zip(row.chars()) {
                let result = allowed(Role::Init, op, phase);
                assert_eq!(result.is_ok(), expected == 'y', "{op:?} in {phase:?}: {result:?}");
            }
        }
    }

    #[test]
    fn exec_differs_only_in_resize_of_a_stopped_one() {
        for (op, _) in TABLE {
            for phase in PHASES {
                let same = allowed(Role::Init, op, phase) == allowed(Role::Exec, op, phase);
                assert_eq!(same, (op, phase) != (Op::Resize, Phase::Stopped), "{op:?} in {phase:?}");
            }
        }
    }

    #[test]
    fn words_of_gos_shim() {
        let text = |op, phase| allowed(Role::Init, op, phase).unwrap_err().text;
        assert_eq!(text(Op::Delete, Phase::Running), "cannot delete a running process");
        assert_eq!(text(Op::Start, Phase::Stopped), "cannot start a stopped process");
        assert_eq!(text(Op::Pause, Phase::Stopped), "cannot pause a stopped container");
        assert_eq!(text(Op::Exec, Phase::Paused), "cannot exec in a paused state");
        assert_eq!(text(Op::Exec, Phase::CreatedCheckpoint), "cannot exec in a created state");
        assert_eq!(text(Op::Checkpoint, Phase::Created), "cannot checkpoint a task in created state");
        assert_eq!(text(Op::Checkpoint, Phase::Stopped), "cannot checkpoint a stopped container");
    }
}
