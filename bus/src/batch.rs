//! Natural batching: every step takes what is waiting, and nothing waits for company.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// How one step batches.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    /// Items in one batch.
    pub max: usize,
    /// Bytes in one batch; a lone item may be larger.
    pub bytes_max: usize,
    /// Batches of this step at work at once; more work piles into the next one.
    pub in_flight: usize,
    /// Batches of several items start at least this far apart; a lone item after a lone item passes at once.
    pub pace: Duration,
}
impl Batching {
    pub const fn of(in_flight: usize) -> Self {
        Self { max: bus_schemas::limits::STEP_MAX, bytes_max: bus_schemas::limits::STEP_BYTES_TARGET, in_flight, pace: Duration::ZERO }
    }
    pub const fn paced(self, pace: Duration) -> Self {
        Self { pace, ..self }
    }
}

/// Takes items off `receiver` in batches and runs `work` on each, at most `in_flight` at once, until the senders are gone;
/// then waits for the last ones.
pub async fn run<T, W, F>(mut receiver: mpsc::Receiver<T>, how: Batching, weigh: impl Fn(&T) -> usize, work: W)
where
    T: Send + 'static,
    W: Fn(Vec<T>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(how.in_flight));
    let mut left: Vec<T> = Vec::new();
    let mut last_start: Option<Instant> = None;
    let mut last_was_many = false;
    loop {
        if left.is_empty() && receiver.recv_many(&mut left, how.max).await == 0 {
            break;
        }
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        top_up(&mut receiver, &mut left, how.max);
        if !how.pace.is_zero()
            && (left.len() > 1 || last_was_many)
            && let Some(start) = last_start
        {
            let next = start + how.pace;
            if next > Instant::now() {
                tokio::time::sleep_until(next).await;
                top_up(&mut receiver, &mut left, how.max);
            }
        }
        let batch = take(&mut left, how, &weigh);
        last_was_many = batch.len() > 1;
        last_start = Some(Instant::now());
        let job = work(batch);
        tokio::spawn(async move {
            job.await;
            drop(permit);
        });
    }
    // All permits back = all batches done.
    let _ = permits.acquire_many(u32::try_from(how.in_flight).unwrap_or(u32::MAX)).await;
}

fn top_up<T>(receiver: &mut mpsc::Receiver<T>, left: &mut Vec<T>, max: usize) {
    while left.len() < max
        && let Ok(item) = receiver.try_recv()
    {
        left.push(item);
    }
}

/// The first items that fit into one batch; always at least one.
fn take<T>(left: &mut Vec<T>, how: Batching, weigh: impl Fn(&T) -> usize) -> Vec<T> {
    let mut bytes = 0;
    let count = left
        .iter()
        .take(how.max)
        .take_while(|item| {
            bytes += weigh(item);
            bytes <= how.bytes_max
        })
        .count()
        .clamp(1, left.len().max(1));
    let rest = left.split_off(count.min(left.len()));
    std::mem::replace(left, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn what_waits_piles_into_the_next_batch() {
        let (sender, receiver) = mpsc::channel(1000);
        for i in 0..200_usize {
            sender.send(i).await.unwrap();
        }
        drop(sender);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let to = seen.clone();
        run(
            receiver,
            Batching::of(2),
            |_| 1,
            move |batch| {
                let to = to.clone();
                async move { to.lock().unwrap().push(batch) }
            },
        )
        .await;
        let batches = seen.lock().unwrap().clone();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 64, 8]);
        assert_eq!(batches.concat(), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_heavy_item_travels_alone() {
        let how = Batching { bytes_max: 10, ..Batching::of(1) };
        let mut left = vec![4, 5, 50, 1];
        assert_eq!(take(&mut left, how, |n| *n), [4, 5]);
        assert_eq!(take(&mut left, how, |n| *n), [50]);
        assert_eq!(take(&mut left, how, |n| *n), [1]);
    }
}
