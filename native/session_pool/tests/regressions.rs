//! One test for each fault of the designs that this pool joins, named after it.
#![cfg(not(loom))]

use session_pool::*;

type TestPool = Pool<u32, u32>;
type TestGrant = Grant<u32, u32>;

fn config(max_sessions: usize, stripes: usize) -> Config {
    Config { label: "regressions".into(), max_sessions, stripes, idle_ttl: None, max_lifetime: None, max_waiting: 10_000 }
}

fn pool(max_sessions: usize, stripes: usize) -> TestPool {
    Pool::new(&config(max_sessions, stripes)).unwrap()
}

fn submit(pool: &TestPool, op: u32) -> Submitted<u32, u32> {
    let mut swept = Vec::new();
    let submitted = pool.submit(op, |_| false, &mut swept);
    assert!(swept.is_empty());
    submitted
}

/// Submits what must be granted; the session is opened if need be, and is called after the operation.
fn start(pool: &TestPool, op: u32) -> Held<u32> {
    match submit(pool, op) {
        Submitted::Granted(grant) => run(pool, grant),
        other => panic!("{op} is not granted: {other:?}"),
    }
}

fn run(pool: &TestPool, grant: TestGrant) -> Held<u32> {
    match grant.source {
        Source::Session(held) => held,
        Source::Capacity(opening) => pool.opened(opening, grant.waiter.payload, 0),
    }
}

fn queue(pool: &TestPool, op: u32) -> Ticket {
    match submit(pool, op) {
        Submitted::Queued(ticket) => ticket,
        other => panic!("{op} does not wait: {other:?}"),
    }
}

fn release(pool: &TestPool, held: Held<u32>) -> Option<TestGrant> {
    match pool.release(held, 0) {
        Freed::Granted(grant) => Some(grant),
        Freed::Idle => None,
        Freed::Close(..) => panic!("a good session was closed"),
    }
}

/// The capacity that `submit` was granted while nothing was open.
fn opening(submitted: Submitted<u32, u32>) -> Opening {
    match submitted {
        Submitted::Granted(Grant { source: Source::Capacity(opening), .. }) => opening,
        other => panic!("no capacity was granted: {other:?}"),
    }
}

/// Everything has been given back: every session of the pool can be had, and no more.
fn assert_full_capacity(pool: &TestPool, size: usize) {
    assert_eq!(pool.stats().waiting, 0);
    let held: Vec<_> = (0..size as u32).map(|op| start(pool, 1_000_000 + op)).collect();
    let one_more = queue(pool, 2_000_000);
    assert_eq!(pool.stats().running, size);
    assert_eq!(pool.cancel(one_more), Some(2_000_000));
    for held in held {
        assert!(release(pool, held).is_none());
    }
    assert_eq!(pool.stats(), Stats { size, ceiling: size, idle: size, ..Stats::default() });
}

#[test]
fn capacity_is_not_leaked_by_the_reuse_of_a_cached_session() {
    for (size, stripes) in [(1, 1), (3, 1), (4, 2), (7, 3)] {
        let pool = pool(size, stripes);
        for op in 0..1_000 {
            assert!(release(&pool, start(&pool, op)).is_none());
        }
        assert_full_capacity(&pool, size);
    }
}

#[test]
fn capacity_is_not_lost_by_a_destroyed_session() {
    let pool = pool(3, 2);
    for op in 0..1_000 {
        let (closing, session) = pool.discard(start(&pool, op));
        assert_eq!(session, op);
        assert_eq!(pool.stats().closing, 1);
        assert!(pool.closed(closing).is_none());
    }
    assert_eq!(pool.stats(), Stats { size: 3, ceiling: 3, ..Stats::default() });
    assert_full_capacity(&pool, 3);
}

#[test]
fn the_capacity_of_a_destroyed_session_goes_to_a_waiter() {
    let pool = pool(1, 1);
    let held = start(&pool, 0);
    queue(&pool, 1);
    let (closing, _) = pool.discard(held);
    let grant = pool.closed(closing).expect("the waiter is stranded");
    assert_eq!(grant.waiter.payload, 1);
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert_full_capacity(&pool, 1);
}

#[test]
fn a_failed_create_does_not_strand_a_waiter() {
    for stripes in [1, 2] {
        let pool = pool(stripes, stripes);
        let openings: Vec<_> = (0..stripes as u32).map(|op| opening(submit(&pool, op))).collect();
        // All wait, in whichever stripe, and each open fails: each failure serves the next.
        for op in 10..14 {
            queue(&pool, op);
        }
        let mut openings = std::collections::VecDeque::from(openings);
        for op in 10..14 {
            let grant = pool.open_failed(openings.pop_front().unwrap()).expect("the waiter is stranded");
            assert_eq!(grant.waiter.payload, op);
            let Source::Capacity(opening) = grant.source else { panic!("nothing is open") };
            openings.push_back(opening);
        }
        for opening in openings {
            assert!(pool.open_failed(opening).is_none());
        }
        assert_full_capacity(&pool, stripes);
    }
}

/// The caller gives up, or its runner dies, between the grant and the open: the capacity comes back, and serves the next.
#[test]
fn an_aborted_create_does_not_strand_a_waiter() {
    let pool = pool(1, 1);
    let Submitted::Granted(aborted) = submit(&pool, 0) else { panic!("not granted") };
    queue(&pool, 1);
    // The operation goes back to its place, the right to open is given up.
    assert!(pool.requeue(aborted.waiter).unwrap().is_empty());
    let Source::Capacity(first) = aborted.source else { panic!("nothing is open") };
    let grant = pool.open_failed(first).expect("both are stranded");
    assert_eq!(grant.waiter.payload, 0, "it has kept its place");
    let Source::Capacity(second) = grant.source else { panic!("nothing is open") };
    // Now it is dropped for good.
    let grant = pool.open_failed(second).expect("the waiter is stranded");
    assert_eq!(grant.waiter.payload, 1);
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert_full_capacity(&pool, 1);
}

#[test]
fn a_grant_for_a_runner_that_died_is_not_stranded() {
    let pool = pool(1, 1);
    let roster = Roster::new();
    let (first, _) = roster.join("first");
    let Submitted::Granted(grant) = submit(&pool, 0) else { panic!("not granted") };
    assert!(matches!(roster.dispatch(grant), Dispatch::Wake(id, "first") if id == first));
    let Departed::Vacant(Some(grant)) = roster.down(first) else { panic!("its grant is lost") };
    assert!(matches!(roster.dispatch(grant), Dispatch::Later));
    let (second, comes_in) = roster.join("second");
    assert!(comes_in, "the successor is not told");
    let Entered::Run(grant) = roster.enter(second) else { panic!("the grant is stranded") };
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert_full_capacity(&pool, 1);
}

#[test]
fn a_session_is_not_lost_when_cancel_loses_the_race() {
    let pool = pool(1, 1);
    let held = start(&pool, 0);
    let ticket = queue(&pool, 1);
    let grant = release(&pool, held).expect("the waiter is stranded");
    assert_eq!(pool.cancel(ticket), None, "its runner has it");
    assert_eq!(pool.stats().running, 1, "and the session with it");
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert_eq!(pool.cancel(ticket), None);
    assert_full_capacity(&pool, 1);
}

#[test]
fn a_cancelled_waiter_does_not_swallow_a_session() {
    let pool = pool(1, 1);
    let held = start(&pool, 0);
    let first = queue(&pool, 1);
    queue(&pool, 2);
    let last = queue(&pool, 3);
    assert_eq!(pool.cancel(first), Some(1));
    assert_eq!(pool.cancel(last), Some(3));
    assert_eq!(pool.cancel(last), None, "once");
    let grant = release(&pool, held).expect("the waiter is stranded");
    assert_eq!(grant.waiter.payload, 2);
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert_full_capacity(&pool, 1);
}

#[test]
fn a_waiter_does_not_starve_beside_an_idle_stripe() {
    // A session that comes free in one stripe serves the other's waiter.
    let pool = pool(2, 2);
    let first = start(&pool, 0);
    let second = start(&pool, 1);
    let home = queue(&pool, 2);
    let away = queue(&pool, 3);
    assert_ne!(home.stripe(), away.stripe());
    assert_eq!(pool.cancel(home), Some(2));
    let grant = release(&pool, first).expect("it starves");
    assert_eq!(grant.waiter.payload, 3);
    let first = run(&pool, grant);
    assert!(release(&pool, first).is_none());

    // The home stripe is busy: an idle session and free capacity elsewhere serve an arrival at once.
    for op in 10..14 {
        assert!(release(&pool, start(&pool, op)).is_none());
    }
    assert!(release(&pool, second).is_none());
    assert_full_capacity(&pool, 2);
}

#[test]
fn a_waiter_does_not_starve_beside_the_capacity_of_another_stripe() {
    let pool = pool(2, 2);
    let opened = opening(submit(&pool, 0));
    let busy = start(&pool, 1);
    let home = queue(&pool, 2);
    let away = queue(&pool, 3);
    assert_eq!(pool.cancel(home), Some(2));
    let grant = pool.open_failed(opened).expect("it starves");
    assert_eq!((grant.waiter.payload, grant.waiter.ticket), (3, away));
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert!(release(&pool, busy).is_none());
    assert_full_capacity(&pool, 2);
}

/// Neither do they behind a stripe that always has waiters of its own, when theirs has lost its sessions to a shrink.
#[test]
fn waiters_do_not_starve_in_a_stripe_without_sessions() {
    let pool = pool(2, 2);
    let (grants, closing) = pool.resize(1);
    assert!(grants.is_empty() && closing.is_empty());
    let mut held = start(&pool, 0);
    let mut starving: std::collections::HashSet<u32> = (1..=20).filter(|op| queue(&pool, *op).stripe() == Some(1)).collect();
    assert_eq!(starving.len(), 10);
    for op in 100..200 {
        queue(&pool, op);
        queue(&pool, op + 1_000);
        let grant = release(&pool, held).expect("many wait");
        starving.remove(&grant.waiter.payload);
        held = run(&pool, grant);
    }
    assert!(starving.is_empty(), "{starving:?} still wait");
    let _ = (held, pool.drain());
}

#[test]
fn every_stripe_is_used() {
    for stripes in 1..=4 {
        let pool = pool(stripes, stripes);
        let held: Vec<_> = (0..stripes as u32).map(|op| start(&pool, op)).collect();
        let mut used: Vec<_> = (0..stripes as u32 * 5).map(|op| queue(&pool, op).stripe().unwrap()).collect();
        used.sort();
        let expected: Vec<_> = (0..stripes).flat_map(|stripe| [stripe; 5]).collect();
        assert_eq!(used, expected, "round robin uses each alike");
        let _ = (held, pool.drain());
    }
}

#[test]
fn a_size_that_does_not_divide_is_exact() {
    for stripes in 1..=4 {
        for size in stripes..=9 {
            let pool = pool(size, stripes);
            assert_eq!(pool.stats().size, size);
            assert_full_capacity(&pool, size);
            for resized in [size + 5, size + 2, stripes] {
                let (grants, closing) = pool.resize(resized);
                assert!(grants.is_empty());
                for (closing, _) in closing {
                    assert!(pool.closed(closing).is_none());
                }
                assert_full_capacity(&pool, resized);
            }
        }
    }
}

#[test]
fn an_index_that_overflows_names_a_stripe() {
    for stripes in 1..=4 {
        for before in 0..4 {
            let pool = Pool::with_first_index(&config(stripes, stripes), usize::MAX - before).unwrap();
            let held: Vec<_> = (0..stripes as u32).map(|op| start(&pool, op)).collect();
            assert_eq!(pool.stats().opening + pool.stats().running, stripes);
            let used: std::collections::HashSet<_> = (0..20).map(|op| queue(&pool, op).stripe().unwrap()).collect();
            assert_eq!(used.len(), stripes, "{used:?} of {stripes}");
            assert!(used.into_iter().all(|stripe| stripe < stripes));
            let _ = (held, pool.drain());
        }
    }
    // The wrap itself, past the first submissions: no stripe is left out after it.
    let pool: TestPool = Pool::with_first_index(&config(3, 3), usize::MAX - 10).unwrap();
    let held: Vec<_> = (0..3).map(|op| start(&pool, op)).collect();
    let used: Vec<_> = (0..40).map(|op| queue(&pool, op).stripe().unwrap()).collect();
    for window in used[10..].windows(3) {
        assert_eq!(window.iter().sum::<usize>(), 3, "{window:?} is not each once");
    }
    let _ = (held, pool.drain());
}

#[test]
fn a_thousand_waiters_on_one_stripe_are_served_in_the_order_of_their_arrival() {
    let pool = pool(1, 1);
    let mut held = start(&pool, 0);
    let mut tickets: Vec<Ticket> = (1..=1_000).map(|op| queue(&pool, op)).collect();
    let mut served = Vec::new();
    while let Some(grant) = release(&pool, held) {
        served.push(grant.waiter.payload);
        held = run(&pool, grant);
        // Whoever gives up on the way changes nobody's place.
        if served.len() == 500 {
            for op in [600, 601, 1_000] {
                assert_eq!(pool.cancel(tickets[op as usize - 1]), Some(op));
            }
            tickets.clear();
        }
        if served.len() == 2_000 {
            panic!("it does not end");
        }
        if pool.waiting() == 0 {
            assert!(release(&pool, held).is_none());
            break;
        }
    }
    let expected: Vec<u32> = (1..1_000).filter(|op| ![600, 601].contains(op)).collect();
    assert_eq!(served, expected);
    assert_full_capacity(&pool, 1);
}

#[test]
fn a_refusal_looks_at_few_of_many_waiters_and_the_next_ones_at_the_others() {
    let pool: TestPool = Pool::new(&Config { max_waiting: 1_000, ..config(1, 1) }).unwrap();
    let held = start(&pool, 0);
    let tickets: Vec<_> = (1..=1_000).map(|op| queue(&pool, op)).collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut refusals = 0;
    while seen.len() < 1_000 {
        let asked = std::cell::RefCell::new(Vec::new());
        let note = |op: &u32| {
            asked.borrow_mut().push(*op);
            false
        };
        assert!(matches!(pool.submit(2_000, note, &mut Vec::new()), Submitted::Refused(2_000, Refusal::Overloaded)));
        let asked = asked.into_inner();
        assert!(asked.len() <= 100, "{} at once", asked.len());
        seen.extend(asked);
        refusals += 1;
        assert!(refusals <= 100, "some are never looked at");
    }
    // One that is dead, wherever it waits, makes room after as many at most.
    for dead in [1, 500, 1_000] {
        let mut swept = Vec::new();
        let taken =
            (0..refusals).any(|_| matches!(pool.submit(2_000 + dead, |op| *op == dead, &mut swept), Submitted::Queued(_)));
        assert!(taken, "{dead} keeps its place");
        assert_eq!(swept, [dead]);
        assert_eq!(pool.cancel(tickets[dead as usize - 1]), None, "it has been swept");
    }
    assert_eq!(pool.stats().waiting, 1_000);
    drop(held);
}

#[test]
fn dead_waiters_are_swept_before_a_call_is_refused_as_overloaded() {
    let pool: TestPool = Pool::new(&Config { max_waiting: 4, ..config(1, 1) }).unwrap();
    let held = start(&pool, 0);
    let tickets: Vec<_> = (1..=4).map(|op| queue(&pool, op)).collect();
    // None is dead: refused, with nothing swept.
    assert!(matches!(submit(&pool, 5), Submitted::Refused(5, Refusal::Overloaded)));
    // What the list holds already is none of the pool's business.
    let mut swept = vec![77, 78];
    let is_dead = |op: &u32| [2, 3].contains(op);
    assert!(matches!(pool.submit(6, is_dead, &mut swept), Submitted::Queued(_)));
    assert_eq!(swept, [77, 78, 2, 3]);
    assert_eq!(pool.stats().waiting, 3);
    assert_eq!(pool.waiting(), 3);
    assert_eq!(pool.cancel(tickets[1]), None, "it has been swept");
    queue(&pool, 7);
    assert!(matches!(submit(&pool, 8), Submitted::Refused(8, Refusal::Overloaded)));
    // The dead are not swept while there is room.
    assert_eq!(pool.cancel(tickets[0]), Some(1));
    let mut swept = Vec::new();
    assert!(matches!(pool.submit(9, |_| true, &mut swept), Submitted::Queued(_)));
    assert!(swept.is_empty());
    let mut held = held;
    let mut served = Vec::new();
    while let Some(grant) = release(&pool, held) {
        served.push(grant.waiter.payload);
        held = run(&pool, grant);
        if pool.waiting() == 0 {
            assert!(release(&pool, held).is_none());
            break;
        }
    }
    assert_eq!(served, [4, 6, 7, 9]);
    assert_full_capacity(&pool, 1);
}

/// What a shrink leaves over in one stripe is no room in another: the token may not have it.
#[test]
fn a_shrink_does_not_make_room_in_another_stripe() {
    let pool = pool(4, 2);
    let mut held: Vec<_> = (0..4).map(|op| start(&pool, op)).collect();
    let (grants, closing) = pool.resize(2);
    assert!(grants.is_empty() && closing.is_empty());
    queue(&pool, 10);
    // Of the second stripe both sessions go, one of them by its own fault: there is room below its quota, but not in the pool.
    let total = |pool: &TestPool| {
        let stats = pool.stats();
        stats.idle + stats.running + stats.opening + stats.closing
    };
    let (closing, _) = pool.discard(held.remove(1));
    assert!(pool.closed(closing).is_none(), "three are open, two may be");
    let (closing, _) = pool.discard(held.pop().unwrap());
    let grant = pool.closed(closing);
    assert!(grant.is_none(), "two are open, two may be");
    assert_eq!(total(&pool), 2);
    assert!(matches!(submit(&pool, 11), Submitted::Queued(_)), "the fast path knows it too");
    assert!(matches!(submit(&pool, 12), Submitted::Queued(_)));
    // Nothing is surplus any more: what comes free serves the next, and stays.
    let grant = release(&pool, held.pop().unwrap()).expect("it starves");
    assert_eq!((grant.waiter.payload, total(&pool)), (10, 2));
    assert!(pool.drain().waiting.len() == 2);
}

/// What a shrink leaves over in one stripe counts in the others, too: there nothing stays idle beyond the pool's size.
#[test]
fn a_shrink_leaves_no_idle_session_beside_those_that_are_too_many() {
    let pool = pool(6, 2);
    let mut held: Vec<_> = (0..6).map(|op| start(&pool, op)).collect();
    for op in [5, 3] {
        assert!(release(&pool, held.remove(op)).is_none());
    }
    // Three are in use in the first stripe, one in the second, where two are idle.
    let (grants, closing) = pool.resize(4);
    assert!(grants.is_empty());
    assert_eq!(closing.len(), 2);
    assert_eq!(pool.stats(), Stats { size: 4, ceiling: 4, running: 4, closing: 2, ..Stats::default() });
    for (closing, _) in closing {
        assert!(pool.closed(closing).is_none());
    }
    for held in held {
        assert!(release(&pool, held).is_none());
    }
    assert_full_capacity(&pool, 4);
}

#[test]
fn a_shrink_keeps_a_stripe_that_has_the_last_open_session() {
    let pool = pool(2, 2);
    let opened = opening(submit(&pool, 0));
    let held = start(&pool, 1);
    assert!(pool.open_failed(opened).is_none());
    assert!(release(&pool, held).is_none());
    let (grants, closing) = pool.resize(1);
    assert!(grants.is_empty() && closing.is_empty(), "the last open session was closed");
    assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, idle: 1, ..Stats::default() });
    assert_full_capacity(&pool, 1);
}

/// A session may be one too many for its stripe and not for the pool: it stays, or else the last one would be closed and replaced for ever.
#[test]
fn a_session_in_a_stripe_without_quota_moves_where_there_is_room() {
    let pool = pool(2, 2);
    let first = start(&pool, 0);
    let second = start(&pool, 1);
    let (_, closing) = pool.resize(1);
    assert!(closing.is_empty());
    let (closing, _) = pool.discard(first);
    assert!(pool.closed(closing).is_none());
    assert!(release(&pool, second).is_none());
    assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, idle: 1, ..Stats::default() });
    assert_full_capacity(&pool, 1);
}

#[test]
fn a_replaced_session_keeps_its_place() {
    let pool = pool(1, 1);
    let (closing, _) = pool.discard(start(&pool, 0));
    queue(&pool, 1);
    let heir = pool.replaced(closing, 7, 0);
    assert_eq!(pool.stats(), Stats { size: 1, ceiling: 1, running: 1, waiting: 1, ..Stats::default() });
    let grant = release(&pool, heir).expect("the waiter is stranded");
    assert_eq!(grant.waiter.payload, 1);
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert_full_capacity(&pool, 1);
}

#[test]
fn a_surplus_session_reaches_its_ttl_and_the_last_ones_stay() {
    let pool: TestPool = Pool::new(&Config { idle_ttl: Some(100), ..config(3, 1) }).unwrap();
    let held: Vec<_> = (0..3).map(|op| start(&pool, op)).collect();
    for held in held {
        assert!(matches!(pool.release(held, 0), Freed::Idle));
    }
    pool.set_floor(1);
    // One caller at a time uses one session only: the most recently used.
    for now in (10..=100).step_by(10) {
        let held = start(&pool, 9);
        assert_eq!(held.session, 2);
        assert!(matches!(pool.release(held, now), Freed::Idle));
    }
    assert!(pool.tick(99).1.is_empty());
    let (_, closing) = pool.tick(100);
    assert_eq!(closing.iter().map(|(_, session)| *session).collect::<Vec<_>>(), [0, 1]);
    assert!(pool.tick(100_000).1.is_empty(), "the last one stays");
    pool.set_floor(0);
    assert_eq!(pool.tick(100_000).1.len(), 1);
    drop(closing);
}

/// What waits for a token that has gone away is answered at once, and the pool is as good as before.
#[test]
fn what_waits_can_be_taken_out_and_the_pool_goes_on() {
    let pool = pool(1, 1);
    let held = start(&pool, 1);
    let first = queue(&pool, 2);
    queue(&pool, 3);
    assert!(matches!(pool.submit_control(4), Submitted::Queued(_)));
    pool.close_gate();
    let mut waiting = pool.take_waiting();
    waiting.sort_unstable();
    assert_eq!(waiting, [2, 3, 4]);
    assert_eq!(pool.stats().waiting, 0);
    assert_eq!(pool.cancel(first), None, "it is out");
    assert!(pool.open_gate().is_empty());
    let ticket = queue(&pool, 5);
    let granted = release(&pool, held).unwrap();
    assert_eq!((granted.waiter.payload, granted.waiter.ticket), (5, ticket));
    assert!(release(&pool, run(&pool, granted)).is_none());
    assert_eq!((pool.stats().idle, pool.stats().waiting), (1, 0));
}

/// What hangs is replaced once for each session of the pool, and no more; what returns is closed, and never used again.
#[test]
fn a_pool_of_hung_sessions_serves_on_and_costs_twice_its_size_at_most() {
    let pool = pool(3, 2);
    let mut hung = Vec::new();
    for round in 0..2 {
        for op in 0..3 {
            let (lent, mut stake) = start(&pool, 10 * round + op).lend();
            let quarantined = pool.quarantine(&mut stake);
            assert_eq!(matches!(quarantined, Quarantined::Freed(None)), round == 0, "{quarantined:?}");
            assert!(matches!(pool.quarantine(&mut stake), Quarantined::Kept), "once");
            hung.push(lent.rejoin(stake));
        }
    }
    assert_eq!(pool.stats(), Stats { size: 3, ceiling: 3, running: 3, hung: 3, ..Stats::default() });
    queue(&pool, 90);
    // Those that hold no capacity give none back.
    let rest = hung.split_off(3);
    for held in hung {
        assert!(held.is_hung());
        let (closing, _) = pool.discard(held);
        assert!(pool.closed(closing).is_none());
    }
    assert_eq!(pool.stats(), Stats { size: 3, ceiling: 3, running: 3, waiting: 1, ..Stats::default() });
    for (index, held) in rest.into_iter().enumerate() {
        let grant = release(&pool, held);
        assert_eq!(grant.is_some(), index == 0);
        assert!(grant.is_none_or(|grant| release(&pool, run(&pool, grant)).is_none()));
    }
    assert_full_capacity(&pool, 3);
}

#[test]
fn a_waiter_gets_the_place_of_a_session_that_hangs_while_it_is_opened_used_or_closed() {
    let pool = pool(1, 1);
    let mut opened = opening(submit(&pool, 0)).lend();
    queue(&pool, 1);
    let Quarantined::Freed(Some(grant)) = pool.quarantine(&mut opened) else { panic!("it starves") };
    assert_eq!(grant.waiter.payload, 1);
    let held = pool.opened(Opening::rejoin(opened), 0, 0);
    let Freed::Close(closing, 0) = pool.release(held, 0) else { panic!("kept a hung session") };
    assert!(pool.closed(closing).is_none());

    let (lent, mut stake) = run(&pool, grant).lend();
    queue(&pool, 2);
    let Quarantined::Freed(Some(grant)) = pool.quarantine(&mut stake) else { panic!("it starves") };
    assert_eq!(grant.waiter.payload, 2);
    let (closing, _) = pool.discard(lent.rejoin(stake));
    assert!(pool.closed(closing).is_none());

    let (closing, _) = pool.discard(run(&pool, grant));
    queue(&pool, 3);
    let mut closes = closing.lend();
    let Quarantined::Freed(Some(grant)) = pool.quarantine(&mut closes) else { panic!("it starves") };
    assert_eq!(grant.waiter.payload, 3);
    // What was opened in the stead of a session that hung while it closed is one too many.
    let heir = pool.replaced(Closing::rejoin(closes), 7, 0);
    let Freed::Close(closing, 7) = pool.release(heir, 0) else { panic!("kept one too many") };
    assert!(pool.closed(closing).is_none());
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert_full_capacity(&pool, 1);
}

#[test]
fn the_capacity_of_a_holder_that_panicked_is_not_lost() {
    let pool = pool(1, 1);
    let (lent, stake) = start(&pool, 0).lend();
    queue(&pool, 1);
    drop(lent);
    let grant = pool.forfeit(stake).expect("it starves");
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert_full_capacity(&pool, 1);
}

/// The token gives two sessions, the pool may have eight: nobody gets an error, and later it is tried whether there are more.
#[test]
fn a_token_that_gives_fewer_sessions_serves_all_with_these() {
    let pool = pool(8, 2);
    let mut held: Vec<_> = (0..2).map(|op| start(&pool, op)).collect();
    let refused: Vec<_> = (2..8)
        .map(|op| match submit(&pool, op) {
            Submitted::Granted(Grant { source: Source::Capacity(opening), waiter }) => (opening, waiter),
            other => panic!("{other:?}"),
        })
        .collect();
    for (opening, waiter) in refused {
        assert!(pool.refused(opening, waiter, 0).expect("others are open").is_empty());
    }
    assert_eq!(pool.stats(), Stats { size: 8, ceiling: 2, running: 2, waiting: 6, ..Stats::default() });
    queue(&pool, 8);
    for op in 2..5 {
        let grant = release(&pool, held.remove(0)).expect("they wait");
        assert_eq!(grant.waiter.payload, op, "they have kept their places");
        held.push(run(&pool, grant));
    }

    let tried = |now| {
        let (mut grants, _) = pool.tick(now);
        assert!(grants.len() <= 1, "one at a time");
        grants.pop().map(|grant| match grant.source {
            Source::Capacity(opening) => (opening, grant.waiter),
            Source::Session(held) => panic!("{held:?}"),
        })
    };
    assert!(tried(999).is_none());
    let (opening, waiter) = tried(1_000).expect("it is time");
    assert!(pool.refused(opening, waiter, 1_000).expect("others are open").is_empty());
    assert_eq!(pool.stats().ceiling, 2);
    assert!(tried(2_999).is_none(), "the pause has doubled");
    let (opening, _) = tried(3_000).expect("it is time");

    // Now it gives more: as fast as they open, until all are there.
    held.push(pool.opened(opening, 100, 3_000));
    for ceiling in 4..=6 {
        let [grant] = <[TestGrant; 1]>::try_from(pool.widen(3_000)).expect("others wait");
        assert_eq!(pool.stats().ceiling, ceiling);
        held.push(run(&pool, grant));
    }
    assert!(pool.widen(3_000).is_empty(), "nothing waits any more");
    assert_eq!(pool.stats().ceiling, 6);
    let (grants, closing) = pool.resize(8);
    assert!(grants.is_empty() && closing.is_empty());
    for held in held {
        assert!(release(&pool, held).is_none());
    }
    assert_full_capacity(&pool, 8);
}

#[test]
fn a_token_that_gives_no_session_at_all_leaves_nobody_waiting() {
    let pool = pool(2, 1);
    let [first, second] = [0, 1].map(|op| match submit(&pool, op) {
        Submitted::Granted(Grant { source: Source::Capacity(opening), waiter }) => (opening, waiter),
        other => panic!("{other:?}"),
    });
    assert!(pool.refused(first.0, first.1, 0).expect("another is being opened").is_empty());
    let (opening, waiter) = pool.refused(second.0, second.1, 0).expect_err("there is nothing to wait for");
    assert_eq!(waiter.payload, 1);
    let grant = pool.open_failed(opening).expect("the first one is stranded");
    assert_eq!(grant.waiter.payload, 0);
    let (opening, _) = match grant.source {
        Source::Capacity(opening) => pool.refused(opening, grant.waiter, 0).expect_err("there is nothing to wait for"),
        Source::Session(held) => panic!("{held:?}"),
    };
    assert!(pool.open_failed(opening).is_none());
    let _ = pool.resize(2);
    assert_full_capacity(&pool, 2);
}

/// Takes what is to be kept alive.
fn keep(pool: &TestPool, called_before: u64, now: u64) -> Option<Held<u32>> {
    let grant = pool.take_to_keep(called_before, now, || 0)?;
    match grant.source {
        Source::Session(held) => Some(held),
        Source::Capacity(_) => panic!("a session was to be opened, to be kept alive"),
    }
}

#[test]
fn a_session_that_is_kept_alive_reaches_its_ttl_as_if_it_were_not() {
    let pool: TestPool = Pool::new(&Config { idle_ttl: Some(100), ..config(2, 1) }).unwrap();
    let (first, second) = (start(&pool, 1), start(&pool, 2));
    for held in [first, second] {
        assert!(release(&pool, held).is_none());
    }
    for now in [30, 60, 90] {
        while let Some(held) = keep(&pool, now - 30, now) {
            assert!(matches!(pool.release(held, now), Freed::Idle));
            pool.end_keeping();
        }
        assert!(pool.tick(now).1.is_empty());
    }
    assert!(keep(&pool, 100, 100).is_none(), "it is about to be closed");
    let (_, closing) = pool.tick(100);
    assert_eq!(closing.len(), 2, "they were last used at 0");
}

#[test]
fn the_last_session_of_a_token_that_is_logged_in_is_kept_alive_beyond_its_ttl() {
    let pool: TestPool = Pool::new(&Config { idle_ttl: Some(100), ..config(2, 1) }).unwrap();
    pool.set_floor(1);
    assert!(release(&pool, start(&pool, 1)).is_none());
    let held = keep(&pool, 970, 1_000).expect("the TTL leaves it alone");
    assert!(matches!(pool.release(held, 1_000), Freed::Idle));
}

#[test]
fn one_session_at_a_time_is_kept_alive_and_none_while_something_waits() {
    let pool = pool(2, 2);
    let (first, second) = (start(&pool, 1), start(&pool, 2));
    assert!(release(&pool, second).is_none());
    assert!(release(&pool, first).is_none());
    let kept = keep(&pool, 0, 50).expect("both are due");
    assert!(keep(&pool, 0, 50).is_none(), "one is being kept alive");
    // What comes finds the other session, and the next one waits for that which is being kept alive, and no longer.
    let other = start(&pool, 3);
    let _waits = queue(&pool, 4);
    pool.end_keeping();
    assert!(keep(&pool, 50, 50).is_none(), "something waits");
    let grant = release(&pool, kept).expect("it is what that waits for");
    assert_eq!(grant.waiter.payload, 4);
    assert!(keep(&pool, 50, 50).is_none(), "nothing is idle");
    assert!(release(&pool, run(&pool, grant)).is_none());
    assert!(release(&pool, other).is_none());
    assert_full_capacity(&pool, 2);
}

#[test]
fn a_session_that_was_kept_alive_is_not_the_most_recently_used_one() {
    let pool = pool(2, 1);
    let (first, second) = (start(&pool, 1), start(&pool, 2));
    assert!(matches!(pool.release(first, 10), Freed::Idle));
    assert!(matches!(pool.release(second, 20), Freed::Idle));
    let kept = keep(&pool, 30, 40).unwrap();
    assert_eq!(kept.session, 1, "it was not called for longer");
    assert!(matches!(pool.release(kept, 40), Freed::Idle));
    assert_eq!(start(&pool, 3).session, 2, "it was used last");
}
