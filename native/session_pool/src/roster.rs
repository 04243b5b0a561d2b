//! The runners of a pool, and the grants that are on their way to one.
//!
//! A runner is `parked`, `woken` (a grant waits for it), `inside` (it works), or `gone` (its process died while it was inside: it takes
//! nothing more, but holds its place until it leaves). A parked one may still spin (wait awake for a moment): then it is unparked, which costs less than to wake
//! it, and before it goes away it parks once more. A grant is never bound to a runner that cannot run it: what a dead one had been woken
//! with goes to another.

use std::collections::VecDeque;

use crate::sync::Mutex;

/// A runner's place, and its number, which tells it from those that had the place before: unique for the roster's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunnerId {
    number: u64,
    place: usize,
}

/// Where a runner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunnerState {
    /// It waits to be woken.
    Parked,
    /// It was woken, and has not yet come in.
    Woken,
    /// It works.
    Inside,
    /// Its process has died, and its call has not yet returned.
    Gone,
}

#[derive(Debug)]
enum Runner<G> {
    Parked,
    Woken(G),
    Inside,
    Gone,
}

/// What to do for a grant.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Dispatch<R> {
    /// Wake this runner, whose address this is.
    Wake(RunnerId, R),
    /// Unpark this one, which spins.
    Unpark(RunnerId, R),
    /// Every runner is at work (or there is none): the next that comes takes it.
    Later,
}

/// What a runner that comes in finds.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Entered<G> {
    /// A grant to run.
    Run(G),
    /// Nothing: it is parked (again).
    Parked,
    /// It is not on the roster any more.
    Gone,
}

/// What a runner's death leaves behind.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Departed<G> {
    /// Its place is free; what it had been woken with must be dispatched again.
    Vacant(Option<G>),
    /// It is inside: the place comes free when it leaves.
    Inside,
    /// It was not there.
    Unknown,
}

/// A runner that is on the roster.
struct Member<G, R> {
    id: RunnerId,
    address: R,
    state: Runner<G>,
}

struct Inner<G, R> {
    /// By place, so that none is searched for.
    runners: Vec<Option<Member<G, R>>>,
    vacant: Vec<usize>,
    /// The one that spins.
    spinning: Option<RunnerId>,
    /// The most recently parked is woken first.
    parked: Vec<RunnerId>,
    /// Grants that found no parked runner. Not empty only while `parked` is empty.
    backlog: VecDeque<G>,
    next: u64,
}

/// The roster: `G` is what a runner is woken with, `R` the runner's address.
pub struct Roster<G, R>(Mutex<Inner<G, R>>);

impl<G, R: Clone> Default for Roster<G, R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<G, R: Clone> Roster<G, R> {
    /// An empty roster.
    pub fn new() -> Self {
        Self(Mutex::new(Inner {
            runners: Vec::new(),
            vacant: Vec::new(),
            spinning: None,
            parked: Vec::new(),
            backlog: VecDeque::new(),
            next: 0,
        }))
    }

    /// A new runner, parked. `true`: it must come in at once, since a grant was waiting for one.
    pub fn join(&self, address: R) -> (RunnerId, bool) {
        let mut inner = self.0.lock();
        let (state, woken) = match inner.backlog.pop_front() {
            Some(grant) => (Runner::Woken(grant), true),
            None => (Runner::Parked, false),
        };
        let id = inner.add(address, state);
        if !woken {
            inner.parked.push(id);
        }
        (id, woken)
    }

    /// Finds a runner for a grant.
    pub fn dispatch(&self, grant: G) -> Dispatch<R> {
        let mut inner = self.0.lock();
        let Some(id) = inner.parked.pop() else {
            inner.backlog.push_back(grant);
            return Dispatch::Later;
        };
        let spins = inner.spinning.take_if(|spinning| *spinning == id).is_some();
        match inner.find(id) {
            Some(member) => {
                member.state = Runner::Woken(grant);
                let address = member.address.clone();
                if spins { Dispatch::Unpark(id, address) } else { Dispatch::Wake(id, address) }
            }
            // Not reachable: whoever leaves `runners` leaves `parked` under the same lock.
            None => {
                inner.backlog.push_back(grant);
                Dispatch::Later
            }
        }
    }

    /// A runner comes in. One that was woken without need parks again; one whose last call broke off before it parked is as good as new.
    pub fn enter(&self, id: RunnerId) -> Entered<G> {
        self.0.lock().next(id, false)
    }

    /// A runner that has nothing more to do parks, unless a grant waits. One that was spinning is so no longer.
    pub fn park(&self, id: RunnerId) -> Entered<G> {
        self.0.lock().next(id, false)
    }

    /// The same for one that spins: until it has called `park`, it is unparked rather than woken. One at a time does: who finds another one spinning parks, and is
    /// woken, as ever.
    pub fn spin(&self, id: RunnerId) -> Entered<G> {
        let mut inner = self.0.lock();
        let is_first = inner.spinning.is_none();
        inner.next(id, is_first)
    }

    /// A runner steps outside for a moment with work in hand (its budget is used up). It is woken with it; or, if it died meanwhile,
    /// the grant comes back to be dispatched.
    #[must_use]
    pub fn step_out(&self, id: RunnerId, grant: G) -> Option<G> {
        let mut inner = self.0.lock();
        match inner.find(id) {
            Some(member) if matches!(member.state, Runner::Inside) => {
                member.state = Runner::Woken(grant);
                None
            }
            _ => Some(grant),
        }
    }

    /// A runner's process has died.
    pub fn down(&self, id: RunnerId) -> Departed<G> {
        let mut inner = self.0.lock();
        let Some(member) = inner.find(id) else { return Departed::Unknown };
        if matches!(member.state, Runner::Inside | Runner::Gone) {
            member.state = Runner::Gone;
            return Departed::Inside;
        }
        Departed::Vacant(inner.remove(id))
    }

    /// A runner's call returns for the last time: its place is free. What it had been woken with meanwhile must be dispatched again.
    #[must_use]
    pub fn leave(&self, id: RunnerId) -> Option<G> {
        self.0.lock().remove(id)
    }

    /// A parked runner leaves if there are more than `most`. `false`: it stays.
    #[must_use]
    pub fn retire(&self, id: RunnerId, most: usize) -> bool {
        let mut inner = self.0.lock();
        let is_one_too_many = inner.len() > most;
        let retires = is_one_too_many && inner.find(id).is_some_and(|member| matches!(member.state, Runner::Parked));
        if retires {
            // A parked one has no grant.
            let _ = inner.remove(id);
        }
        retires
    }

    /// Grants that wait for a runner, taken out: for a pool that stops.
    #[must_use]
    pub fn take_backlog(&self) -> Vec<G> {
        self.0.lock().backlog.drain(..).collect()
    }

    /// How many places are taken, by the dead whose calls have not returned too.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether no place is taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where each runner is, with its address.
    pub fn list(&self) -> Vec<(RunnerId, R, RunnerState)> {
        let inner = self.0.lock();
        let state = |runner: &Runner<G>| match runner {
            Runner::Parked => RunnerState::Parked,
            Runner::Woken(_) => RunnerState::Woken,
            Runner::Inside => RunnerState::Inside,
            Runner::Gone => RunnerState::Gone,
        };
        inner.runners.iter().flatten().map(|member| (member.id, member.address.clone(), state(&member.state))).collect()
    }
}

impl<G, R> Inner<G, R> {
    fn add(&mut self, address: R, state: Runner<G>) -> RunnerId {
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.runners.push(None);
            self.runners.len() - 1
        });
        let id = RunnerId { number: self.next, place };
        self.next += 1;
        self.runners[place] = Some(Member { id, address, state });
        id
    }

    /// Its place is vacant then; what it was woken with.
    fn remove(&mut self, id: RunnerId) -> Option<G> {
        self.find(id)?;
        let member = self.runners[id.place].take()?;
        self.vacant.push(id.place);
        self.parked.retain(|parked| *parked != id);
        let _ = self.spinning.take_if(|spinning| *spinning == id);
        match member.state {
            Runner::Woken(grant) => Some(grant),
            Runner::Parked | Runner::Inside | Runner::Gone => None,
        }
    }

    /// What a runner does now: what it was woken with, else what waits for a runner, else it parks, and never twice.
    fn next(&mut self, id: RunnerId, spins: bool) -> Entered<G> {
        let _ = self.spinning.take_if(|spinning| *spinning == id);
        // Not `find`, which would borrow the backlog as well.
        let Some(member) = member_of(&mut self.runners, id) else { return Entered::Gone };
        match std::mem::replace(&mut member.state, Runner::Inside) {
            Runner::Woken(grant) => return Entered::Run(grant),
            Runner::Inside => match self.backlog.pop_front() {
                Some(grant) => return Entered::Run(grant),
                None => self.parked.push(id),
            },
            Runner::Parked => (),
            Runner::Gone => {
                member.state = Runner::Gone;
                return Entered::Gone;
            }
        }
        member.state = Runner::Parked;
        if spins {
            self.spinning = Some(id);
        }
        Entered::Parked
    }

    fn find(&mut self, id: RunnerId) -> Option<&mut Member<G, R>> {
        member_of(&mut self.runners, id)
    }

    fn len(&self) -> usize {
        self.runners.len() - self.vacant.len()
    }
}

fn member_of<G, R>(runners: &mut [Option<Member<G, R>>], id: RunnerId) -> Option<&mut Member<G, R>> {
    runners.get_mut(id.place)?.as_mut().filter(|member| member.id == id)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn roster() -> Roster<u32, &'static str> {
        Roster::new()
    }

    /// A runner, `"a"`, that runs grant 1.
    fn inside(roster: &Roster<u32, &'static str>) -> RunnerId {
        let (a, _) = roster.join("a");
        assert_eq!(roster.dispatch(1), Dispatch::Wake(a, "a"));
        assert_eq!(roster.enter(a), Entered::Run(1));
        a
    }

    #[test]
    fn a_woken_runner_that_dies_before_it_enters_gives_its_grant_back() {
        let roster = roster();
        let (a, woken) = roster.join("a");
        assert!(!woken);
        assert_eq!(roster.dispatch(7), Dispatch::Wake(a, "a"));
        assert_eq!(roster.down(a), Departed::Vacant(Some(7)));
        assert_eq!(roster.enter(a), Entered::Gone);
        assert_eq!(roster.dispatch(7), Dispatch::Later);
        let (b, woken) = roster.join("b");
        assert!(woken);
        assert_eq!(roster.enter(b), Entered::Run(7));
    }

    #[test]
    fn a_grant_that_finds_all_runners_inside_is_taken_by_the_next_that_parks() {
        let roster = roster();
        let a = inside(&roster);
        assert_eq!(roster.dispatch(2), Dispatch::Later);
        assert_eq!(roster.park(a), Entered::Run(2));
        assert_eq!(roster.park(a), Entered::Parked);
    }

    #[test]
    fn a_runner_that_dies_inside_holds_its_place_until_it_leaves() {
        let roster = roster();
        let a = inside(&roster);
        assert_eq!(roster.down(a), Departed::Inside);
        assert_eq!(roster.len(), 1);
        assert_eq!(roster.park(a), Entered::Gone);
        assert_eq!(roster.step_out(a, 2), Some(2));
        assert_eq!(roster.leave(a), None);
        assert!(roster.is_empty());
    }

    #[test]
    fn a_runner_that_leaves_while_it_is_woken_gives_its_grant_back() {
        let roster = roster();
        let (a, _) = roster.join("a");
        assert_eq!(roster.dispatch(1), Dispatch::Wake(a, "a"));
        assert_eq!(roster.leave(a), Some(1));
        assert_eq!(roster.leave(a), None);
        assert_eq!(roster.dispatch(2), Dispatch::Later);
    }

    #[test]
    fn a_runner_whose_call_broke_off_inside_comes_in_again_and_can_be_woken() {
        let roster = roster();
        let a = inside(&roster);
        assert_eq!(roster.enter(a), Entered::Parked);
        assert_eq!(roster.park(a), Entered::Parked);
        assert_eq!(roster.dispatch(2), Dispatch::Wake(a, "a"));
        assert_eq!(roster.dispatch(3), Dispatch::Later);
        assert_eq!(roster.park(a), Entered::Run(2));
        assert_eq!(roster.park(a), Entered::Run(3));
    }

    #[test]
    fn a_runner_that_is_near_is_rung_for_until_it_parks_once_more() {
        let roster = roster();
        let a = inside(&roster);
        assert_eq!(roster.spin(a), Entered::Parked);
        assert_eq!(roster.dispatch(2), Dispatch::Unpark(a, "a"));
        assert_eq!(roster.dispatch(3), Dispatch::Later);
        assert_eq!(roster.park(a), Entered::Run(2), "whether it has heard the flag or not");
        assert_eq!(roster.spin(a), Entered::Run(3));
        assert_eq!(roster.spin(a), Entered::Parked);
        assert_eq!(roster.park(a), Entered::Parked);
        assert_eq!(roster.dispatch(4), Dispatch::Wake(a, "a"));
    }

    #[test]
    fn one_runner_at_a_time_spins() {
        let roster = roster();
        let (a, _) = roster.join("a");
        let (b, _) = roster.join("b");
        for (id, grant) in [(b, 1), (a, 2)] {
            let _ = roster.dispatch(grant);
            assert_eq!(roster.enter(id), Entered::Run(grant));
        }
        assert_eq!(roster.spin(a), Entered::Parked);
        assert_eq!(roster.spin(b), Entered::Parked);
        assert_eq!(roster.dispatch(3), Dispatch::Wake(b, "b"), "the last that parked");
        assert_eq!(roster.dispatch(4), Dispatch::Unpark(a, "a"));
    }

    #[test]
    fn a_runner_that_dies_while_it_is_near_gives_back_what_it_was_rung_for() {
        let roster = roster();
        let a = inside(&roster);
        assert_eq!(roster.spin(a), Entered::Parked);
        assert_eq!(roster.dispatch(2), Dispatch::Unpark(a, "a"));
        assert_eq!(roster.down(a), Departed::Vacant(Some(2)));
        assert_eq!(roster.park(a), Entered::Gone);
        assert_eq!(roster.dispatch(2), Dispatch::Later);
    }

    #[test]
    fn a_runner_is_not_taken_for_one_that_had_its_place_before() {
        let roster = roster();
        let a = inside(&roster);
        assert_eq!(roster.leave(a), None);
        let (b, _) = roster.join("b");
        assert_eq!(a.place, b.place);
        assert_eq!((roster.enter(a), roster.spin(a), roster.park(a)), (Entered::Gone, Entered::Gone, Entered::Gone));
        assert_eq!((roster.down(a), roster.leave(a), roster.step_out(a, 7)), (Departed::Unknown, None, Some(7)));
        assert!(!roster.retire(a, 0));
        assert_eq!(roster.list(), [(b, "b", RunnerState::Parked)]);
        assert_eq!(roster.dispatch(2), Dispatch::Wake(b, "b"));
        assert_eq!(roster.enter(b), Entered::Run(2));
    }

    #[test]
    fn one_that_spins_and_leaves_lets_another_spin() {
        let roster = roster();
        let a = inside(&roster);
        assert_eq!(roster.spin(a), Entered::Parked);
        assert!(roster.retire(a, 0));
        let b = inside(&roster);
        assert_eq!(roster.spin(b), Entered::Parked);
        assert_eq!(roster.dispatch(2), Dispatch::Unpark(b, "a"));
    }

    #[test]
    fn a_runner_woken_without_need_parks_again_and_is_not_parked_twice() {
        let roster = roster();
        let (a, _) = roster.join("a");
        assert_eq!(roster.enter(a), Entered::Parked);
        assert_eq!(roster.dispatch(1), Dispatch::Wake(a, "a"));
        assert_eq!(roster.dispatch(2), Dispatch::Later);
    }
}
