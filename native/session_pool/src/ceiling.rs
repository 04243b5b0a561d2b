//! The ceiling: how many sessions the token gives, where those are fewer than the pool may have. It falls when the token refuses one, and
//! is tried upwards again later.

use crate::Millis;

/// How soon after a refusal one more session is tried: at first, and at the longest.
const BACKOFF: (Millis, Millis) = (1_000, 60_000);

/// The most sessions that the token gives, as far as it has said so.
#[derive(Debug, Default)]
pub(crate) struct Ceiling {
    /// `None`: it has refused none.
    pub(crate) limit: Option<usize>,
    /// When it is to be tried.
    pub(crate) raise_at: Millis,
    backoff: Millis,
    /// It was raised since the last refusal.
    pub(crate) tried: bool,
}

impl Ceiling {
    pub(crate) fn of(&self, size: usize) -> usize {
        self.limit.map_or(size, |limit| limit.min(size))
    }

    pub(crate) fn lift(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn fall(&mut self, open: usize, now: Millis) {
        self.backoff = match self.limit {
            None => BACKOFF.0,
            // Many are refused at once; only what was tried since counts anew.
            Some(_) if self.tried => (self.backoff * 2).min(BACKOFF.1),
            Some(_) => self.backoff,
        };
        self.limit = Some(self.limit.map_or(open, |limit| limit.min(open)));
        self.tried = false;
        self.raise_at = now.saturating_add(self.backoff);
    }

    pub(crate) fn raise(&mut self, size: usize, now: Millis) {
        match self.limit {
            Some(limit) if limit + 1 < size => {
                self.limit = Some(limit + 1);
                self.tried = true;
                self.raise_at = now.saturating_add(self.backoff);
            }
            _ => self.lift(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_with_each_refusal_of_what_was_tried_up_to_a_minute() {
        let mut ceiling = Ceiling::default();
        // A burst is one refusal.
        for open in (2..8).rev() {
            ceiling.fall(open, 0);
        }
        assert_eq!((ceiling.of(8), ceiling.raise_at), (2, 1_000));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            ceiling.raise(8, 0);
            assert_eq!(ceiling.of(8), 3);
            ceiling.fall(2, 0);
            pauses.push(ceiling.raise_at);
        }
        assert_eq!(pauses, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn a_ceiling_that_reaches_the_size_is_none() {
        let mut ceiling = Ceiling::default();
        ceiling.fall(2, 0);
        ceiling.raise(3, 5);
        assert_eq!(ceiling.of(3), 3);
        ceiling.fall(2, 10);
        assert_eq!(ceiling.raise_at, 1_010, "it begins anew");
    }
}
