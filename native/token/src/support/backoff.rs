//! How long to wait between two tries to find what is away.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);

/// Delays that grow by half each time: after an absence of some time, the next try is at most about half that time away.
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// The delay before the next try. Chance makes it up to a quarter shorter, never longer, so that many pools do not try at the same time.
    pub(crate) fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 3 / 2).min(LONGEST);
        delay.mul_f64(1.0 - random_unit() / 4.0)
    }

    /// As it is behind so many delays.
    pub(crate) fn after(delays: u32) -> Self {
        let mut backoff = Self::default();
        for _ in 0..delays.min(32) {
            backoff.next();
        }
        backoff
    }
}

/// A random number from 0, inclusive, to 1, exclusive.
pub(crate) fn random_unit() -> f64 {
    (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_any_absence_the_next_look_is_about_half_of_it_away_and_never_far() {
        for _ in 0..100 {
            let (mut backoff, mut away) = (Backoff::default(), Duration::ZERO);
            for _ in 0..100 {
                let delay = backoff.next();
                // Jitter may have shortened all before and not this one.
                assert!(delay <= FIRST + away.mul_f64(0.5 / 0.75), "{delay:?} after {away:?}");
                assert!((FIRST.mul_f64(0.75)..=LONGEST).contains(&delay), "{delay:?}");
                away += delay;
            }
            assert!(backoff.next() >= LONGEST.mul_f64(0.75));
        }
    }

    #[test]
    fn two_that_began_together_do_not_stay_so() {
        let (mut one, mut other) = (Backoff::default(), Backoff::default());
        assert!((0..8).any(|_| one.next() != other.next()));
    }

    #[test]
    fn it_may_begin_later() {
        assert!(Backoff::after(3).next() > FIRST * 2);
        assert!(Backoff::after(u32::MAX).next() >= LONGEST.mul_f64(0.75));
    }
}
