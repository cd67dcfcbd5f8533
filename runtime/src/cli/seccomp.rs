//! `davit seccomp`: what a seccomp profile becomes, and what it decides.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::{ArgMatches, value_parser};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::args::{Arity, positionals, switch, value};
use super::global::Global;
use super::{Command, errno_text, json as go_json, print};
use crate::json::convert;
use crate::seccomp::arch::{Abi, Machine};
use crate::seccomp::interpreter::{Call, trace};
use crate::seccomp::{Filter, compile_for, describe, names};
use crate::sorted::map_of;

pub(super) const COMMAND: Command = Command {
    name: "seccomp",
    about: "print the program of a seccomp profile, what it means, and what it decides for a call",
    usage: "[command options] compile|explain <profile>\n   \
            davit seccomp [command options] simulate <profile> <call> [argument...]\n\n\
            The profile is a file with the linux.seccomp object of config.json, a config.json, or a bundle.\n\
            Nothing is loaded, and no root is needed.\n\n\
            compile   the BPF program that the kernel gets, its flags and its length\n\
            explain   what becomes of each call, for each kind of program that the machine can run\n\
            simulate  what is decided for a call (its name or number) with arguments (decimal or 0x; -1 works),\n\
            \x20         and how many instructions that takes",
    arity: Arity::Between(2, 9),
    flags: || {
        vec![
            value(
                "arch",
                "the calling program's: x86_64, x32, x86, aarch64 or arm (default: this machine's)",
            ),
            switch("json", "print one JSON document"),
            switch("raw", "compile: write the program as the kernel takes it, 8 bytes an instruction"),
            switch("trace", "simulate: print the instructions that are executed"),
            value(
                "rounds",
                "compile: print how long compiling takes in place of the program, the least of N rounds",
            )
            .value_parser(value_parser!(u32).range(1..)),
        ]
    },
    run: act,
    failure: "",
    failure_code: 1,
};

/// Version of the JSON documents: grows when a key changes its meaning or goes away.
const DOCUMENT: u32 = 1;

fn act(_global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let mut words = positionals(matches);
    let (action, file) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let rest: Vec<&OsStr> = words.collect();
    let abi = match matches.get_one::<String>("arch") {
        None => Machine::NATIVE.native(),
        Some(name) => Abi::by_name(name)
            .ok_or_else(|| anyhow!("unknown architecture {name:?}: want x86_64, x32, x86, aarch64 or arm"))?,
    };
    let profile = read(Path::new(file))?;
    match (action.to_str(), rest.as_slice()) {
        (Some("compile"), []) => compile(matches, abi, &profile),
        (Some("explain"), []) => explain(matches, abi, &profile),
        (Some("simulate"), [name, args @ ..]) => simulate(matches, abi, &profile, name, args),
        (Some("simulate"), []) => Err(anyhow!("simulate wants a call behind the profile")),
        (Some("compile" | "explain"), _) => {
            Err(anyhow!("{} wants nothing behind the profile", action.to_string_lossy()))
        }
        _ => Err(anyhow!("unknown action {action:?}: want compile, explain or simulate")),
    }
}

/// Reads the profile of a file or a bundle.
fn read(file: &Path) -> anyhow::Result<LinuxSeccomp> {
    let file = if file.is_dir() { file.join("config.json") } else { PathBuf::from(file) };
    let name = file.display();
    let bytes = std::fs::read(&file).map_err(|error| anyhow!("read {name}: {}", errno_text(&error)))?;
    let mut value: Value = serde_json::from_slice(&bytes).map_err(|error| anyhow!("{name}: {error}"))?;
    if let Some(inner) = value.get_mut("linux") {
        value = inner.get_mut("seccomp").map(Value::take).unwrap_or_default();
        if value.is_null() {
            return Err(anyhow!("{name}: it has no linux.seccomp"));
        }
    }
    convert(&value).map_err(|error| anyhow!("{name}: want the linux.seccomp object: {error}"))
}

fn compile(matches: &ArgMatches, abi: Abi, profile: &LinuxSeccomp) -> anyhow::Result<i32> {
    if let Some(rounds) = matches.get_one::<u32>("rounds") {
        return time(abi, profile, *rounds, matches.get_flag("json"));
    }
    let filter = compile_for(abi.machine(), profile)?;
    if matches.get_flag("raw") {
        let mut stdout = std::io::stdout();
        let written = stdout.write_all(&filter.program_bytes()).and_then(|()| stdout.flush());
        written.map_err(|e| anyhow!("write to stdout: {}", errno_text(&e)))?;
        return Ok(0);
    }
    let flags = describe::flags(&filter);
    let lines: Vec<String> =
        filter.program.iter().enumerate().map(|(at, code)| describe::instruction(at, code)).collect();
    if matches.get_flag("json") {
        let program: Vec<_> = filter.program.iter().map(|i| json!([i.code, i.jt, i.jf, i.k])).collect();
        return document(
            &json!({ "version": DOCUMENT, "flags": flags, "listener": filter.notify, "program": program }),
        );
    }
    let flags = if flags.is_empty() { "none".to_owned() } else { flags.join(" ") };
    Ok(print(&format!("{}\n{} instructions, flags: {flags}\n", lines.join("\n"), lines.len())))
}

/// What a container pays for its profile before the load.
fn time(abi: Abi, profile: &LinuxSeccomp, rounds: u32, json: bool) -> anyhow::Result<i32> {
    let mut least = Duration::MAX;
    for _ in 0..rounds {
        let start = Instant::now();
        // The optimiser may not leave out what nobody reads.
        std::hint::black_box(compile_for(abi.machine(), profile)?);
        least = least.min(start.elapsed());
    }
    if json {
        return document(
            &json!({ "version": DOCUMENT, "rounds": rounds, "leastNanoseconds": least.as_nanos() as u64 }),
        );
    }
    Ok(print(&format!("{:.1} µs, the least of {rounds} rounds\n", least.as_secs_f64() * 1e6)))
}

fn explain(matches: &ArgMatches, abi: Abi, profile: &LinuxSeccomp) -> anyhow::Result<i32> {
    let all = describe::summaries(abi.machine(), profile)?;
    let wanted = matches.get_one::<String>("arch");
    let all = all.into_iter().filter(|summary| wanted.is_none() || summary.abi == abi);
    if matches.get_flag("json") {
        let archs: serde_json::Map<String, Value> = map_of(all.map(|s| {
            (
                s.abi.name().to_owned(),
                json!({ "fixed": s.fixed, "byArguments": s.conditional, "newer": s.newer }),
            )
        }));
        return document(&json!({ "version": DOCUMENT, "archs": archs }));
    }
    Ok(print(&all.map(|summary| summary.to_string()).collect::<String>()))
}

fn simulate(
    matches: &ArgMatches,
    abi: Abi,
    profile: &LinuxSeccomp,
    name: &OsStr,
    args: &[&OsStr],
) -> anyhow::Result<i32> {
    let filter = compile_for(abi.machine(), profile)?;
    let call = call(abi, name, args)?;
    let Some((verdict, path)) = trace(&filter.program, &call) else {
        return Err(anyhow!("the program does not end: this is a bug"));
    };
    let action = describe::action(verdict.word);
    if matches.get_flag("json") {
        return document(&json!({
            "version": DOCUMENT, "action": action, "word": verdict.word, "nr": call.nr, "args": call.args,
            "instructions": verdict.instructions, "readsArguments": verdict.reads_arguments,
            "path": path, "length": filter.program.len(),
        }));
    }
    let mut text = String::new();
    if matches.get_flag("trace") {
        text = traced(&filter, &path);
    }
    let (executed, length) = (verdict.instructions, filter.program.len());
    Ok(print(&format!("{text}{action}\n{executed} of {length} instructions executed\n")))
}

fn traced(filter: &Filter, path: &[usize]) -> String {
    let lines =
        path.iter().filter_map(|at| filter.program.get(*at).map(|code| describe::instruction(*at, code)));
    lines.map(|line| line + "\n").collect()
}

fn call(abi: Abi, name: &OsStr, words: &[&OsStr]) -> anyhow::Result<Call> {
    let text = name.to_str().unwrap_or_default();
    let known = names::number(abi, text).or_else(|| number(text).and_then(|nr| u32::try_from(nr).ok()));
    let nr = known.ok_or_else(|| anyhow!("{} has no call {name:?}", abi.name()))?;
    let mut args = [0; 6];
    if words.len() > args.len() {
        return Err(anyhow!("a call has six arguments at most"));
    }
    for (arg, word) in args.iter_mut().zip(words) {
        *arg = word.to_str().and_then(number).ok_or_else(|| anyhow!("argument {word:?} is no number"))?;
    }
    Ok(Call { nr, arch: abi.audit_arch(), args })
}

/// Decimal, with a sign, or 0x.
fn number(text: &str) -> Option<u64> {
    match (text.strip_prefix("0x"), text.starts_with('-')) {
        (Some(hex), _) => u64::from_str_radix(hex, 16).ok(),
        (None, true) => text.parse::<i64>().ok().map(|value| value as u64),
        (None, false) => text.parse().ok(),
    }
}

fn document(value: &Value) -> anyhow::Result<i32> {
    Ok(print(&(go_json::pretty(value, "    ")? + "\n")))
}
