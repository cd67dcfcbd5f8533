//! libFuzzer on the target that `$FUZZ_TARGET` names, with `$FUZZ_SCRATCH` to write to. `hack/fuzz` builds and runs it.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use davit_fuzz::Run;
use davit_fuzz::json::{Random, changed};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

struct Chosen {
    run: Run,
    json: bool,
    scratch: PathBuf,
}

fn chosen() -> &'static Chosen {
    static CHOSEN: OnceLock<Chosen> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let Some(run) = davit_fuzz::target(&name) else {
            eprintln!("FUZZ_TARGET={name:?}: no such target");
            std::process::exit(2)
        };
        let scratch = std::env::var_os("FUZZ_SCRATCH").map_or_else(std::env::temp_dir, PathBuf::from);
        Chosen { run, json: davit_fuzz::is_json(&name), scratch }
    })
}

fuzz_target!(|data: &[u8]| {
    let chosen = chosen();
    (chosen.run)(data, &chosen.scratch);
});

// Every third change of a JSON document is one of bytes: the parser is a target too.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random::new(u64::from(seed));
    if chosen().json && random.below(3) > 0 {
        if let Some(document) = data.get(..size).and_then(|bytes| changed(bytes, &mut random)) {
            if let Some(place) = data.get_mut(..document.len()).filter(|place| place.len() <= max_size) {
                place.copy_from_slice(&document);
                return document.len();
            }
        }
    }
    fuzzer_mutate(data, size, max_size)
});
