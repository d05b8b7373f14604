//! Tests that walk the whole path on real servers; see `tests/`. Here: what several of them need.
//!
//! `doors` sends one job in every way there is; `books` reads LEDGER as an auditor would and replays it; `foreign` is what only strangers
//! write.

pub mod books;
pub mod doors;
pub mod foreign;
