//! The turns of a runner that do not go as they should: no token, no session, one that is stale, trouble, a pause.

use std::time::Duration;

use session_pool::{Held, Source, Ticket};

use crate::error::{Error, Executed};
use crate::execution::Recover;
use crate::operation::host::{Host, Keeper, Notice, Outlet};
use crate::operation::request::{Operation, Place, Work};
use crate::p11::{CallError, Class};
use crate::pool::availability::Readiness;
use crate::pool::in_flight::Cell;
use crate::pool::key_pins::Parked;
use crate::pool::opening::{Refusal, enter};
use crate::pool::recovery::{Trouble, as_seen_by, own_trouble};
use crate::pool::{Grant, TokenPool};
use crate::runner::Turn;
use crate::support::backoff::random_unit;
use crate::token::diagnosis::{Finding, examine, is_suspicious};
use crate::token::session::Session;

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

/// The pause before another try, in milliseconds: long enough for a device to come to its senses, short beside any deadline.
const PAUSE: std::ops::Range<f64> = 20.0..60.0;

impl<H: Host> TokenPool<H> {
    /// The token may be back at once: what was granted goes back to its place. On a lease it does not wait: its session is gone in any case.
    pub(crate) fn turn_back(
        &self,
        source: Source<Session>,
        work: Work<H>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Turn<H> {
        let next = match work {
            Work::Call(Operation { place: Place::Within(_), .. }) => {
                let error = self.refusal().unwrap_or(Error::Reinitializing);
                return self.turn_away(source, work, error);
            }
            Work::Call(operation) => {
                let granted = self.hold_back(operation, ticket, outlet);
                self.first_of(granted, self.put_back(source, &Place::Pool), outlet)
            }
            Work::Express(express) => {
                let next = self.put_back(source, &Place::Pool);
                self.hold_express(express);
                next
            }
            Work::Keepalive(_over) => self.put_back(source, &Place::Pool),
        };
        Turn { next, answer: None }
    }

    /// The token is away.
    pub(crate) fn turn_away(&self, source: Source<Session>, work: Work<H>, error: Error) -> Turn<H> {
        match work {
            Work::Call(operation) => {
                let failure = operation.failure(error);
                Turn { next: self.put_back(source, &operation.place), answer: Some((operation, Err(failure))) }
            }
            Work::Express(express) => {
                let next = self.put_back(source, &Place::Pool);
                express.refuse(error);
                Turn { next, answer: None }
            }
            Work::Keepalive(_over) => Turn { next: self.put_back(source, &Place::Pool), answer: None },
        }
    }

    /// The session died with what the token was before. A lease ends with it; any other operation takes another one.
    pub(crate) fn turn_of_stale(
        &self,
        held: Held<Session>,
        operation: Operation<H>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Turn<H> {
        self.discard(held, &operation.place, "stale");
        if matches!(operation.place, Place::Within(_)) {
            let failure = operation.failure(Error::LeaseEnded);
            return Turn { next: None, answer: Some((operation, Err(failure))) };
        }
        Turn { next: self.requeue(operation, ticket, outlet), answer: None }
    }

    /// Something is wrong with the session's token or module: that is seen to, and the operation tried again or answered.
    pub(crate) fn turn_of_trouble(
        &self,
        held: Held<Session>,
        mut operation: Operation<H>,
        ticket: Ticket,
        Recover { trouble, call, class, failure, retry }: Recover,
        outlet: &mut impl Outlet<H>,
    ) -> Turn<H> {
        if let Some(token) = held.session.token() {
            let token = token.clone();
            self.face(trouble, &token, held.session.generation(), call);
        }
        self.discard(held, &operation.place, class.name());
        if retry && !matches!(self.readiness(), Readiness::Refused(_)) {
            operation.again(class, call, failure.executed);
            self.tell_of_retry(&mut operation);
            return Turn { next: self.hold_back(operation, ticket, outlet), answer: None };
        }
        let failure = self.troubled_failure(call, failure);
        Turn { next: None, answer: Some((operation, Err(failure))) }
    }

    /// The session is given back, and the operation waits outside of the queue for a while.
    pub(crate) fn pause(
        &self,
        held: Held<Session>,
        operation: Operation<H>,
        ticket: Ticket,
        broken: Option<&'static str>,
    ) -> Option<Grant<H>> {
        let next = match broken {
            Some(reason) => {
                self.discard(held, &Place::Pool, reason);
                None
            }
            None => self.free(held, &Place::Pool),
        };
        self.resume_later(operation, ticket);
        next
    }

    fn resume_later(&self, operation: Operation<H>, ticket: Ticket) {
        let pool = self.me.clone();
        let millis = PAUSE.start + random_unit() * (PAUSE.end - PAUSE.start);
        let resume = move || match pool.upgrade() {
            Some(pool) => pool.resume(Parked { operation, ticket, held: None }),
            None => operation.post(Error::Draining),
        };
        H::later(Duration::from_secs_f64(millis / 1_000.0), Box::new(resume));
    }

    pub(crate) fn turn_of_unopened(
        &self,
        Refusal { error, next, remains }: Refusal<H>,
        mut operation: Operation<H>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Turn<H> {
        let may_retry = operation.retries == 0 && !operation.header.is_over();
        match remains {
            Remains::Return => {
                self.await_module();
                let granted = self.hold_back(operation, ticket, outlet);
                return Turn { next: self.first_of(next, granted, outlet), answer: None };
            }
            Remains::Retry(class, call) if may_retry => {
                operation.again(class, call, Executed::No);
                self.tell_of_retry(&mut operation);
                let granted = self.hold_back(operation, ticket, outlet);
                return Turn { next: self.first_of(next, granted, outlet), answer: None };
            }
            Remains::Pause(class, call) if may_retry => {
                operation.again(class, call, Executed::No);
                self.tell_of_retry(&mut operation);
                self.resume_later(operation, ticket);
                return Turn { next, answer: None };
            }
            Remains::Answer | Remains::Retry(..) | Remains::Pause(..) => (),
        }
        let failure = operation.failure(error);
        Turn { next, answer: Some((operation, Err(failure))) }
    }

    /// `C_OpenSession`; or why not, and what is to be done about it.
    pub(crate) fn open(&self, cell: &Cell<H>, is_wanted: impl Fn() -> bool) -> Result<Session, (Error, Remains)> {
        let answer = |error| (error, Remains::Answer);
        let token = self.token().map_err(|error| match error {
            Error::Reinitializing => (error, Remains::Return),
            other => answer(other),
        })?;
        let generation = token.generation();
        let (call, class, finding, seen, lasting) = {
            let _inside = enter(&token, cell, is_wanted).map_err(|error| match error {
                Error::Reinitializing => (error, Remains::Return),
                other => answer(other),
            })?;
            let call = match Session::open(&token, self.options.read_only) {
                Ok(session) => return Ok(session),
                Err(call) => call,
            };
            let class = self.options.class(&call);
            if !is_suspicious(class) {
                return Err(answer(call.into()));
            }
            let finding = examine(&self.options, &token, None, class);
            let lasting = matches!(finding, Finding::TokenAnswers | Finding::SessionAnswers)
                .then(|| own_trouble(&self.options, &token, class))
                .flatten();
            (call, class, finding, token.module.incarnation(), lasting)
        };
        if let Some(trouble) = lasting {
            self.face(trouble, &token, generation, call);
            return Err((call.into(), Remains::Retry(class, call)));
        }
        match finding {
            Finding::ModuleDown => {
                self.face(Trouble::Module { seen }, &token, generation, call);
                Err((call.into(), Remains::Retry(class, call)))
            }
            Finding::Silence => {
                self.face(Trouble::Silence, &token, generation, call);
                match self.readiness() {
                    Readiness::Refused(error) => Err(answer(as_seen_by(call, error))),
                    // That was the token of before.
                    Readiness::Ready | Readiness::Held => Err((call.into(), Remains::Retry(class, call))),
                }
            }
            Finding::TokenAnswers | Finding::SessionAnswers if class == Class::DeviceTrouble => {
                Err((call.into(), Remains::Pause(class, call)))
            }
            Finding::TokenAnswers | Finding::SessionAnswers => Err(answer(call.into())),
        }
    }

    /// Tells why an operation is tried again, once.
    pub(crate) fn tell_of_retry(&self, operation: &mut Operation<H>) {
        if let Some(retry) = operation.retry.take() {
            self.keeper.post(Notice::Retried(retry));
        }
    }
}
