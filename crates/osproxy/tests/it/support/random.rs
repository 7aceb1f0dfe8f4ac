/// A seeded pseudo-random number generator.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Similar seeds must not give similar numbers.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The high bits are more random than the low ones.
        (self.next() >> 16) % limit
    }

    /// Like [`below`](Self::below), for sizes and indexes.
    pub fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap()
    }

    /// Returns `true` with this probability, in percent.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}
