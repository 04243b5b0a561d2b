//! The queue before a module that cannot lock: one thread at a time has its turn, in the order of arrival. No lock is held meanwhile.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How often a thread that waits asks whether it still should.
const RECHECK: Duration = Duration::from_millis(20);

/// The queue. Where the rule is off, nobody needs a turn.
#[derive(Default)]
pub(super) struct OneAtATime {
    is_on: AtomicBool,
    queue: Mutex<Queue>,
    moved: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<u64>,
    next_ticket: u64,
    /// Somebody has the turn.
    is_taken: bool,
}

/// The turn of one thread; it ends when this is dropped.
pub(super) struct Turn<'a>(&'a OneAtATime);

impl OneAtATime {
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::SeqCst)
    }

    pub(super) fn set(&self, on: bool) {
        self.is_on.store(on, Ordering::SeqCst);
    }

    /// Waits for the turn. `None`: `goes_on`, which is asked now and then, has said `false`.
    pub(super) fn wait_for_turn(&self, goes_on: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut queue = self.queue.lock();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.waiting.push_back(ticket);
        while queue.is_taken || queue.waiting.front() != Some(&ticket) {
            if !self.moved.wait_for(&mut queue, RECHECK).timed_out() {
                continue;
            }
            drop(queue);
            let goes_on = goes_on();
            queue = self.queue.lock();
            if !goes_on {
                queue.waiting.retain(|other| *other != ticket);
                self.moved.notify_all();
                return None;
            }
        }
        queue.waiting.pop_front();
        queue.is_taken = true;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().is_taken = false;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn threads_come_in_one_at_a_time_and_in_the_order_of_their_arrival() {
        let gate = Arc::new(OneAtATime::default());
        let (inside, order) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let first = gate.wait_for_turn(|| true).unwrap();
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let own = (gate.clone(), inside.clone(), order.clone());
                let thread = std::thread::spawn(move || {
                    let (gate, inside, order) = own;
                    let _turn = gate.wait_for_turn(|| true).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    order.lock().push(number);
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
                while gate.queue.lock().waiting.len() <= number {
                    std::thread::yield_now();
                }
                thread
            })
            .collect();
        drop(first);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*order.lock(), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_gives_up_leaves_its_place_to_the_next() {
        let gate = Arc::new(OneAtATime::default());
        let first = gate.wait_for_turn(|| true).unwrap();
        assert!(gate.wait_for_turn(|| false).is_none());
        let next = {
            let gate = gate.clone();
            std::thread::spawn(move || gate.wait_for_turn(|| true).is_some())
        };
        drop(first);
        assert!(next.join().unwrap());
        assert!(!gate.queue.lock().is_taken);
    }
}
