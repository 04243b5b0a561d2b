//! How a pool gets through its token's gate: with its PIN source (asked by the keeper), by an explicit login, and out again by a logout.
//! Nobody blocks in here: an operation that has to wait goes back to its place, and comes again when the gate has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use session_pool::Millis;

use crate::error::{Error, Failure};
use crate::operation::host::{Host, Keeper, Notice, Posting};
use crate::operation::request::{Answer, Header, Pin};
use crate::pool::availability::Readiness;
use crate::pool::control::{Asked, Asker, Credential, Express};
use crate::pool::health::Failing;
use crate::pool::key_pins::Parked;
use crate::pool::{LoginMode, TokenPool};
use crate::support::clock::{nanos, now};
use crate::token::Token;
use crate::token::login_gate::{Attempt, Awaited, Explicit, Mark, SOURCE_INTERVAL, Verdict, Who};

static NEXT_POOL: AtomicU64 = AtomicU64::new(1);

/// A pool's side of the gate.
pub(crate) struct Access<H: Host> {
    /// The pool's number.
    pub(crate) id: u64,
    /// The gate's word in which the pool was admitted. Words have bit 0 set, so that 0 is none.
    pub(crate) admitted: AtomicU64,
    pub(crate) standing: Mutex<Standing>,
    /// What the source is being asked for.
    asks: Mutex<Vec<Ask>>,
    /// Operations that wait for the PIN of a context-specific login.
    pub(crate) for_pin: Mutex<Vec<Parked<H>>>,
    /// Those that have it, and wait for their turn.
    pub(crate) for_turn: Mutex<Vec<Parked<H>>>,
    /// Explicit logins that wait for an attempt to end.
    logins: Mutex<Vec<ExplicitLogin<H>>>,
    /// Logouts that wait for operations to end.
    pub(crate) logouts: Mutex<Vec<Express<H>>>,
    pub(crate) has_logouts: AtomicBool,
    /// When an operation last ended.
    pub(crate) used_at: AtomicU64,
}

/// What a pool knows of its own credential.
#[derive(Default)]
pub(crate) struct Standing {
    /// The PIN with which it last passed.
    mark: Option<Mark>,
    /// That PIN itself, where it is to be retained.
    retained: Option<Pin>,
    /// The login (its word) with which its PIN was in conflict, and when that was found.
    pub(crate) conflict: Option<Conflict>,
    /// Its source could not say whether there is a conflict, and when (in nanoseconds).
    failed: Option<(Error, u64)>,
    /// What its source has come to, while it gives no PIN.
    source: Failing,
    /// When it was logged out, if it comes in again by an explicit login only.
    pub(crate) must_log_in: Option<Millis>,
}

/// That a pool's PIN is not the one that is logged in.
pub(crate) struct Conflict {
    /// The login's word.
    word: u64,
    /// When the source was last asked.
    at: Millis,
    /// When that was first found.
    since: Millis,
}

/// What the source is being asked for.
enum Ask {
    Login(Attempt),
    /// Whether its PIN is that of the login in this word.
    Compare {
        number: u64,
        word: u64,
    },
    /// The PIN for keys that want a login for each use.
    Key {
        number: u64,
    },
}

/// A login that somebody asks for.
pub(crate) struct ExplicitLogin<H: Host> {
    pub(crate) asker: Asker<H>,
    pub(crate) pin: Option<Pin>,
    pub(crate) force: bool,
}

/// What an operation finds at the gate.
pub(crate) enum Passage {
    Pass(u64),
    Refuse(Error),
    Wait(Wait),
}

/// What an operation waits for.
pub(crate) enum Wait {
    /// The login in progress; the attempt is this operation's to begin.
    Login(Option<Attempt>),
    /// The source, which is to say whether the login of this word is the pool's, too.
    Compare(u64),
}

impl Ask {
    fn number(&self) -> u64 {
        match self {
            Self::Login(attempt) => attempt.number(),
            Self::Compare { number, .. } | Self::Key { number } => *number,
        }
    }
}

impl<H: Host> Access<H> {
    pub(crate) fn new() -> Self {
        Self {
            id: NEXT_POOL.fetch_add(1, Ordering::Relaxed),
            admitted: AtomicU64::new(0),
            standing: Mutex::default(),
            asks: Mutex::default(),
            for_pin: Mutex::default(),
            for_turn: Mutex::default(),
            logins: Mutex::default(),
            logouts: Mutex::default(),
            has_logouts: AtomicBool::new(false),
            used_at: AtomicU64::new(0),
        }
    }
}

impl<H: Host> TokenPool<H> {
    pub(crate) fn who(&self) -> Who {
        Who {
            pool: self.access.id,
            user: self.options.user,
            protected: self.options.login == LoginMode::Protected,
            mark: self.access.standing.lock().mark,
        }
    }

    /// Whether an operation of a pool that logs in may go on: the way for those that were admitted before.
    #[inline]
    pub(crate) fn is_admitted(&self, token: &Token) -> Option<u64> {
        let word = token.gate.word();
        (word & 1 == 1 && self.access.admitted.load(Ordering::Acquire) == word).then_some(word >> 1)
    }

    /// The same for those that were not.
    pub(crate) fn pass(&self, token: &Token, asked_at: u64) -> Passage {
        if self.access.standing.lock().must_log_in.is_some() {
            return Passage::Refuse(Error::ReauthenticationRequired);
        }
        match token.gate.check(self.who(), asked_at, now()) {
            Verdict::Pass(word) => Passage::Pass(self.admit(word)),
            Verdict::Refuse(error) => Passage::Refuse(error),
            Verdict::Begin(attempt) => Passage::Wait(Wait::Login(Some(attempt))),
            Verdict::Wait => Passage::Wait(Wait::Login(None)),
            Verdict::Compare(word) => match self.compared(word, asked_at) {
                Some(error) => Passage::Refuse(error),
                None => Passage::Wait(Wait::Compare(word)),
            },
        }
    }

    /// The pool is admitted in this word: the epoch.
    pub(crate) fn admit(&self, word: u64) -> u64 {
        self.access.admitted.store(word, Ordering::Release);
        self.access.standing.lock().source.clear();
        self.record.serves();
        self.touch();
        word >> 1
    }

    /// Something has run.
    pub(crate) fn touch(&self) {
        if self.options.inactivity_timeout.is_some() {
            self.access.used_at.store(now(), Ordering::Relaxed);
        }
    }

    /// What comparing its PIN with that of this word's login has come to, if it was done.
    fn compared(&self, word: u64, asked_at: u64) -> Option<Error> {
        let standing = self.access.standing.lock();
        match (&standing.conflict, &standing.failed) {
            (Some(conflict), _) if conflict.word == word && now().saturating_sub(conflict.at) < SOURCE_INTERVAL => {
                Some(Error::LoginConflict { call: None })
            }
            (_, Some((error, at))) if asked_at <= *at => Some(error.clone()),
            _ => None,
        }
    }

    /// An operation of this pool waits for the gate; the pool's own gate is closed. `false`: there is nothing to wait for (any more).
    pub(crate) fn wait_for(&self, token: &Arc<Token>, wait: Wait, asked_at: u64) -> bool {
        match wait {
            Wait::Login(begin) => {
                let waits = token.gate.listen(Awaited::Attempt, self.listener());
                if let Some(attempt) = begin {
                    self.begin_login(attempt);
                }
                waits
            }
            Wait::Compare(word) => {
                let number = token.gate.number();
                {
                    let mut asks = self.access.asks.lock();
                    if asks.iter().any(|ask| matches!(ask, Ask::Compare { .. })) {
                        return true;
                    }
                    if token.gate.word() != word || self.is_admitted(token).is_some() || self.compared(word, asked_at).is_some() {
                        return false;
                    }
                    asks.push(Ask::Compare { number, word });
                }
                self.keeper.post(Notice::PinWanted { attempt: number });
                self.abandon_if_draining();
                true
            }
        }
    }

    /// An operation of this pool is to see to a login.
    fn begin_login(&self, attempt: Attempt) {
        if self.options.login == LoginMode::Protected {
            return self.submit_login(attempt, None, Asked::new(None, false));
        }
        let retained = self.access.standing.lock().retained.clone();
        if let Some(pin) = retained {
            return self.log_in_with(attempt, pin);
        }
        let number = attempt.number();
        self.access.asks.lock().push(Ask::Login(attempt));
        self.keeper.post(Notice::PinWanted { attempt: number });
        self.abandon_if_draining();
    }

    fn log_in_with(&self, attempt: Attempt, pin: Pin) {
        if attempt.is_known_bad(&pin) {
            self.access.standing.lock().retained = None;
            attempt.stay_poisoned(&pin, now());
        } else {
            self.submit_login(attempt, Some(pin), Asked::new(None, false));
        }
    }

    fn submit_login(&self, attempt: Attempt, pin: Option<Pin>, asked: Asked<H>) {
        self.submit_express(Express::login(Credential { attempt, pin }, asked));
    }

    /// The source is to give the PIN for the keys whose operations are parked.
    pub(crate) fn ask_for_keys(&self, token: &Token) {
        let number = token.gate.number();
        {
            let mut asks = self.access.asks.lock();
            if asks.iter().any(|ask| matches!(ask, Ask::Key { .. })) {
                return;
            }
            asks.push(Ask::Key { number });
        }
        self.keeper.post(Notice::PinWanted { attempt: number });
    }

    /// The retained PIN.
    pub(crate) fn retained(&self) -> Option<Pin> {
        self.access.standing.lock().retained.clone()
    }

    /// The PIN that logged in proves wrong.
    pub(crate) fn forget_retained(&self) {
        self.access.standing.lock().retained = None;
    }

    /// The keeper has the PIN that was wanted, or the error that says why not.
    pub fn provide_pin(&self, number: u64, pin: Result<Pin, Error>) {
        self.note_source(number, &pin);
        let compare = self.access.asks.lock().iter().find_map(|ask| match ask {
            Ask::Compare { number: other, word } if *other == number => Some(*word),
            _ => None,
        });
        if let Some(word) = compare {
            // What came of it is to be seen before the question disappears: else it would be asked again.
            self.compare(word, &pin);
        }
        let ask = {
            let mut asks = self.access.asks.lock();
            asks.iter().position(|ask| ask.number() == number).map(|index| asks.swap_remove(index))
        };
        match (ask, pin) {
            (None, _) => (),
            (Some(Ask::Login(attempt)), Ok(pin)) => self.log_in_with(attempt, pin),
            (Some(Ask::Login(attempt)), Err(error)) => attempt.fail(error, true, nanos()),
            (Some(Ask::Compare { .. }), _) => self.open_gate(),
            (Some(Ask::Key { .. }), pin) => self.provide_for_keys(pin),
        }
    }

    fn compare(&self, word: u64, pin: &Result<Pin, Error>) {
        let Ok(token) = self.availability.token() else { return };
        let pin = match pin {
            Ok(pin) => pin,
            Err(error) => {
                self.access.standing.lock().failed = Some((error.clone(), nanos()));
                return;
            }
        };
        let mark = Some(token.gate.mark(pin));
        match token.gate.shares(Who { mark, ..self.who() }) {
            Some(word) => {
                self.now_with(mark, Some(pin));
                self.admit(word);
            }
            None => {
                let (mut standing, at) = (self.access.standing.lock(), now());
                let before = standing.conflict.take().filter(|conflict| conflict.word == word);
                standing.conflict = Some(Conflict { word, at, since: before.map_or(at, |conflict| conflict.since) });
            }
        }
    }

    /// This PIN is the right one.
    pub(crate) fn now_with(&self, mark: Option<Mark>, pin: Option<&Pin>) {
        let mut standing = self.access.standing.lock();
        standing.mark = mark;
        standing.retained = pin.filter(|_| self.options.retain_pin).cloned();
        standing.must_log_in = None;
    }

    /// The pool's mark while a login is made, so that whoever waits for it finds it; returns the one before.
    pub(crate) fn swap_mark(&self, mark: Option<Mark>) -> Option<Mark> {
        std::mem::replace(&mut self.access.standing.lock().mark, mark)
    }

    /// Lets what was held back go on, unless it waits for the token itself.
    pub(crate) fn open_gate(&self) {
        if matches!(self.availability.readiness(), Readiness::Held) {
            return;
        }
        for grant in self.sessions.open_gate() {
            self.dispatch(grant, &mut Posting);
        }
    }

    /// Somebody logs in with this PIN, and knows what it does. The answer comes by the header.
    pub fn login(&self, header: Arc<Header<H>>, pin: Option<Pin>, force: bool) {
        self.begin_explicit(ExplicitLogin { asker: Asker(header), pin, force });
    }

    pub(crate) fn begin_explicit(&self, login: ExplicitLogin<H>) {
        let token = match self.availability.token() {
            Ok(token) => token,
            Err(error) => return login.asker.answer(Err(Failure::not_executed(error))),
        };
        let ExplicitLogin { asker, pin, force } = login;
        if asker.0.is_over() || self.is_draining() {
            return;
        }
        let mark = pin.as_ref().map(|pin| token.gate.mark(pin));
        let who = Who { mark, protected: pin.is_none(), ..self.who() };
        match token.gate.begin_explicit(who) {
            Explicit::Already(word) => {
                self.now_with(mark, pin.as_ref());
                self.admit(word);
                self.keep_login();
                self.open_gate();
                asker.answer(Ok(Answer::Done));
            }
            Explicit::Begin(attempt) => self.submit_login(attempt, pin, Asked::new(Some(asker), force)),
            Explicit::Refuse(error) => asker.answer(Err(Failure::not_executed(error))),
            Explicit::Wait => {
                self.access.logins.lock().push(ExplicitLogin { asker, pin, force });
                if !token.gate.listen(Awaited::Attempt, self.listener()) {
                    self.resume_logins();
                }
                self.abandon_if_draining();
            }
        }
    }

    /// A pool that is logged in keeps a session open.
    pub(crate) fn keep_login(&self) {
        self.sessions.set_floor(1);
    }

    pub(crate) fn resume_logins(&self) {
        let logins = std::mem::take(&mut *self.access.logins.lock());
        for login in logins {
            self.begin_explicit(login);
        }
    }

    /// Lets go of explicit logins that nobody waits for.
    pub(crate) fn sweep_logins(&self) {
        let over: Vec<_> = {
            let mut logins = self.access.logins.lock();
            let (over, waiting) = std::mem::take(&mut *logins).into_iter().partition(|login| login.asker.0.is_over());
            *logins = waiting;
            over
        };
        drop(over);
    }

    /// Whether this pool's credential is in conflict with the login that there is, or locked out.
    pub(crate) fn is_in_conflict(&self, token: &Token) -> bool {
        let word = token.gate.word();
        word & 1 == 1 && self.access.standing.lock().conflict.as_ref().is_some_and(|conflict| conflict.word == word)
    }

    /// Why operations of this pool do not pass the gate, whatever others may.
    pub(crate) fn own_trouble(&self, token: &Token) -> Option<(Error, Millis)> {
        if self.is_admitted(token).is_some() {
            return None;
        }
        let word = token.gate.word();
        let standing = self.access.standing.lock();
        if let Some(since) = standing.must_log_in {
            return Some((Error::ReauthenticationRequired, since));
        }
        match &standing.conflict {
            Some(conflict) if word & 1 == 1 && conflict.word == word => {
                Some((Error::LoginConflict { call: None }, conflict.since))
            }
            _ => standing.source.get(),
        }
    }

    /// What the source has given. For the login of one use of a key, it says nothing of the others.
    fn note_source(&self, number: u64, pin: &Result<Pin, Error>) {
        let is_for_key = |ask: &Ask| matches!(ask, Ask::Key { .. }) && ask.number() == number;
        if self.access.asks.lock().iter().any(is_for_key) {
            return;
        }
        let mut standing = self.access.standing.lock();
        match pin {
            Ok(_) => standing.source.clear(),
            Err(error) => standing.source.note(error.clone(), now()),
        }
    }

    pub(crate) fn abandon_if_draining(&self) {
        if self.is_draining() {
            self.abandon_access();
        }
    }

    /// Nobody will bring a PIN any more: others begin anew, told so outside any lock, and whoever waits here is answered.
    pub(crate) fn abandon_access(&self) {
        let asks = std::mem::take(&mut *self.access.asks.lock());
        drop(asks);
        let logins = std::mem::take(&mut *self.access.logins.lock());
        drop(logins);
        let logouts = std::mem::take(&mut *self.access.logouts.lock());
        drop(logouts);
        self.refuse_parked(&Error::Draining);
        self.forget_retained();
    }
}
