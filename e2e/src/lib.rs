//! Tests that walk the whole path on real servers; see `tests/`. Here: what several of them need.
//!
//! `doors` sends one job in every way there is; `books` reads LEDGER as an auditor would and replays it; `foreign` is what only strangers
//! write; `secrets` finds what was spilt; `chaos` breaks a whole network and looks whether it kept its promises.

pub mod books;
pub mod chaos;
pub mod doors;
pub mod foreign;
pub mod secrets;
