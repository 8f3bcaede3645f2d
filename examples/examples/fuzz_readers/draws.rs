//! Numbers drawn from a seed and an input's number, so that every input can be made again alone.

use twinspan_sdk::random::mix;

/// Draws for one input.
pub struct Draws {
    key: u64,
    next: u64,
}

impl Draws {
    pub fn new(seed: u64, input: u64) -> Self {
        Self {
            key: mix(seed, input),
            next: 0,
        }
    }

    pub fn number(&mut self) -> u64 {
        self.next += 1;
        mix(self.key, self.next)
    }

    /// Below `end`, which is above 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn byte(&mut self) -> u8 {
        self.number() as u8
    }

    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// A number of 1 to 2^`bits`, small ones as likely as large ones.
    pub fn size(&mut self, bits: usize) -> usize {
        let bits = self.below(bits + 1);
        1 + self.below(1 << bits)
    }

    /// A number as a header could claim it: small, or at an edge.
    pub fn extreme(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(9) as u64,
            1 => 1u64 << self.below(64),
            2 => (1u64 << self.below(64)).wrapping_sub(1 + self.below(2) as u64),
            _ => *self.of(&[u64::MAX, i64::MAX as u64, u32::MAX as u64, 0, 0x5555_5555]),
        }
    }
}
