//! Random sequences of events against a naive model: a few vectors, each step obvious. After each step the pool's own count is the
//! model's, and the invariants hold. `PKCS11_POOL_LONG=1` runs 100,000 sequences.
#![cfg(not(loom))]

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use proptest::prelude::*;
use session_pool::*;

/// An operation: its number, and whether its caller is dead.
type Op = Rc<(usize, Cell<bool>)>;
type Session = u32;
type OneGrant = Grant<Session, Op>;

/// One thing that happens. The numbers choose among what there is to choose from.
#[derive(Debug, Clone)]
enum Event {
    Submit,
    /// A caller runs its own operation.
    TakeIdle,
    SubmitControl,
    SubmitExclusive,
    /// The turn of an exclusive operation ends, or one that has none says so.
    EndExclusive(usize),
    /// Whoever runs an operation has its session for itself from now on.
    Lease(usize),
    Cancel(usize),
    CallerDies(usize),
    Opened(usize),
    OpenFailed(usize),
    /// The token has no room for what was to be opened: the operation goes back.
    Refused(usize),
    /// The call that a session is used in hangs: opening, running, or closing.
    Quarantine(usize),
    QuarantineClosing(usize),
    /// The runner answers and gives its session back.
    Release(usize),
    /// The runner answers and gives its session up.
    Discard(usize),
    /// The runner puts its operation back into the queue, and keeps what it was granted.
    Requeue(usize),
    Closed(usize),
    /// A session is closed, and another was opened in its stead.
    Replaced(usize),
    Tick(u64),
    /// A session on which nothing was called for a while is kept alive. Some time has passed without a tick.
    Keep(u64),
    /// It has been.
    EndKeeping,
    Resize(usize),
    SetFloor(usize),
    CloseGate,
    OpenGate,
    Flush,
    TakeWaiting,
    SweepControl,
    Drain,
    Join,
    Enter(usize),
    Park(usize),
    Linger(usize),
    StepOut(usize),
    Down(usize),
    Leave(usize),
    Retire(usize),
}

/// Makes an event out of a number to choose with.
type Make = fn(usize) -> Event;

/// Each kind of event with its weight. What shrinks, shrinks towards the first.
const KINDS: [(u16, Make); 38] = [
    (14, |_| Event::Submit),
    (14, Event::Enter),
    (8, Event::Opened),
    (8, Event::Release),
    (5, Event::Closed),
    (2, Event::Replaced),
    (2, Event::Retire),
    (4, Event::Park),
    (3, Event::Linger),
    (3, Event::Cancel),
    (2, |_| Event::TakeIdle),
    (2, |_| Event::SubmitControl),
    (2, |_| Event::SubmitExclusive),
    (3, Event::EndExclusive),
    (2, Event::Lease),
    (2, Event::OpenFailed),
    (2, Event::Refused),
    (2, Event::Quarantine),
    (1, Event::QuarantineClosing),
    (2, Event::Discard),
    (2, Event::Requeue),
    (2, |choice| Event::Tick(choice as u64)),
    // Long enough to try the ceiling.
    (1, |choice| Event::Tick(choice as u64 * 100)),
    (8, |choice| Event::Keep(choice as u64)),
    (6, |_| Event::EndKeeping),
    (2, |choice| Event::Resize(1 + choice % 8)),
    (2, |_| Event::Join),
    (2, Event::StepOut),
    (2, Event::Down),
    (2, Event::Leave),
    (1, Event::CallerDies),
    (1, |choice| Event::SetFloor(choice % 3)),
    (1, |_| Event::CloseGate),
    (3, |_| Event::OpenGate),
    (1, |_| Event::Flush),
    (1, |_| Event::TakeWaiting),
    (2, |_| Event::SweepControl),
    // Rare, since nothing comes after it.
    (1, |choice| if choice < 6 { Event::Drain } else { Event::Submit }),
];

/// An event from two numbers: much faster than a strategy with as many arms, without optimization above all.
fn event((kind, choice): (u16, usize)) -> Event {
    let mut left = kind % KINDS.iter().map(|(weight, _)| weight).sum::<u16>();
    for (weight, make) in KINDS {
        if left < weight {
            return make(choice);
        }
        left -= weight;
    }
    unreachable!("{kind} is beyond the sum of the weights")
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec((0u16..1_000, 0usize..48), 1..100).prop_map(|numbers| numbers.into_iter().map(event).collect())
}

fn config() -> impl Strategy<Value = Config> {
    let sizes = (1usize..=8).prop_flat_map(|size| (Just(size), 1..=size.min(4)));
    let ttl = prop::option::of(1u64..60);
    let lifetime = prop::option::of(20u64..150);
    (sizes, ttl, lifetime, 0usize..7).prop_map(|((max_sessions, stripes), idle_ttl, max_lifetime, max_waiting)| Config {
        label: "model".into(),
        max_sessions,
        stripes,
        idle_ttl,
        max_lifetime,
        max_waiting,
    })
}

/// Where an operation is. The last four are ends: nothing leaves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    New,
    Waiting,
    Granted,
    Answered,
    Cancelled,
    Refused,
    Drained,
}

#[derive(Debug)]
struct ModelOp {
    op: Op,
    place: Place,
    ticket: Option<Ticket>,
    is_exclusive: bool,
}

#[derive(Debug, Clone, Copy)]
struct ModelIdle {
    session: Session,
    /// When it was last used.
    since: u64,
    /// When it was last used or kept alive.
    called: u64,
}

#[derive(Debug, Default)]
struct ModelCeiling {
    limit: Option<usize>,
    tried: bool,
    backoff: u64,
    raise_at: u64,
}

/// The naive model. An operation's number is its place in the order of arrival.
#[derive(Debug)]
struct Model {
    config: Config,
    size: usize,
    has_shrunk: bool,
    floor: usize,
    gated: bool,
    draining: bool,
    now: u64,
    ops: Vec<ModelOp>,
    /// In the order in which they were last used.
    idle: Vec<ModelIdle>,
    /// Of the sessions that were taken to be kept alive: since when each is idle all the same.
    kept: HashMap<Session, u64>,
    keeping: bool,
    running: Vec<Session>,
    /// Callers have these for themselves.
    leased: Vec<Session>,
    /// The exclusive operation that has its turn.
    turn: Option<usize>,
    opening: usize,
    closing: Vec<Session>,
    /// Of calls that hang, in whoever's hands.
    hung: Vec<Session>,
    hung_openings: usize,
    ceiling: ModelCeiling,
    closed: usize,
    /// When each session was opened.
    opened_at: Vec<u64>,
}

impl Model {
    fn total(&self) -> usize {
        self.open() + self.opening + self.closing.len()
    }

    /// Sessions that are open.
    fn open(&self) -> usize {
        self.idle.len() + self.running.len() + self.leased.len()
    }

    fn ceiling(&self) -> usize {
        self.ceiling.limit.unwrap_or(self.size).min(self.size)
    }

    fn something_is_free(&self) -> bool {
        !self.idle.is_empty() || self.total() < self.ceiling()
    }

    fn hung(&self) -> usize {
        self.hung.len() + self.hung_openings
    }

    fn something_may_go(&self) -> bool {
        let normal = !self.gated && !self.is_reserved() && !self.waiting(false).is_empty();
        !self.draining && (!self.waiting(true).is_empty() || self.exclusive_is_due() || normal)
    }

    /// Whether an exclusive operation waits or has its turn.
    fn is_reserved(&self) -> bool {
        self.turn.is_some() || !self.waiting_exclusive().is_empty()
    }

    /// Whether all that ran has ended, so that an exclusive operation may have its turn.
    fn is_quiet(&self) -> bool {
        self.running.is_empty() && self.opening == 0 && self.closing.is_empty()
    }

    fn exclusive_is_due(&self) -> bool {
        self.turn.is_none() && self.is_quiet() && !self.waiting_exclusive().is_empty()
    }

    fn waiting_exclusive(&self) -> Vec<usize> {
        (0..self.ops.len()).filter(|op| self.ops[*op].place == Place::Waiting && self.ops[*op].is_exclusive).collect()
    }

    /// One more session is tried, if something waits for it. What is granted is the caller's to check.
    fn raises(&mut self) {
        if !self.something_may_go() || self.total() < self.ceiling() {
            return;
        }
        let limit = self.ceiling.limit.expect("raised without a ceiling") + 1;
        if limit >= self.size {
            self.ceiling = ModelCeiling::default();
        } else {
            let backoff = self.ceiling.backoff;
            self.ceiling = ModelCeiling { limit: Some(limit), tried: true, backoff, raise_at: self.now + backoff };
        }
    }

    fn is_control(&self, op: usize) -> bool {
        self.ops[op].ticket.unwrap().stripe().is_none() && !self.ops[op].is_exclusive
    }

    /// The numbers of those that wait, longest first.
    fn waiting(&self, control: bool) -> Vec<usize> {
        let waits = |op: &usize| self.ops[*op].place == Place::Waiting && !self.ops[*op].is_exclusive;
        (0..self.ops.len()).filter(|op| waits(op) && self.is_control(*op) == control).collect()
    }

    fn waiting_count(&self) -> usize {
        self.waiting(true).len() + self.waiting_exclusive().len() + self.waiting(false).len()
    }

    fn new_op(&mut self) -> Op {
        let op = Rc::new((self.ops.len(), Cell::new(false)));
        self.ops.push(ModelOp { op: op.clone(), place: Place::New, ticket: None, is_exclusive: false });
        op
    }

    /// Each step that an operation may make; so none comes out twice.
    fn go(&mut self, op: usize, to: Place) {
        use Place::*;
        let from = self.ops[op].place;
        let may = match to {
            Waiting => matches!(from, New | Granted),
            Granted => matches!(from, New | Waiting),
            Answered => from == Granted,
            Cancelled => from == Waiting,
            Refused => from == New,
            Drained => matches!(from, Waiting | Granted),
            New => false,
        };
        assert!(may, "operation {op}: {from:?} to {to:?}");
        self.ops[op].place = to;
        if to == Waiting && self.turn == Some(op) {
            self.turn = None;
        }
    }

    /// A grant comes out of the pool. `released`: a session has just come free, so that its own stripe's waiters may come first.
    fn granted(&mut self, grant: &OneGrant, released: bool) {
        let op = grant.waiter.payload.0;
        assert!(!self.draining, "a draining pool grants nothing");
        self.ops[op].ticket.get_or_insert(grant.waiter.ticket);
        assert_eq!(self.ops[op].ticket, Some(grant.waiter.ticket), "an operation keeps its place");
        let (control, normal) = (self.waiting(true), self.waiting(false));
        if self.ops[op].is_exclusive {
            assert!(control.is_empty() && self.is_quiet(), "{op} did not wait for what ran");
            assert_eq!(self.turn.replace(op), None, "another one has its turn");
            let first = self.waiting_exclusive().first().copied();
            assert!(first.is_none_or(|first| first == op || self.ops[op].place == Place::New && first > op), "{op} overtook");
        } else if self.ops[op].place == Place::New {
            assert!(control.is_empty() && (normal.is_empty() || self.is_control(op)), "{op} overtook");
        } else if self.is_control(op) {
            assert_eq!(control.first(), Some(&op), "a control operation overtook");
        } else {
            assert!(control.is_empty(), "{op} overtook a control operation");
            let stripe = |op: &usize| self.ops[*op].ticket.unwrap().stripe();
            let rival = normal.iter().find(|other| !released || stripe(other) == stripe(&op));
            assert_eq!(rival, Some(&op), "not first come, first served");
        }
        let passes = self.is_control(op) || self.ops[op].is_exclusive;
        assert!(passes || !self.gated, "{op} passed a closed gate");
        assert!(passes || !self.is_reserved(), "{op} did not wait for the exclusive one");
        self.go(op, Place::Granted);
        match &grant.source {
            Source::Session(held) => {
                let at = self.idle.iter().position(|idle| idle.session == held.session).expect("a session that is not idle");
                if self.config.stripes == 1 {
                    assert_eq!(at, self.idle.len() - 1, "the most recently used session goes first");
                }
                self.idle.remove(at);
                self.running.push(held.session);
            }
            Source::Capacity(_) => {
                assert!(self.total() < self.ceiling(), "no capacity is left");
                assert!(self.idle.is_empty() || self.config.stripes > 1, "opened beside an idle session");
                self.opening += 1;
            }
        }
    }

    fn stops_opening(&mut self, hung: bool) {
        *(if hung { &mut self.hung_openings } else { &mut self.opening }) -= 1;
    }

    fn stops_running(&mut self, session: Session) {
        let before = self.running.len() + self.leased.len();
        self.running.retain(|other| *other != session);
        self.leased.retain(|other| *other != session);
        assert_eq!(self.running.len() + self.leased.len() + 1, before, "a session that does not run");
    }

    fn is_closed(&mut self, session: Session) {
        let before = self.closing.len() + self.hung.len();
        self.closing.retain(|other| *other != session);
        self.hung.retain(|other| *other != session);
        assert_eq!(self.closing.len() + self.hung.len() + 1, before);
        self.closed += 1;
    }

    fn closes_idle(&mut self, closing: &[(Closing, Session)]) -> Vec<ModelIdle> {
        let mut gone = Vec::new();
        for (_, session) in closing {
            let at = self.idle.iter().position(|idle| idle.session == *session).expect("closes a session that is not idle");
            gone.push(self.idle.remove(at));
            self.closing.push(*session);
        }
        gone
    }

    /// Whether a session's life is over: surely, and possibly (the pool takes up to a tenth off).
    fn is_expired(&self, session: Session) -> (bool, bool) {
        let Some(lifetime) = self.config.max_lifetime else { return (false, false) };
        let age = self.now - self.opened_at[session as usize];
        (age >= lifetime, age >= lifetime - lifetime / 10)
    }

    fn is_stale(&self, idle: &ModelIdle) -> (bool, bool) {
        let stale = self.config.idle_ttl.is_some_and(|ttl| idle.since + ttl <= self.now);
        let (surely, possibly) = self.is_expired(idle.session);
        (stale || surely, stale || possibly)
    }
}

/// What a runner that is inside has in hand.
#[derive(Debug, Default)]
struct Hand {
    source: Option<Source<Session>>,
    waiter: Option<Waiting<Op>>,
}

/// A runner as the model sees it. A woken one is named with its operation.
#[derive(Debug)]
enum Runner {
    Parked { spins: bool },
    Woken(usize),
    Inside(Hand),
    Gone(Hand),
}

struct World {
    pool: Pool<Session, Op>,
    roster: Roster<OneGrant, u32>,
    model: Model,
    /// In the order in which they parked, as far as they are parked.
    runners: Vec<(RunnerId, u32, Runner)>,
    backlog: Vec<usize>,
    closings: Vec<(Closing, Session)>,
    joined: u32,
}

impl World {
    fn new(config: Config) -> Self {
        let size = config.max_sessions;
        let model = Model {
            config: config.clone(),
            size,
            has_shrunk: false,
            floor: 0,
            gated: false,
            draining: false,
            now: 0,
            ops: Vec::new(),
            idle: Vec::new(),
            kept: HashMap::new(),
            keeping: false,
            running: Vec::new(),
            leased: Vec::new(),
            turn: None,
            opening: 0,
            closing: Vec::new(),
            hung: Vec::new(),
            hung_openings: 0,
            ceiling: ModelCeiling::default(),
            closed: 0,
            opened_at: Vec::new(),
        };
        let pool = Pool::new(&config).unwrap();
        let roster = Roster::new();
        let mut world = Self { pool, roster, model, runners: Vec::new(), backlog: Vec::new(), closings: Vec::new(), joined: 0 };
        for _ in 0..size {
            world.step(Event::Join);
        }
        world
    }

    /// A grant looks for a runner.
    fn dispatch(&mut self, grant: OneGrant) {
        let op = grant.waiter.payload.0;
        let last_parked = self.runners.iter().rposition(|(_, _, runner)| matches!(runner, Runner::Parked { .. }));
        let dispatched = self.roster.dispatch(grant);
        let unparks = matches!(dispatched, Dispatch::Unpark(..));
        match (dispatched, last_parked) {
            (Dispatch::Wake(id, address) | Dispatch::Unpark(id, address), Some(at)) => {
                assert_eq!(unparks, matches!(self.runners[at].2, Runner::Parked { spins: true }), "by the wrong way");
                assert_eq!((id, address), (self.runners[at].0, self.runners[at].1), "not the one that parked last");
                self.runners[at].2 = Runner::Woken(op);
            }
            (Dispatch::Later, None) => self.backlog.push(op),
            (other, _) => panic!("{other:?} while the parked one is {last_parked:?} of {:?}", self.runners),
        }
    }

    fn dispatch_all(&mut self, grants: Vec<OneGrant>) {
        for grant in &grants {
            self.model.granted(grant, false);
        }
        for grant in grants {
            self.dispatch(grant);
        }
    }

    /// A runner that is inside gets another grant: it keeps it if it lives.
    fn give_runner(&mut self, at: usize, grant: Option<OneGrant>) {
        let Some(grant) = grant else { return };
        match &mut self.runners[at].2 {
            Runner::Inside(hand) => *hand = Hand { source: Some(grant.source), waiter: Some(grant.waiter) },
            _ => self.dispatch(grant),
        }
    }

    /// The place of a runner that is inside, dead or alive, and whose hand `fits`.
    fn pick(&self, choice: usize, fits: impl Fn(&Hand) -> bool) -> Option<usize> {
        let fits = |runner: &Runner| matches!(runner, Runner::Inside(hand) | Runner::Gone(hand) if fits(hand));
        let places: Vec<usize> = (0..self.runners.len()).filter(|at| fits(&self.runners[*at].2)).collect();
        (!places.is_empty()).then(|| places[choice % places.len()])
    }

    fn hand(&mut self, at: usize) -> &mut Hand {
        match &mut self.runners[at].2 {
            Runner::Inside(hand) | Runner::Gone(hand) => hand,
            other => panic!("{other:?} is not inside"),
        }
    }

    fn answer(&mut self, waiter: Option<Waiting<Op>>) {
        if let Some(waiter) = waiter {
            self.model.go(waiter.payload.0, Place::Answered);
        }
    }

    /// What `enter` and `park` say must be what the model says; then the runner is inside, or parked as the last one.
    fn comes_in(&mut self, at: usize, entered: Entered<OneGrant>) {
        let (id, address, runner) = self.runners.remove(at);
        let runner = match (runner, entered) {
            (Runner::Woken(op), Entered::Run(grant)) => {
                assert_eq!(op, grant.waiter.payload.0);
                Runner::Inside(Hand { source: Some(grant.source), waiter: Some(grant.waiter) })
            }
            (Runner::Inside(_), Entered::Run(grant)) => {
                assert_eq!(self.backlog.remove(0), grant.waiter.payload.0, "the backlog is served in its order");
                Runner::Inside(Hand { source: Some(grant.source), waiter: Some(grant.waiter) })
            }
            (Runner::Inside(_), Entered::Parked) => {
                assert!(self.backlog.is_empty(), "parked beside a backlog");
                Runner::Parked { spins: false }
            }
            (Runner::Parked { .. }, Entered::Parked) => {
                self.runners.insert(at, (id, address, Runner::Parked { spins: false }));
                return;
            }
            (Runner::Gone(hand), Entered::Gone) => Runner::Gone(hand),
            (runner, entered) => panic!("{runner:?} comes in and finds {entered:?}"),
        };
        self.runners.push((id, address, runner));
    }

    fn open_failed(&mut self, at: usize, opening: Opening) {
        let is_hung = opening.is_hung();
        self.model.stops_opening(is_hung);
        let grant = self.pool.open_failed(opening);
        assert!(grant.is_none() || !is_hung, "a hung one gave capacity back");
        if let Some(grant) = &grant {
            self.model.granted(grant, false);
        }
        self.give_runner(at, grant);
    }

    fn release(&mut self, held: Held<Session>) -> Option<OneGrant> {
        let session = held.session;
        let model = &mut self.model;
        if held.is_hung() {
            assert!(model.hung.contains(&session));
            let Freed::Close(closing, closed) = self.pool.release(held, model.now) else { panic!("kept a hung session") };
            assert_eq!(closed, session);
            self.closings.push((closing, session));
            return None;
        }
        let (surely, possibly) = model.is_expired(session);
        let is_surplus = model.open() + model.opening > model.size;
        model.stops_running(session);
        let freed = self.pool.release(held, model.now);
        if let Freed::Close(closing, closed) = freed {
            assert_eq!(closed, session);
            assert!(model.draining || possibly || is_surplus, "closed a good session");
            model.closing.push(session);
            self.closings.push((closing, session));
            return None;
        }
        assert!(!model.draining && !surely && !is_surplus, "kept a session that is to be closed");
        let since = model.kept.remove(&session).unwrap_or(model.now);
        let place = model.idle.iter().rposition(|other| other.since <= since).map_or(0, |last| last + 1);
        model.idle.insert(place, ModelIdle { session, since, called: model.now });
        let Freed::Granted(grant) = freed else { return None };
        model.granted(&grant, true);
        Some(grant)
    }

    fn discard(&mut self, held: Held<Session>) {
        let session = held.session;
        if !held.is_hung() {
            self.model.stops_running(session);
            self.model.closing.push(session);
        }
        let (closing, discarded) = self.pool.discard(held);
        assert_eq!(discarded, session);
        self.closings.push((closing, session));
    }

    fn closed(&mut self, choice: usize) {
        if self.closings.is_empty() {
            return;
        }
        let (closing, session) = self.closings.remove(choice % self.closings.len());
        let is_hung = closing.is_hung();
        self.model.is_closed(session);
        let grant = self.pool.closed(closing);
        assert!(grant.is_none() || !is_hung, "a hung one gave capacity back");
        self.dispatch_all(grant.into_iter().collect());
    }

    /// The heir is the closer's to release.
    fn replaced(&mut self, choice: usize) {
        if self.closings.is_empty() {
            return;
        }
        let (closing, session) = self.closings.remove(choice % self.closings.len());
        let heir = self.model.opened_at.len() as Session;
        self.model.is_closed(session);
        self.model.opened_at.push(self.model.now);
        // It has no place of its own beside what was opened in the stead of a hung one.
        if closing.is_hung() { &mut self.model.hung } else { &mut self.model.running }.push(heir);
        let held = self.pool.replaced(closing, heir, self.model.now);
        assert_eq!(held.session, heir);
        if let Some(grant) = self.release(held) {
            self.dispatch(grant);
        }
    }

    fn submit(&mut self) {
        let op = self.model.new_op();
        let mut swept = Vec::new();
        let submitted = self.pool.submit(op.clone(), |op| op.1.get(), &mut swept);
        let model = &mut self.model;
        let dead = |op: &usize| model.ops[*op].op.1.get();
        let is_full = model.waiting_count() >= model.config.max_waiting;
        let granted =
            !model.draining && !model.gated && !model.is_reserved() && model.waiting_count() == 0 && model.something_is_free();
        let due: Vec<usize> = if is_full && !granted && !model.draining {
            model.waiting(false).into_iter().filter(dead).collect()
        } else {
            Vec::new()
        };
        let mut gone: Vec<usize> = swept.iter().map(|op| op.0).collect();
        gone.sort();
        assert_eq!(gone, due, "those whose caller is dead are swept, and only when the pool is full");
        for op in due {
            model.go(op, Place::Cancelled);
        }
        match submitted {
            Submitted::Granted(grant) => {
                assert!(granted && Rc::ptr_eq(&grant.waiter.payload, &op));
                model.granted(&grant, false);
                self.dispatch(grant);
            }
            Submitted::Refused(_, Refusal::Draining) => {
                assert!(model.draining);
                model.go(op.0, Place::Refused);
            }
            Submitted::Refused(_, Refusal::Overloaded) => {
                assert!(!model.draining && !granted && model.waiting_count() >= model.config.max_waiting);
                model.go(op.0, Place::Refused);
            }
            Submitted::Queued(ticket) => {
                assert!(!model.draining && !granted && model.waiting_count() < model.config.max_waiting);
                assert!(ticket.stripe().is_some_and(|stripe| stripe < model.config.stripes));
                model.go(op.0, Place::Waiting);
                model.ops[op.0].ticket = Some(ticket);
            }
        }
    }

    fn take_idle(&mut self) {
        let hint = self.pool.has_idle();
        let op = self.model.new_op();
        let taken = self.pool.take_idle(op.clone());
        let model = &mut self.model;
        let is_open = !model.draining && !model.gated && !model.is_reserved();
        let due = is_open && model.waiting_count() == 0 && !model.idle.is_empty();
        assert_eq!(hint, due);
        match taken {
            Ok(grant) => {
                assert!(due && matches!(grant.source, Source::Session(_)) && Rc::ptr_eq(&grant.waiter.payload, &op));
                model.granted(&grant, false);
                self.dispatch(grant);
            }
            Err(back) => {
                assert!(!due && Rc::ptr_eq(&back, &op));
                model.go(op.0, Place::Refused);
            }
        }
    }

    fn submit_control(&mut self) {
        let op = self.model.new_op();
        let submitted = self.pool.submit_control(op.clone());
        let model = &mut self.model;
        let granted = !model.draining && model.waiting(true).is_empty() && model.something_is_free();
        match submitted {
            Submitted::Granted(grant) => {
                assert!(granted && Rc::ptr_eq(&grant.waiter.payload, &op));
                model.granted(&grant, false);
                self.dispatch(grant);
            }
            Submitted::Refused(_, refusal) => {
                assert!(model.draining && refusal == Refusal::Draining);
                model.go(op.0, Place::Refused);
            }
            Submitted::Queued(ticket) => {
                assert!(!model.draining && !granted && ticket.stripe().is_none());
                model.go(op.0, Place::Waiting);
                model.ops[op.0].ticket = Some(ticket);
            }
        }
    }

    fn submit_exclusive(&mut self) {
        let op = self.model.new_op();
        self.model.ops[op.0].is_exclusive = true;
        let submitted = self.pool.submit_exclusive(op.clone());
        let model = &mut self.model;
        let granted = !model.draining
            && !model.is_reserved()
            && model.is_quiet()
            && model.waiting(true).is_empty()
            && model.something_is_free();
        match submitted {
            Submitted::Granted(grant) => {
                assert!(granted && Rc::ptr_eq(&grant.waiter.payload, &op));
                model.granted(&grant, false);
                self.dispatch(grant);
            }
            Submitted::Refused(_, refusal) => {
                assert!(model.draining && refusal == Refusal::Draining);
                model.go(op.0, Place::Refused);
            }
            Submitted::Queued(ticket) => {
                assert!(!model.draining && !granted && ticket.stripe().is_none());
                model.go(op.0, Place::Waiting);
                model.ops[op.0].ticket = Some(ticket);
            }
        }
    }

    fn end_exclusive(&mut self, choice: usize) {
        let exclusive: Vec<usize> = (0..self.model.ops.len())
            .filter(|op| self.model.ops[*op].is_exclusive && self.model.ops[*op].ticket.is_some())
            .collect();
        let Some(last) = exclusive.len().checked_sub(1) else { return };
        let op = self.model.turn.filter(|_| !choice.is_multiple_of(4)).unwrap_or(exclusive[last - choice % exclusive.len()]);
        let is_its = self.model.turn == Some(op);
        if is_its {
            self.model.turn = None;
        }
        let grants = self.pool.end_exclusive(self.model.ops[op].ticket.unwrap());
        assert!(is_its || grants.is_empty(), "another one's turn was ended");
        self.dispatch_all(grants);
    }

    fn lease(&mut self, choice: usize) {
        let Some(at) = self.pick(choice, |hand| matches!(hand.source, Some(Source::Session(_)))) else { return };
        let Some(Source::Session(held)) = self.hand(at).source.take() else { unreachable!() };
        let (session, is_hung) = (held.session, held.is_hung());
        let (held, grant) = self.pool.lease(held);
        assert_eq!(held.is_hung(), is_hung);
        self.hand(at).source = Some(Source::Session(held));
        if !is_hung {
            self.model.stops_running(session);
            self.model.leased.push(session);
        }
        self.dispatch_all(grant.into_iter().collect());
    }

    fn tick(&mut self, passed: u64) {
        let model = &mut self.model;
        model.now += passed;
        let open = model.open();
        let (grants, closing) = self.pool.tick(model.now);
        for idle in model.closes_idle(&closing) {
            assert!(model.is_stale(&idle).1, "closed {idle:?} too early");
        }
        assert!(closing.is_empty() || open - closing.len() >= model.floor, "closed the last ones");
        let is_left = model.idle.iter().any(|idle| model.is_stale(idle).0);
        assert!(!is_left || open - closing.len() <= model.floor, "kept a stale session");
        self.closings.extend(closing);
        if model.ceiling.limit.is_some() && model.now >= model.ceiling.raise_at {
            model.raises();
        }
        self.dispatch_all(grants);
    }

    fn keep(&mut self, choice: u64) {
        let op = self.model.new_op();
        let model = &mut self.model;
        let (passed, uncalled_for) = (choice % 7, choice / 7);
        model.now += passed;
        let may = !model.draining && !model.gated && !model.is_reserved() && model.waiting_count() == 0 && !model.keeping;
        let stays = model.open() <= model.floor;
        let before = model.now.saturating_sub(uncalled_for);
        // A session's life may end a little early.
        let is_due = |idle: &&ModelIdle, is_stale: bool| idle.called <= before && (stays || !is_stale);
        let surely: Vec<_> = model.idle.iter().filter(|idle| is_due(idle, model.is_stale(idle).1)).copied().collect();
        let possibly: Vec<_> = model.idle.iter().filter(|idle| is_due(idle, model.is_stale(idle).0)).copied().collect();
        let Some(grant) = self.pool.take_to_keep(before, model.now, || op.clone()) else {
            assert!(!may || surely.is_empty(), "one of {surely:?} was to be kept alive");
            model.go(op.0, Place::Refused);
            return;
        };
        assert!(may, "kept one alive when none may be");
        let Source::Session(held) = &grant.source else { panic!("a session was opened, to be kept alive") };
        let kept = possibly.iter().find(|idle| idle.session == held.session).expect("kept one alive that is not due");
        assert!(surely.iter().all(|other| kept.called <= other.called), "another one was more in need");
        model.idle.retain(|idle| idle.session != kept.session);
        model.running.push(kept.session);
        model.kept.insert(kept.session, kept.since);
        model.keeping = true;
        model.ops[op.0].ticket = Some(grant.waiter.ticket);
        model.go(op.0, Place::Granted);
        self.dispatch(grant);
    }

    fn refused(&mut self, choice: usize) {
        let fits = |hand: &Hand| matches!(&hand.source, Some(Source::Capacity(opening)) if !opening.is_hung());
        let Some(at) = self.pick(choice, |hand| fits(hand) && hand.waiter.is_some()) else { return };
        let Hand { source: Some(Source::Capacity(opening)), waiter: Some(waiter) } = std::mem::take(self.hand(at)) else {
            unreachable!()
        };
        let model = &mut self.model;
        let (op, others) = (waiter.payload.0, model.total() - 1);
        match self.pool.refused(opening, waiter, model.now) {
            Ok(grants) => {
                assert!(others > 0 && !model.draining, "there is nothing to wait for");
                let ModelCeiling { limit, tried, backoff, .. } = model.ceiling;
                let backoff = match limit {
                    None => 1_000,
                    Some(_) if tried => (2 * backoff).min(60_000),
                    Some(_) => backoff,
                };
                let limit = Some(limit.unwrap_or(others).min(others));
                model.ceiling = ModelCeiling { limit, tried: false, backoff, raise_at: model.now + backoff };
                model.opening -= 1;
                model.go(op, Place::Waiting);
                self.dispatch_all(grants);
            }
            Err((opening, waiter)) => {
                assert!(others == 0 || model.draining);
                *self.hand(at) = Hand { source: Some(Source::Capacity(opening)), waiter: Some(waiter) };
            }
        }
    }

    fn quarantined(&mut self, was_hung: bool, quarantined: Quarantined<Session, Op>, out: impl FnOnce(&mut Model)) {
        let model = &mut self.model;
        let is_full = model.hung() >= model.size;
        match quarantined {
            Quarantined::Kept => assert!(was_hung || is_full, "one that hangs keeps its capacity"),
            Quarantined::Freed(grant) => {
                assert!(!was_hung && !is_full);
                out(model);
                self.dispatch_all(grant.into_iter().collect());
            }
        }
    }

    fn quarantine(&mut self, choice: usize) {
        let Some(at) = self.pick(choice, |hand| hand.source.is_some()) else { return };
        match self.hand(at).source.take().unwrap() {
            Source::Session(held) => {
                let session = held.session;
                let (lent, mut stake) = held.lend();
                let was_hung = stake.is_hung();
                let quarantined = self.pool.quarantine(&mut stake);
                self.hand(at).source = Some(Source::Session(lent.rejoin(stake)));
                self.quarantined(was_hung, quarantined, |model| {
                    model.stops_running(session);
                    model.hung.push(session);
                });
            }
            Source::Capacity(opening) => {
                let mut stake = opening.lend();
                let was_hung = stake.is_hung();
                let quarantined = self.pool.quarantine(&mut stake);
                self.hand(at).source = Some(Source::Capacity(Opening::rejoin(stake)));
                self.quarantined(was_hung, quarantined, |model| {
                    model.opening -= 1;
                    model.hung_openings += 1;
                });
            }
        }
    }

    fn quarantine_closing(&mut self, choice: usize) {
        if self.closings.is_empty() {
            return;
        }
        let (closing, session) = self.closings.remove(choice % self.closings.len());
        let mut stake = closing.lend();
        let was_hung = stake.is_hung();
        let quarantined = self.pool.quarantine(&mut stake);
        self.closings.push((Closing::rejoin(stake), session));
        self.quarantined(was_hung, quarantined, |model| {
            model.closing.retain(|other| *other != session);
            model.hung.push(session);
        });
    }

    fn resize(&mut self, size: usize) {
        let model = &mut self.model;
        let surplus = (model.total() - model.closing.len()).saturating_sub(size);
        let (before, idle, open) = (model.size, model.idle.len(), model.open());
        model.size = size;
        model.ceiling = ModelCeiling::default();
        model.has_shrunk |= size < before;
        let (grants, closing) = self.pool.resize(size);
        model.closes_idle(&closing);
        if model.config.stripes == 1 {
            assert_eq!(closing.len(), surplus.min(idle), "exactly the surplus is closed");
        }
        assert!(closing.len() >= surplus.min(idle), "one stayed idle beyond the size");
        assert!(size < before || model.has_shrunk || closing.is_empty(), "closed without need");
        let left = model.open();
        assert!(open == 0 || left + model.opening > 0, "a resize closed the last session");
        self.closings.extend(closing);
        self.dispatch_all(grants);
    }

    fn drain(&mut self) {
        let model = &mut self.model;
        let drained = self.pool.drain();
        model.draining = true;
        for op in &drained.waiting {
            model.go(op.0, Place::Drained);
        }
        assert_eq!(model.waiting_count(), 0, "a drain left one waiting");
        model.closes_idle(&drained.closing);
        assert!(model.idle.is_empty(), "a drain left one idle");
        self.closings.extend(drained.closing);
    }

    fn requeue(&mut self, choice: usize) {
        let Some(at) = self.pick(choice, |hand| hand.waiter.is_some()) else { return };
        let waiter = self.hand(at).waiter.take().unwrap();
        let op = waiter.payload.0;
        match self.pool.requeue(waiter) {
            Ok(grants) => {
                assert!(!self.model.draining);
                self.model.go(op, Place::Waiting);
                self.dispatch_all(grants);
            }
            Err(payload) => {
                assert!(self.model.draining && payload.0 == op);
                self.model.go(op, Place::Drained);
            }
        }
    }

    fn down(&mut self, choice: usize) {
        if self.runners.is_empty() {
            return;
        }
        let at = choice % self.runners.len();
        let (id, address, runner) = self.runners.remove(at);
        match (runner, self.roster.down(id)) {
            (Runner::Parked { .. }, Departed::Vacant(None)) => {}
            (Runner::Woken(op), Departed::Vacant(Some(grant))) => {
                assert_eq!(op, grant.waiter.payload.0);
                self.dispatch(grant);
            }
            (Runner::Inside(hand) | Runner::Gone(hand), Departed::Inside) => {
                self.runners.insert(at, (id, address, Runner::Gone(hand)));
            }
            (runner, departed) => panic!("{runner:?} dies: {departed:?}"),
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Submit => self.submit(),
            Event::TakeIdle => self.take_idle(),
            Event::SubmitControl => self.submit_control(),
            Event::SubmitExclusive => self.submit_exclusive(),
            Event::EndExclusive(choice) => self.end_exclusive(choice),
            Event::Lease(choice) => self.lease(choice),
            Event::Cancel(choice) => {
                let with_ticket: Vec<usize> =
                    (0..self.model.ops.len()).filter(|op| self.model.ops[*op].ticket.is_some()).collect();
                if with_ticket.is_empty() {
                    return;
                }
                // Those that arrived last are the ones that wait.
                let op = with_ticket[with_ticket.len() - 1 - choice % with_ticket.len()];
                let has_place = self.model.ops[op].ticket.is_some_and(|ticket| ticket.stripe().is_some());
                let waits = self.model.ops[op].place == Place::Waiting && has_place;
                let cancelled = self.pool.cancel(self.model.ops[op].ticket.unwrap());
                assert_eq!(cancelled.as_ref().map(|op| op.0), waits.then_some(op));
                if waits {
                    self.model.go(op, Place::Cancelled);
                }
            }
            Event::CallerDies(choice) => {
                if let Some(op) = self.model.ops.iter().rev().nth(choice % self.model.ops.len().max(1)) {
                    op.op.1.set(true);
                }
            }
            Event::Opened(choice) => {
                let Some(at) = self.pick(choice, |hand| matches!(hand.source, Some(Source::Capacity(_)))) else { return };
                let Some(Source::Capacity(opening)) = self.hand(at).source.take() else { unreachable!() };
                let session = self.model.opened_at.len() as Session;
                self.model.opened_at.push(self.model.now);
                let is_hung = opening.is_hung();
                self.model.stops_opening(is_hung);
                if is_hung { &mut self.model.hung } else { &mut self.model.running }.push(session);
                let held = self.pool.opened(opening, session, self.model.now);
                self.hand(at).source = Some(Source::Session(held));
                assert_eq!(self.pool.is_capped(), self.model.ceiling.limit.is_some());
                let grants = self.pool.widen(self.model.now);
                if self.model.ceiling.tried && self.model.opening == 0 {
                    self.model.raises();
                }
                self.dispatch_all(grants);
            }
            Event::OpenFailed(choice) => {
                let Some(at) = self.pick(choice, |hand| matches!(hand.source, Some(Source::Capacity(_)))) else { return };
                let Hand { source: Some(Source::Capacity(opening)), waiter } = std::mem::take(self.hand(at)) else {
                    unreachable!()
                };
                self.answer(waiter);
                self.open_failed(at, opening);
            }
            Event::Refused(choice) => self.refused(choice),
            Event::Quarantine(choice) => self.quarantine(choice),
            Event::QuarantineClosing(choice) => self.quarantine_closing(choice),
            Event::Release(choice) => {
                let Some(at) = self.pick(choice, |hand| matches!(hand.source, Some(Source::Session(_)))) else { return };
                let Hand { source: Some(Source::Session(held)), waiter } = std::mem::take(self.hand(at)) else { unreachable!() };
                self.answer(waiter);
                let grant = self.release(held);
                self.give_runner(at, grant);
            }
            Event::Discard(choice) => {
                let Some(at) = self.pick(choice, |hand| matches!(hand.source, Some(Source::Session(_)))) else { return };
                let Hand { source: Some(Source::Session(held)), waiter } = std::mem::take(self.hand(at)) else { unreachable!() };
                self.answer(waiter);
                self.discard(held);
            }
            Event::Requeue(choice) => self.requeue(choice),
            Event::Closed(choice) => self.closed(choice),
            Event::Replaced(choice) => self.replaced(choice),
            Event::Tick(passed) => self.tick(passed),
            Event::Resize(size) => self.resize(size),
            Event::SetFloor(floor) => {
                self.model.floor = floor;
                self.pool.set_floor(floor);
            }
            Event::CloseGate => {
                self.model.gated = true;
                self.pool.close_gate();
            }
            Event::OpenGate => {
                self.model.gated = false;
                let grants = self.pool.open_gate();
                self.dispatch_all(grants);
            }
            Event::Flush => {
                let closing = self.pool.flush();
                self.model.closes_idle(&closing);
                assert!(self.model.idle.is_empty(), "a flush left one idle");
                self.closings.extend(closing);
            }
            Event::TakeWaiting => {
                let waiting = self.pool.take_waiting();
                let control = self.model.waiting(true).len();
                assert!(waiting[..control].iter().all(|op| self.model.is_control(op.0)), "control operations come first");
                for op in &waiting {
                    self.model.go(op.0, Place::Drained);
                }
                assert_eq!(self.model.waiting_count(), 0, "one was left waiting");
            }
            Event::SweepControl => {
                let mut due = self.model.waiting(true);
                due.extend(self.model.waiting_exclusive());
                due.retain(|op| self.model.ops[*op].op.1.get());
                let (swept, grants) = self.pool.sweep_control(|op| op.1.get());
                let swept: Vec<_> = swept.iter().map(|op| op.0).collect();
                assert_eq!(swept, due, "those nobody waits for, in their order");
                for op in swept {
                    self.model.go(op, Place::Cancelled);
                }
                self.dispatch_all(grants);
            }
            Event::Keep(choice) => self.keep(choice),
            Event::EndKeeping => {
                self.pool.end_keeping();
                self.model.keeping = false;
            }
            Event::Drain => self.drain(),
            Event::Join => {
                self.joined += 1;
                let (id, comes_in) = self.roster.join(self.joined);
                assert_eq!(comes_in, !self.backlog.is_empty());
                let runner = if comes_in { Runner::Woken(self.backlog.remove(0)) } else { Runner::Parked { spins: false } };
                self.runners.push((id, self.joined, runner));
            }
            Event::Enter(choice) => {
                // Mostly those that were woken, at times one that was not.
                let woken = |at: &usize| matches!(self.runners[*at].2, Runner::Woken(_));
                let outside = |at: &usize| !matches!(self.runners[*at].2, Runner::Inside(_));
                let mut places: Vec<usize> = (0..self.runners.len()).filter(woken).collect();
                if places.is_empty() {
                    places = (0..self.runners.len()).filter(outside).collect();
                }
                if places.is_empty() {
                    return;
                }
                let at = places[choice % places.len()];
                let entered = self.roster.enter(self.runners[at].0);
                self.comes_in(at, entered);
            }
            Event::Park(choice) => {
                let Some(at) = self.pick(choice, |hand| hand.source.is_none()) else { return };
                let entered = self.roster.park(self.runners[at].0);
                self.comes_in(at, entered);
            }
            Event::Linger(choice) => {
                let Some(at) = self.pick(choice, |hand| hand.source.is_none()) else { return };
                let spins = |(_, _, runner): &(RunnerId, u32, Runner)| matches!(runner, Runner::Parked { spins: true });
                let is_first = !self.runners.iter().any(spins);
                let entered = self.roster.spin(self.runners[at].0);
                let parks = matches!(entered, Entered::Parked);
                self.comes_in(at, entered);
                if parks && is_first {
                    // It has parked last.
                    let at = self.runners.len() - 1;
                    assert!(matches!(self.runners[at].2, Runner::Parked { .. }));
                    self.runners[at].2 = Runner::Parked { spins: true };
                }
            }
            Event::StepOut(choice) => {
                let Some(at) = self.pick(choice, |hand| hand.source.is_some() && hand.waiter.is_some()) else { return };
                let hand = std::mem::take(self.hand(at));
                let grant = Grant { source: hand.source.unwrap(), waiter: hand.waiter.unwrap() };
                let op = grant.waiter.payload.0;
                match (self.roster.step_out(self.runners[at].0, grant), &self.runners[at].2) {
                    (None, Runner::Inside(_)) => self.runners[at].2 = Runner::Woken(op),
                    (Some(grant), Runner::Gone(_)) => self.dispatch(grant),
                    (back, runner) => panic!("{runner:?} steps out with {op}: {back:?}"),
                }
            }
            Event::Down(choice) => self.down(choice),
            Event::Leave(choice) => {
                // A living runner leaves with empty hands (it is stopped), a dead one when its call returns.
                let Some(at) = self.pick(choice, |hand| hand.source.is_none()) else { return };
                let (id, _, _) = self.runners.remove(at);
                assert!(self.roster.leave(id).is_none());
            }
            Event::Retire(choice) => {
                if self.runners.is_empty() {
                    return;
                }
                let at = choice % self.runners.len();
                let most = self.model.size;
                let retires = self.runners.len() > most && matches!(self.runners[at].2, Runner::Parked { .. });
                assert_eq!(self.roster.retire(self.runners[at].0, most), retires);
                if retires {
                    self.runners.remove(at);
                }
            }
        }
    }

    /// What holds between any two events.
    fn check(&self, total_before: usize) {
        let model = &self.model;
        let stats = self.pool.stats();
        let expected = Stats {
            size: model.size,
            idle: model.idle.len(),
            running: model.running.len(),
            leased: model.leased.len(),
            opening: model.opening,
            closing: model.closing.len(),
            ceiling: model.ceiling(),
            hung: model.hung(),
            waiting: model.waiting_count(),
            draining: model.draining,
            gated: model.gated,
        };
        assert_eq!(stats, expected);
        assert_eq!(self.pool.waiting(), expected.waiting);
        assert!(model.total() <= model.size.max(total_before), "more sessions than there may be, and it was no left-over");
        let in_use = stats.running + stats.leased + stats.opening;
        assert!(in_use <= model.size || self.pool.is_shrinking(), "it is not known that a shrink has left sessions");
        if model.something_may_go() {
            assert!(!model.something_is_free(), "an operation waits beside a free session");
        }
        assert!(!model.draining || (model.idle.is_empty() && expected.waiting == 0));

        // Each session and each operation is in exactly one place.
        let mut held: Vec<Session> = Vec::new();
        let mut granted: Vec<usize> = self.backlog.clone();
        for (_, _, runner) in &self.runners {
            match runner {
                Runner::Parked { .. } => {}
                Runner::Woken(op) => granted.push(*op),
                Runner::Inside(hand) | Runner::Gone(hand) => {
                    held.extend(hand.source.iter().filter_map(|source| match source {
                        Source::Session(held) => Some(held.session),
                        Source::Capacity(_) => None,
                    }));
                    granted.extend(hand.waiter.iter().map(|waiter| waiter.payload.0));
                }
            }
        }
        assert!(
            held.iter().all(|session| [&model.running, &model.leased, &model.hung].iter().any(|list| list.contains(session)))
        );
        granted.sort();
        let expected: Vec<usize> = (0..model.ops.len()).filter(|op| model.ops[*op].place == Place::Granted).collect();
        assert_eq!(granted, expected, "an operation is lost, or is in two hands");
        let mut sessions: Vec<Session> = model.idle.iter().map(|idle| idle.session).collect();
        sessions.extend(&model.running);
        sessions.extend(&model.leased);
        sessions.extend(&model.closing);
        sessions.extend(&model.hung);
        sessions.sort();
        sessions.dedup();
        assert_eq!(sessions.len() + model.closed, model.opened_at.len(), "a session is lost, or is in two places");

        // An operation that is out has left nothing in the pool: the model and a runner's hand are all that knows it.
        for op in &model.ops {
            let is_out = !matches!(op.place, Place::Waiting | Place::Granted);
            assert!(!is_out || Rc::strong_count(&op.op) == 1, "the pool holds on to {op:?}");
        }

        // The roster lists what the model lists.
        let mut listed = self.roster.list();
        listed.sort_by_key(|(id, _, _)| *id);
        let mut known: Vec<_> = self.runners.iter().map(|(id, address, runner)| (*id, *address, state(runner))).collect();
        known.sort_by_key(|(id, _, _)| *id);
        assert_eq!(listed, known);
        assert_eq!((self.roster.len(), self.roster.is_empty()), (known.len(), known.is_empty()));
    }

    fn checked_step(&mut self, event: Event) {
        let before = self.model.total();
        self.step(event);
        self.check(before);
    }

    /// Stops everything, and sees that nothing is left.
    fn finish(mut self) {
        self.checked_step(Event::Drain);
        for grant in self.roster.take_backlog() {
            assert_eq!(self.backlog.remove(0), grant.waiter.payload.0);
            self.give_up(grant);
        }
        while let Some((id, _, runner)) = self.runners.pop() {
            match runner {
                Runner::Parked { .. } => assert!(self.roster.leave(id).is_none()),
                Runner::Woken(_) => {
                    let grant = self.roster.leave(id).expect("a woken runner has a grant");
                    self.give_up(grant);
                }
                Runner::Inside(hand) | Runner::Gone(hand) => {
                    assert!(self.roster.leave(id).is_none());
                    self.answer(hand.waiter);
                    if let Some(source) = hand.source {
                        self.give_back(source);
                    }
                }
            }
        }
        while !self.closings.is_empty() {
            self.closed(0);
        }
        self.check(0);
        let size = self.model.size;
        let gated = self.model.gated;
        assert_eq!(self.pool.stats(), Stats { size, ceiling: self.model.ceiling(), gated, draining: true, ..Stats::default() });
        assert_eq!(self.model.closed, self.model.opened_at.len());
        assert!(self.roster.is_empty());
        let ended = |op: &ModelOp| !matches!(op.place, Place::New | Place::Waiting | Place::Granted);
        assert!(self.model.ops.iter().all(ended), "an operation never came out: {:?}", self.model.ops);
    }

    fn give_up(&mut self, grant: OneGrant) {
        self.answer(Some(grant.waiter));
        self.give_back(grant.source);
    }

    fn give_back(&mut self, source: Source<Session>) {
        match source {
            Source::Session(held) => assert!(self.release(held).is_none()),
            Source::Capacity(opening) => {
                self.model.stops_opening(opening.is_hung());
                assert!(self.pool.open_failed(opening).is_none());
            }
        }
    }
}

fn state(runner: &Runner) -> RunnerState {
    match runner {
        Runner::Parked { .. } => RunnerState::Parked,
        Runner::Woken(_) => RunnerState::Woken,
        Runner::Inside(_) => RunnerState::Inside,
        Runner::Gone(_) => RunnerState::Gone,
    }
}

fn cases() -> u32 {
    let long = std::env::var("PKCS11_POOL_LONG").is_ok_and(|value| value == "1");
    if long { 100_000 } else { 4_000 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_does_what_the_model_does(config in config(), events in events()) {
        let mut world = World::new(config);
        for event in events {
            world.checked_step(event);
        }
        world.finish();
    }
}
