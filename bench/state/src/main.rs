//! What the pool's state machines cost, without a module, a VM and another thread: nanoseconds by how many sessions, waiters and runners there are.
//! Nobody else has the locks, so that the time of a function is the longest for which it can hold one.
//!
//! It prints a line for each figure: its name, the size, nanoseconds.

use std::hint::black_box;
use std::time::Instant;

use session_pool::{Config, Dispatch, Entered, Freed, Grant, Held, Pool, Roster, Source, Submitted};

/// An operation is one pointer.
type Work = Box<u64>;
/// As large as a session.
type Session = [u64; 6];

const SIZES: [usize; 6] = [1, 4, 16, 64, 256, 1_024];
const WAITERS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// Rounds, of which the quickest counts: the others were disturbed.
const ROUNDS: usize = 9;
const TIMES: u32 = 2_000;

fn main() {
    for sessions in SIZES {
        say("an idle session is taken and given back", sessions, idle(sessions));
    }
    for waiters in WAITERS {
        say("an operation queues, and a session serves the next", waiters, queued(waiters));
    }
    for waiters in WAITERS {
        say("an operation is refused, since so many wait", waiters, refused(waiters));
    }
    for runners in SIZES {
        say("a runner is woken, enters, and parks", runners, woken(runners));
    }
    for runners in SIZES {
        say("a runner is woken, enters, spins, and parks", runners, spun(runners));
    }
}

fn say(name: &str, size: usize, nanos: f64) {
    println!("{name}\t{size}\t{nanos:.0}");
}

fn quickest(mut run: impl FnMut()) -> f64 {
    let mut round = || {
        let started = Instant::now();
        (0..TIMES).for_each(|_| run());
        started.elapsed().as_nanos() as f64 / f64::from(TIMES)
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// A pool whose sessions are all open, and in use.
fn pool(sessions: usize, max_waiting: usize) -> (Pool<Session, Work>, Vec<Held<Session>>) {
    let config =
        Config { label: "state".into(), max_sessions: sessions, stripes: 1, idle_ttl: None, max_lifetime: None, max_waiting };
    let pool = Pool::new(&config).expect("valid");
    let held = (0..sessions).map(|_| match submit(&pool) {
        Submitted::Granted(Grant { source: Source::Capacity(opening), .. }) => pool.opened(opening, [0; 6], 0),
        other => panic!("{other:?}"),
    });
    let held = held.collect();
    (pool, held)
}

fn submit(pool: &Pool<Session, Work>) -> Submitted<Session, Work> {
    pool.submit(black_box(Box::new(1)), |work| **work == 0, &mut Vec::new())
}

fn idle(sessions: usize) -> f64 {
    let (pool, held) = pool(sessions, 0);
    for held in held {
        assert!(matches!(pool.release(held, 1), Freed::Idle));
    }
    quickest(|| match submit(&pool) {
        Submitted::Granted(Grant { source: Source::Session(held), .. }) => drop(pool.release(held, 1)),
        other => panic!("{other:?}"),
    })
}

fn queued(waiters: usize) -> f64 {
    let (pool, mut held) = pool(1, waiters);
    for _ in 1..waiters {
        assert!(matches!(submit(&pool), Submitted::Queued(_)));
    }
    let mut free = held.pop();
    quickest(|| {
        assert!(matches!(submit(&pool), Submitted::Queued(_)));
        free = match free.take().map(|held| pool.release(held, 1)) {
            Some(Freed::Granted(Grant { source: Source::Session(held), .. })) => Some(held),
            other => panic!("{other:?}"),
        };
    })
}

fn refused(waiters: usize) -> f64 {
    let (pool, _held) = pool(1, waiters);
    for _ in 0..waiters {
        assert!(matches!(submit(&pool), Submitted::Queued(_)));
    }
    quickest(|| assert!(matches!(submit(&pool), Submitted::Refused(..))))
}

/// Of so many runners all but one are at work: the one that joined last, as any.
fn roster(runners: usize) -> Roster<Work, u64> {
    let roster = Roster::new();
    for number in 0..runners {
        let (id, _) = roster.join(number as u64);
        if number + 1 < runners {
            assert!(matches!(roster.dispatch(Box::new(1)), Dispatch::Wake(woken, _) if woken == id));
            assert!(matches!(roster.enter(id), Entered::Run(_)));
        }
    }
    roster
}

fn woken(runners: usize) -> f64 {
    let roster = roster(runners);
    quickest(|| match roster.dispatch(black_box(Box::new(1))) {
        Dispatch::Wake(id, _) => {
            assert!(matches!(roster.enter(id), Entered::Run(_)));
            assert!(matches!(roster.park(id), Entered::Parked));
        }
        other => panic!("{other:?}"),
    })
}

fn spun(runners: usize) -> f64 {
    let roster = roster(runners);
    quickest(|| match roster.dispatch(black_box(Box::new(1))) {
        Dispatch::Wake(id, _) => {
            assert!(matches!(roster.enter(id), Entered::Run(_)));
            assert!(matches!(roster.spin(id), Entered::Parked));
            assert!(matches!(roster.park(id), Entered::Parked));
        }
        other => panic!("{other:?}"),
    })
}
