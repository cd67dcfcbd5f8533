//! What `hack/fuzz` calls of the shim: see `davit::fuzz`.

use std::fs;
use std::path::Path;

use davit::fuzz::Run;

use crate::api::{Any, Request};
use crate::flags::Flags;
use crate::io::logger::Logger;
use crate::options::Options;
use crate::wire::{bootstrap, frame, options, task};
use crate::{backend, config, mount, record};

/// Targets by name.
pub const TARGETS: &[(&str, Run)] = &[
    ("ttrpc", frames),
    ("task-messages", messages),
    ("runtime-options", runtime_options),
    ("bootstrap", bootstrap_input),
    ("bundle-files", bundle_files),
    ("uris", uris),
];

/// A connection's bytes: the cuts between reads are the first byte's affair and must not matter.
fn frames(data: &[u8], _: &Path) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = decoded(bytes.chunks(bytes.len().max(1)));
    let cut = decoded(bytes.chunks(usize::from(*cut) + 1));
    assert_eq!(whole, cut, "what is decoded depends on how it came");
    for frame in whole {
        if let frame::Decoded::Frame(frame) = frame {
            let mut out = Vec::new();
            frame::encode(&mut out, frame.stream, frame.kind, &frame.payload);
            drop(task::encode(&task::decode(&frame.payload).map(|_| crate::api::Response::Empty)));
        }
    }
}

fn decoded<'b>(chunks: impl Iterator<Item = &'b [u8]>) -> Vec<frame::Decoded> {
    let mut decoder = frame::Decoder::default();
    let mut all = Vec::new();
    for chunk in chunks {
        decoder.feed(chunk);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => all.push(frame),
                Ok(None) => break,
                Err(_) => return all,
            }
        }
    }
    all
}

/// A request's payload, and what is nested in it.
fn messages(data: &[u8], _: &Path) {
    match task::decode(data) {
        Ok(Request::Create(create)) => {
            for part in &create.rootfs {
                drop(mount::options::parse(&part.options));
            }
            if let Some(any) = &create.options {
                drop(options::decode(any));
            }
            stdio(&create.stdio.stdout);
        }
        Ok(Request::Exec(exec)) => drop(backend::external::with_terminal(&exec.spec, true, None)),
        Ok(_) => {}
        Err(error) => assert!(!error.text.is_empty()),
    }
}

/// Runtime options: the first byte chooses the form.
fn runtime_options(data: &[u8], _: &Path) {
    let Some((form, rest)) = data.split_first() else { return };
    if let Ok(text) = std::str::from_utf8(rest) {
        if let Ok(options) = Options::from_toml(text) {
            let _ = options.state_root("ns");
            let json = serde_json::to_vec(&options).unwrap_or_default();
            assert_eq!(serde_json::from_slice::<Options>(&json).ok(), Some(options), "not remembered");
        }
    }
    let url = if form % 2 == 0 { "containerd.runc.v1.Options" } else { "runtimeoptions.v1.Options" };
    drop(options::decode(&Any { url: url.to_owned(), value: rest.to_vec() }));
}

/// What `start` gets on stdin.
fn bootstrap_input(data: &[u8], _: &Path) {
    for version in [None, Some("3")] {
        let found = bootstrap::detect(data, "id", "ns", version);
        if let Some(any) = &found.options {
            drop(options::decode(any));
        }
        assert!(!bootstrap::reply(found.generation, "unix:///run/s").is_empty());
    }
}

/// Files of a bundle, all with the same text.
fn bundle_files(data: &[u8], scratch: &Path) {
    let bundle = scratch.join("bundle");
    let _ = fs::create_dir_all(&bundle);
    for name in ["config.json", "options.json", "exitstatus.json", "log.json", "runtime"] {
        let _ = fs::write(bundle.join(name), data);
    }
    let _ = (config::facts(&bundle), config::group(&bundle), record::read(&bundle));
    let _ = (backend::remembered(&bundle), backend::external::last_error(&bundle.join("log.json"), 3));
}

/// Log URIs, mount table fields, options of mounts, and command lines; one a line.
fn uris(data: &[u8], _: &Path) {
    let _ = mount::unescape(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let words: Vec<String> = text.lines().map(str::to_owned).collect();
    words.iter().for_each(|word| stdio(word));
    drop(mount::options::parse(&words));
    drop(Flags::parse(words).map(|flags| flags.action()));
}

fn stdio(uri: &str) {
    let _ = Logger::parse(uri);
}
