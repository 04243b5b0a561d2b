//! What a pool knows of its own login: with which PIN it passed the gate, what its PIN source is being asked for, and who waits for that.
//!
//! Whether anybody is logged in is the gate's to know (`token/login_gate`), which all pools of the token pass.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use session_pool::Millis;

use crate::error::Error;
use crate::operation::asker::Asker;
use crate::operation::host::{Host, Outlet};
use crate::options::{LoginMode, PoolOptions};
use crate::pool::grant::Parked;
use crate::pool::work::Control;
use crate::support::clock::now;
use crate::support::failing::Failing;
use crate::support::pin::Pin;
use crate::token::Token;
use crate::token::login_gate::{LoginAttempt, Mark, NameMark, SOURCE_INTERVAL, Who};

static NEXT_POOL: AtomicU64 = AtomicU64::new(1);

/// A pool's side of the gate.
pub(crate) struct Login<H: Host> {
    /// The pool's number at the gate.
    pub(crate) pool: u64,
    mode: LoginMode,
    user: cryptoki_sys::CK_USER_TYPE,
    name: Option<NameMark>,
    retains_pin: bool,
    inactivity_timeout: Option<Millis>,
    /// The gate's word in which the pool was admitted. Words have bit 0 set, so that 0 is none.
    admitted: AtomicU64,
    view: Mutex<View>,
    requests: Mutex<Vec<PinRequest>>,
    /// Operations that wait for the PIN of a login for one use of a key.
    pub(crate) awaiting_pin: Mutex<Vec<Parked<H>>>,
    /// Those that have it, and wait for their turn.
    pub(crate) awaiting_turn: Mutex<Vec<Parked<H>>>,
    /// What waits for the login or logout at the gate that somebody else sees to.
    pub(crate) awaiting_attempt: Mutex<Vec<AwaitingAttempt<H>>>,
    /// When an operation last ended.
    used_at: AtomicU64,
}

/// What a pool knows of its own credential.
#[derive(Default)]
struct View {
    /// The PIN with which it last passed.
    mark: Option<Mark>,
    /// That PIN itself, where it is to be retained.
    retained: Option<Pin>,
    /// The login with which its PIN is in conflict.
    conflict: Option<Conflict>,
    /// Its source could not say whether there is a conflict, and when (in nanoseconds).
    comparison_failed: Option<(Error, u64)>,
    /// What its source has come to, while it gives no PIN.
    source: Failing<Error>,
    /// When it was logged out, if it comes in again by an explicit login only.
    must_log_in: Option<Millis>,
}

/// That a pool's PIN is not the one that is logged in.
struct Conflict {
    /// The login's word.
    word: u64,
    /// When the source was last asked.
    asked_at: Millis,
    /// When that was first found.
    since: Millis,
}

/// What the PIN source is being asked for.
pub(crate) enum PinRequest {
    /// A login.
    Login(LoginAttempt),
    /// Whether its PIN is that of the login in this word.
    Compare { number: u64, word: u64 },
    /// The PIN for keys that want a login for each use.
    Key { number: u64 },
}

/// What waits for an attempt at the gate to end.
pub(crate) enum AwaitingAttempt<H: Host> {
    Login(ExplicitLogin<H>),
    Logout(Control<H>),
}

impl<H: Host> AwaitingAttempt<H> {
    /// Whether nobody waits for it.
    pub(crate) fn is_abandoned(&self, outlet: &impl Outlet<H>) -> bool {
        match self {
            Self::Login(login) => !login.asker.0.is_wanted(outlet),
            Self::Logout(logout) => logout.is_abandoned(outlet),
        }
    }
}

/// A login that somebody asks for.
pub(crate) struct ExplicitLogin<H: Host> {
    pub(crate) asker: Asker<H>,
    pub(crate) pin: Option<Pin>,
    pub(crate) force: bool,
}

impl PinRequest {
    fn number(&self) -> u64 {
        match self {
            Self::Login(attempt) => attempt.number(),
            Self::Compare { number, .. } | Self::Key { number } => *number,
        }
    }
}

impl<H: Host> Login<H> {
    pub(crate) fn new(options: &PoolOptions) -> Self {
        Self {
            pool: NEXT_POOL.fetch_add(1, Ordering::Relaxed),
            mode: options.login,
            user: options.user,
            name: options.user_name.as_deref().map(NameMark::of),
            retains_pin: options.retain_pin,
            inactivity_timeout: options.inactivity_timeout,
            admitted: AtomicU64::new(0),
            view: Mutex::default(),
            requests: Mutex::default(),
            awaiting_pin: Mutex::default(),
            awaiting_turn: Mutex::default(),
            awaiting_attempt: Mutex::default(),
            used_at: AtomicU64::new(0),
        }
    }

    /// The pool as the gate knows it.
    pub(crate) fn who(&self) -> Who {
        let mark = self.view.lock().mark;
        Who { pool: self.pool, user: self.user, name: self.name, protected: self.mode == LoginMode::Protected, mark }
    }
}

/// Being admitted.
impl<H: Host> Login<H> {
    /// The epoch in which an operation of a pool that logs in may go on: the way for those that were admitted before.
    #[inline]
    pub(crate) fn admitted_epoch(&self, token: &Token) -> Option<u64> {
        let word = token.gate.word();
        (word & 1 == 1 && self.is_admitted_in(word)).then_some(word >> 1)
    }

    /// Whether it was admitted in this word of the gate.
    pub(crate) fn is_admitted_in(&self, word: u64) -> bool {
        self.admitted.load(Ordering::Acquire) == word
    }

    /// The pool is admitted in this word: the epoch.
    pub(crate) fn admit(&self, word: u64) -> u64 {
        self.admitted.store(word, Ordering::Release);
        self.view.lock().source.clear();
        self.touch();
        word >> 1
    }

    /// It has another token than before: words are of one gate.
    pub(crate) fn forget_gate(&self) {
        self.admitted.store(0, Ordering::Release);
        self.view.lock().conflict = None;
    }

    /// It has logged out. `explicitly`: whoever wants it in again has to log in explicitly. The PIN is not kept any longer.
    pub(crate) fn note_logout(&self, explicitly: bool) {
        self.admitted.store(0, Ordering::Release);
        let mut view = self.view.lock();
        view.retained = None;
        view.must_log_in = explicitly.then(now);
    }

    pub(crate) fn must_log_in_explicitly(&self) -> bool {
        self.view.lock().must_log_in.is_some()
    }

    /// Something has run.
    pub(crate) fn touch(&self) {
        if self.inactivity_timeout.is_some() {
            self.used_at.store(now(), Ordering::Relaxed);
        }
    }

    /// Whether nothing has run for as long as the pool may stay logged in then.
    pub(crate) fn is_inactive(&self) -> bool {
        let used_at = self.used_at.load(Ordering::Relaxed);
        self.inactivity_timeout.is_some_and(|timeout| used_at.saturating_add(timeout) <= now())
    }
}

/// The PIN.
impl<H: Host> Login<H> {
    /// This PIN is the right one.
    pub(crate) fn note_right_pin(&self, mark: Option<Mark>, pin: Option<&Pin>) {
        let mut view = self.view.lock();
        view.mark = mark;
        view.retained = pin.filter(|_| self.retains_pin).cloned();
        view.must_log_in = None;
    }

    /// The pool's mark while a login is made, so that whoever waits for it finds it; returns the one before.
    pub(crate) fn swap_mark(&self, mark: Option<Mark>) -> Option<Mark> {
        std::mem::replace(&mut self.view.lock().mark, mark)
    }

    /// The PIN that is retained.
    pub(crate) fn retained_pin(&self) -> Option<Pin> {
        self.view.lock().retained.clone()
    }

    /// The PIN that logged in proves wrong.
    pub(crate) fn forget_retained_pin(&self) {
        let before = self.view.lock().retained.take();
        drop(before);
    }

    /// What the source has given. For the login of one use of a key, it says nothing of the others.
    pub(crate) fn note_source(&self, number: u64, pin: &Result<Pin, Error>) {
        let is_for_key = |request: &PinRequest| matches!(request, PinRequest::Key { .. }) && request.number() == number;
        if self.requests.lock().iter().any(is_for_key) {
            return;
        }
        let mut view = self.view.lock();
        match pin {
            Ok(_) => view.source.clear(),
            Err(error) => view.source.note(error.clone(), now()),
        }
    }
}

/// Comparing the pool's PIN with that of the login that there is.
impl<H: Host> Login<H> {
    /// What the comparison with this word's login has come to, if it was made since `asked_at` (nanoseconds).
    pub(crate) fn comparison(&self, word: u64, asked_at: u64) -> Option<Error> {
        let view = self.view.lock();
        match (&view.conflict, &view.comparison_failed) {
            (Some(conflict), _) if conflict.word == word && now().saturating_sub(conflict.asked_at) < SOURCE_INTERVAL => {
                Some(Error::LoginConflict { call: None })
            }
            (_, Some((error, at))) if asked_at <= *at => Some(error.clone()),
            _ => None,
        }
    }

    /// It is not the PIN of this word's login.
    pub(crate) fn note_conflict(&self, word: u64) {
        let (mut view, asked_at) = (self.view.lock(), now());
        let before = view.conflict.take().filter(|conflict| conflict.word == word);
        let since = before.map_or(asked_at, |conflict| conflict.since);
        view.conflict = Some(Conflict { word, asked_at, since });
    }

    /// The source could not say; `nanos`: when.
    pub(crate) fn note_failed_comparison(&self, error: Error, nanos: u64) {
        self.view.lock().comparison_failed = Some((error, nanos));
    }

    /// Whether this pool's credential is in conflict with the login that there is.
    pub(crate) fn is_in_conflict(&self, token: &Token) -> bool {
        let word = token.gate.word();
        word & 1 == 1 && self.view.lock().conflict.as_ref().is_some_and(|conflict| conflict.word == word)
    }

    /// Why operations of this pool do not pass the gate, whatever others may; and since when.
    pub(crate) fn own_trouble(&self, token: &Token) -> Option<(Error, Millis)> {
        if self.admitted_epoch(token).is_some() {
            return None;
        }
        let word = token.gate.word();
        let view = self.view.lock();
        if let Some(since) = view.must_log_in {
            return Some((Error::ReauthenticationRequired, since));
        }
        match &view.conflict {
            Some(conflict) if word & 1 == 1 && conflict.word == word => {
                Some((Error::LoginConflict { call: None }, conflict.since))
            }
            _ => view.source.get(),
        }
    }
}

/// What the source is being asked for.
impl<H: Host> Login<H> {
    /// A PIN for a login is asked for.
    pub(crate) fn request_for_login(&self, attempt: LoginAttempt) {
        self.requests.lock().push(PinRequest::Login(attempt));
    }

    /// A PIN to compare is asked for, unless it is being asked for already, or is not needed any more. `is_needed` is called under the lock.
    pub(crate) fn request_for_comparison(&self, number: u64, word: u64, is_needed: impl FnOnce() -> bool) -> Asking {
        let mut requests = self.requests.lock();
        if requests.iter().any(|request| matches!(request, PinRequest::Compare { .. })) {
            return Asking::Already;
        }
        if !is_needed() {
            return Asking::NotNeeded;
        }
        requests.push(PinRequest::Compare { number, word });
        Asking::Begins
    }

    /// A PIN for keys is asked for. `false`: it is being asked for already.
    pub(crate) fn request_for_keys(&self, number: u64) -> bool {
        let mut requests = self.requests.lock();
        let is_first = !requests.iter().any(|request| matches!(request, PinRequest::Key { .. }));
        if is_first {
            requests.push(PinRequest::Key { number });
        }
        is_first
    }

    /// The word of the login with which the PIN of this request is to be compared, if it is for that.
    pub(crate) fn word_to_compare(&self, number: u64) -> Option<u64> {
        self.requests.lock().iter().find_map(|request| match request {
            PinRequest::Compare { number: other, word } if *other == number => Some(*word),
            _ => None,
        })
    }

    /// The request is answered.
    pub(crate) fn take_request(&self, number: u64) -> Option<PinRequest> {
        let mut requests = self.requests.lock();
        let index = requests.iter().position(|request| request.number() == number)?;
        Some(requests.swap_remove(index))
    }

    /// Nobody will bring a PIN any more.
    pub(crate) fn take_requests(&self) -> Vec<PinRequest> {
        std::mem::take(&mut *self.requests.lock())
    }
}

/// Whether a PIN is asked for.
pub(crate) enum Asking {
    Begins,
    Already,
    NotNeeded,
}
