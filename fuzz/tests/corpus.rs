//! Repeats every input that is kept: those that once crashed are among them. Then the driver that needs no engine:
//! changes of the kept inputs, the same ones every time, for `FUZZ_SECONDS` a target (1 by default).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use davit_fuzz::json::{Random, changed};
use davit_fuzz::{Run, corpus, is_json, targets};

#[test]
fn kept_inputs_and_changes_of_them_crash_nothing() {
    let seconds = std::env::var("FUZZ_SECONDS").map_or(1, |text| text.parse().expect("FUZZ_SECONDS"));
    let all: Vec<_> = targets().collect();
    std::thread::scope(|scope| {
        for half in all.chunks(all.len().div_ceil(2)) {
            scope.spawn(move || {
                // Targets that write files do so a thousand times a second.
                let memory = Path::new("/dev/shm");
                let scratch = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
                for (name, run) in half {
                    try_target(name, *run, scratch.path(), Duration::from_secs(seconds));
                }
            });
        }
    });
}

fn try_target(name: &str, run: Run, scratch: &Path, time: Duration) {
    let files = fs::read_dir(corpus(name)).unwrap_or_else(|e| panic!("no inputs are kept for {name}: {e}"));
    let mut inputs: Vec<Vec<u8>> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(inputs.len() >= 3, "{name}: {} inputs", inputs.len());
    inputs.sort();
    for input in &inputs {
        run(input, scratch);
    }
    let (mut random, mut changes, start) = (Random::new(1), 0, Instant::now());
    while start.elapsed() < time {
        let input = &inputs[changes % inputs.len()];
        let next = match changed(input, &mut random).filter(|_| is_json(name)) {
            Some(document) => document,
            None => cut_and_flip(input, &mut random),
        };
        run(&next, scratch);
        changes += 1;
    }
    println!("{name}: {} inputs, {changes} changes", inputs.len());
}

fn cut_and_flip(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), random.below(256) as u8),
            2 if !bytes.is_empty() => drop(bytes.remove(at)),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        }
    }
    bytes
}
