//! What is fuzzed: for each target a function that takes any bytes and panics where a promise is broken.
//!
//! `fuzz/` runs them under libFuzzer (`make fuzz`, on a nightly compiler); the test of this crate replays what is kept in
//! `fuzz/corpus`, with the compiler that all else is built with. No panic is the least that each holds; what else it holds says
//! its module.
//!
//! Not here: sockets, files, clocks, randomness. An input means the same wherever it is played.

pub mod bodies;
pub mod books;
mod bytes;
pub mod doors;
pub mod envelope;
pub mod names;
pub mod settings;
pub mod tokens;

/// Plays one input.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also its folder in `fuzz/corpus`; the riskiest first.
pub const TARGETS: [(&str, Target); 7] = [
    ("books", books::run),
    ("envelope", envelope::run),
    ("bodies", bodies::run),
    ("doors", doors::run),
    ("tokens", tokens::run),
    ("names", names::run),
    ("settings", settings::run),
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}
