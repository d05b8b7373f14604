//! The doors of a network.
//!
//! In: messages of SUBMIT (raw JSON, lists, signed), requests of the NATS service `mesh.v1.api.<a>.<noun>.<verb>`, HTTP under
//! `/api/v1`, records of HISTORY. Out: one signed [`bus_schemas::job::AdmittedJob`] per job in JOBS, HISTORY records for what
//! was admitted and what was not, rows for people to read, credentials for who enrols.
//!
//! `admission` decides what a message is and touches nothing; `intake` carries it out: hold, JOBS, HISTORY, and the ack last.
//! Both doors are `door`: who asks is proved before it (by the subject, a token or a signature), and the answers are the same.
//! `history` folds HISTORY into the rows that `store` keeps and `views` shows. `fleet` knows the devices, `live` what happens
//! now, `freshness` how old rows are. `enrolment` lets people and devices in; `bootstrap` makes a network before anything of it runs.
//!
//! `rights` says who may do what to others; `revocation` carries it out, and `revoker`, a process of its own, lets the hub refuse old logins.
//!
//! Not here: which device gets a job (scheduler-worker), what it costs (ledger-worker), and any right to sign facts.

pub mod bootstrap;
pub mod cli;
pub mod enrolment;
pub mod jwt;
pub mod ledger_client;
pub mod revoker;

pub mod admission;
pub mod backlog;
pub mod funding;
pub mod intake;
pub mod recorder;

pub mod awaited;
pub mod blobs;
pub mod credit;
pub mod invites;
pub mod jobs;
pub mod ledger;
pub mod letters;
pub mod orders;
pub mod revocation;
pub mod rights;
pub mod routes;
pub mod service;
pub mod submit;

pub mod attempts;
pub mod history;
pub mod next;
pub mod overdue;
pub mod projection;
pub mod store;
pub mod tail;
pub mod views;

pub mod doors;
pub mod drain;
pub mod fair;
pub mod fleet;
pub mod freshness;
pub mod holding;
pub mod live;
pub mod readiness;
pub mod run;
pub mod sweeper;
pub mod turns;
pub mod world;
