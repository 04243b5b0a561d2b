//! How an operation gets through its token's gate: with a PIN that the pool's source gives (asked by the pool server), or with the token's own means.
//! Nobody blocks in here: an operation that has to wait goes back to its place, and comes again when the gate has changed.

use std::sync::Arc;

use crate::error::Error;
use crate::operation::host::{Host, PoolServer, Posting};
use crate::operation::notice::Notice;
use crate::options::LoginMode;
use crate::pool::TokenPool;
use crate::pool::availability::Readiness;
use crate::pool::login::state::{Asking, PinRequest};
use crate::pool::work::{Asked, Control, Credential};
use crate::support::clock::{nanos, now};
use crate::support::pin::Pin;
use crate::token::Token;
use crate::token::login_gate::{Awaited, LoginAttempt, MarkedPin, Verdict, Who};

/// What an operation finds at the gate.
pub(crate) enum Passage {
    /// It passes, in this epoch.
    Pass(u64),
    Refuse(Error),
    Wait(Wait),
}

/// What an operation waits for.
pub(crate) enum Wait {
    /// The login in progress; the attempt is this operation's to begin.
    Login(Option<LoginAttempt>),
    /// The source, which is to say whether the login of this word is the pool's, too.
    Compare(u64),
}

impl<H: Host> TokenPool<H> {
    /// Whether an operation of a pool that has not been admitted passes.
    pub(crate) fn pass(&self, token: &Token, asked_at: u64) -> Passage {
        if self.login.must_log_in_explicitly() {
            return Passage::Refuse(Error::ReauthenticationRequired);
        }
        match token.gate.check(self.login.who(), asked_at, now()) {
            Verdict::Pass(word) => Passage::Pass(self.admit(word)),
            Verdict::Refuse(error) => Passage::Refuse(error),
            Verdict::Begin(attempt) => Passage::Wait(Wait::Login(Some(attempt))),
            Verdict::Wait => Passage::Wait(Wait::Login(None)),
            Verdict::Compare(word) => match self.login.comparison(word, asked_at) {
                Some(error) => Passage::Refuse(error),
                None => Passage::Wait(Wait::Compare(word)),
            },
        }
    }

    /// The pool is admitted in this word: the epoch.
    pub(crate) fn admit(&self, word: u64) -> u64 {
        self.record.note_service();
        self.login.admit(word)
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
                let number = token.gate.take_number();
                let is_needed = || {
                    token.gate.word() == word
                        && self.login.admitted_epoch(token).is_none()
                        && self.login.comparison(word, asked_at).is_none()
                };
                match self.login.request_for_comparison(number, word, is_needed) {
                    Asking::Already => true,
                    Asking::NotNeeded => false,
                    Asking::Begins => {
                        self.server.post(Notice::PinWanted { attempt: number });
                        true
                    }
                }
            }
        }
    }

    /// An operation of this pool is to see to a login.
    fn begin_login(&self, attempt: LoginAttempt) {
        if self.options.login == LoginMode::Protected {
            return self.submit_login(attempt, None, Asked::new(None, false));
        }
        if let Some(pin) = self.login.retained_pin() {
            return self.log_in_with(attempt, pin);
        }
        let number = attempt.number();
        self.login.request_for_login(attempt);
        self.server.post(Notice::PinWanted { attempt: number });
    }

    /// The name with which it logs in.
    pub(crate) fn user_name(&self) -> Option<&str> {
        self.options.user_name.as_deref()
    }

    fn log_in_with(&self, attempt: LoginAttempt, pin: Pin) {
        let pin = attempt.mark_pin(self.user_name(), pin);
        // Why not, whoever waits hears from the gate.
        if let Ok(attempt) = self.refuse_known_bad_pin(attempt, &pin) {
            self.submit_login(attempt, Some(pin), Asked::new(None, false));
        }
    }

    /// Lets an attempt go on with this PIN, unless the token has refused it before: then the attempt ends as it did then, and the token is not
    /// asked.
    pub(crate) fn refuse_known_bad_pin(&self, attempt: LoginAttempt, pin: &MarkedPin) -> Result<LoginAttempt, Error> {
        let Some(refusal) = attempt.known_refusal(pin.mark()) else { return Ok(attempt) };
        self.login.forget_retained_pin();
        attempt.poison(refusal.clone(), None, now());
        Err(refusal)
    }

    pub(crate) fn submit_login(&self, attempt: LoginAttempt, pin: Option<MarkedPin>, asked: Asked<H>) {
        self.submit_control(Control::login(Credential { attempt, pin }, asked));
    }

    /// The source is to give the PIN for the keys whose operations wait for it.
    pub(crate) fn ask_for_keys(&self, token: &Token) {
        let number = token.gate.take_number();
        if self.login.request_for_keys(number) {
            self.server.post(Notice::PinWanted { attempt: number });
        }
    }

    /// The pool server has the PIN that was wanted, or the error that says why not.
    pub fn provide_pin(&self, number: u64, pin: Result<Pin, Error>) {
        self.login.note_source(number, &pin);
        if let Some(word) = self.login.word_to_compare(number) {
            // What came of it is to be seen before the request disappears: else it would be asked again.
            self.compare(word, &pin);
        }
        match (self.login.take_request(number), pin) {
            (None, _) => (),
            (Some(PinRequest::Login(attempt)), Ok(pin)) => self.log_in_with(attempt, pin),
            (Some(PinRequest::Login(attempt)), Err(error)) => attempt.fail(error, true, nanos()),
            (Some(PinRequest::Compare { .. }), _) => self.open_gate(),
            (Some(PinRequest::Key { .. }), pin) => self.provide_for_keys(pin),
        }
        self.advance_drain();
    }

    fn compare(&self, word: u64, pin: &Result<Pin, Error>) {
        let Ok(token) = self.availability.token() else { return };
        let pin = match pin {
            Ok(pin) => pin,
            Err(error) => return self.login.note_failed_comparison(error.clone(), nanos()),
        };
        let mark = Some(token.gate.mark(self.user_name(), pin));
        match token.gate.shares(Who { mark, ..self.login.who() }) {
            Some(word) => {
                self.login.note_right_pin(mark, Some(pin));
                self.admit(word);
            }
            None => self.login.note_conflict(word),
        }
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

    /// A pool that is logged in keeps a session open.
    pub(crate) fn keep_login(&self) {
        self.sessions.set_floor(1);
    }

    /// Nobody will bring a PIN any more: others begin anew, told so outside any lock, and whoever waits here is answered.
    pub(crate) fn abandon_logins(&self) {
        drop(self.login.take_requests());
        let waiting = std::mem::take(&mut *self.login.awaiting_attempt.lock());
        drop(waiting);
        self.refuse_parked(&Error::Draining);
        self.login.forget_retained_pin();
    }
}
