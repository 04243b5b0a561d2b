//! The turns of a runner that do not go as they should: no token, no session, one that is stale, trouble, a pause.

use std::time::Duration;

use session_pool::{Held, Source, Ticket};

use crate::error::{Error, Executed};
use crate::execution::step::Recover;
use crate::operation::host::{Host, Outlet, PoolServer};
use crate::operation::notice::Notice;
use crate::operation::{Operation, Place};
use crate::pool::TokenPool;
use crate::pool::availability::Readiness;
use crate::pool::grant::Grant;
use crate::pool::grant::Handled;
use crate::pool::grant::Parked;
use crate::pool::opening::{Refusal, Remains};
use crate::pool::work::Work;
use crate::support::backoff::random_unit;
use crate::token::session::{Session, next_number};

/// The pause before another try, in milliseconds: long enough for a device to come to its senses, short beside any deadline.
const PAUSE: std::ops::Range<f64> = 20.0..60.0;

impl<H: Host> TokenPool<H> {
    /// The token may be back at once: what was granted goes back to its place. On a lease it does not wait: its session is gone in any case.
    pub(crate) fn put_back_granted(
        &self,
        source: Source<Session>,
        work: Work<H>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Handled<H> {
        if work.lease().is_some() {
            let error = self.availability.refusal().unwrap_or(Error::Reinitializing);
            return self.refuse_granted(source, work, error);
        }
        let next = match work {
            Work::Call(operation) => {
                let granted = self.hold_back(operation, ticket, outlet);
                self.keep_first(granted, self.put_back(source, &Place::Pool), outlet)
            }
            Work::Control(control) => {
                let next = self.put_back(source, &Place::Pool);
                self.hold_control(*control);
                next
            }
            Work::Keepalive(_over) => self.put_back(source, &Place::Pool),
        };
        Handled::next(next)
    }

    /// The token is away.
    pub(crate) fn refuse_granted(&self, source: Source<Session>, work: Work<H>, error: Error) -> Handled<H> {
        match work {
            Work::Call(operation) => {
                let failure = operation.failure(error);
                let next = self.put_back(source, &operation.place);
                Handled::answer(operation, Err(failure), next)
            }
            Work::Control(control) => {
                let next = self.put_back(source, &Place::Pool);
                control.refuse(error);
                Handled::next(next)
            }
            Work::Keepalive(_over) => Handled::next(self.put_back(source, &Place::Pool)),
        }
    }

    /// The session died with what the token was before. A lease ends with it; any other operation takes another one.
    pub(crate) fn handle_stale(
        &self,
        held: Held<Session>,
        operation: Box<Operation<H>>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Handled<H> {
        self.discard(held, &operation.place, "stale");
        if matches!(operation.place, Place::Within(_)) {
            let failure = operation.failure(Error::LeaseEnded);
            return Handled::answer(operation, Err(failure), None);
        }
        Handled::next(self.requeue(operation, ticket, outlet))
    }

    /// Something is wrong with the session's token or module: that is seen to, and the operation tried again or answered.
    pub(crate) fn handle_trouble(
        &self,
        held: Held<Session>,
        mut operation: Box<Operation<H>>,
        ticket: Ticket,
        Recover { trouble, call, class, failure, retry }: Recover,
        outlet: &mut impl Outlet<H>,
    ) -> Handled<H> {
        self.respond_to(trouble, held.session.token(), held.session.generation(), call);
        self.discard(held, &operation.place, class.name());
        if retry && !matches!(self.availability.readiness(), Readiness::Refused(_)) {
            operation.prepare_retry(class, call, failure.executed, next_number());
            self.report_retry(&mut operation);
            return Handled::next(self.hold_back(operation, ticket, outlet));
        }
        let failure = self.failure_in_trouble(call, failure);
        Handled::answer(operation, Err(failure), None)
    }

    /// The session is given back, and the operation waits outside of the queue for a while.
    pub(crate) fn pause(
        &self,
        held: Held<Session>,
        operation: Box<Operation<H>>,
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

    fn resume_later(&self, operation: Box<Operation<H>>, ticket: Ticket) {
        let pool = self.me.clone();
        let millis = PAUSE.start + random_unit() * (PAUSE.end - PAUSE.start);
        let resume = move || match pool.upgrade() {
            Some(pool) => pool.resume(Parked { operation, ticket, held: None }),
            None => operation.post(Error::Draining),
        };
        H::later(Duration::from_secs_f64(millis / 1_000.0), Box::new(resume));
    }

    pub(crate) fn handle_unopened(
        &self,
        Refusal { error, next, remains }: Refusal<H>,
        mut operation: Box<Operation<H>>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Handled<H> {
        let may_retry = operation.may_try_another_opening();
        match remains {
            Remains::Return => {
                self.await_module();
                let granted = self.hold_back(operation, ticket, outlet);
                return Handled::next(self.keep_first(next, granted, outlet));
            }
            Remains::Retry(class, call) if may_retry => {
                operation.prepare_retry(class, call, Executed::No, next_number());
                self.report_retry(&mut operation);
                let granted = self.hold_back(operation, ticket, outlet);
                return Handled::next(self.keep_first(next, granted, outlet));
            }
            Remains::Pause(class, call) if may_retry => {
                operation.prepare_retry(class, call, Executed::No, next_number());
                self.report_retry(&mut operation);
                self.resume_later(operation, ticket);
                return Handled::next(next);
            }
            Remains::Answer | Remains::Retry(..) | Remains::Pause(..) => (),
        }
        let failure = operation.failure(error);
        Handled::answer(operation, Err(failure), next)
    }

    /// Tells why an operation is tried again, once.
    pub(crate) fn report_retry(&self, operation: &mut Operation<H>) {
        if let Some(retry) = operation.untold_retry.take() {
            self.server.post(Notice::Retried(retry));
        }
    }
}
