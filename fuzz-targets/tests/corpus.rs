//! What fuzzers have found worth keeping, played again: no input of the past breaks a promise today.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz_targets::TARGETS;

/// A corpus is kept small, so that it is read in a review and played in a moment.
const FILES_MAX: usize = 40;
const BYTES_MAX: u64 = 4096;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn every_target_has_its_corpus_and_every_corpus_its_target() {
    let kept: BTreeSet<String> = files(&corpus()).iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect();
    assert_eq!(kept, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect());
    for (name, _) in TARGETS {
        let files = files(&corpus().join(name));
        assert!((1..=FILES_MAX).contains(&files.len()), "{name} has {} files; 1 to {FILES_MAX} are kept", files.len());
        for file in files {
            let bytes = fs::metadata(&file).unwrap().len();
            assert!(bytes <= BYTES_MAX, "{} has {bytes} bytes; at most {BYTES_MAX} are kept", file.display());
        }
    }
}

/// Each file is named where it breaks something, and the others are played all the same.
#[test]
fn what_was_found_once_is_played_again() {
    let mut played = 0;
    let mut broken = vec![];
    for (name, run) in TARGETS {
        for file in files(&corpus().join(name)) {
            let bytes = fs::read(&file).unwrap();
            if std::panic::catch_unwind(|| run(&bytes)).is_err() {
                broken.push(file.display().to_string());
            }
            played += 1;
        }
    }
    assert!(broken.is_empty(), "{} of {played} inputs break a promise:\n  {}", broken.len(), broken.join("\n  "));
    assert!(played >= TARGETS.len());
}

#[test]
fn nothing_and_next_to_nothing_are_inputs_too() {
    for (_, run) in TARGETS {
        run(&[]);
        for byte in 0..=u8::MAX {
            run(&[byte]);
            run(&[byte; 65]);
        }
    }
}
