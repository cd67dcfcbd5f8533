//! What processes that do not end, or do not freeze, are doing: for errors.

use super::layout::read_proc;

/// Pids with what is known of each: `12 (sh, uninterruptible sleep in request_wait_answer), 13 (sleep)`.
pub(super) fn describe(pids: &[i32]) -> String {
    const SHOWN: usize = 20;
    let mut text = pids.iter().take(SHOWN).map(|pid| process(*pid)).collect::<Vec<_>>().join(", ");
    if let Some(more) = pids.len().checked_sub(SHOWN).filter(|n| *n > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// Whether a kernel function is one in which frozen processes wait: v1's freezer, v2's. Since 6.1 v1 also freezes a
/// process where it sleeps.
fn is_frozen(wchan: &str) -> bool {
    wchan.contains("refrigerator") || ["do_freezer_trap", "get_signal"].contains(&wchan)
}

/// The kernel function in which a process waits (proc_pid_wchan(5)); empty or `0` where it can't be told.
fn wchan(pid: i32) -> String {
    read_proc(&format!("/proc/{pid}/wchan")).unwrap_or_default()
}

fn process(pid: i32) -> String {
    let Ok(stat) = read_proc(&format!("/proc/{pid}/stat")) else { return pid.to_string() };
    let Some((name, state)) = name_and_state(&stat) else { return pid.to_string() };
    let wchan = wchan(pid);
    let place = if wchan.is_empty() || wchan == "0" { String::new() } else { format!(" in {wchan}") };
    let doing = match state {
        _ if is_frozen(&wchan) => ", frozen".to_owned(),
        'D' => format!(", uninterruptible sleep{place}"),
        'T' => ", stopped".to_owned(),
        't' => ", stopped by a tracer".to_owned(),
        'Z' => ", ended and not yet reaped".to_owned(),
        _ => String::new(),
    };
    format!("{pid} ({name}{doing})")
}

/// `12 (name) D …`. A process chooses its name: what could break the line of an error is shown as `?`.
fn name_and_state(stat: &str) -> Option<(String, char)> {
    let (front, rest) = stat.rsplit_once(')')?;
    let (_, name) = front.split_once('(')?;
    let name = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Some((name, rest.trim_start().chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names() {
        assert_eq!(name_and_state("12 (a) b\n(c) D 1 2"), Some(("a) b?(c".to_owned(), 'D')));
        assert_eq!(name_and_state("12"), None);
        assert_eq!(name_and_state("12 (x)"), None);
    }

    #[test]
    fn this_process_runs() {
        let own = std::process::id();
        let text = describe(&[i32::try_from(own).unwrap()]);
        assert!(
            text.starts_with(&format!("{own} (")) && text.ends_with(')') && !text.contains(','),
            "{text}"
        );
        assert_eq!(describe(&[]), "");
        assert_eq!(describe(&[i32::MAX]), i32::MAX.to_string());
    }
}
