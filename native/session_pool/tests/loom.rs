//! Every interleaving of two or three threads, up to a bound on preemptions, on the real locking code. Run by `script/loom`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use session_pool::*;

type TestPool = Pool<u32, u32>;
type TestGrant = Grant<u32, u32>;

/// As many sessions as stripes, one each, unless said otherwise.
fn pool(max_sessions: usize, stripes: usize, max_waiting: usize) -> Arc<TestPool> {
    let config = Config { label: "loom".into(), max_sessions, stripes, idle_ttl: None, max_lifetime: None, max_waiting };
    Arc::new(Pool::new(&config).unwrap())
}

fn submit(pool: &TestPool, op: u32) -> Submitted<u32, u32> {
    pool.submit(op, |_| false, &mut Vec::new())
}

/// Something that happens to a pool or roster on a thread of its own.
fn beside<P: 'static, T: 'static>(what: &Arc<P>, happens: impl FnOnce(&P) -> T + 'static) -> thread::JoinHandle<T> {
    let what = what.clone();
    thread::spawn(move || happens(&what))
}

/// Submits, and opens what was granted.
fn submit_and_open(pool: &TestPool, op: u32) -> Held<u32> {
    match submit(pool, op) {
        Submitted::Granted(grant) => open(pool, grant),
        other => panic!("{other:?}"),
    }
}

fn open(pool: &TestPool, grant: TestGrant) -> Held<u32> {
    match grant.source {
        Source::Capacity(opening) => pool.opened(opening, grant.waiter.payload, 0),
        Source::Session(held) => held,
    }
}

fn queue(pool: &TestPool, op: u32) -> Ticket {
    match submit(pool, op) {
        Submitted::Queued(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn granted(submitted: Submitted<u32, u32>) -> Option<TestGrant> {
    match submitted {
        Submitted::Granted(grant) => Some(grant),
        Submitted::Queued(_) => None,
        Submitted::Refused(..) => panic!("refused"),
    }
}

fn op_of(grant: Option<TestGrant>) -> Option<u32> {
    grant.map(|grant| grant.waiter.payload)
}

fn freed(freed: Freed<u32, u32>) -> Option<TestGrant> {
    match freed {
        Freed::Granted(grant) => Some(grant),
        Freed::Idle => None,
        Freed::Close(..) => panic!("a good session was closed"),
    }
}

/// The invariant: what may go waits only while nothing is free.
fn assert_work_conserving(pool: &TestPool) {
    let stats = pool.stats();
    let taken = stats.idle + stats.running + stats.opening + stats.closing;
    assert!(taken <= stats.size, "{stats:?}");
    let may_go = stats.waiting > 0 && !stats.gated;
    assert!(!may_go || (stats.idle == 0 && taken == stats.size), "an operation waits beside a free session: {stats:?}");
}

#[test]
fn a_session_coming_free_against_cancel() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let held = submit_and_open(&pool, 0);
        let ticket = queue(&pool, 1);
        let canceller = beside(&pool, move |pool| pool.cancel(ticket));
        let granted = op_of(freed(pool.release(held, 0)));
        let cancelled = canceller.join().unwrap();
        match (granted, cancelled) {
            (Some(1), None) => assert_eq!(pool.stats().running, 1),
            (None, Some(1)) => assert_eq!(pool.stats().idle, 1),
            other => panic!("{other:?}"),
        }
        assert_work_conserving(&pool);
    });
}

/// The waiter is in another stripe than the session, and a third operation arrives where the first gives up.
#[test]
fn a_session_coming_free_against_cancel_and_submit_in_another_stripe() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        let mine = submit_and_open(&pool, 0);
        let _theirs = submit_and_open(&pool, 1);
        let _skipped = pool.cancel(queue(&pool, 2));
        let ticket = queue(&pool, 3);
        let canceller = beside(&pool, move |pool| pool.cancel(ticket));
        let submitter = beside(&pool, move |pool| granted(submit(pool, 4)));
        let released = op_of(freed(pool.release(mine, 0)));
        let cancelled = canceller.join().unwrap();
        let submitted = op_of(submitter.join().unwrap());
        match (released, cancelled, submitted) {
            // The longest waiter got it, and the new one waits.
            (Some(3), None, None) => assert_eq!(pool.stats().waiting, 1),
            // It gave up, and the new one got it, from the one hand or the other.
            (Some(4), Some(3), None) | (None, Some(3), Some(4)) => assert_eq!(pool.stats().waiting, 0),
            other => panic!("{other:?}"),
        }
        assert_work_conserving(&pool);
    });
}

#[test]
fn the_deadline_against_the_answer() {
    loom::model(|| {
        let progress = Arc::new(Progress::new());
        let runner = {
            let progress = progress.clone();
            thread::spawn(move || progress.start(7) == Started::Run && progress.answer())
        };
        // As a caller does: first it gives up only what waits, then, at a later deadline, what runs.
        let given_up = match progress.abandon_queued() {
            Abandoned::BeforeStart => {
                assert_eq!(progress.start(9), Started::Gone);
                true
            }
            Abandoned::StillRunning { since } => {
                assert_eq!(since, 7);
                match progress.abandon() {
                    Abandoned::WhileRunning { since } => {
                        assert_eq!(since, 7);
                        true
                    }
                    Abandoned::Answered => false,
                    other => panic!("{other:?}"),
                }
            }
            Abandoned::Answered => false,
            other => panic!("{other:?}"),
        };
        let answered = runner.join().unwrap();
        assert!(answered != given_up, "one of the two, and only one: the caller gets an answer unless it gave up");
        assert_eq!(progress.state(), if given_up { State::Abandoned } else { State::Answered });
        assert!(!progress.answer());
    });
}

/// A pool that stops answers for the runner: one answer all the same.
#[test]
fn two_answers_against_the_deadline() {
    loom::model(|| {
        let progress = Arc::new(Progress::new());
        let answers = Arc::new(AtomicUsize::new(0));
        let threads = [true, false].map(|runs| {
            let (progress, answers) = (progress.clone(), answers.clone());
            thread::spawn(move || {
                if runs && progress.start(1) == Started::Gone {
                    return;
                }
                if progress.answer() {
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let given_up = progress.abandon() != Abandoned::Answered;
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(answers.load(Ordering::Relaxed), usize::from(!given_up));
    });
}

/// Runs what a runner runs: counts, and asks for more until it is parked or gone.
fn run(roster: &Roster<u32, ()>, id: RunnerId, mut entered: Entered<u32>, runs: &AtomicUsize) {
    while let Entered::Run(_) = entered {
        runs.fetch_add(1, Ordering::Relaxed);
        entered = roster.park(id);
    }
    // A dead one's call returns for the last time.
    if let Entered::Gone = entered {
        assert_eq!(roster.leave(id), None);
    }
}

/// What the owner of a pool does when a runner dies: what it had been woken with goes to another.
fn dies(roster: &Roster<u32, ()>, id: RunnerId) -> Option<RunnerId> {
    match roster.down(id) {
        Departed::Vacant(Some(grant)) => wakes(roster, grant),
        Departed::Vacant(None) | Departed::Inside | Departed::Unknown => None,
    }
}

fn wakes(roster: &Roster<u32, ()>, grant: u32) -> Option<RunnerId> {
    match roster.dispatch(grant) {
        Dispatch::Wake(id, ()) => Some(id),
        Dispatch::Unpark(..) => panic!("nobody spins"),
        Dispatch::Later => None,
    }
}

/// A successor joins: whatever is left over is found now, and everything has run once.
fn successor_finds(roster: &Roster<u32, ()>, runs: &AtomicUsize, grants: usize) {
    let (id, comes_in) = roster.join(());
    if comes_in {
        run(roster, id, roster.enter(id), runs);
    }
    assert_eq!(runs.load(Ordering::Relaxed), grants, "a grant was lost, or ran twice");
    assert_eq!(roster.take_backlog(), []);
}

#[test]
fn a_runner_going_down_against_its_operation_finishing_and_a_new_grant() {
    loom::model(|| {
        let roster = Arc::new(Roster::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let (id, _) = roster.join(());
        assert_eq!(wakes(&roster, 1), Some(id));
        let entered = roster.enter(id);
        let runner = {
            let (roster, runs) = (roster.clone(), runs.clone());
            thread::spawn(move || run(&roster, id, entered, &runs))
        };
        let dispatcher = beside(&roster, move |roster| wakes(roster, 2));
        let _ = dies(&roster, id);
        runner.join().unwrap();
        // The dead one is woken in vain.
        let _ = dispatcher.join().unwrap();
        assert!(roster.is_empty(), "a dead runner's place is free when its call has returned");
        successor_finds(&roster, &runs, 2);
    });
}

#[test]
fn a_runner_going_down_against_stepping_out_with_work_in_hand() {
    loom::model(|| {
        let roster = Arc::new(Roster::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let (id, _) = roster.join(());
        assert_eq!(wakes(&roster, 1), Some(id));
        let Entered::Run(grant) = roster.enter(id) else { panic!("not woken") };
        let runner = {
            let (roster, runs) = (roster.clone(), runs.clone());
            thread::spawn(move || match roster.step_out(id, grant) {
                // Its process comes in again, if it lives.
                None => run(&roster, id, roster.enter(id), &runs),
                Some(grant) => {
                    assert_eq!(roster.leave(id), None);
                    assert_eq!(wakes(&roster, grant), None);
                }
            })
        };
        let _ = dies(&roster, id);
        runner.join().unwrap();
        assert!(roster.is_empty());
        successor_finds(&roster, &runs, 1);
    });
}

#[test]
fn a_woken_runner_that_dies_before_it_enters() {
    loom::model(|| {
        let roster = Arc::new(Roster::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let (other, _) = roster.join(());
        let (id, _) = roster.join(());
        assert_eq!(wakes(&roster, 1), Some(id), "the one that parked last is woken first");
        let runner = {
            let (roster, runs) = (roster.clone(), runs.clone());
            thread::spawn(move || run(&roster, id, roster.enter(id), &runs))
        };
        if let Some(woken) = dies(&roster, id) {
            assert_eq!(woken, other);
            run(&roster, other, roster.enter(other), &runs);
        }
        runner.join().unwrap();
        assert_eq!(roster.len(), 1);
        successor_finds(&roster, &runs, 1);
    });
}

/// A runner that has run one grant, and spins.
fn spinning() -> (Arc<Roster<u32, ()>>, Arc<AtomicUsize>, RunnerId) {
    let roster = Arc::new(Roster::new());
    let runs = Arc::new(AtomicUsize::new(0));
    let (id, _) = roster.join(());
    assert_eq!(wakes(&roster, 1), Some(id));
    assert_eq!(roster.enter(id), Entered::Run(1));
    runs.fetch_add(1, Ordering::Relaxed);
    assert_eq!(roster.spin(id), Entered::Parked);
    (roster, runs, id)
}

/// A runner that spins goes away while a grant looks for one: either it finds the grant by itself, or it is woken.
#[test]
fn a_runner_that_was_near_parking_against_a_grant() {
    loom::model(|| {
        let (roster, runs, id) = spinning();
        let dispatcher = beside(&roster, move |roster| roster.dispatch(2));
        run(&roster, id, roster.park(id), &runs);
        match dispatcher.join().unwrap() {
            Dispatch::Unpark(..) => assert_eq!(runs.load(Ordering::Relaxed), 2, "unparked, and gone"),
            Dispatch::Wake(..) => {
                assert_eq!(runs.load(Ordering::Relaxed), 1);
                run(&roster, id, roster.enter(id), &runs);
            }
            Dispatch::Later => panic!("it was parked"),
        }
        successor_finds(&roster, &runs, 2);
    });
}

/// The same one dies meanwhile: what it was level for goes to another.
#[test]
fn a_runner_that_is_near_going_down_against_a_grant() {
    loom::model(|| {
        let (roster, runs, id) = spinning();
        let dispatcher = beside(&roster, move |roster| drop(roster.dispatch(2)));
        let runner = {
            let (roster, runs) = (roster.clone(), runs.clone());
            thread::spawn(move || run(&roster, id, roster.park(id), &runs))
        };
        let _ = dies(&roster, id);
        dispatcher.join().unwrap();
        runner.join().unwrap();
        assert!(roster.is_empty());
        successor_finds(&roster, &runs, 2);
    });
}

/// A parked runner that is one too many retires, unless it has been woken meanwhile.
#[test]
fn a_runner_retiring_against_a_grant() {
    loom::model(|| {
        let roster = Arc::new(Roster::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let (other, _) = roster.join(());
        let (id, _) = roster.join(());
        let dispatcher = beside(&roster, move |roster| wakes(roster, 1).expect("one is parked"));
        let retired = roster.retire(id, 1);
        let woken = dispatcher.join().unwrap();
        assert_eq!(woken, if retired { other } else { id });
        run(&roster, woken, roster.enter(woken), &runs);
        successor_finds(&roster, &runs, 1);
    });
}

#[test]
fn open_failed_against_a_queued_waiter_and_its_cancel() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let Submitted::Granted(Grant { source: Source::Capacity(opening), .. }) = submit(&pool, 0) else { panic!("not granted") };
        let ticket = queue(&pool, 1);
        let canceller = beside(&pool, move |pool| pool.cancel(ticket));
        let granted = op_of(pool.open_failed(opening));
        match (granted, canceller.join().unwrap()) {
            (Some(1), None) => assert_eq!(pool.stats().opening, 1),
            (None, Some(1)) => assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, ..Stats::default() }),
            other => panic!("{other:?}"),
        }
    });
}

/// Capacity comes free in one stripe (a failed open, a closed session) while an operation arrives in the other.
#[test]
fn capacity_coming_free_against_a_submit_in_another_stripe() {
    for fails in [true, false] {
        loom::model(move || {
            let pool = pool(2, 2, 8);
            let Submitted::Granted(grant) = submit(&pool, 0) else { panic!("not granted") };
            let _theirs = submit_and_open(&pool, 1);
            let _home = pool.cancel(queue(&pool, 2));
            let submitter = beside(&pool, move |pool| granted(submit(pool, 3)));
            let freed = if fails {
                let Source::Capacity(opening) = grant.source else { panic!("nothing was open") };
                pool.open_failed(opening)
            } else {
                let (closing, _) = pool.discard(open(&pool, grant));
                pool.closed(closing)
            };
            let granted = [op_of(freed), op_of(submitter.join().unwrap())];
            assert!(granted == [Some(3), None] || granted == [None, Some(3)], "{granted:?}");
            assert_work_conserving(&pool);
        });
    }
}

#[test]
fn drain_against_submit_and_release() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let held = submit_and_open(&pool, 0);
        let submitter = beside(&pool, move |pool| submit(pool, 1));
        let releaser = beside(&pool, move |pool| pool.release(held, 0));
        let drained = pool.drain();
        let (mut came_out, mut to_close) = (drained.waiting, drained.closing);
        let mut granted = Vec::new();
        match submitter.join().unwrap() {
            Submitted::Granted(grant) => granted.push(grant),
            Submitted::Queued(_) => {}
            Submitted::Refused(op, refusal) => {
                assert_eq!(refusal, Refusal::Draining);
                came_out.push(op);
            }
        }
        match releaser.join().unwrap() {
            Freed::Granted(grant) => granted.push(grant),
            Freed::Idle => {}
            Freed::Close(closing, session) => to_close.push((closing, session)),
        }
        for grant in granted {
            came_out.push(grant.waiter.payload);
            let Source::Session(held) = grant.source else { panic!("there is only one session") };
            let Freed::Close(closing, session) = pool.release(held, 0) else { panic!("a draining pool keeps nothing") };
            to_close.push((closing, session));
        }
        assert_eq!(came_out, [1], "it comes out once");
        assert_eq!(to_close.len(), 1, "and so does the session");
        for (closing, _) in to_close {
            assert!(pool.closed(closing).is_none());
        }
        assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, draining: true, ..Stats::default() });
    });
}

/// What waits is taken out (the token is away) while it is cancelled, and while the session that it waits for comes free.
#[test]
fn taking_what_waits_against_cancel_and_release() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let held = submit_and_open(&pool, 0);
        let first = queue(&pool, 1);
        let _second = queue(&pool, 2);
        let canceller = beside(&pool, move |pool| pool.cancel(first));
        let releaser = beside(&pool, move |pool| pool.release(held, 0));
        let mut came_out = pool.take_waiting();
        came_out.extend(canceller.join().unwrap());
        let granted = op_of(freed(releaser.join().unwrap()));
        came_out.extend(granted);
        came_out.sort_unstable();
        assert_eq!(came_out, [1, 2], "each comes out once");
        let (idle, running) = if granted.is_some() { (0, 1) } else { (1, 0) };
        assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, idle, running, ..Stats::default() });
    });
}

/// The same while a shrink has left one over in its stripe, where the session would else move to the stripe with room.
#[test]
fn drain_against_release_after_a_shrink() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        let first = submit_and_open(&pool, 0);
        let second = submit_and_open(&pool, 1);
        let (grants, surplus) = pool.resize(1);
        assert!(grants.is_empty() && surplus.is_empty());
        let (closing, _) = pool.discard(first);
        assert!(pool.closed(closing).is_none());
        let releaser = beside(&pool, move |pool| pool.release(second, 0));
        let mut to_close = pool.drain().closing;
        match releaser.join().unwrap() {
            Freed::Close(closing, session) => to_close.push((closing, session)),
            Freed::Idle => {}
            Freed::Granted(grant) => panic!("{grant:?}"),
        }
        assert_eq!(to_close.len(), 1, "a draining pool keeps nothing");
        for (closing, _) in to_close {
            assert!(pool.closed(closing).is_none());
        }
        assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, draining: true, ..Stats::default() });
    });
}

/// The lost wake-up: a runner gives its session back and parks while an operation arrives in another stripe.
#[test]
fn parking_in_one_stripe_against_a_submit_arriving_in_another() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        let roster: Arc<Roster<u32, ()>> = Arc::new(Roster::new());
        let (id, _) = roster.join(());
        assert_eq!(wakes(&roster, 0), Some(id));
        let _ = roster.enter(id);
        let mine = submit_and_open(&pool, 0);
        let _theirs = submit_and_open(&pool, 1);
        let _home = pool.cancel(queue(&pool, 2));
        let submitter = {
            let (pool, roster) = (pool.clone(), roster.clone());
            thread::spawn(move || match submit(&pool, 3) {
                Submitted::Granted(grant) => wakes(&roster, grant.waiter.payload),
                Submitted::Queued(_) => None,
                Submitted::Refused(..) => panic!("refused"),
            })
        };
        let mut found = op_of(freed(pool.release(mine, 0)));
        if found.is_none()
            && let Entered::Run(op) = roster.park(id)
        {
            found = Some(op);
        }
        if submitter.join().unwrap().is_some() {
            assert!(found.is_none(), "it runs twice");
            if let Entered::Run(op) = roster.enter(id) {
                found = Some(op);
            }
        }
        assert_eq!(found, Some(3), "nobody runs it");
        assert_work_conserving(&pool);
    });
}

/// Two sessions come free at once where one operation waits and another arrives.
#[test]
fn two_sessions_coming_free_against_a_submit() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        let first = submit_and_open(&pool, 0);
        let second = submit_and_open(&pool, 1);
        let _waits = queue(&pool, 2);
        let releaser = beside(&pool, move |pool| freed(pool.release(second, 0)));
        let submitter = beside(&pool, move |pool| granted(submit(pool, 3)));
        let mut granted = vec![op_of(freed(pool.release(first, 0)))];
        granted.push(op_of(releaser.join().unwrap()));
        granted.push(op_of(submitter.join().unwrap()));
        let mut granted: Vec<u32> = granted.into_iter().flatten().collect();
        granted.sort();
        assert_eq!(granted, [2, 3]);
        assert_work_conserving(&pool);
    });
}

/// A full pool sweeps its dead waiters while a session comes free for one of them.
#[test]
fn a_sweep_against_a_session_coming_free_in_another_stripe() {
    loom::model(|| {
        let pool = pool(2, 2, 1);
        let mine = submit_and_open(&pool, 0);
        let _theirs = submit_and_open(&pool, 1);
        let _skipped = pool.cancel(queue(&pool, 2));
        let _dead = queue(&pool, 3);
        let sweeper = {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut swept = Vec::new();
                let granted = granted(pool.submit(4, |op| *op == 3, &mut swept));
                (granted, swept)
            })
        };
        let released = op_of(freed(pool.release(mine, 0)));
        let (submitted, swept) = sweeper.join().unwrap();
        match (released, op_of(submitted), swept.as_slice()) {
            (Some(3), None, []) | (Some(4), None, [3]) | (None, Some(4), [3]) => {}
            other => panic!("{other:?}"),
        }
        assert_work_conserving(&pool);
    });
}

/// Two arrive in one stripe at once: whichever comes first, each can be found by its ticket, and they are served in the queue's order.
#[test]
fn two_submits_to_one_stripe() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let held = submit_and_open(&pool, 0);
        let submitter = beside(&pool, move |pool| queue(pool, 1));
        let second = queue(&pool, 2);
        let first = submitter.join().unwrap();
        let grant = freed(pool.release(held, 0)).expect("two wait");
        let (op, place) = (grant.waiter.payload, grant.waiter.ticket);
        assert_eq!(place, if op == 1 { first } else { second });
        assert_eq!(pool.cancel(place), None);
        let (left, ticket) = if op == 1 { (2, second) } else { (1, first) };
        assert_eq!(pool.cancel(ticket), Some(left));
    });
}

#[test]
fn a_session_being_kept_alive_against_a_submit() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        assert!(freed(pool.release(submit_and_open(&pool, 0), 0)).is_none());
        let submitter = beside(&pool, move |pool| granted(submit(pool, 1)));
        let mut ran = 0;
        if let Some(kept) = pool.take_to_keep(0, 5, || 9) {
            assert_eq!(kept.waiter.payload, 9);
            // It waits for that one call, and no longer.
            ran += usize::from(freed(pool.release(open(&pool, kept), 5)).is_some());
            pool.end_keeping();
        }
        ran += usize::from(submitter.join().unwrap().is_some());
        assert_eq!(ran, 1, "the operation runs once");
        assert_work_conserving(&pool);
    });
}

#[test]
fn the_gate_opening_against_a_submit() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        pool.close_gate();
        let submitters = [1, 2].map(|op| beside(&pool, move |pool| granted(submit(pool, op))));
        let mut granted: Vec<u32> = pool.open_gate().into_iter().map(|grant| grant.waiter.payload).collect();
        for submitter in submitters {
            granted.extend(op_of(submitter.join().unwrap()));
        }
        granted.sort();
        assert_eq!(granted, [1, 2]);
        assert_work_conserving(&pool);
    });
}

/// An operation that met the gate goes back to the queue, and its session comes free, while the gate opens: nobody stays behind.
#[test]
fn the_gate_opening_against_a_requeue_and_its_session_coming_free() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let Submitted::Granted(Grant { source: Source::Capacity(opening), waiter }) = submit(&pool, 0) else {
            panic!("not granted")
        };
        let held = pool.opened(opening, 0, 0);
        let _behind = queue(&pool, 1);
        pool.close_gate();
        let runner = {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut grants = pool.requeue(waiter).expect("it does not drain");
                grants.extend(freed(pool.release(held, 0)));
                grants
            })
        };
        let mut grants = pool.open_gate();
        grants.extend(runner.join().unwrap());
        let granted: Vec<u32> = grants.into_iter().map(|grant| grant.waiter.payload).collect();
        assert_eq!(granted, [0], "it has kept its place before the other");
        assert_work_conserving(&pool);
    });
}

/// A login goes before all others and passes the gate, whoever comes free.
#[test]
fn a_control_operation_against_a_session_coming_free() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        let mine = submit_and_open(&pool, 0);
        let _theirs = submit_and_open(&pool, 1);
        pool.close_gate();
        let _waits = queue(&pool, 2);
        let control = {
            let pool = pool.clone();
            thread::spawn(move || match pool.submit_control(3) {
                Submitted::Granted(grant) => Some(grant),
                Submitted::Queued(_) => None,
                Submitted::Refused(..) => panic!("refused"),
            })
        };
        let granted = [op_of(freed(pool.release(mine, 0))), op_of(control.join().unwrap())];
        assert!(granted == [Some(3), None] || granted == [None, Some(3)], "{granted:?}");
        assert_eq!(pool.stats().waiting, 1);
    });
}

/// A control operation that arrives while a session is on its way to an earlier one does not overtake it.
#[test]
fn control_operations_keep_their_order_while_a_session_comes_free() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let held = submit_and_open(&pool, 0);
        let Submitted::Queued(_) = pool.submit_control(1) else { panic!("granted") };
        let later = beside(&pool, move |pool| matches!(pool.submit_control(2), Submitted::Queued(_)));
        assert_eq!(op_of(freed(pool.release(held, 0))), Some(1));
        assert!(later.join().unwrap(), "it overtook");
    });
}

/// What wants the pool for itself is granted by the last session that comes free, or finds it free already; and nothing else is granted first.
#[test]
fn an_exclusive_operation_against_sessions_coming_free_and_a_submit() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        let mine = submit_and_open(&pool, 0);
        let theirs = submit_and_open(&pool, 1);
        let exclusive = beside(&pool, |pool| match pool.submit_exclusive(2) {
            Submitted::Granted(grant) => Some(grant),
            Submitted::Queued(_) => None,
            Submitted::Refused(..) => panic!("refused"),
        });
        let other = beside(&pool, move |pool| freed(pool.release(theirs, 0)));
        let granted = [op_of(freed(pool.release(mine, 0))), op_of(other.join().unwrap()), op_of(exclusive.join().unwrap())];
        assert_eq!(granted.iter().flatten().collect::<Vec<_>>(), [&2], "{granted:?}");
        assert!(matches!(pool.submit(3, |_| false, &mut Vec::new()), Submitted::Queued(_)), "beside the exclusive one");
    });
}

/// A session that becomes a lease's is not waited for any more, whichever comes first.
#[test]
fn an_exclusive_operation_against_a_lease() {
    loom::model(|| {
        let pool = pool(2, 1, 8);
        let idle = submit_and_open(&pool, 0);
        let held = submit_and_open(&pool, 1);
        assert!(freed(pool.release(idle, 0)).is_none());
        let exclusive = beside(&pool, |pool| matches!(pool.submit_exclusive(2), Submitted::Granted(_)));
        let (_leased, grant) = pool.lease(held);
        let granted = [op_of(grant) == Some(2), exclusive.join().unwrap()];
        assert_eq!(granted.iter().filter(|granted| **granted).count(), 1, "{granted:?}");
        assert_eq!((pool.stats().leased, pool.stats().running), (1, 1));
    });
}

/// What comes while an exclusive operation ends is granted by its end, or finds it over.
#[test]
fn the_end_of_an_exclusive_operation_against_a_submit() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let idle = submit_and_open(&pool, 0);
        assert!(freed(pool.release(idle, 0)).is_none());
        let Submitted::Granted(grant) = pool.submit_exclusive(1) else { panic!("something ran") };
        let Source::Session(held) = grant.source else { panic!("a session was idle") };
        assert!(freed(pool.release(held, 0)).is_none());
        let submitter = beside(&pool, |pool| granted(submit(pool, 2)));
        let ended: Vec<_> = pool.end_exclusive(grant.waiter.ticket).into_iter().map(|grant| grant.waiter.payload).collect();
        let submitted = submitter.join().unwrap();
        assert_eq!(ended.len() + submitted.iter().len(), 1, "{ended:?} {submitted:?}");
        assert_work_conserving(&pool);
    });
}

/// What a shrink leaves over in one stripe is no room in the other.
#[test]
fn a_shrink_against_a_submit_in_the_stripe_with_room() {
    loom::model(|| {
        let pool = pool(4, 2, 8);
        let first = submit_and_open(&pool, 0);
        let Submitted::Granted(theirs) = submit(&pool, 1) else { panic!("not granted") };
        let _second = submit_and_open(&pool, 2);
        assert!(
            pool.open_failed(match theirs.source {
                Source::Capacity(opening) => opening,
                Source::Session(_) => panic!("nothing was idle"),
            })
            .is_none()
        );
        // Two run in the first stripe, none in the second.
        let submitter = beside(&pool, move |pool| granted(submit(pool, 3)));
        let (grants, closing) = pool.resize(2);
        assert!(grants.is_empty() && closing.is_empty());
        let granted = submitter.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.size, stats.running), (2, 2));
        assert_eq!(stats.opening, usize::from(granted.is_some()));
        assert_eq!(stats.waiting, usize::from(granted.is_none()));
        if granted.is_none() {
            // Its turn comes when one of the two comes free: they are no more than there may be.
            assert_eq!(op_of(freed(pool.release(first, 0))), Some(3));
            assert_work_conserving(&pool);
        }
    });
}

/// What comes free in one stripe while the other keeps the only place is closed, by the one or by the other.
#[test]
fn a_shrink_against_a_session_coming_free_in_another_stripe() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        let first = submit_and_open(&pool, 0);
        let _second = submit_and_open(&pool, 1);
        let releaser = {
            let pool = pool.clone();
            thread::spawn(move || match pool.release(first, 0) {
                Freed::Close(..) => 1,
                Freed::Idle => 0,
                Freed::Granted(grant) => panic!("{grant:?}"),
            })
        };
        let (grants, closing) = pool.resize(1);
        assert!(grants.is_empty());
        assert_eq!(closing.len() + releaser.join().unwrap(), 1);
        assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, running: 1, closing: 1, ..Stats::default() });
    });
}

type Cell = Arc<loom::sync::Mutex<Option<Stake>>>;

/// As whoever looks after hung calls does: what is still in the cell is in a call.
fn look_after(pool: &TestPool, cell: &Cell) -> Option<TestGrant> {
    match cell.lock().unwrap().as_mut().map(|stake| pool.quarantine(stake)) {
        Some(Quarantined::Freed(grant)) => grant,
        Some(Quarantined::Kept) | None => None,
    }
}

/// A call hangs and returns after all: its session is closed, or (it returned first) serves the waiter.
#[test]
fn a_quarantine_against_its_own_call_returning() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let (lent, stake) = submit_and_open(&pool, 0).lend();
        let cell: Cell = Arc::new(loom::sync::Mutex::new(Some(stake)));
        let _waits = queue(&pool, 1);
        let looker = {
            let (pool, cell) = (pool.clone(), cell.clone());
            thread::spawn(move || look_after(&pool, &cell))
        };
        let stake = cell.lock().unwrap().take().unwrap();
        let returned = pool.release(lent.rejoin(stake), 0);
        match (returned, looker.join().unwrap()) {
            (Freed::Granted(grant), None) => assert!(matches!(grant.source, Source::Session(_))),
            (Freed::Close(closing, 0), Some(grant)) => {
                assert!(matches!(grant.source, Source::Capacity(_)) && closing.is_hung());
                assert_eq!(pool.stats().hung, 1);
                assert!(pool.closed(closing).is_none());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.stats().hung, 0);
        assert_work_conserving(&pool);
    });
}

/// One hangs while another's session comes free in the other stripe: two are served.
#[test]
fn a_quarantine_against_a_session_coming_free_in_another_stripe() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        let (lent, mut stake) = submit_and_open(&pool, 0).lend();
        let other = submit_and_open(&pool, 1);
        let _waits = [queue(&pool, 2), queue(&pool, 3)];
        let releaser = beside(&pool, move |pool| op_of(freed(pool.release(other, 0))));
        let Quarantined::Freed(grant) = pool.quarantine(&mut stake) else { panic!("there is room") };
        let mut served = [op_of(grant), releaser.join().unwrap()];
        served.sort();
        assert_eq!(served, [Some(2), Some(3)]);
        assert_work_conserving(&pool);
        let _ = lent.rejoin(stake);
    });
}

/// Two hang where one may be quarantined.
#[test]
fn two_quarantines_against_a_shrink() {
    loom::model(|| {
        let pool = pool(2, 2, 8);
        let lent = [0, 1].map(|op| submit_and_open(&pool, op).lend());
        let lookers = lent.map(|(lent, mut stake)| {
            let pool = pool.clone();
            thread::spawn(move || {
                let freed = matches!(pool.quarantine(&mut stake), Quarantined::Freed(None));
                (freed, lent.rejoin(stake))
            })
        });
        let (grants, closing) = pool.resize(1);
        assert!(grants.is_empty() && closing.is_empty());
        let mut hung = 0;
        let mut closing = 0;
        for looker in lookers {
            let (freed, held) = looker.join().unwrap();
            assert_eq!(freed, held.is_hung());
            hung += usize::from(freed);
            match pool.release(held, 0) {
                Freed::Close(to_close, _) => {
                    closing += 1;
                    assert!(pool.closed(to_close).is_none());
                }
                Freed::Idle => assert!(!freed),
                Freed::Granted(grant) => panic!("{grant:?}"),
            }
        }
        assert!((1..=2).contains(&hung), "one at least may be quarantined, the other before the shrink");
        assert!(closing >= 1);
        assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, idle: 2 - closing, ..Stats::default() });
    });
}

#[test]
fn a_quarantine_against_a_drain() {
    loom::model(|| {
        let pool = pool(1, 1, 8);
        let (lent, mut stake) = submit_and_open(&pool, 0).lend();
        let _waits = queue(&pool, 1);
        let drainer = beside(&pool, move |pool| pool.drain().waiting);
        let Quarantined::Freed(granted) = pool.quarantine(&mut stake) else { panic!("there is room") };
        let granted = granted.map(|grant| {
            if let Source::Capacity(opening) = grant.source {
                assert!(pool.open_failed(opening).is_none());
            }
            grant.waiter.payload
        });
        let mut out = drainer.join().unwrap();
        out.extend(granted);
        assert_eq!(out, [1], "it comes out once");
        let Freed::Close(closing, 0) = pool.release(lent.rejoin(stake), 0) else { panic!("kept a hung session") };
        assert!(pool.closed(closing).is_none());
        assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, draining: true, ..Stats::default() });
    });
}

/// The token refuses one more session while the one that it gave comes free: the refused operation gets that one.
#[test]
fn a_refusal_against_a_session_coming_free() {
    loom::model(|| {
        let pool = pool(2, 1, 8);
        let held = submit_and_open(&pool, 0);
        let Submitted::Granted(Grant { source: Source::Capacity(opening), waiter }) = submit(&pool, 1) else {
            panic!("not granted")
        };
        let releaser = beside(&pool, move |pool| op_of(freed(pool.release(held, 0))));
        let grants = pool.refused(opening, waiter, 0).expect("another is open");
        let mut served: Vec<u32> = grants.into_iter().map(|grant| grant.waiter.payload).collect();
        served.extend(releaser.join().unwrap());
        assert_eq!(served, [1]);
        assert_eq!(pool.stats(), Stats { size: 2, ceiling: 1, running: 1, ..Stats::default() });
    });
}

/// While a ceiling is on, an arrival in the stripe with room does not open beyond it.
#[test]
fn a_refusal_against_a_submit_in_another_stripe() {
    loom::model(|| {
        let pool = pool(4, 2, 8);
        let _held = submit_and_open(&pool, 0);
        let Submitted::Granted(Grant { source: Source::Capacity(opening), waiter }) = submit(&pool, 1) else {
            panic!("not granted")
        };
        let submitter = beside(&pool, move |pool| granted(submit(pool, 2)));
        let grants = pool.refused(opening, waiter, 0).expect("another is open");
        assert!(grants.is_empty());
        // It came before the refusal, and so raised what the ceiling fell to.
        let before = submitter.join().unwrap().is_some();
        let stats = pool.stats();
        assert_eq!((stats.ceiling, stats.opening), if before { (2, 1) } else { (1, 0) });
        assert!(matches!(submit(&pool, 3), Submitted::Queued(_)));
    });
}

/// A module in which a second Init replaces the first: who began the operation on the one handle there is.
type Module = AtomicUsize;

/// One operation, Init and final call: whose key it was made with.
fn operate(module: &Module, who: usize) -> usize {
    module.store(who, Ordering::SeqCst);
    module.load(Ordering::SeqCst)
}

/// A session that is given the handle: it operates if it may, or else is left with the handle for as long as that is in use.
fn take_over(handles: &Handles<Arc<()>>, module: &Module, who: usize, held: &Arc<()>) -> Ownership<Arc<()>> {
    let (session, before) = handles.given(7);
    if before == Before::InUse {
        drop(session.holder().hold(held.clone()));
        return session;
    }
    if let Some(used) = session.begin() {
        let made_by = operate(module, who);
        assert!(!used.is_owner() || made_by == who, "a success with another session's key");
    }
    session
}

#[test]
fn no_operation_of_a_displaced_session_mixes_with_its_successors() {
    loom::model(|| {
        let (handles, module, held) = (Handles::default(), Arc::new(Module::new(0)), Arc::new(()));
        let (first, _) = handles.given(7);
        let thread = {
            let (handles, module, held) = (handles.clone(), module.clone(), held.clone());
            thread::spawn(move || take_over(&handles, &module, 2, &held))
        };
        if let Some(used) = first.begin() {
            let made_by = operate(&module, 1);
            assert_eq!(made_by, 1, "whoever is given a handle in use leaves it alone");
            drop(used);
        }
        drop(thread.join().unwrap());
        assert_eq!(Arc::strong_count(&held), 1, "what was left with the handle is handed back");
        drop(first);
        assert!(handles.is_empty());
    });
}

#[test]
fn a_handle_that_is_lost_twice_is_used_by_one_session_at_a_time() {
    loom::model(|| {
        let (handles, module, held) = (Handles::default(), Arc::new(Module::new(0)), Arc::new(()));
        let (first, _) = handles.given(7);
        let threads: Vec<_> = [2, 3]
            .map(|who| {
                let (handles, module, held) = (handles.clone(), module.clone(), held.clone());
                thread::spawn(move || drop(take_over(&handles, &module, who, &held)))
            })
            .into();
        if first.begin().is_some_and(|used| operate(&module, 1) != 1 && used.is_owner()) {
            panic!("a success with another session's key");
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(Arc::strong_count(&held), 1);
    });
}
