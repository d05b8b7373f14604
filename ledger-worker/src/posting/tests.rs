//! Tables of cases by topic, and properties of any history beside a second ledger in code of its own.

#![allow(clippy::wildcard_enum_match_arm)] // A test says what it expects; everything else fails it.
#![allow(clippy::type_complexity)] // Tables of cases.

mod asking;
mod barred;
mod clock;
mod histories;
mod holds;
mod invariants;
mod memory;
mod operator;
mod oracle;
mod people;
mod reputation;
mod settling;
mod world;
