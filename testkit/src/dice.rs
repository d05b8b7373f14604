//! A small generator of numbers that is the same on every machine: what is drawn from one seed can be drawn again.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    /// A generator of its own for one of many that draw at the same time.
    pub fn of(seed: u64, lane: u64) -> Self {
        let mut dice = Self(seed ^ lane.wrapping_mul(0xd134_2543_de82_ef95));
        dice.draw();
        dice
    }
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }
    /// `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
    /// One of these, each as often as its weight says.
    ///
    /// # Panics
    /// Where there is nothing to choose from.
    pub fn weighted<'a, T>(&mut self, of: &'a [(u64, T)]) -> &'a T {
        let mut left = self.below(of.iter().map(|(weight, _)| weight).sum());
        for (weight, what) in of {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return what,
            }
        }
        panic!("nothing to choose from")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_draws_the_same_and_lanes_differ() {
        let draw = |mut dice: Dice| (0..4).map(|_| dice.below(1_000)).collect::<Vec<_>>();
        assert_eq!(draw(Dice::new(7)), draw(Dice::new(7)));
        assert_ne!(draw(Dice::of(7, 1)), draw(Dice::of(7, 2)));
        assert_ne!(draw(Dice::of(7, 1)), draw(Dice::of(8, 1)));
    }

    #[test]
    fn choices_keep_to_their_weights_and_bounds() {
        let mut dice = Dice::new(1);
        let rare = (0..1_000).filter(|_| *dice.weighted(&[(9, false), (0, true), (1, true)])).count();
        assert!((50..200).contains(&rare), "{rare}");
        assert!((0..1_000).map(|_| dice.between(3, 5)).all(|n| (3..=5).contains(&n)));
    }
}
