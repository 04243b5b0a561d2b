//! How many operations have ended, and how, and how long they took. To count takes no lock: two atomic additions.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use session_pool::Millis;

use crate::support::histogram::Histogram;

/// Latencies are those of the last one to two of these.
const WINDOW: Millis = 60_000;
/// More names than any pool meets.
const NAMES: usize = 64;

/// A count for each result.
pub struct Tally {
    ok: AtomicU64,
    failed: [Failed; NAMES],
    /// Those with a name that has no place any more.
    other: AtomicU64,
    /// The one of this window, and the one of the window before.
    windows: [Histogram; 2],
    current: AtomicUsize,
    began: AtomicU64,
}

#[derive(Default)]
struct Failed {
    name: OnceLock<&'static str>,
    count: AtomicU64,
}

/// How long operations took lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Nanoseconds that half of them did not exceed; wrong by 1.6 % at most.
    pub p50: Option<u64>,
    /// The same of 99 of 100.
    pub p99: Option<u64>,
}

impl Tally {
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            ok: AtomicU64::new(0),
            failed: std::array::from_fn(|_| Failed::default()),
            other: AtomicU64::new(0),
            windows: [Histogram::default(), Histogram::default()],
            current: AtomicUsize::new(0),
            began: AtomicU64::new(now),
        }
    }

    /// One has ended, with this error's name.
    pub(crate) fn count(&self, error: Option<&'static str>) {
        let count = match error {
            None => &self.ok,
            Some(name) => self.failed_with(name),
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Names are few: each finds its place among the first ones.
    fn failed_with(&self, name: &'static str) -> &AtomicU64 {
        let place = self.failed.iter().find(|failed| *failed.name.get_or_init(|| name) == name);
        place.map_or(&self.other, |failed| &failed.count)
    }

    /// One that ran has taken so long.
    pub(crate) fn time(&self, nanos: u64) {
        self.windows[self.current.load(Ordering::Relaxed)].count(nanos);
    }

    /// Time passes. What is counted at this very moment may come into the one window or the other.
    pub(crate) fn tick(&self, now: Millis) {
        let began = self.began.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(began) >= WINDOW;
        if is_due && self.began.compare_exchange(began, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let next = 1 - self.current.load(Ordering::Relaxed);
            self.windows[next].clear();
            self.current.store(next, Ordering::Relaxed);
        }
    }

    /// The counts since the pool was made: `ok` always, an error's name where it has come.
    pub(crate) fn results(&self) -> Vec<(&'static str, u64)> {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let failed = self.failed.iter().map_while(|failed| failed.name.get().map(|name| (*name, count(&failed.count))));
        let other = [("other", count(&self.other))].into_iter().filter(|(_, count)| *count > 0);
        std::iter::once(("ok", count(&self.ok))).chain(failed).chain(other).collect()
    }

    /// Of the last one or two minutes.
    pub(crate) fn latency(&self) -> Latency {
        let counts = Histogram::sum(&self.windows[0], &self.windows[1]);
        Latency { count: counts.total(), p50: counts.percentile(50), p99: counts.percentile(99) }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn results_are_counted_by_name() {
        let tally = Tally::new(0);
        assert_eq!(tally.results(), [("ok", 0)]);
        for error in [None, Some("overloaded"), None, Some("queue_timeout"), Some("overloaded")] {
            tally.count(error);
        }
        assert_eq!(tally.results(), [("ok", 2), ("overloaded", 2), ("queue_timeout", 1)]);
    }

    #[test]
    fn nothing_is_lost_between_threads_that_meet_a_name_for_the_first_time() {
        let tally = Tally::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|n| tally.count([None, Some("a"), Some("b"), Some("c")][n % 4])));
            }
        });
        let mut results = tally.results();
        results.sort_unstable();
        assert_eq!(results, [("a", 1_000), ("b", 1_000), ("c", 1_000), ("ok", 1_000)]);
    }

    #[test]
    fn names_that_have_no_place_are_counted_together() {
        let tally = Tally::new(0);
        let names: Vec<&'static str> = (0..NAMES + 3).map(|n| &*Box::leak(n.to_string().into_boxed_str())).collect();
        names.iter().for_each(|name| tally.count(Some(name)));
        let results = tally.results();
        assert_eq!(results.len(), 1 + NAMES + 1);
        assert_eq!(results.last(), Some(&("other", 3)));
    }

    #[test]
    fn latencies_are_those_of_the_last_two_windows() {
        let tally = Tally::new(0);
        assert_eq!(tally.latency(), Latency::default());
        tally.time(10);
        tally.tick(WINDOW - 1);
        tally.tick(WINDOW);
        tally.time(20);
        assert_eq!(tally.latency(), Latency { count: 2, p50: Some(10), p99: Some(20) });
        tally.tick(2 * WINDOW);
        assert_eq!(tally.latency(), Latency { count: 1, p50: Some(20), p99: Some(20) });
        tally.tick(3 * WINDOW);
        assert_eq!(tally.latency(), Latency::default());
    }
}
