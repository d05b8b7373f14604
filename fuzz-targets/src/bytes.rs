//! A fuzzer's bytes as choices. Where they end, zeros follow, so that every input means something.

/// Bytes that are taken one by one.
pub struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }
    /// One of `0..below`.
    pub fn below(&mut self, below: u8) -> u8 {
        self.byte() % below.max(1)
    }
    /// A number whose size is spread over all orders up to 2^53.
    pub fn number(&mut self) -> u64 {
        let bits = u32::from(self.byte() % 54);
        let word = u64::from(self.word());
        (1_u64 << bits) - 1 + (word & ((1_u64 << bits) - 1))
    }
    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
    /// All that is left, in so many shares of about the same size.
    pub fn shares(&mut self, count: usize) -> Vec<Vec<u8>> {
        let rest = self.rest();
        let each = rest.len().div_ceil(count.max(1));
        (0..count).map(|n| rest.get(n * each..).map_or(vec![], |from| from[..each.min(from.len())].to_vec())).collect()
    }
}
