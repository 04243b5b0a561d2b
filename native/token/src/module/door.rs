//! The door of a module: it counts who is inside, so that the module is never finalized, and the VM never ends, under a thread that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::one_at_a_time::{OneAtATime, Turn};
use crate::error::Error;

/// How often a thread that waits until others have left looks whether they have.
const RECHECK: Duration = Duration::from_millis(1);

/// The VM stops: all doors are closed for good, to everybody.
static VM_STOPS: AtomicBool = AtomicBool::new(false);

/// Closes all doors for good.
pub(super) fn close_all_for_good() {
    VM_STOPS.store(true, Ordering::SeqCst);
}

/// Whether all doors are closed for good.
pub(super) fn are_closed_for_good() -> bool {
    VM_STOPS.load(Ordering::SeqCst)
}

#[derive(Default)]
pub(super) struct Door {
    inside: AtomicUsize,
    /// How many of those inside are known to hang.
    stuck: AtomicUsize,
    /// For the time of an initialization.
    is_closed: AtomicBool,
    one_at_a_time: OneAtATime,
}

/// A thread is inside the module.
pub struct Inside<'a> {
    door: &'a Door,
    /// Ends after the thread has been counted out: fields are dropped behind the `Drop` of their struct.
    _turn: Option<Turn<'a>>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.door.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A call inside the module is known to hang: the end of the VM does not wait for it. Dropped, it hangs no longer.
pub(crate) struct StuckCall(Arc<Door>);

impl Drop for StuckCall {
    fn drop(&mut self) {
        self.0.stuck.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The door is closed; dropped, it is open again.
pub(super) struct Closed<'a>(&'a Door);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.is_closed.store(false, Ordering::SeqCst);
    }
}

impl Door {
    /// Goes in, where one at a time may be inside when it is this thread's turn. While it waits, it asks now and then whether `is_wanted`.
    pub(super) fn enter(&self, is_wanted: impl Fn() -> bool) -> Result<Inside<'_>, Error> {
        let inside = if self.one_at_a_time.is_on() { self.enter_in_turn(is_wanted)? } else { self.enter_at_once(is_wanted)? };
        if self.is_closed.load(Ordering::SeqCst) { Err(Error::Reinitializing) } else { Ok(inside) }
    }

    /// Goes in without a turn, and where the door is closed, too: for the thread that initializes or finalizes, which has seen to it that nobody
    /// else is inside, or need not care.
    pub(super) fn enter_alone(&self) -> Result<Inside<'_>, Error> {
        self.count_in(None)
    }

    fn enter_at_once(&self, is_wanted: impl Fn() -> bool) -> Result<Inside<'_>, Error> {
        let inside = self.count_in(None)?;
        if !self.one_at_a_time.is_on() {
            return Ok(inside);
        }
        // The rule has been switched on meanwhile.
        drop(inside);
        self.enter_in_turn(is_wanted)
    }

    fn enter_in_turn(&self, is_wanted: impl Fn() -> bool) -> Result<Inside<'_>, Error> {
        let goes_on = || !are_closed_for_good() && is_wanted();
        let given_up =
            || if are_closed_for_good() { Error::Halting } else { Error::Interrupted { cause: "nobody waits for it" } };
        let turn = self.one_at_a_time.wait_for_turn(goes_on).ok_or_else(given_up)?;
        loop {
            // Also where the turn came at once: nobody may have waited for it since the last look.
            if !goes_on() {
                return Err(given_up());
            }
            // Those who came in before the rule was switched on.
            if self.inside() == 0 {
                return self.count_in(Some(turn));
            }
            std::thread::sleep(RECHECK);
        }
    }

    fn count_in<'a>(&'a self, turn: Option<Turn<'a>>) -> Result<Inside<'a>, Error> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside { door: self, _turn: turn };
        if are_closed_for_good() { Err(Error::Halting) } else { Ok(inside) }
    }

    /// Closes it to those who come from now on.
    pub(super) fn close(&self) -> Closed<'_> {
        self.is_closed.store(true, Ordering::SeqCst);
        Closed(self)
    }

    /// Waits until nobody is inside. `Err`: so many still are, at `until` or when it is not wanted any more.
    pub(super) fn wait_until_empty(&self, until: Option<Instant>, is_wanted: impl Fn() -> bool) -> Result<(), usize> {
        loop {
            match self.inside() {
                0 => return Ok(()),
                inside if until.is_some_and(|until| Instant::now() >= until) || !is_wanted() => return Err(inside),
                _ => std::thread::sleep(RECHECK),
            }
        }
    }

    /// How many threads are inside.
    pub(super) fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }

    /// A call that is inside is known to hang.
    pub(super) fn count_stuck_call(self: &Arc<Self>) -> StuckCall {
        self.stuck.fetch_add(1, Ordering::SeqCst);
        StuckCall(self.clone())
    }

    /// Whether a call that is inside is known to hang.
    pub(super) fn has_stuck_call(&self) -> bool {
        self.stuck.load(Ordering::SeqCst) > 0
    }

    /// Whether all that are inside are known to hang: nobody will leave.
    pub(super) fn has_only_stuck_calls(&self) -> bool {
        self.inside() <= self.stuck.load(Ordering::SeqCst)
    }

    /// Whether one thread is inside at a time.
    pub(super) fn is_one_at_a_time(&self) -> bool {
        self.one_at_a_time.is_on()
    }

    /// Lets one thread in at a time, or any number.
    pub(super) fn set_one_at_a_time(&self, on: bool) {
        self.one_at_a_time.set(on);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn always() -> bool {
        true
    }

    #[test]
    fn a_closed_door_lets_nobody_in_but_the_thread_that_initializes() {
        let door = Door::default();
        let closed = door.close();
        assert!(matches!(door.enter(always), Err(Error::Reinitializing)));
        assert_eq!(door.inside(), 0, "whoever was refused is not inside");
        drop(door.enter_alone().unwrap());
        drop(closed);
        assert!(door.enter(always).is_ok());
    }

    #[test]
    fn a_thread_waits_for_those_who_were_inside_before_one_at_a_time_was_the_rule() {
        let door = Arc::new(Door::default());
        let before = door.enter(always).unwrap();
        door.set_one_at_a_time(true);
        assert!(matches!(door.enter(|| false), Err(Error::Interrupted { .. })));
        let other = door.clone();
        let thread = std::thread::spawn(move || other.enter(always).map(|_inside| other.inside()));
        drop(before);
        assert_eq!(thread.join().unwrap().unwrap(), 1);
        let until = Instant::now() + LONG;
        assert!(door.enter(|| Instant::now() < until).is_ok(), "its turn has ended");
        assert!(matches!(door.enter(|| false), Err(Error::Interrupted { .. })), "nobody waits for it");
    }

    #[test]
    fn it_is_empty_when_all_have_left_and_says_how_many_have_not() {
        let door = Arc::new(Door::default());
        let inside = door.enter(always).unwrap();
        assert_eq!(door.wait_until_empty(Some(Instant::now()), always), Err(1));
        assert_eq!(door.wait_until_empty(None, || false), Err(1));
        let other = door.clone();
        let thread = std::thread::spawn(move || other.wait_until_empty(Some(Instant::now() + LONG), always));
        drop(inside);
        assert_eq!(thread.join().unwrap(), Ok(()));
    }

    #[test]
    fn calls_that_hang_are_told_from_those_that_will_leave() {
        let door = Arc::new(Door::default());
        let (_hangs, leaves) = (door.enter(always).unwrap(), door.enter(always).unwrap());
        let stuck = door.count_stuck_call();
        assert!(door.has_stuck_call() && !door.has_only_stuck_calls());
        drop(leaves);
        assert!(door.has_only_stuck_calls());
        drop(stuck);
        assert!(!door.has_stuck_call() && !door.has_only_stuck_calls());
    }
}
