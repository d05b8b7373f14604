//! What the worker forgets is still known: it is looked up.

use std::time::Duration;

use bus_schemas::ledger::{HoldState, LedgerOutcome, LedgerReply, Op, Policy, RefusalKind};
use bus_schemas::{MilliMana, subject};

use crate::support::{World, device, done, free_address, hold, http, job, settlement, signer, until};

/// A request that looks up, once: `None` where there is no answer.
async fn once(world: &World, op: Op) -> Option<Vec<LedgerOutcome>> {
    let request = world.request(&crate::support::gateway(), vec![op]);
    let reply: Option<LedgerReply> = world.bus.ask(subject::LEDGER_DO.into(), &request, Duration::from_secs(4)).await.ok();
    reply.map(|reply| reply.outcomes)
}

fn is_repeat(outcomes: &[LedgerOutcome]) -> bool {
    matches!(outcomes, [LedgerOutcome::Done(done)] if done.repeat)
}

/// How many facts a worker has looked up.
async fn recalled(address: &str) -> u64 {
    let metrics = http(address, "/metrics").await.unwrap().1;
    metrics.lines().find_map(|line| line.strip_prefix("mesh_ledger_recalled_total ")?.trim().parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn what_was_accepted_long_ago_is_not_done_again() {
    let mut world = World::start().await;
    world.divisor = 4;
    let address = free_address();
    let _worker = world.worker_with(&[("MESH_LEDGER_REMEMBER", "1"), ("MESH_HTTP", &address)]);
    world.people().await;
    assert_eq!(done(&world.ask(vec![hold(1), hold(2)]).await), 2);
    let settled = settlement(&world, &[1]);
    assert_eq!(done(&world.ask_with(&settled).await), 1);
    world.projected().await;

    // Asked again and again it is always a repeat, from memory at first, looked up in the end.
    until("the first hold to be looked up", async || {
        let again = world.ask(vec![hold(1)]).await;
        assert!(is_repeat(&again), "{again:?}");
        http(&address, "/metrics").await?.1.contains("mesh_ledger_recalled_total").then_some(())
    })
    .await;
    let Op::Hold { member, key, amount_mmana, expires, .. } = hold(1) else { panic!("a hold") };
    let other = world.ask(vec![Op::Hold { job: job(77), member, key, amount_mmana, expires }]).await;
    assert!(matches!(other[..], [LedgerOutcome::Refused { why: RefusalKind::KeyConflict, .. }]), "{other:?}");
    assert!(is_repeat(&world.ask_with(&settled).await), "settled once");
    let another = world.ask_with(&settlement(&world, &[1])).await;
    assert!(matches!(another[..], [LedgerOutcome::Refused { why: RefusalKind::AlreadySettled, .. }]), "{another:?}");
    match &world.ask(vec![Op::Look { job: job(1) }]).await[..] {
        [LedgerOutcome::Done(done)] => {
            let hold = done.hold.as_ref().unwrap();
            assert!(matches!(&hold.state, HoldState::Settled { paid_mmana, .. } if paid_mmana.get() == 2000), "{hold:?}");
        }
        other => panic!("{other:?}"),
    }
    // One that is still open as well.
    assert!(is_repeat(&world.ask(vec![hold(2)]).await));

    // Every repeat names where its fact stands, also of what the books know without it.
    let tier = Op::AttestTier { device: device(0).public().device_id(), tier: 1 };
    let rules = Policy { version: 2, fee_bp: 7, ..Policy::first(MilliMana::mana(1_000_000)) };
    let first = world.ask_with(&world.request(&signer(1), vec![Op::SetPolicy { rules: rules.clone() }])).await;
    assert!(matches!(&first[..], [LedgerOutcome::Done(done)] if !done.repeat), "{first:?}");
    world.projected().await;
    let client = world.postgres.client().await;
    let request = world.request(&signer(1), vec![Op::SetPolicy { rules }, tier, Op::Look { job: job(2) }]);
    until("all three to be looked up", async || {
        let before = recalled(&address).await;
        let outcomes = world.ask_with(&request).await;
        for outcome in &outcomes {
            let LedgerOutcome::Done(done) = outcome else { panic!("{outcome:?}") };
            let fact = done.fact.0.to_bytes().to_vec();
            let stands: i64 = client.query_one("select seq from ledger.fact where id = $1", &[&fact]).await.unwrap().get(0);
            assert!(done.repeat && u64::try_from(stands) == Ok(done.seq), "{done:?} stands at {stands}");
        }
        (recalled(&address).await >= before + 3).then_some(())
    })
    .await;

    // Without the database what may be a repeat gets no answer, and everything new goes on.
    world.postgres.crash();
    until("the first hold to be forgotten again", async || once(&world, hold(1)).await.is_none().then_some(())).await;
    assert_eq!(done(&world.ask(vec![hold(3)]).await), 1);
    world.postgres.start_again();
    assert!(is_repeat(&world.ask(vec![hold(1)]).await));
    world.projected().await;
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
}
