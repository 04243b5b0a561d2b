//! A FIFO of waiters that can be cancelled, and put back to their places.

use std::collections::VecDeque;

/// Waiters in the order of their ids, with a lazy and bounded trail of cancelled ones.
pub(crate) struct Waiters<W> {
    /// Sorted by id. `None`: cancelled; its payload is gone already.
    queue: VecDeque<(u64, Option<W>)>,
    cancelled: usize,
    /// Those before this id have been looked at by `sweep_some`, in this round.
    swept_to: u64,
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), cancelled: 0, swept_to: 0 }
    }
}

impl<W> Waiters<W> {
    pub(crate) fn len(&self) -> usize {
        self.queue.len() - self.cancelled
    }

    /// Appends; `id` is larger than every one before.
    pub(crate) fn push(&mut self, id: u64, payload: W) {
        debug_assert!(self.queue.back().is_none_or(|(last, _)| *last < id));
        self.queue.push_back((id, Some(payload)));
    }

    /// Puts one that was taken back to its place.
    pub(crate) fn restore(&mut self, id: u64, payload: W) {
        let place = self.queue.partition_point(|(other, _)| *other < id);
        self.queue.insert(place, (id, Some(payload)));
    }

    /// The id of the longest waiter.
    pub(crate) fn first(&mut self) -> Option<u64> {
        self.skip_cancelled();
        self.queue.front().map(|(id, _)| *id)
    }

    /// Takes the longest waiter.
    pub(crate) fn take(&mut self) -> Option<(u64, W)> {
        self.skip_cancelled();
        let (id, payload) = self.queue.pop_front()?;
        self.trim();
        payload.map(|payload| (id, payload))
    }

    /// Cancels one: O(log n), and its payload is out at once. `None`: it has been taken already.
    pub(crate) fn cancel(&mut self, id: u64) -> Option<W> {
        let place = self.queue.binary_search_by_key(&id, |(other, _)| *other).ok()?;
        let payload = self.queue[place].1.take()?;
        self.cancelled += 1;
        self.compact();
        Some(payload)
    }

    /// Takes those that `is_dead` says nobody waits for any more.
    pub(crate) fn sweep(&mut self, is_dead: impl Fn(&W) -> bool) -> Vec<W> {
        let mut swept = Vec::new();
        for (_, payload) in &mut self.queue {
            if payload.as_ref().is_some_and(&is_dead) {
                swept.extend(payload.take());
                self.cancelled += 1;
            }
        }
        self.compact();
        swept
    }

    /// The same of the next `most` places, in turn: so it takes no longer, however many wait.
    pub(crate) fn sweep_some(&mut self, most: usize, is_dead: impl Fn(&W) -> bool) -> Vec<W> {
        let first = self.queue.partition_point(|(id, _)| *id < self.swept_to);
        let count = most.min(self.queue.len());
        let mut swept = Vec::new();
        for place in first..first + count {
            let place = place % self.queue.len();
            let (id, payload) = &mut self.queue[place];
            self.swept_to = *id + 1;
            if payload.as_ref().is_some_and(&is_dead) {
                swept.extend(payload.take());
                self.cancelled += 1;
            }
        }
        self.compact();
        swept
    }

    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = W> + use<W> {
        self.cancelled = 0;
        std::mem::take(&mut self.queue).into_iter().filter_map(|(_, payload)| payload)
    }

    fn skip_cancelled(&mut self) {
        while let Some((_, None)) = self.queue.front() {
            self.queue.pop_front();
            self.cancelled -= 1;
        }
    }

    /// Amortized O(1) a cancel: the trail is dropped when it makes up half of the queue, and the memory with it.
    fn compact(&mut self) {
        if self.cancelled > 32 && self.cancelled * 2 > self.queue.len() {
            self.queue.retain(|(_, payload)| payload.is_some());
            self.cancelled = 0;
            self.trim();
        }
    }

    /// Gives back the memory of a long queue that has become short; amortized O(1) a waiter.
    fn trim(&mut self) {
        if self.queue.capacity() > 64 && self.queue.len() < self.queue.capacity() / 4 {
            self.queue.shrink_to(self.queue.len() * 2);
        }
    }

    #[cfg(all(test, not(loom)))]
    fn capacity(&self) -> usize {
        self.queue.capacity()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_million_cancelled_waiters_leave_nothing_behind() {
        let mut waiters = Waiters::default();
        waiters.push(0, 0);
        for id in 1..=1_000_000 {
            waiters.push(id, id);
            assert_eq!(waiters.cancel(id), Some(id));
        }
        assert_eq!(waiters.len(), 1);
        assert!(waiters.capacity() < 1_000, "{} places are kept", waiters.capacity());
        assert_eq!(waiters.take(), Some((0, 0)));
        assert_eq!(waiters.take(), None);
    }

    #[test]
    fn a_long_queue_that_was_served_gives_its_memory_back() {
        let mut waiters = Waiters::default();
        for id in 0..100_000 {
            waiters.push(id, ());
        }
        for id in (0..100_000).step_by(3) {
            assert_eq!(waiters.cancel(id), Some(()));
        }
        while waiters.take().is_some() {}
        assert_eq!(waiters.len(), 0);
        assert!(waiters.capacity() < 1_000, "{} places are kept", waiters.capacity());
    }

    #[test]
    fn waiters_leave_in_the_order_of_their_arrival_and_a_restored_one_keeps_its_place() {
        let mut waiters = Waiters::default();
        for id in 0..5 {
            waiters.push(id, id);
        }
        let first = waiters.take().unwrap();
        let second = waiters.take().unwrap();
        waiters.restore(second.0, second.1);
        waiters.restore(first.0, first.1);
        assert_eq!(waiters.cancel(2), Some(2));
        assert_eq!(waiters.cancel(2), None);
        let order: Vec<_> = std::iter::from_fn(|| waiters.take().map(|(id, _)| id)).collect();
        assert_eq!(order, [0, 1, 3, 4]);
    }

    #[test]
    fn a_cancel_that_comes_after_the_waiter_was_taken_finds_nothing() {
        let mut waiters = Waiters::default();
        waiters.push(3, "x");
        assert_eq!(waiters.take(), Some((3, "x")));
        assert_eq!(waiters.cancel(3), None);
    }
}
