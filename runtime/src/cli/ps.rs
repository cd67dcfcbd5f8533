//! `davit ps`: the container's processes as ps(1) shows them, without running it.

use anyhow::{anyhow, bail};
use clap::ArgMatches;

use super::args::{Arity, container_id, positionals, value};
use super::global::Global;
use super::proc_table::{Host, Process};
use super::{Command, print};
use crate::container;
use crate::sorted::list_of;

pub(super) const COMMAND: Command = Command {
    name: "ps",
    about: "displays the processes running inside a container",
    usage: "[command options] <container-id> [ps options]\n\n\
            ps options: -ef (the default), aux, -e, or -o with a list of: user uid pid ppid pgid sid c %cpu %mem\n\
            vsz rss tty stat s pri ni nlwp stime start etime time comm args.",
    arity: Arity::CommandLine(1),
    flags: || vec![value("format", "select one of: table or json (default: table)").short('f')],
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let format = matches.get_one::<String>("format").map_or("table", String::as_str);
    let pids = || container::pids(&global.runtime, container_id(matches)?).map_err(anyhow::Error::from);
    match format {
        // Go prints an empty list of pids as null.
        "json" => match pids()?.as_slice() {
            [] => Ok(print("null\n")),
            pids => Ok(print(&(serde_json::to_string(pids)? + "\n"))),
        },
        "table" => {
            let words = positionals(matches).skip(1).map(|word| word.to_string_lossy().into_owned());
            let columns = parse_options(words)?;
            Ok(print(&table(&columns, &pids()?)))
        }
        _ => bail!("invalid format option"),
    }
}

/// Which side of its column a cell is padded on.
#[derive(Clone, Copy, Debug)]
enum Align {
    Left,
    Right,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Names for `-o`.
    names: &'static [&'static str],
    header: &'static str,
    width: usize,
    align: Align,
    cell: fn(&Process, &Host) -> String,
}

#[derive(Debug)]
struct Column {
    header: String,
    kind: Kind,
}

/// ps's columns: its headers and widths for five-digit pids.
const KINDS: [Kind; 24] = {
    use Align::{Left, Right};
    const fn kind(
        names: &'static [&'static str],
        header: &'static str,
        width: usize,
        align: Align,
        cell: fn(&Process, &Host) -> String,
    ) -> Kind {
        Kind { names, header, width, align, cell }
    }
    [
        kind(&["user", "euser", "uname"], "USER", 8, Left, |p, _| fit(p.user(), 8)),
        kind(&["uid", "euid"], "UID", 5, Right, |p, _| p.euid.to_string()),
        kind(&["pid", "tgid"], "PID", 5, Right, |p, _| p.pid.to_string()),
        kind(&["ppid"], "PPID", 5, Right, |p, _| p.ppid.to_string()),
        kind(&["pgid", "pgrp"], "PGID", 5, Right, |p, _| p.pgid.to_string()),
        kind(&["sid", "sess", "session"], "SID", 5, Right, |p, _| p.session.to_string()),
        kind(&["c"], "C", 2, Right, |p, h| p.c(h)),
        kind(&["pcpu", "%cpu"], "%CPU", 4, Right, |p, h| p.pcpu(h)),
        kind(&["pmem", "%mem"], "%MEM", 4, Right, |p, h| p.pmem(h)),
        kind(&["vsz", "vsize"], "VSZ", 6, Right, |p, _| p.virtual_size.to_string()),
        kind(&["rss", "rssize", "rsz"], "RSS", 5, Right, |p, _| p.resident.to_string()),
        kind(&["tty", "tt", "tname"], "TTY", 8, Left, |p, _| p.terminal()),
        kind(&["stat"], "STAT", 4, Left, |p, _| p.stat()),
        kind(&["s", "state"], "S", 1, Left, |p, _| p.state.to_string()),
        kind(&["pri"], "PRI", 3, Right, |p, _| 39i64.saturating_sub(p.priority).to_string()),
        kind(&["ni", "nice"], "NI", 3, Right, |p, _| p.nice.to_string()),
        kind(&["nlwp", "thcount"], "NLWP", 4, Right, |p, _| p.threads.to_string()),
        kind(&["stime"], "STIME", 5, Left, |p, h| p.start_time(h)),
        kind(&["start", "bsdstart", "start_time"], "START", 5, Left, |p, h| p.start_time(h)),
        kind(&["etime"], "ELAPSED", 11, Right, |p, h| p.elapsed(h)),
        kind(&["time", "cputime"], "TIME", 8, Right, |p, h| p.time(h)),
        kind(&["bsdtime"], "TIME", 6, Right, |p, h| p.short_time(h)),
        kind(&["comm", "ucmd", "ucomm"], "COMMAND", 15, Left, |p, _| p.comm.clone()),
        kind(&["args", "cmd", "command"], "COMMAND", 27, Left, |p, _| p.args.clone()),
    ]
};

/// `ps -ef`, `ps aux` and `ps -e`, as lists for `-o`.
const FULL: &str = "user=UID,pid,ppid,c,stime,tty,time,args=CMD";
const BSD_USER: &str = "user,pid,pcpu,pmem,vsz,rss,tty,stat,bsdstart,bsdtime,args";
const BASIC: &str = "pid,tty,time,comm=CMD";

/// A name that does not fit is cut and marked, as ps does it.
fn fit(name: String, width: usize) -> String {
    if name.chars().count() <= width {
        return name;
    }
    name.chars().take(width - 1).chain(['+']).collect()
}

/// Options of ps that choose columns. Those that choose processes say nothing: the container's are shown.
fn parse_options(words: impl Iterator<Item = String>) -> anyhow::Result<Vec<Column>> {
    let mut words = words.peekable();
    if words.peek().is_none() {
        return columns(FULL);
    }
    let (mut list, mut layout) = (Vec::new(), BASIC);
    while let Some(word) = words.next() {
        let unsupported =
            || anyhow!("ps option {word:?} is not supported: use -ef, aux, -e or -o with a list of fields");
        if let Some(fields) = word.strip_prefix("--format=") {
            list.extend(columns(fields)?);
            continue;
        }
        let (unix, letters) = match word.strip_prefix('-') {
            Some(letters) => (true, letters),
            None => (false, word.as_str()),
        };
        for (at, letter) in letters.char_indices() {
            match letter {
                'e' | 'A' | 'a' | 'x' | 'w' | 'd' => {}
                'f' if unix => layout = FULL,
                'u' if !unix => layout = BSD_USER,
                'o' => {
                    let attached = letters.get(at + 1..).filter(|rest| !rest.is_empty()).map(str::to_owned);
                    let fields = attached.or_else(|| words.next()).ok_or_else(unsupported)?;
                    list.extend(columns(&fields)?);
                    break;
                }
                _ => return Err(unsupported()),
            }
        }
    }
    if list.is_empty() { columns(layout) } else { Ok(list) }
}

/// The columns of a list like `pid,args=CMD`.
fn columns(list: &str) -> anyhow::Result<Vec<Column>> {
    list.split([',', ' '])
        .filter(|field| !field.is_empty())
        .map(|field| {
            let (name, header) =
                field.split_once('=').map_or((field, None), |(name, header)| (name, Some(header)));
            let lower = name.to_ascii_lowercase();
            let kind = KINDS.iter().find(|kind| kind.names.contains(&lower.as_str()));
            let kind = *kind.ok_or_else(|| anyhow!("unknown ps field {name:?}"))?;
            Ok(Column { header: header.unwrap_or(kind.header).to_owned(), kind })
        })
        .collect()
}

fn table(columns: &[Column], pids: &[i32]) -> String {
    let host = Host::read();
    let mut text = line(columns, columns.iter().map(|column| column.header.clone()));
    for process in list_of(pids.iter().copied()).into_iter().filter_map(|pid| Process::read(pid, &host)) {
        text += &line(columns, columns.iter().map(|column| (column.kind.cell)(&process, &host)));
    }
    text
}

fn line(columns: &[Column], cells: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for (at, (column, cell)) in columns.iter().zip(cells).enumerate() {
        let width = column.kind.width.max(column.header.len());
        if at > 0 {
            text.push(' ');
        }
        match column.kind.align {
            Align::Right => text.push_str(&format!("{cell:>width$}")),
            Align::Left if at + 1 == columns.len() => text.push_str(&cell),
            Align::Left => text.push_str(&format!("{cell:<width$}")),
        }
    }
    text.push('\n');
    text
}

/// A line of every column, for the texts of /proc/PID/stat, status and cmdline, with `@` between: a target of `hack/fuzz`.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(3, '@').map(|part| part.strip_prefix('\n').unwrap_or(part));
    let mut part = || parts.next().unwrap_or_default();
    let (stat, status, cmdline, host) = (part(), part(), part(), Host::read());
    let Some(process) = Process::parse(stat, status, cmdline, &host) else { return };
    let columns: Vec<Column> =
        KINDS.iter().map(|kind| Column { header: String::new(), kind: *kind }).collect();
    let line = line(&columns, columns.iter().map(|column| (column.kind.cell)(&process, &host)));
    let controls = line.trim_end_matches('\n').chars().filter(|c| c.is_control()).count();
    assert!(
        controls == 0 && line.ends_with('\n'),
        "what a process calls itself reaches the terminal: {line:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(words: &[&str]) -> Result<String, String> {
        let columns = parse_options(words.iter().map(|&w| w.to_owned())).map_err(|e| e.to_string())?;
        Ok(table(&columns, &[]))
    }

    #[test]
    fn headers_are_those_of_ps() {
        let full = "UID        PID  PPID  C STIME TTY          TIME CMD\n";
        assert_eq!(header(&[]).unwrap(), full);
        assert_eq!(header(&["-ef"]).unwrap(), full);
        assert_eq!(header(&["-e"]).unwrap(), "  PID TTY          TIME CMD\n");
        let bsd = "USER       PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND\n";
        assert_eq!(header(&["aux"]).unwrap(), bsd);
        assert_eq!(header(&["-o", "pid,comm"]).unwrap(), "  PID COMMAND\n");
        assert_eq!(header(&["-eo", "pid,args=WHAT"]).unwrap(), "  PID WHAT\n");
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        assert_eq!(header(&["-o", "bogus"]).unwrap_err(), "unknown ps field \"bogus\"");
        for words in [&["-L"][..], &["--forest"], &["-o"], &["-u", "root"]] {
            assert!(header(words).unwrap_err().contains("is not supported"), "{words:?}");
        }
    }
}
