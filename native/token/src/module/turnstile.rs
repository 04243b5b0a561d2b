//! The way into a module that cannot lock: one thread at a time, in the order of their arrival. No lock is held while one is inside.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How often one that waits asks whether it still should.
const LOOK: Duration = Duration::from_millis(20);

/// The turnstile; off, everybody passes without it.
#[derive(Default)]
pub(crate) struct Turnstile {
    is_on: AtomicBool,
    queue: Mutex<Queue>,
    moved: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<u64>,
    next: u64,
    is_taken: bool,
}

/// The turn.
pub(crate) struct Turn<'a>(&'a Turnstile);

impl Turnstile {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::SeqCst)
    }

    pub(crate) fn set(&self, on: bool) {
        self.is_on.store(on, Ordering::SeqCst);
    }

    /// Waits for the turn, for as long as `waits` says so.
    pub(crate) fn pass(&self, waits: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut queue = self.queue.lock();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push_back(ticket);
        while queue.is_taken || queue.waiting.front() != Some(&ticket) {
            if !self.moved.wait_for(&mut queue, LOOK).timed_out() {
                continue;
            }
            drop(queue);
            let goes_on = waits();
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
    fn they_pass_one_at_a_time_and_in_the_order_of_their_arrival() {
        let turnstile = Arc::new(Turnstile::default());
        let (inside, order) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let first = turnstile.pass(|| true).unwrap();
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let passes = (turnstile.clone(), inside.clone(), order.clone());
                let thread = std::thread::spawn(move || {
                    let (turnstile, inside, order) = passes;
                    let _turn = turnstile.pass(|| true).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    order.lock().push(number);
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
                while turnstile.queue.lock().waiting.len() <= number {
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
        let turnstile = Arc::new(Turnstile::default());
        let first = turnstile.pass(|| true).unwrap();
        assert!(turnstile.pass(|| false).is_none());
        let next = {
            let turnstile = turnstile.clone();
            std::thread::spawn(move || turnstile.pass(|| true).is_some())
        };
        drop(first);
        assert!(next.join().unwrap());
        assert!(!turnstile.queue.lock().is_taken);
    }
}
