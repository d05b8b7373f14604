//! What the worker forgets is still known: it is looked up.

use std::time::Duration;

use bus_schemas::ledger::{HoldState, LedgerOutcome, LedgerReply, Op, RefusalKind};
use bus_schemas::subject;

use crate::support::{World, done, free_address, hold, http, job, settlement, until};

/// A request that looks up, once: `None` where there is no answer.
async fn once(world: &World, op: Op) -> Option<Vec<LedgerOutcome>> {
    let request = world.request(&crate::support::gateway(), vec![op]);
    let reply: Option<LedgerReply> = world.bus.ask(subject::LEDGER_DO.into(), &request, Duration::from_secs(4)).await.ok();
    reply.map(|reply| reply.outcomes)
}

fn is_repeat(outcomes: &[LedgerOutcome]) -> bool {
    matches!(outcomes, [LedgerOutcome::Done(done)] if done.repeat)
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
