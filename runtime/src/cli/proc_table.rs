//! Processes as ps(1) shows them, read from /proc.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::unistd::{SysconfVar, Uid, User, sysconf};

use crate::sys::time::{LocalTime, local_time};

/// One process's `/proc/<pid>/{stat,status,cmdline}`.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub pid: i32,
    pub comm: String,
    pub state: char,
    pub ppid: i32,
    pub pgid: i32,
    pub session: i32,
    tty: i32,
    foreground_group: i32,
    /// User and system time, in clock ticks.
    cpu_ticks: u64,
    pub priority: i64,
    pub nice: i64,
    pub threads: u64,
    /// Since boot, in clock ticks.
    start_ticks: u64,
    /// In KiB.
    pub virtual_size: u64,
    /// In KiB.
    pub resident: u64,
    pub euid: u32,
    locked: bool,
    /// The command line, or the name in brackets where there is none.
    pub args: String,
}

/// What is the same for all processes.
#[derive(Debug)]
pub(super) struct Host {
    ticks: u64,
    page_kib: u64,
    boot: u64,
    now: u64,
    memory_kib: u64,
}

impl Host {
    pub(super) fn read() -> Self {
        let number = |var, default| match sysconf(var) {
            Ok(Some(value)) => u64::try_from(value).unwrap_or(default),
            _ => default,
        };
        let field = |file, key| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        Host {
            ticks: number(SysconfVar::CLK_TCK, 100).max(1),
            page_kib: number(SysconfVar::PAGE_SIZE, 4096) / 1024,
            boot: field("/proc/stat", "btime "),
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            memory_kib: field("/proc/meminfo", "MemTotal:").max(1),
        }
    }
}

impl Process {
    /// `None` when the process is gone.
    pub(super) fn read(pid: i32, host: &Host) -> Option<Self> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let text = |name| {
            std::fs::read(dir.join(name)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        Process::parse(&text("stat")?, &text("status")?, &text("cmdline").unwrap_or_default(), host)
    }

    /// From the texts of the three files.
    pub(super) fn parse(stat: &str, status: &str, cmdline: &str, host: &Host) -> Option<Self> {
        let mut process = Process::parse_stat(stat, host)?;
        for line in status.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                // real, effective, saved, filesystem
                Some("Uid:") => process.euid = words.nth(1)?.parse().ok()?,
                Some("VmLck:") => process.locked = words.next() != Some("0"),
                _ => {}
            }
        }
        let words = cmdline.trim_end_matches('\0').replace('\0', " ");
        process.args = if words.is_empty() { format!("[{}]", process.comm) } else { printable(&words) };
        if process.state == 'Z' {
            process.args = format!("[{}] <defunct>", process.comm);
        }
        Some(process)
    }

    /// proc_pid_stat(5): the name is in parentheses and may hold any byte, so the last one ends it.
    fn parse_stat(stat: &str, host: &Host) -> Option<Self> {
        let (pid, rest) = stat.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        // Field 3 of the manual page is the first of these.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let int = |number| field(number)?.parse::<i64>().ok();
        let count = |number| field(number)?.parse::<u64>().ok();
        let id = |number| i32::try_from(int(number)?).ok();
        Some(Process {
            pid: pid.parse().ok()?,
            comm: printable(comm),
            state: field(3)?.chars().next().filter(char::is_ascii_alphabetic)?,
            ppid: id(4)?,
            pgid: id(5)?,
            session: id(6)?,
            tty: id(7)?,
            foreground_group: id(8)?,
            cpu_ticks: count(14)?.saturating_add(count(15)?),
            priority: int(18)?,
            nice: int(19)?,
            threads: count(20)?,
            start_ticks: count(22)?,
            virtual_size: count(23)? / 1024,
            resident: count(24)?.saturating_mul(host.page_kib),
            ..Process::default()
        })
    }

    /// Name of the effective user, or its number.
    pub(super) fn user(&self) -> String {
        match User::from_uid(Uid::from_raw(self.euid)) {
            Ok(Some(user)) => user.name,
            _ => self.euid.to_string(),
        }
    }

    /// The controlling terminal: `pts/0`, `tty1`, `ttyS0`, or `?`.
    pub(super) fn terminal(&self) -> String {
        let device = self.tty as u32;
        let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
        match (major, minor) {
            (136..=143, _) => format!("pts/{}", minor + (major - 136) * 256),
            (4, 0..=63) => format!("tty{minor}"),
            (4, _) => format!("ttyS{}", minor - 64),
            _ => "?".to_owned(),
        }
    }

    /// State letter and marks: `Ss+`.
    pub(super) fn stat(&self) -> String {
        let mut text = String::from(self.state);
        let marks = [
            ('<', self.nice < 0),
            ('N', self.nice > 0),
            ('L', self.locked),
            ('s', self.session == self.pid),
            ('l', self.threads > 1),
            ('+', self.foreground_group == self.pgid),
        ];
        text.extend(marks.into_iter().filter_map(|(mark, on)| on.then_some(mark)));
        text
    }

    fn cpu_seconds(&self, host: &Host) -> u64 {
        self.cpu_ticks / host.ticks
    }

    fn started(&self, host: &Host) -> u64 {
        host.boot.saturating_add(self.start_ticks / host.ticks)
    }

    /// Seconds since its start.
    fn age(&self, host: &Host) -> u64 {
        host.now.saturating_sub(self.started(host))
    }

    /// CPU time over life time, in tenths of a percent.
    fn cpu_permille(&self, host: &Host) -> u64 {
        (self.cpu_ticks.saturating_mul(1000) / host.ticks).checked_div(self.age(host)).unwrap_or(0)
    }

    /// CPU use as a whole percentage of at most 99.
    pub(super) fn c(&self, host: &Host) -> String {
        (self.cpu_permille(host) / 10).min(99).to_string()
    }

    /// CPU use in percent.
    pub(super) fn pcpu(&self, host: &Host) -> String {
        tenths(self.cpu_permille(host).min(999))
    }

    /// Share of the host's memory in percent.
    pub(super) fn pmem(&self, host: &Host) -> String {
        tenths((self.resident.saturating_mul(1000) / host.memory_kib).min(999))
    }

    /// CPU time as `[dd-]hh:mm:ss`.
    pub(super) fn time(&self, host: &Host) -> String {
        clock(self.cpu_seconds(host))
    }

    /// CPU time as `m:ss`.
    pub(super) fn short_time(&self, host: &Host) -> String {
        let seconds = self.cpu_seconds(host);
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }

    /// Time since its start as `[[dd-]hh:]mm:ss`.
    pub(super) fn elapsed(&self, host: &Host) -> String {
        let text = clock(self.age(host));
        text.strip_prefix("00:").map_or(text.clone(), str::to_owned)
    }

    /// When it started: `hh:mm` today, `MmmDD` this year, else the year.
    pub(super) fn start_time(&self, host: &Host) -> String {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let (LocalTime { year, month, day, hour, minute }, now) =
            (local_time(self.started(host)), local_time(host.now));
        if (year, month, day) == (now.year, now.month, now.day) {
            return format!("{hour:02}:{minute:02}");
        }
        if year == now.year {
            return format!("{}{day:02}", MONTHS.get(month as usize).unwrap_or(&"?"));
        }
        year.to_string()
    }
}

fn tenths(value: u64) -> String {
    format!("{}.{}", value / 10, value % 10)
}

fn clock(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let text = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days > 0 { format!("{days:02}-{text}") } else { text }
}

/// Control characters of a hostile process must not reach the caller's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_read() {
        let host = Host::read();
        let me = i32::try_from(std::process::id()).unwrap();
        let process = Process::read(me, &host).unwrap();
        assert_eq!((process.pid, process.euid), (me, nix::unistd::geteuid().as_raw()));
        assert_eq!(process.ppid, nix::unistd::getppid().as_raw());
        assert!(process.resident > 0 && process.virtual_size >= process.resident);
        assert!(Process::read(-1, &host).is_none());
    }

    #[test]
    fn names_with_parentheses_and_control_characters() {
        let host = Host { ticks: 100, page_kib: 4, boot: 0, now: 100_000, memory_kib: 1000 };
        let stat = "7 (a) b\x1b[) S 1 2 3 34817 2 0 0 0 0 0 90061 0 0 0 20 0 1 0 100 4096 2";
        let process = Process::parse_stat(&(stat.to_owned() + &" 0".repeat(28)), &host).unwrap();
        assert_eq!((process.comm.as_str(), process.ppid, process.resident), ("a) b?[", 1, 8));
        assert_eq!(process.terminal(), "pts/1");
        assert_eq!(process.stat(), "S+");
        assert_eq!(process.time(&host), "00:15:00");
        assert_eq!(clock(90_061), "01-01:01:01");
    }
}
