//! `davit events`: statistics and OOM kills of a running container, one JSON object per line.

use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use clap::ArgMatches;
use serde_json::{Value, json};

use super::args::{Arity, container_id, switch, value};
use super::global::Global;
use super::{Command, json as go_json, print};
use crate::container::{self, Error, News};

pub(super) const COMMAND: Command = Command {
    name: "events",
    about: "display container events such as OOM notifications, cpu, memory, and IO usage statistics",
    usage: "[command options] <container-id>\n\n\
            Prints statistics at every interval, and each OOM kill at once, until the container has stopped.",
    arity: Arity::Exactly(1),
    flags: || {
        vec![
            value("interval", "set the stats collection interval, such as 500ms or 1m30s (default: 5s)"),
            switch("stats", "display the container's stats then exit"),
        ]
    },
    run,
    failure: "",
    failure_code: 1,
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let id = container_id(matches)?;
    let interval = match matches.get_one::<String>("interval") {
        Some(text) => parse_duration(text)
            .ok_or_else(|| anyhow!("invalid value {text:?} for flag -interval: parse error"))?,
        None => DEFAULT_INTERVAL,
    };
    if interval.is_zero() {
        bail!("duration interval must be greater than 0");
    }
    let mut monitor = container::monitor(&global.runtime, id).map_err(|error| match error {
        // runc's words.
        Error::NotRunning => anyhow!("container with id {id} is not running"),
        other => other.into(),
    })?;
    if matches.get_flag("stats") {
        return emit("stats", id, Some(monitor.stats()?));
    }
    monitor.watch_oom()?;
    let mut next = Instant::now() + interval;
    loop {
        let code = match monitor.wait(next)? {
            News::Ended => return Ok(0),
            News::Oom => emit("oom", id, None)?,
            News::Time => {
                next += interval;
                match monitor.stats() {
                    Ok(stats) => emit("stats", id, Some(stats))?,
                    // The cgroup went away: the end is the next news.
                    Err(error) => {
                        log::warn!("{error}");
                        0
                    }
                }
            }
        };
        if code != 0 {
            return Ok(code);
        }
    }
}

fn emit(kind: &str, id: &str, data: Option<Value>) -> anyhow::Result<i32> {
    let event = match data {
        Some(data) => json!({ "type": kind, "id": id, "data": data }),
        None => json!({ "type": kind, "id": id }),
    };
    Ok(print(&(go_json::compact(&event)? + "\n")))
}

/// A duration as Go's flag package reads it: `1h15m30.5s`, `300ms`. None for anything else.
fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go() {
        let ms = |n| Some(Duration::from_millis(n));
        for (text, expected) in [
            ("5s", ms(5000)),
            ("1m30s", ms(90_000)),
            ("300ms", ms(300)),
            ("1.5s", ms(1500)),
            ("0", ms(0)),
            ("0s", ms(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("5 s", None),
            ("5parsecs", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }
}
