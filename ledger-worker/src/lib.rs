//! Turns commands into facts, and facts into double-entry rows.
//!
//! In: requests on `mesh.v1.ledger.do`, each a signed batch of commands with the evidence they cite. Out: facts in LEDGER, an
//! answer to each asker once they are stored, and rows in Postgres a moment later.
//!
//! `posting` decides and touches nothing; `round` packs what was decided; `append` stores it at its place in the stream, which
//! fences a second writer; `lease` says who tries; `whole` whether the stream has all of it, `refused` that it takes no more;
//! `projector` writes rows, `sums` adds them up; `verify` makes them all again and compares; `reseed` gives a stream back what it lost,
//! `rebuild` a database.
//!
//! Not here: who may submit what (the gateway), what a receipt is worth as a result (the scheduler), invites and credentials.
//! No consumer, no durable place in the stream but the one in Postgres; no price rule in replay, only legs.

pub mod active;
pub mod append;
pub mod balances;
pub mod copy;
pub mod crash;
pub mod fold;
pub mod follow;
pub mod freshness;
pub mod lease;
pub mod pass_over;
pub mod posting;
pub mod project;
pub mod projector;
pub mod rebuild;
pub mod recall;
pub mod refused;
pub mod request;
pub mod reseed;
pub mod round;
pub mod rows;
pub mod run;
pub mod settings;
pub mod store;
pub mod sums;
pub mod told;
pub mod verify;
pub mod whole;
