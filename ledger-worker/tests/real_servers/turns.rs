//! Two writers at once, by force.

use std::cell::Cell;
use std::time::Duration;

use bus::Health;
use bus_schemas::Verifier;
use bus_schemas::limits::Timings;
use bus_schemas::subject;
use ledger_worker::active::{Lookups, Turn, TurnOver};
use ledger_worker::append::NotStored;
use ledger_worker::follow::{Foreign, catch_up};
use ledger_worker::freshness::Moment;
use ledger_worker::lease::Lease;
use ledger_worker::posting::Standing;
use ledger_worker::projector::Feed;
use ledger_worker::settings::parts;
use ledger_worker::store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::all_there_once;
use crate::support::{World, connect, done, hold, net, signal};

const LONG: Duration = Duration::from_secs(3600);
const DAY_MS: u64 = 25 * 3_600_000;

#[tokio::test]
async fn of_two_writers_one_is_fenced_and_no_fact_is_lost_or_doubled() {
    let world = World::start().await;
    let mut worker = world.worker();
    world.people().await;
    signal(worker.pid(), "TERM");
    assert!(worker.ended().await.success());

    let (stop, key, parts) = (CancellationToken::new(), world.ledger_key(), parts(&world.document));
    let (store, health) = (Store::new(&world.postgres.url()).unwrap(), Health::default());
    let turn = async |name: &str| {
        let bus = connect(&world.nats_url).await;
        let mut standing = Standing::new(net(), [key.public()].into());
        let (mut verifier, mut foreign) = (Verifier::default(), Foreign::default());
        let requests = bus.client.subscribe(subject::LEDGER_DO).await.unwrap();
        bus.client.flush().await.unwrap();
        catch_up(&bus, &mut standing, &mut verifier, &mut foreign, DAY_MS).await.unwrap();
        // Who looks at a lease that another one holds and writes it all the same has it: nothing fences but the appends.
        let mut lease = Lease::new(bus.clone(), name.parse().unwrap(), LONG);
        lease.look().await.unwrap();
        lease.take().await.unwrap();
        let feed = Feed::new(standing.books().seq());
        Turn {
            bus: &bus,
            standing: &mut standing,
            signer: &key,
            parts: &parts,
            verifier: &mut verifier,
            foreign: &mut foreign,
            lease: &mut lease,
            feed: &feed,
            store: &store,
            lookups: Lookups::new(),
            health: &health,
            refused: &mut None,
            taken: &Notify::new(),
            timings: &Timings::default(),
            remember_ms: DAY_MS,
            patience: Duration::from_secs(10),
            time_divisor: 1,
            seen: Moment::never(),
            created_ns: bus.stream_end("LEDGER").await.unwrap().created_ns,
        }
        .serve(requests, &stop)
        .await
    };
    let driver = async {
        // The first one writes; its lease is renewed once at its start, and not again for long.
        assert_eq!(done(&world.ask(vec![hold(0)]).await), 1);
    };
    let mut first = Box::pin(turn("first"));
    tokio::select! { over = &mut first => panic!("the first ended: {over}"), () = driver => {} }
    let mut second = Box::pin(turn("second"));
    let mut over: Vec<TurnOver> = vec![];
    let (ended, asked) = (Cell::new(0_u32), Cell::new(1_u64));
    let questions = async {
        // Until one has found the other, and some more.
        let mut more = 10;
        while ended.get() == 0 || more > 0 {
            assert_eq!(done(&world.ask(vec![hold(asked.get())]).await), 1);
            more -= u32::from(ended.get() > 0);
            asked.set(asked.get() + 1);
            assert!(asked.get() < 20_000, "both write on");
        }
    };
    let mut questions = Box::pin(questions);
    let (mut one, mut two) = (false, false);
    loop {
        tokio::select! {
            over_now = &mut first, if !one => { one = true; ended.set(ended.get() + 1); over.push(over_now); }
            over_now = &mut second, if !two => { two = true; ended.set(ended.get() + 1); over.push(over_now); }
            () = &mut questions => break,
        }
    }
    assert!(one != two, "one of them goes on: {over:?}");
    assert!(
        matches!(over[..], [TurnOver::NotStored(NotStored::Fenced(_)) | TurnOver::Behind { .. }]),
        "the other one finds that it is not the active one: {over:?}"
    );
    stop.cancel();
    let last = if one { second.await } else { first.await };
    assert!(matches!(last, TurnOver::Stop), "{last}");
    let _projecting = world.worker();
    all_there_once(&world, asked.get()).await;
}
