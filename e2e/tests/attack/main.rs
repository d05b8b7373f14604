//! What somebody with valid credentials, a stolen key, or none at all can do to a running network: one row for each attack, with what
//! happened and what an honest neighbour noticed of it. `make attack` prints the table.
//!
//! What other tests show is not repeated: the complaint of the server for each subject (`gateway/tests/roles.rs`), bad and forged job
//! messages at every door (`bad_input.rs`), headers that are none (`foreign_headers.rs`), answers sent to another's watch subject
//! (`reply_subjects.rs`), foreign bytes in LEDGER (`replay.rs`), invites and enrolment (`gateway/tests/enrolment.rs`).

mod fair;
mod floods;
mod http_door;
mod joining;
mod rogue;
mod signed;
mod stage;
mod wire;
mod workers;

use stage::Stage;

/// Each has a network of its own, and the machine for itself.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn a_flood_of_one_member_slows_nobody_else() {
    let _turn = TURN.lock().await;
    let mut stage = Stage::set().await;
    fair::attacks(&mut stage).await;
    stage.finish();
}

#[tokio::test]
async fn attacks_come_to_nothing() {
    let _turn = TURN.lock().await;
    let mut stage = Stage::set().await;
    wire::attacks(&mut stage).await;
    // Open while what follows happens.
    let half_open = floods::half_open(&stage).await.expect("the hub listens");
    workers::attacks(&mut stage).await;
    signed::attacks(&mut stage).await;
    joining::attacks(&mut stage).await;
    let slow = http_door::attacks(&mut stage).await;
    floods::attacks(&mut stage, half_open).await;
    http_door::slow_ones_are_gone(&mut stage, slow).await;
    stage.finish();
}
