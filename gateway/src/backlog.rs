//! What waits in SUBMIT, taken in turn: one asker's flood waits, in its line here or put off in the stream, and who sends one job comes
//! next, whatever lies before it.
//!
//! Nothing is lost or forgotten on the way: what is put off is given back to the stream, which delivers it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::pull::Delivery;
use bus_schemas::id::Asker;
use bus_schemas::subject;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::fair::{Fair, Next, Rate, Share};
use crate::turns::{Rates, Turns};
use crate::world::World;

/// Of one asker in its line here; more is put off.
const ROOM: usize = 1_024;
const ROOM_BYTES: usize = 8 * 1024 * 1024;
/// What is put off comes again no sooner, and after that one by one, as fast as intake takes them in at its best.
const PUT_OFF: Duration = Duration::from_millis(300);
const BACK_PER_S: u64 = 2_000;
const BACK_BYTES_PER_S: u64 = 64 * 1024 * 1024;
/// Askers whose messages are put off are remembered so long after the last.
const REMEMBERED_US: u64 = 60_000_000;

/// Nobody's messages have a line as well.
type Key = Option<Asker>;

/// A delivery in its line, and since when.
struct Waiting {
    delivery: Delivery,
    since_ms: u64,
}

/// Hands deliveries on in turn, until `stop` or until nobody takes them.
pub async fn in_turn(world: Arc<World>, deliveries: BoxStream<'static, Delivery>, to: mpsc::Sender<Delivery>, stop: CancellationToken) {
    let patience = world.timings.ack_wait / 3;
    let mut backlog = Backlog { begun: Instant::now(), patience, lines: Fair::new(share(&world.turns, patience)), backs: Backs::default() };
    let mut deliveries = deliveries;
    let mut look = Duration::ZERO;
    loop {
        let waits = backlog.lines.waiting() > 0;
        tokio::select! {
            () = stop.cancelled() => break,
            delivery = deliveries.next() => {
                let Some(delivery) = delivery else { break };
                backlog.take(&world, delivery).await;
                // What has come meanwhile stands in its line before anybody's turn is told.
                while let Some(Some(delivery)) = deliveries.next().now_or_never() {
                    backlog.take(&world, delivery).await;
                }
                look = Duration::ZERO;
            }
            place = place_after(look, &to), if waits => {
                let Ok(place) = place else { break };
                look = match backlog.next(&world.turns) {
                    Ok(delivery) => { place.send(delivery); Duration::ZERO }
                    Err(after) => after,
                };
            }
        }
    }
    // Another gateway takes them at once.
    for delivery in backlog.rest() {
        let _ = world.bus.give_back(&delivery.ack_subject, Duration::ZERO).await;
    }
}

/// Even the shortest sleep lasts a millisecond or two: where nothing is to be waited for there is none.
async fn place_after(look: Duration, to: &mpsc::Sender<Delivery>) -> Result<mpsc::Permit<'_, Delivery>, mpsc::error::SendError<()>> {
    if !look.is_zero() {
        tokio::time::sleep(look).await;
    }
    to.reserve().await
}

fn share(turns: &Turns, patience: Duration) -> Share {
    Share {
        each: usize::MAX,
        all: usize::MAX,
        waiting: ROOM,
        waiting_bytes: ROOM_BYTES,
        rate: Rates::rate(turns.rates().submissions_per_s),
        bytes: Rate::default(),
        patience_ms: ms(patience),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct Backlog {
    begun: Instant,
    /// How long something may stand here: after that the stream delivers it again.
    patience: Duration,
    lines: Fair<Key, Waiting>,
    backs: Backs,
}

impl Backlog {
    fn now_ms(&self) -> u64 {
        ms(self.begun.elapsed())
    }

    async fn take(&mut self, world: &World, delivery: Delivery) {
        let asker = subject::asker_of(&delivery.subject);
        let (now, bytes) = (self.now_ms(), delivery.payload.len());
        let Err((Waiting { delivery, .. }, later)) = self.lines.join(&asker, Waiting { delivery, since_ms: now }, bytes, now) else {
            return;
        };
        let now_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let wait = self.backs.put_off(asker, bytes, now_us).max(if self.is_free() {
            Duration::ZERO
        } else {
            Duration::from_millis(later.wait_ms)
        });
        metrics::counter!("mesh_submissions_put_off_total").increment(1);
        // One that cannot be given back comes again by itself, later.
        let _ = world.bus.give_back(&delivery.ack_subject, wait).await;
    }
    /// Whether no rate is counted.
    fn is_free(&self) -> bool {
        self.lines.share().rate.per_s == 0
    }

    fn rest(&mut self) -> Vec<Delivery> {
        self.lines.set(Share { rate: Rate::default(), ..self.lines.share() });
        let now = self.now_ms();
        let mut rest = Vec::new();
        while let Next::Go(_, Waiting { delivery, .. }) = self.lines.next(now) {
            rest.push(delivery);
        }
        rest
    }

    /// What is next, or when to look again.
    fn next(&mut self, turns: &Turns) -> Result<Delivery, Duration> {
        let wanted = share(turns, self.patience);
        if self.lines.share() != wanted {
            self.lines.set(wanted);
        }
        loop {
            let now = self.now_ms();
            match self.lines.next(now) {
                Next::Go(asker, Waiting { delivery, since_ms }) => {
                    self.lines.done(&asker, 0, now);
                    // Older ones are on their way here once more.
                    if now.saturating_sub(since_ms) <= 2 * ms(self.patience) {
                        return Ok(delivery);
                    }
                }
                Next::At(at) => return Err(Duration::from_millis(at.saturating_sub(now))),
                Next::Nothing => return Err(Duration::ZERO),
            }
        }
    }
}

/// When what was put off comes again: of each asker one after the other, so that it finds room.
#[derive(Default)]
struct Backs {
    /// When the last one of each comes, in microseconds.
    last_us: BTreeMap<Key, u64>,
}
impl Backs {
    fn put_off(&mut self, asker: Key, bytes: usize, now_us: u64) -> Duration {
        if self.last_us.len() > 4_096 {
            self.last_us.retain(|_, last| *last + REMEMBERED_US > now_us);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let apart = (1_000_000 / BACK_PER_S).max(bytes.saturating_mul(1_000_000) / BACK_BYTES_PER_S);
        let soonest = now_us + u64::try_from(PUT_OFF.as_micros()).unwrap_or(0);
        let at = self.last_us.get(&asker).map_or(soonest, |last| soonest.max(last.saturating_add(apart)));
        self.last_us.insert(asker, at);
        Duration::from_micros(at.saturating_sub(now_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_off_comes_again_one_by_one() {
        let mut backs = Backs::default();
        let ms: Vec<u128> = (0..3_000).map(|_| backs.put_off(None, 100, 1_000).as_millis()).collect();
        assert_eq!((ms[0], ms[1_000], ms[2_999]), (300, 800, 1_799));
        let device = Some(Asker::Device(bus_schemas::Signer::from_seed(&[1; 32]).public().device_id()));
        assert_eq!(backs.put_off(device, 64 * 1024 * 1024, 1_000).as_millis(), 300, "another's are its own");
        assert_eq!(backs.put_off(device, 64 * 1024 * 1024, 1_000).as_millis(), 1_300, "large ones are further apart");
        assert_eq!(backs.put_off(None, 100, 60_000_000).as_millis(), 300, "a pause makes it even");
    }
}
