//! Whose turn it is: a line for each asker, served in turn, each with its share and its rate. Pure; times are milliseconds of any clock
//! that only goes forward.
//!
//! A flood waits in its own line, so who asks once is served next, whatever stands in other lines.

use std::collections::{BTreeMap, VecDeque};

/// So many a second, and so many at once after a pause. `per_s` 0: as many as come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    pub per_s: u64,
    pub burst: u64,
}
impl Rate {
    /// A second's worth at once.
    pub const fn of(per_s: u64) -> Self {
        Self { per_s, burst: per_s }
    }
}

/// A token bucket that may go into debt: what is taken is known only afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    /// Thousandths of what is counted: each millisecond adds `per_s` of them.
    level: i128,
    at: u64,
}
impl Bucket {
    fn full(rate: Rate, now: u64) -> Self {
        Self { level: i128::from(rate.burst.max(1)) * 1000, at: now }
    }
    fn fill(&mut self, rate: Rate, now: u64) {
        let most = i128::from(rate.burst.max(1)) * 1000;
        self.level = (self.level + i128::from(now.saturating_sub(self.at)) * i128::from(rate.per_s)).min(most);
        self.at = self.at.max(now);
    }
    fn take(&mut self, amount: u64) {
        self.level -= i128::from(amount) * 1000;
    }
    /// Milliseconds until something may be taken after `before` others.
    fn wait(&self, rate: Rate, before: u64) -> u64 {
        let missing = i128::from(before) * 1000 - self.level;
        let per_ms = i128::from(rate.per_s);
        if per_ms == 0 || missing < 0 { 0 } else { u64::try_from(missing / per_ms + 1).unwrap_or(u64::MAX) }
    }
}

/// What one asker may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// At work at once, of one asker.
    pub each: usize,
    /// At work at once, of all.
    pub all: usize,
    /// Waiting, of one asker.
    pub waiting: usize,
    /// Bytes waiting, of one asker.
    pub waiting_bytes: usize,
    pub rate: Rate,
    /// Bytes that go out or come in.
    pub bytes: Rate,
    /// Who would wait longer is told to come again, in milliseconds.
    pub patience_ms: u64,
}

/// What is not taken in; come again after so many milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Later {
    pub wait_ms: u64,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<K, T> {
    Go(K, T),
    /// Nothing before this time.
    At(u64),
    /// Nothing until something comes or ends.
    Nothing,
}

#[derive(Debug)]
struct Line<T> {
    waiting: VecDeque<(T, usize)>,
    waiting_bytes: usize,
    at_work: usize,
    count: Bucket,
    bytes: Bucket,
}

/// Lines of askers `K`, with what waits in them.
#[derive(Debug)]
pub struct Fair<K, T> {
    share: Share,
    lines: BTreeMap<K, Line<T>>,
    /// Lines with something waiting, in the order of their turns.
    turns: VecDeque<K>,
    at_work: usize,
}

/// Lines that stand empty are cleared away beyond so many.
const LINES_KEPT: usize = 4_096;
/// Who waits for others of its own line to end, without a rate that says when, comes again after this.
const CROWDED_MS: u64 = 1_000;

impl<K: Ord + Clone, T> Fair<K, T> {
    pub fn new(share: Share) -> Self {
        Self { share, lines: BTreeMap::new(), turns: VecDeque::new(), at_work: 0 }
    }

    /// From now on.
    pub fn set(&mut self, share: Share) {
        self.share = share;
    }
    pub fn share(&self) -> Share {
        self.share
    }

    /// Puts something of `weight` bytes at the end of its asker's line.
    ///
    /// # Errors
    /// Where the line is full, or its rate would let it wait too long: the thing, and when to come again.
    pub fn join(&mut self, asker: &K, thing: T, weight: usize, now: u64) -> Result<(), (T, Later)> {
        self.clear_away(now);
        let share = self.share;
        let line = self.lines.entry(asker.clone()).or_insert_with(|| Line {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            at_work: 0,
            count: Bucket::full(share.rate, now),
            bytes: Bucket::full(share.bytes, now),
        });
        line.fill(share, now);
        let before = u64::try_from(line.waiting.len()).unwrap_or(u64::MAX);
        let wait_ms = line.count.wait(share.rate, before).max(line.bytes.wait(share.bytes, 0));
        let full = line.waiting.len() >= share.waiting || (!line.waiting.is_empty() && line.waiting_bytes + weight > share.waiting_bytes);
        if full || wait_ms > share.patience_ms {
            return Err((thing, Later { wait_ms: if full { wait_ms.max(CROWDED_MS) } else { wait_ms } }));
        }
        if line.waiting.is_empty() {
            self.turns.push_back(asker.clone());
        }
        line.waiting.push_back((thing, weight));
        line.waiting_bytes += weight;
        Ok(())
    }

    /// Takes what is next; it is at work until [`Self::done`].
    pub fn next(&mut self, now: u64) -> Next<K, T> {
        let mut soonest = None;
        if self.at_work >= self.share.all {
            return Next::Nothing;
        }
        for _ in 0..self.turns.len() {
            let Some(asker) = self.turns.pop_front() else { break };
            let share = self.share;
            let Some(line) = self.lines.get_mut(&asker) else { continue };
            line.fill(share, now);
            let wait = line.count.wait(share.rate, 0).max(line.bytes.wait(share.bytes, 0));
            if line.at_work < share.each
                && wait == 0
                && let Some((thing, weight)) = line.waiting.pop_front()
            {
                line.waiting_bytes -= weight;
                line.at_work += 1;
                line.count.take(1);
                self.at_work += 1;
                if !line.waiting.is_empty() {
                    self.turns.push_back(asker.clone());
                }
                return Next::Go(asker, thing);
            }
            if line.at_work < share.each {
                soonest = Some(soonest.map_or(wait, |sooner: u64| sooner.min(wait)));
            }
            self.turns.push_back(asker);
        }
        soonest.map_or(Next::Nothing, |wait| Next::At(now.saturating_add(wait)))
    }

    /// One of this asker has ended; it moved so many bytes.
    pub fn done(&mut self, asker: &K, bytes: u64, now: u64) {
        let share = self.share;
        if let Some(line) = self.lines.get_mut(asker) {
            line.fill(share, now);
            line.at_work = line.at_work.saturating_sub(1);
            line.bytes.take(bytes);
            self.at_work = self.at_work.saturating_sub(1);
        }
    }

    /// How many wait in all lines.
    pub fn waiting(&self) -> usize {
        self.turns.iter().filter_map(|asker| self.lines.get(asker)).map(|line| line.waiting.len()).sum()
    }

    fn clear_away(&mut self, now: u64) {
        if self.lines.len() < LINES_KEPT {
            return;
        }
        let share = self.share;
        self.lines.retain(|_, line| {
            line.fill(share, now);
            let rested = line.count == Bucket::full(share.rate, line.count.at) && line.bytes == Bucket::full(share.bytes, line.bytes.at);
            line.at_work > 0 || !line.waiting.is_empty() || !rested
        });
    }
}

impl<T> Line<T> {
    fn fill(&mut self, share: Share, now: u64) {
        self.count.fill(share.rate, now);
        self.bytes.fill(share.bytes, now);
        // Where no rate is counted, there is no debt either.
        if share.rate.per_s == 0 {
            self.count = Bucket::full(share.rate, now);
        }
        if share.bytes.per_s == 0 {
            self.bytes = Bucket::full(share.bytes, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FREE: Share = Share {
        each: 2,
        all: 100,
        waiting: 5,
        waiting_bytes: 1_000,
        rate: Rate { per_s: 0, burst: 0 },
        bytes: Rate { per_s: 0, burst: 0 },
        patience_ms: 1_000,
    };

    fn go(fair: &mut Fair<char, u32>, now: u64) -> Option<(char, u32)> {
        match fair.next(now) {
            Next::Go(asker, thing) => Some((asker, thing)),
            Next::At(_) | Next::Nothing => None,
        }
    }

    #[test]
    fn who_asks_once_is_next_whatever_stands_in_other_lines() {
        let mut fair = Fair::new(Share { each: 10, ..FREE });
        for n in 0..5 {
            fair.join(&'f', n, 1, 0).unwrap();
        }
        assert_eq!(go(&mut fair, 0), Some(('f', 0)));
        fair.join(&'a', 100, 1, 0).unwrap();
        fair.join(&'b', 200, 1, 0).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| go(&mut fair, 0)).collect();
        assert_eq!(order, [('f', 1), ('a', 100), ('b', 200), ('f', 2), ('f', 3), ('f', 4)]);
        assert_eq!(fair.waiting(), 0);
    }

    #[test]
    fn a_share_at_work_holds_up_its_own_line_only() {
        let mut fair = Fair::new(FREE);
        for n in 0..5 {
            fair.join(&'f', n, 1, 0).unwrap();
        }
        let (_, later) = fair.join(&'f', 5, 1, 0).unwrap_err();
        assert_eq!(later, Later { wait_ms: CROWDED_MS }, "the line is full");
        assert_eq!((go(&mut fair, 0), go(&mut fair, 0)), (Some(('f', 0)), Some(('f', 1))));
        assert_eq!(fair.next(0), Next::Nothing, "two are at work");
        fair.join(&'a', 100, 1, 0).unwrap();
        assert_eq!(go(&mut fair, 0), Some(('a', 100)));
        fair.done(&'f', 0, 0);
        assert_eq!(go(&mut fair, 0), Some(('f', 2)));
    }

    #[test]
    fn a_rate_lets_a_burst_pass_then_counts_and_says_when() {
        let share = Share { each: 100, waiting: 100, rate: Rate { per_s: 10, burst: 3 }, ..FREE };
        let mut fair = Fair::new(share);
        for n in 0..4 {
            fair.join(&'f', n, 1, 0).unwrap();
        }
        assert_eq!(std::iter::from_fn(|| go(&mut fair, 0)).count(), 3);
        let Next::At(at) = fair.next(0) else { panic!("the fourth waits") };
        assert!((1..=101).contains(&at), "{at}");
        assert_eq!(go(&mut fair, at), Some(('f', 3)));
        // At ten a second, what is far behind would wait longer than anybody is let wait.
        let told: Vec<u64> = (0..30).filter_map(|n| fair.join(&'f', n, 1, at).err()).map(|(_, later)| later.wait_ms).collect();
        assert!(told.len() >= 18 && told.iter().all(|wait| (1_000..=1_300).contains(wait)), "{told:?}");
        assert_eq!(fair.join(&'a', 1, 1, at), Ok(()), "another's rate is its own");
    }

    #[test]
    fn bytes_are_counted_after_they_have_moved() {
        let mut fair = Fair::new(Share { bytes: Rate { per_s: 1_000, burst: 500 }, ..FREE });
        fair.join(&'f', 0, 1, 0).unwrap();
        assert_eq!(go(&mut fair, 0), Some(('f', 0)));
        fair.done(&'f', 900, 0);
        fair.join(&'f', 1, 1, 0).unwrap();
        assert_eq!(fair.next(0), Next::At(401));
        assert_eq!(go(&mut fair, 401), Some(('f', 1)));
        fair.done(&'f', 5_000, 401);
        let (thing, later) = fair.join(&'f', 2, 1, 401).unwrap_err();
        assert_eq!(thing, 2);
        assert!((4_900..=5_001).contains(&later.wait_ms), "{later:?}");
    }

    #[test]
    fn bytes_that_wait_are_limited_but_one_always_may() {
        let mut fair = Fair::new(FREE);
        fair.join(&'f', 0, 5_000, 0).unwrap();
        assert!(fair.join(&'f', 1, 1, 0).is_err());
        assert_eq!(go(&mut fair, 0), Some(('f', 0)));
        assert_eq!(fair.join(&'f', 1, 1, 0), Ok(()));
    }

    #[test]
    fn lines_that_nobody_stands_in_are_cleared_away() {
        let mut fair: Fair<usize, u32> = Fair::new(Share { rate: Rate::of(10), ..FREE });
        for asker in 0..3 * LINES_KEPT {
            let now = asker as u64 * 200;
            fair.join(&asker, 0, 1, now).unwrap();
            assert!(matches!(fair.next(now), Next::Go(..)));
            fair.done(&asker, 0, now);
        }
        assert!(fair.lines.len() <= LINES_KEPT, "{}", fair.lines.len());
    }

    proptest! {
        /// Nothing is lost or done twice, nobody has more than its share at work, and nothing that may go waits.
        #[test]
        fn lines_keep_to_their_shares(steps in prop::collection::vec((0..4_u8, 0..5_u8, 0..2_000_u64, 0..300_u64), 1..200), per_s in 0..50_u64) {
            let share = Share { all: 5, rate: Rate { per_s, burst: 4 }, bytes: Rate { per_s: per_s * 100, burst: 1_000 }, ..FREE };
            let (mut fair, mut now, mut sent) = (Fair::new(share), 0, 0_u32);
            let (mut waiting, mut at_work) = (std::collections::BTreeSet::new(), Vec::new());
            for (what, asker, bytes, later) in steps {
                now += later;
                match what {
                    0 | 1 => {
                        sent += 1;
                        if fair.join(&asker, sent, 10, now).is_ok() {
                            waiting.insert((asker, sent));
                        }
                    }
                    2 => match fair.next(now) {
                        Next::Go(asker, thing) => {
                            prop_assert!(waiting.remove(&(asker, thing)));
                            prop_assert!(waiting.iter().all(|(other, first)| *other != asker || *first > thing), "a line is a line");
                            at_work.push(asker);
                        }
                        Next::At(at) => prop_assert!(at > now),
                        Next::Nothing => {
                            let busy = |asker: &u8| at_work.iter().filter(|other| *other == asker).count() >= share.each;
                            prop_assert!(at_work.len() >= share.all || waiting.iter().all(|(asker, _)| busy(asker)));
                        }
                    },
                    _ => if let Some(asker) = at_work.pop() {
                        fair.done(&asker, bytes, now);
                    },
                }
                prop_assert_eq!(fair.waiting(), waiting.len());
                prop_assert!(at_work.len() <= share.all && (0..5).all(|asker| at_work.iter().filter(|other| **other == asker).count() <= share.each));
            }
        }
    }
}
