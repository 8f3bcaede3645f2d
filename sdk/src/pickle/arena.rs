//! Where the values of a pickle are held.
//!
//! In blocks, which never move: one vector would be held twice while it grows. Owns the places;
//! what the values are is `pickle.rs`'s.

use super::{Id, Value};

/// Values in a block.
const BLOCK: usize = 1024;

/// Values by their place, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Arena<'a>(Vec<Vec<Value<'a>>>);

impl<'a> Arena<'a> {
    /// For the values of a pickle of this many bytes, of which each has one or more.
    pub(super) fn new(bytes: usize) -> Self {
        Self(vec![Vec::with_capacity(bytes.min(BLOCK))])
    }

    /// Whether there is no place for another value.
    pub(super) fn is_full(&self) -> bool {
        u32::try_from(self.0.len() * BLOCK).is_err()
    }

    /// Puts a value behind the others, where there is place.
    pub(super) fn push(&mut self, value: Value<'a>) -> Id {
        let mut blocks = self.0.len();
        if self.0.last().is_none_or(|block| block.len() == BLOCK) {
            self.0.push(Vec::with_capacity(BLOCK));
            blocks += 1;
        }
        let block = &mut self.0[blocks - 1];
        block.push(value);
        ((blocks - 1) * BLOCK + block.len() - 1) as Id
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        let place = id as usize;
        &self.0[place / BLOCK][place % BLOCK]
    }

    pub(super) fn get_mut(&mut self, id: Id) -> &mut Value<'a> {
        let place = id as usize;
        &mut self.0[place / BLOCK][place % BLOCK]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Value<'a>> {
        self.0.iter().flatten()
    }
}
