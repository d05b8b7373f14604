//! The JSON that people script against, as JSON Schema in `docs/schemas`, generated from the types.
//!
//! `MESH_UPDATE_GOLDEN=1 cargo test -p bus-schemas --test schemas` writes them anew.

#![allow(clippy::unwrap_used)] // a test may end where it stands

use std::path::PathBuf;

use bus_schemas::api;
use bus_schemas::job::JobSpec;
use bus_schemas::ledger::Fact;
use schemars::{Schema, schema_for};

#[test]
fn the_published_schemas_are_those_of_the_types() {
    let schemas: [(&str, Schema); 32] = [
        ("job-spec", schema_for!(JobSpec)),
        ("submitted", schema_for!(api::Submitted)),
        ("job", schema_for!(api::JobView)),
        ("job-list", schema_for!(api::JobList)),
        ("result", schema_for!(api::ResultShape)),
        ("receipt", schema_for!(api::ReceiptView)),
        ("explanation", schema_for!(api::Explanation)),
        ("watch-state", schema_for!(api::WatchState)),
        ("watch-out", schema_for!(bus_schemas::event::Checkpoint)),
        ("partial-result", schema_for!(api::PartialResult)),
        ("device-list", schema_for!(api::DeviceList)),
        ("balance", schema_for!(api::BalanceView)),
        ("credit-history", schema_for!(api::CreditHistory)),
        ("verify-report", schema_for!(api::VerifyReport)),
        ("error", schema_for!(api::ErrorBody)),
        ("fact", schema_for!(Fact)),
        ("fact-list", schema_for!(api::ledger::FactList)),
        ("balance-list", schema_for!(api::ledger::BalanceList)),
        ("checkpoint-list", schema_for!(api::ledger::CheckpointList)),
        ("proof", schema_for!(api::ledger::ProofView)),
        ("consistency", schema_for!(api::ledger::ConsistencyView)),
        ("transfer", schema_for!(api::ledger::TransferView)),
        ("dead-letter", schema_for!(bus_schemas::letter::Entry)),
        ("letter", schema_for!(api::letters::LetterView)),
        ("bar", schema_for!(api::people::BarView)),
        ("member-list", schema_for!(api::people::MemberList)),
        ("audit-list", schema_for!(api::people::AuditList)),
        ("invite", schema_for!(api::people::InviteMade)),
        ("invite-list", schema_for!(api::people::InviteList)),
        ("waiting-list", schema_for!(api::people::WaitingList)),
        ("letter-list", schema_for!(api::letters::LetterList)),
        ("policy", schema_for!(api::ledger::PolicyView)),
    ];
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    for (name, schema) in schemas {
        let path = folder.join(format!("{name}.schema.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if std::env::var_os("MESH_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(stored == text, "{name}.schema.json is not what the types say; write it anew (see the head of this test)");
    }
}
