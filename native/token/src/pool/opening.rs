//! From a grant to an open session; and what becomes of what was to run on one that the token does not give.

use cryptoki_sys::CKR_ARGUMENTS_BAD;
use session_pool::{Source, Waiting};

use crate::error::{Error, Unavailable};
use crate::module::Inside;
use crate::operation::host::{Host, Outlet, PoolServer, Posting};
use crate::operation::notice::Notice;
use crate::p11::{CallError, Class};
use crate::pool::TokenPool;
use crate::pool::availability::Readiness;
use crate::pool::grant::Grant;
use crate::pool::in_flight::{InFlight, InUse, Taken};
use crate::pool::recovery::as_seen_by;
use crate::pool::work::Work;
use crate::support::clock::{nanos, now};
use crate::token::Token;
use crate::token::diagnosis::{FailedCall, Trouble, diagnose};
use crate::token::session::Session;

/// The token has given no session.
pub(crate) struct NoSession<'a, H: Host> {
    error: Error,
    remains: Remains,
    taken: Taken<'a, H>,
}

/// What becomes of work for which no session could be opened.
pub(crate) enum Unopened<H: Host> {
    /// It is back in its place; what is next.
    Waits(Option<Grant<H>>),
    /// It gets none.
    Refused(Refusal<H>, Work<H>),
}

/// What remains to be done when no session could be opened.
pub(crate) enum Remains {
    /// Its error is the answer.
    Answer,
    /// It goes back to its place: the module is being initialized again.
    Return,
    /// It may be tried again, once, when the pool has recovered.
    Retry(Class, CallError),
    /// It may be tried again, once, after a while.
    Pause(Class, CallError),
}

/// Why there is no session, what remains to be done about it, and what is next.
pub(crate) struct Refusal<H: Host> {
    pub(crate) error: Error,
    pub(crate) remains: Remains,
    pub(crate) next: Option<Grant<H>>,
}

impl<H: Host> TokenPool<H> {
    /// `C_OpenSession`; or why not, and what is to be done about it.
    fn open(&self, record: &InFlight<H>, is_wanted: impl Fn() -> bool) -> Result<Session, (Error, Remains)> {
        let answer = |error| (error, Remains::Answer);
        let token = self.availability.token().map_err(|error| match error {
            Error::Reinitializing => (error, Remains::Return),
            other => answer(other),
        })?;
        let generation = token.generation();
        let (call, class, trouble) = {
            let _inside = enter(&token, record, is_wanted).map_err(|error| match error {
                Error::Reinitializing => (error, Remains::Return),
                other => answer(other),
            })?;
            let call = match Session::open(&token, self.options.read_only) {
                Ok(session) => return Ok(session),
                Err(call) => call,
            };
            let class = self.options.policy.class(&call);
            (call, class, diagnose(&self.options.policy, &token, class, &FailedCall::Opening).trouble)
        };
        let Some(trouble) = trouble else {
            let remains = if class == Class::DeviceTrouble { Remains::Pause(class, call) } else { Remains::Answer };
            return Err((call.into(), remains));
        };
        self.respond_to(trouble, &token, generation, call);
        match self.availability.readiness() {
            Readiness::Refused(error) if trouble == Trouble::Silence => Err(answer(as_seen_by(call, error))),
            // It may have been the token of before.
            _ => Err((call.into(), Remains::Retry(class, call))),
        }
    }

    /// The session of a grant, opened if need be; or why not. `is_wanted`: asked while it waits for its turn in the module.
    pub(crate) fn open_if_needed<'a>(
        &self,
        taken: Taken<'a, H>,
        is_wanted: impl Fn() -> bool,
    ) -> Result<InUse<'a, H>, Box<NoSession<'a, H>>> {
        let taken = match taken.in_use() {
            Ok(in_use) => return Ok(in_use),
            Err(taken) => taken,
        };
        let started = nanos();
        match self.open(taken.record(), is_wanted) {
            Ok(session) => {
                self.server.post(Notice::SessionOpened { session: session.index(), nanos: nanos() - started });
                self.record.note_opened();
                let in_use = taken.opened(&self.sessions, session);
                if self.sessions.is_capped() {
                    for grant in self.sessions.widen(now()) {
                        self.dispatch(grant, &mut Posting);
                    }
                }
                Ok(in_use)
            }
            Err((error, remains)) => {
                self.server.post(Notice::SessionRefused { reason: error.reason(), nanos: nanos() - started });
                Err(Box::new(NoSession { error, remains, taken }))
            }
        }
    }

    /// No session could be opened. What was to run on it waits for another, if the token only has no room for more than there are.
    pub(crate) fn wait_for_capacity(
        &self,
        NoSession { error, remains, taken }: NoSession<'_, H>,
        waiter: Waiting<Work<H>>,
        outlet: &mut impl Outlet<H>,
    ) -> Unopened<H> {
        let refused = |error, work, next| Unopened::Refused(Refusal { error, remains, next }, work);
        let opening = match self.note_return(taken.finish()) {
            Source::Capacity(opening) => opening,
            Source::Session(held) => return refused(error, waiter.payload, self.release(held)),
        };
        if opening.is_hung() || !self.is_full(&error) {
            self.note_refusal(&error);
            return refused(error, waiter.payload, self.never_opened(opening));
        }
        match self.sessions.refused(opening, waiter, now()) {
            Ok(grants) => Unopened::Waits(self.keep_first_of(grants, outlet)),
            Err((opening, waiter)) => {
                let error = self.none_to_be_had(error);
                self.note_refusal(&error);
                refused(error, waiter.payload, self.never_opened(opening))
            }
        }
    }

    /// Whatever is to be opened next may fail in the same way. Of a token that is away, or comes back, it says nothing.
    fn note_refusal(&self, error: &Error) {
        if matches!(self.availability.readiness(), Readiness::Ready) && matches!(error, Error::Call(_)) {
            self.record.note_not_opened(error);
        }
    }

    /// The token gives this pool no session at all. If none of ours is open on it, nothing will come free: it is as good as away.
    fn none_to_be_had(&self, error: Error) -> Error {
        let (Error::Call(call), Ok(token)) = (&error, self.availability.token()) else { return error };
        if token.gate.sessions() > 0 {
            return error;
        }
        self.respond_to(Trouble::Silence, &token, token.generation(), *call);
        match self.availability.readiness() {
            Readiness::Refused(refusal) => as_seen_by(*call, refusal),
            // It has been found again already: the answer is the same as a moment ago.
            Readiness::Ready | Readiness::Held => {
                Error::TokenUnavailable(Unavailable { call: Some(*call), cause: None, away: 0, retry_after: 1 })
            }
        }
    }

    /// Whether the token gives no further session, though nothing is wrong with it.
    fn is_full(&self, error: &Error) -> bool {
        let Error::Call(call) = error else { return false };
        let class = self.options.policy.class(call);
        // CloudHSM says it so.
        let has_others = || self.availability.token().is_ok_and(|token| token.gate.sessions() > 0);
        call.function == "C_OpenSession"
            && (class == Class::Capacity || (call.code == CKR_ARGUMENTS_BAD && class == Class::Caller && has_others()))
    }
}

/// Enters a module for what is in a record: while that waits for its turn, nothing hangs.
pub(crate) fn enter<'a, H: Host>(
    token: &'a Token,
    record: &InFlight<H>,
    is_wanted: impl Fn() -> bool,
) -> Result<Inside<'a>, Error> {
    if !token.module.is_serialized() {
        return token.module.enter_while(is_wanted);
    }
    record.set_inside(false);
    let inside = token.module.enter_while(is_wanted);
    record.set_inside(true);
    inside
}
