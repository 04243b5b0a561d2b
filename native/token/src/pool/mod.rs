//! A pool of sessions on a token.
//!
//! [`TokenPool`] is put together from components, each of which owns its state, knows nothing of the others, and says by what its functions return
//! what there is to do:
//!
//! * `session_pool::Pool` (sessions, waiters, capacity) and `session_pool::Roster` (runners)
//! * [`availability`]: whether the token is there
//! * [`login::state`]: what the pool knows of its own login
//! * [`in_flight`]: what runs, on which session, since when
//! * [`record`]: what it remembers for who asks how well it is
//!
//! The other files are the coordinator, in parts: each is an `impl TokenPool` for one kind of event ([`opening`], [`closing`], [`hung`],
//! [`recovery`], [`drain`], ...). Whatever an event has ended, the end of the event looks after: [`TokenPool::advance_drain`].
//!
//! It may not know the runner's loop, which calls it.

pub(crate) mod availability;
pub(crate) mod closing;
pub(crate) mod control;
pub(crate) mod drain;
pub(crate) mod grant;
pub(crate) mod hand_over;
pub(crate) mod health;
pub(crate) mod hung;
pub(crate) mod in_flight;
pub(crate) mod keepalive;
pub(crate) mod key_pins;
pub(crate) mod lease;
pub(crate) mod login;
pub(crate) mod opening;
pub(crate) mod pace;
pub(crate) mod record;
pub(crate) mod recovery;
mod recovery_thread;
pub(crate) mod reload;
pub(crate) mod turn;
pub(crate) mod vanished;
pub(crate) mod work;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use session_pool::{Abandoned, ConfigError, Departed, Pool, Refusal, Roster, RunnerId, RunnerState, Stats, Submitted, Ticket};

use crate::error::Error;
use crate::operation::header::Header;
use crate::operation::host::{Host, Outlet, PoolServer, Posting, Wake};
use crate::operation::notice::Notice;
use crate::operation::request::Request;
use crate::operation::{Operation, OperationLease, Place};
use crate::options::{LoginMode, PoolOptions};
use crate::pool::availability::Availability;
use crate::pool::grant::{Grant, SessionPool};
use crate::pool::in_flight::{InFlight, InFlightRecords};
use crate::pool::login::state::Login;
use crate::pool::record::{Ailment, Record};
use crate::pool::work::Control;
use crate::pool::work::Work;
use crate::support::clock::now;
use crate::support::tally::{Latency, Tally};
use crate::token::login_gate::Listener;

/// A pool.
pub struct TokenPool<H: Host> {
    pub(crate) options: PoolOptions,
    pub(crate) sessions: SessionPool<H>,
    pub(crate) roster: Roster<Grant<H>, H::Runner>,
    pub(crate) server: H::Server,
    pub(crate) in_flight: InFlightRecords<H>,
    /// Whether calls that were given up early are about to be looked at.
    pub(crate) will_recheck: AtomicBool,
    pub(crate) availability: Availability,
    /// Logins and logouts that wait for the token to be there again.
    pub(crate) held_controls: Mutex<Vec<Control<H>>>,
    pub(crate) login: Login<H>,
    pub(crate) leases: Mutex<Vec<Weak<OperationLease<H>>>>,
    /// The most sessions: what the options say, until it is resized.
    size: AtomicUsize,
    pub(crate) record: Record,
    /// How its operations have ended.
    pub(crate) tally: Arc<Tally>,
    pub(crate) me: Weak<Self>,
}

/// One snapshot for `status/1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The counters.
    pub sessions: Stats,
    /// Operations that runners have taken.
    pub active: usize,
    /// Calls that the module does not return from, though their time is over.
    pub hung: usize,
    /// Runners that can be woken or are at work.
    pub runners: usize,
    /// The token's epoch; 0 while there is no token.
    pub epoch: u64,
    /// The login's state.
    pub login: &'static str,
    /// Whether one call is in the module at a time.
    pub serialized: bool,
    /// Why the pool is down.
    pub down: Option<Error>,
    /// What is wrong with it.
    pub ailment: Option<Ailment>,
    /// How many operations have ended in which way.
    pub results: Vec<(&'static str, u64)>,
    /// How long those that ran took lately.
    pub latency: Latency,
}

impl<H: Host> TokenPool<H> {
    /// A pool that is not yet attached to its token.
    pub fn new(options: PoolOptions, server: H::Server) -> Result<Arc<Self>, ConfigError> {
        let sessions = Pool::new(&options.sessions)?;
        if options.login != LoginMode::None {
            // Closing the last session would log out.
            sessions.set_floor(1);
        }
        let size = options.sessions.max_sessions;
        Ok(Arc::new_cyclic(|me| Self {
            login: Login::new(&options),
            options,
            sessions,
            roster: Roster::new(),
            server,
            in_flight: InFlightRecords::default(),
            will_recheck: AtomicBool::new(false),
            availability: Availability::default(),
            held_controls: Mutex::default(),
            leases: Mutex::default(),
            size: AtomicUsize::new(size),
            record: Record::new(),
            tally: Arc::new(Tally::new(now())),
            me: me.clone(),
        }))
    }

    /// Takes a call. The ticket is for giving it up.
    pub fn submit(&self, header: Arc<Header<H>>, request: Request, outlet: &mut impl Outlet<H>) -> Result<Ticket, Error> {
        self.submit_operation(Operation::new(header, request, Place::Pool), outlet)
    }

    pub(crate) fn submit_operation(&self, operation: Box<Operation<H>>, outlet: &mut impl Outlet<H>) -> Result<Ticket, Error> {
        self.count(&operation);
        if let Some(error) = self.availability.refusal() {
            // The caller gets it as this function's result.
            operation.header.refuse(&error);
            return Err(error);
        }
        let work = Work::Call(operation);
        let mut swept = Vec::new();
        let is_dead = |work: &Work<H>| match work {
            Work::Call(operation) => operation.header.is_over() || !outlet.is_wanted(&operation.header.reply),
            Work::Control(_) | Work::Keepalive(_) => false,
        };
        match self.sessions.submit(work, is_dead, &mut swept) {
            Submitted::Granted(grant) => {
                let ticket = grant.waiter.ticket;
                if let Work::Call(operation) = &grant.waiter.payload
                    && let header = &operation.header
                    && header.start_by == Some(header.submitted)
                {
                    // It may not wait, and it doesn't: it has a session, and its runner is on the way.
                    let _ = header.progress.start(header.submitted);
                }
                self.dispatch(grant, outlet);
                self.advance_drain();
                Ok(ticket)
            }
            Submitted::Queued(ticket) => Ok(ticket),
            Submitted::Refused(work, refusal) => {
                let error = match refusal {
                    Refusal::Overloaded => Error::Overloaded,
                    Refusal::Draining => Error::Draining,
                };
                // The caller gets the error as this function's result: nobody is to answer it once more.
                if let Work::Call(operation) = work {
                    operation.header.refuse(&error);
                }
                Err(error)
            }
        }
    }

    /// The end of an operation is counted, unless it is nobody's.
    pub(crate) fn count(&self, operation: &Operation<H>) {
        // A block that takes a session has a caller.
        let is_nobodys = matches!((&operation.request, &operation.place), (Request::Ping | Request::Probe, Place::Pool));
        if !is_nobodys {
            operation.header.count_in(&self.tally);
        }
    }

    /// A caller gives up its operation, if it still waits or (`running`) in any case. A login or logout has no ticket.
    pub fn abandon(&self, header: &Header<H>, ticket: Option<Ticket>, running: bool) -> Abandoned {
        let abandoned = header.abandon(running);
        if matches!(abandoned, Abandoned::BeforeStart | Abandoned::WhileRunning { .. }) {
            match ticket {
                Some(ticket) => drop(self.sessions.cancel(ticket)),
                None => {
                    self.sweep_awaiting_attempt(&Posting);
                    self.sweep_control(&Posting);
                }
            }
        }
        if let Abandoned::WhileRunning { .. } = abandoned {
            self.handle_given_up(header);
        }
        abandoned
    }

    /// A runner joins; `true`: it must come in at once.
    pub fn join(&self, address: H::Runner) -> (RunnerId, bool) {
        let record = InFlight::new(address.is_expendable());
        let (id, woken) = self.roster.join(address);
        self.in_flight.add_runner(id, record);
        (id, woken)
    }

    /// A runner's process has died.
    pub fn runner_down(&self, id: RunnerId, outlet: &mut impl Outlet<H>) {
        if let Departed::Vacant(grant) = self.roster.down(id) {
            self.in_flight.remove_runner(id);
            if let Some(grant) = grant {
                self.dispatch(grant, outlet);
            }
            self.advance_drain();
            self.server.post(Notice::RunnersWanted);
        }
    }

    /// A runner's call returns for the last time.
    pub fn depart(&self, id: RunnerId) {
        self.withdraw(id);
        self.server.post(Notice::RunnersWanted);
    }

    /// A runner leaves, and no successor is asked for.
    pub fn withdraw(&self, id: RunnerId) {
        if let Some(grant) = self.roster.leave(id) {
            self.dispatch(grant, &mut Posting);
        }
        self.in_flight.remove_runner(id);
        self.advance_drain();
    }

    /// The most sessions.
    pub fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    /// How many sessions may be in use at a time, each of which wants a runner: its size, or, after a shrink, as many as still are.
    pub fn places(&self) -> usize {
        // Read first: what has shrunk the pool says so before.
        let size = self.size();
        if !self.sessions.is_shrinking() {
            return size;
        }
        let stats = self.sessions.stats();
        size.max(stats.running + stats.leased + stats.opening)
    }

    /// How many runners are missing.
    pub fn vacancies(&self) -> usize {
        if self.is_draining() { 0 } else { self.places().saturating_sub(self.roster.len()) }
    }

    /// The addresses of its runners, of the dead whose calls have not returned too.
    pub fn runners(&self) -> Vec<H::Runner> {
        self.roster.list().into_iter().map(|(_, runner, _)| runner).collect()
    }

    /// Grows or shrinks. No call fails of it: sessions close as they come free, runners leave as they have nothing to do.
    pub fn resize(&self, size: usize, outlet: &mut impl Outlet<H>) {
        let (granted, closing) = self.sessions.resize(size);
        self.size.store(size, Ordering::Release);
        for grant in granted {
            self.dispatch(grant, outlet);
        }
        for (closing, session) in closing {
            self.close(closing, session, "resize");
        }
        self.dismiss_surplus();
    }

    /// If there are too many runners, those that are parked come in, and see it.
    fn dismiss_surplus(&self) {
        if self.roster.len() > self.places() {
            self.runners().iter().for_each(Wake::post);
        }
    }

    /// Time passes. The ceiling, before it is tried upwards.
    pub fn tick(&self, outlet: &impl Outlet<H>) -> usize {
        let ceiling = self.sessions.stats().ceiling;
        self.tally.tick(now());
        self.start_recovery_thread_if_refused();
        self.lose_patience();
        self.log_out_if_inactive();
        self.sweep_awaiting_attempt(outlet);
        self.sweep_control(outlet);
        self.find_hung_calls(outlet);
        let (granted, closing) = self.sessions.tick(now());
        for grant in granted {
            self.dispatch(grant, &mut Posting);
        }
        for (closing, session) in closing {
            self.close(closing, session, "ttl");
        }
        // Sessions of before a shrink may have closed.
        self.dismiss_surplus();
        self.keep_alive(&mut Posting);
        self.advance_drain();
        ceiling
    }

    /// Forgets every key's handle.
    pub fn forget_keys(&self) {
        if let Ok(token) = self.availability.token() {
            token.keys.clear();
        }
    }

    /// How many operations wait; none while the pool drains, or has trouble with its token. Who chooses between pools asks this before each operation: it takes no lock.
    pub fn load(&self) -> Option<usize> {
        let is_well = !self.is_draining() && !self.availability.is_troubled();
        is_well.then(|| self.sessions.waiting())
    }

    /// The identity of the token that the pool is bound to.
    pub fn token_identity(&self) -> Option<Arc<[u8]>> {
        self.availability.bound_token().map(|token| token.identity.clone())
    }

    /// Sessions and waiters, and how many calls hang: what a call that is refused tells of the pool, at little cost.
    pub fn counts(&self) -> (Stats, usize) {
        let sessions = self.sessions.stats();
        let hung = sessions.hung + self.in_flight.stuck();
        (sessions, hung)
    }

    /// One snapshot.
    pub fn status(&self) -> Status {
        let active = self.in_flight.active();
        let runners = self.roster.list().iter().filter(|(_, _, state)| *state != RunnerState::Gone).count();
        let token = self.availability.bound_token();
        let serialized = token.as_ref().is_some_and(|token| token.module.is_serialized());
        let (epoch, login) = match token {
            Some(token) if self.login.is_in_conflict(&token) => (token.gate.epoch(), "conflict"),
            Some(token) => (token.gate.epoch(), token.gate.state_name(self.options.user)),
            None => (0, "logged_out"),
        };
        let down = self.availability.refusal().or_else(|| self.availability.is_stopped().then_some(Error::Draining));
        let login = if self.options.login == LoginMode::None && login != "logged_in" { "none" } else { login };
        let sessions = self.sessions.stats();
        let stuck = self.in_flight.stuck();
        let hung = sessions.hung + stuck;
        let ailment = self.ailment(&sessions, stuck);
        let (results, latency) = (self.tally.results(), self.tally.latency());
        Status { sessions, active, hung, runners, epoch, login, serialized, down, ailment, results, latency }
    }
}

impl<H: Host> Listener for TokenPool<H> {
    fn gate_changed(&self) {
        self.resume_awaiting_attempt();
        self.resume_turns();
        self.open_gate();
        self.advance_drain();
    }
}

impl<H: Host> TokenPool<H> {
    pub(crate) fn listener(&self) -> Weak<dyn Listener> {
        self.me.clone()
    }
}
