//! One program for all targets: `MESH_FUZZ_TARGET` says which (`make fuzz TARGET=books`).

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fuzz_targets::Target> = LazyLock::new(|| {
    let name = std::env::var("MESH_FUZZ_TARGET").unwrap_or_default();
    fuzz_targets::target(&name).unwrap_or_else(|| {
        let known: Vec<&str> = fuzz_targets::TARGETS.iter().map(|(name, _)| *name).collect();
        panic!("MESH_FUZZ_TARGET is \"{name}\"; there are {}", known.join(", "))
    })
});

fuzz_target!(|data: &[u8]| TARGET(data));
