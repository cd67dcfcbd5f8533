//! `davit update`: changes the limits of a running container.

use std::io::Read;

use anyhow::anyhow;
use clap::{Arg, ArgMatches};
use oci_spec::runtime::{LinuxIntelRdt, LinuxResources};
use serde_json::{Map, Value};

use super::args::{Arity, container_id, value};
use super::global::Global;
use super::{Command, errno_text};
use crate::container;
use crate::json::convert;

pub(super) const COMMAND: Command = Command {
    name: "update",
    about: "update container resource constraints",
    usage: "[command options] <container-id>\n\n\
            --resources takes linux.resources of the runtime-spec; values that are left out stay as they are:\n\n\
            \x20 {\"memory\": {\"limit\": 0, \"reservation\": 0, \"swap\": 0, \"checkBeforeUpdate\": true},\n\
            \x20  \"cpu\": {\"shares\": 0, \"quota\": 0, \"burst\": 0, \"period\": 0, \"realtimeRuntime\": 0,\n\
            \x20          \"realtimePeriod\": 0, \"cpus\": \"\", \"mems\": \"\", \"idle\": 0},\n\
            \x20  \"blockIO\": {\"weight\": 0}, \"pids\": {\"limit\": 0}}\n\n\
            With it all other limits are ignored. Sizes may have a unit: 64M, 1GiB.",
    arity: Arity::Exactly(1),
    flags,
    run,
    failure: "",
    failure_code: 1,
};

/// How a flag's value is read.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A whole number, not negative.
    Unsigned,
    /// A whole number.
    Signed,
    /// Bytes, with a unit perhaps; -1 for no limit.
    Size,
    /// As it is.
    Text,
}

/// Flags: name, member of linux.resources, how it is read, help.
const FLAGS: [(&str, &str, &str, Kind, &str); 14] = [
    ("blkio-weight", "blockIO", "weight", Kind::Unsigned, "per cgroup weight, from 10 to 1000"),
    (
        "cpu-period",
        "cpu",
        "period",
        Kind::Unsigned,
        "CPU CFS period to be used for hardcapping, in microseconds",
    ),
    (
        "cpu-quota",
        "cpu",
        "quota",
        Kind::Signed,
        "CPU CFS hardcap limit: CPU time in microseconds in a period; -1 for none",
    ),
    ("cpu-burst", "cpu", "burst", Kind::Unsigned, "CPU time in microseconds that may accumulate for a burst"),
    ("cpu-share", "cpu", "shares", Kind::Unsigned, "CPU shares (relative weight vs. other containers)"),
    (
        "cpu-rt-period",
        "cpu",
        "realtimePeriod",
        Kind::Unsigned,
        "CPU realtime period, in microseconds (cgroup v1)",
    ),
    (
        "cpu-rt-runtime",
        "cpu",
        "realtimeRuntime",
        Kind::Signed,
        "CPU realtime hardcap limit, in microseconds (cgroup v1)",
    ),
    ("cpuset-cpus", "cpu", "cpus", Kind::Text, "CPUs to use: 0-2,5"),
    ("cpuset-mems", "cpu", "mems", Kind::Text, "memory nodes to use"),
    ("cpu-idle", "cpu", "idle", Kind::Signed, "1: run only when nothing else does (SCHED_IDLE), 0: normal"),
    ("memory", "memory", "limit", Kind::Size, "memory limit; -1 for none"),
    ("memory-reservation", "memory", "reservation", Kind::Size, "memory reservation or soft limit"),
    ("memory-swap", "memory", "swap", Kind::Size, "memory and swap together; -1 for no limit"),
    ("pids-limit", "pids", "limit", Kind::Signed, "most processes and threads; -1 for no limit"),
];

/// Limits that kernels since 5.16 lack; runc 1.1 and crun have the flags, so callers may pass them.
const OBSOLETE: [&str; 2] = ["kernel-memory", "kernel-memory-tcp"];

fn flags() -> Vec<Arg> {
    let mut all: Vec<Arg> = FLAGS.iter().map(|(name, _, _, _, help)| value(name, help)).collect();
    all.push(value("resources", "file with the resources to update, or - for the standard input").short('r'));
    all.push(value("l3-cache-schema", "shares of the L3 cache (Intel RDT): L3:0=7f0;1=1f"));
    all.push(value("mem-bw-schema", "shares of memory bandwidth (Intel RDT): MB:0=20;1=70"));
    all.extend(OBSOLETE.iter().map(|name| value(name, "obsolete: ignored with a warning").hide(true)));
    all
}

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let id = container_id(matches)?;
    let resources = match text(matches, "resources") {
        Some(file) => read(file)?,
        None => from_flags(matches)?,
    };
    container::update(&global.runtime, id, &resources, intel_rdt(matches).as_ref())?;
    Ok(0)
}

/// The shares of L3 cache and memory bandwidth, which are no part of linux.resources.
fn intel_rdt(matches: &ArgMatches) -> Option<LinuxIntelRdt> {
    let (l3, bandwidth) = (text(matches, "l3-cache-schema"), text(matches, "mem-bw-schema"));
    if l3.is_none() && bandwidth.is_none() {
        return None;
    }
    let mut shares = LinuxIntelRdt::default();
    shares.set_l3_cache_schema(l3.map(str::to_owned));
    shares.set_mem_bw_schema(bandwidth.map(str::to_owned));
    Some(shares)
}

fn text<'m>(matches: &'m ArgMatches, flag: &str) -> Option<&'m str> {
    matches.get_one::<String>(flag).map(String::as_str).filter(|text| !text.is_empty())
}

fn read(file: &str) -> anyhow::Result<LinuxResources> {
    let mut bytes = Vec::new();
    let result = if file == "-" {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    let name = if file == "-" { "standard input" } else { file };
    result.map_err(|e| anyhow!("open {name}: {}", errno_text(&e)))?;
    serde_json::from_slice(&bytes).map_err(|e| anyhow!("resources in {name}: {e}"))
}

fn from_flags(matches: &ArgMatches) -> anyhow::Result<LinuxResources> {
    for flag in OBSOLETE.iter().filter(|flag| text(matches, flag).is_some()) {
        log::warn!("--{flag} is ignored: the kernel has no such limit any more");
    }
    let mut resources = Map::new();
    for (flag, group, member, kind, _) in FLAGS {
        let Some(given) = text(matches, flag) else { continue };
        let value = parse(given, kind).ok_or_else(|| anyhow!("invalid value for {flag}: {given:?}"))?;
        let group = resources.entry(group).or_insert_with(|| Value::Object(Map::new()));
        if let Some(group) = group.as_object_mut() {
            group.insert(member.to_owned(), value);
        }
    }
    convert(&resources).map_err(|e| anyhow!("invalid value: {e}"))
}

fn parse(text: &str, kind: Kind) -> Option<Value> {
    match kind {
        Kind::Unsigned => text.parse::<u64>().ok().map(Value::from),
        Kind::Signed => text.parse::<i64>().ok().map(Value::from),
        Kind::Size if text == "-1" => Some(Value::from(-1)),
        Kind::Size => size(text).map(Value::from),
        Kind::Text => Some(Value::from(text)),
    }
}

/// `64M`, `1.5g`, `512KiB`, `4096`: units of 1024, as Docker and runc read them.
pub(crate) fn size(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    let factor = 1024_i64.pow(power);
    match number.parse::<i64>() {
        Ok(whole) => whole.checked_mul(factor),
        // A fraction: exact enough for what has one.
        Err(_) => {
            let bytes = number.parse::<f64>().ok()? * factor as f64;
            (bytes >= 0.0 && bytes < i64::MAX as f64).then_some(bytes as i64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("4096", Some(4096)),
            ("64M", Some(64 << 20)),
            ("64 mb", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("512KiB", Some(512 << 10)),
            ("", None),
            ("-5", None),
            ("64X", None),
            ("1.2.3k", None),
            ("9999999P", None),
        ] {
            assert_eq!(size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_flag_is_a_field() {
        for (flag, group, member, kind, _) in FLAGS {
            let value = parse("100", kind).unwrap();
            let resources: LinuxResources =
                serde_json::from_value(serde_json::json!({ group: { member: value } })).unwrap();
            let back = serde_json::to_value(&resources).unwrap();
            assert_eq!(back[group][member], value, "--{flag}");
        }
    }
}
