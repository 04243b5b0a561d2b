//! What becomes of a grant: it runs on its session, which is opened if need be; or it goes back to its place, or is answered.

use session_pool::{Grant as PoolGrant, Millis, Started, State, Waiting};

use crate::error::{Error, Failure};
use crate::operation::header::Header;
use crate::operation::host::{Host, Outlet};
use crate::operation::{Operation, Place};
use crate::pool::TokenPool;
use crate::pool::availability::Readiness;
use crate::pool::grant::{Grant, Handled};
use crate::pool::in_flight::{InFlight, Purpose, Taken};
use crate::pool::opening::{Refusal, Unopened};
use crate::pool::work::Work;
use crate::support::clock::{millis, nanos};

impl<H: Host> TokenPool<H> {
    /// One grant, from there to the next one.
    pub(super) fn handle(&self, grant: Grant<H>, record: &InFlight<H>, outlet: &mut impl Outlet<H>) -> Handled<H> {
        let keeps = grant.waiter.payload.keepalive();
        let mut handled = self.handle_granted(grant, record, outlet);
        if let Some(keepalive) = keeps
            && handled.next.is_none()
        {
            handled.next = self.next_to_keep(keepalive);
        }
        self.advance_drain();
        handled
    }

    fn handle_granted(&self, grant: Grant<H>, record: &InFlight<H>, outlet: &mut impl Outlet<H>) -> Handled<H> {
        let PoolGrant { source, waiter: Waiting { payload, ticket } } = grant;
        // Whatever becomes of it.
        let _turn = self.turn_of(&payload, ticket);
        if !self.is_draining() {
            match self.availability.readiness() {
                Readiness::Ready => (),
                Readiness::Held => return self.put_back_granted(source, payload, ticket, outlet),
                Readiness::Refused(error) => return self.refuse_granted(source, payload, error),
            }
        }
        let started = nanos();
        let taken = record.take(source, Purpose::of(&payload), millis(started));
        match self.admit_work(&payload, outlet, millis(started)) {
            Admission::Run => (),
            Admission::Refuse(error) => return self.refuse_taken(taken, payload, error),
            Admission::Drop => return self.drop_taken(taken, payload),
        }
        let in_use = match self.open_if_needed(taken, || self.is_wanted(&payload, outlet)) {
            Ok(in_use) => in_use,
            Err(refused) => {
                return match self.wait_for_capacity(*refused, Waiting { payload, ticket }, outlet) {
                    Unopened::Waits(next) => Handled::next(next),
                    Unopened::Refused(refusal, Work::Call(operation)) => self.handle_unopened(refusal, operation, ticket, outlet),
                    Unopened::Refused(Refusal { error, remains, next }, Work::Control(control)) => {
                        self.handle_unopened_control(*control, error, &remains, started);
                        Handled::next(next)
                    }
                    Unopened::Refused(Refusal { next, .. }, Work::Keepalive(_)) => Handled::next(next),
                };
            }
        };
        match payload {
            Work::Keepalive(_) => Handled::next(self.handle_keepalive(in_use)),
            Work::Control(control) => Handled::next(self.handle_control(in_use, *control, started)),
            Work::Call(operation) => self.handle_call(in_use, operation, ticket, outlet),
        }
    }

    /// It must not run.
    fn refuse_taken(&self, taken: Taken<'_, H>, work: Work<H>, error: Error) -> Handled<H> {
        match work {
            Work::Call(operation) => {
                let next = self.give_back(taken, &operation.place);
                Handled::answer(operation, Err(Failure::not_executed(error)), next)
            }
            Work::Control(control) => {
                let next = self.give_back(taken, &Place::Pool);
                control.refuse(error);
                Handled::next(next)
            }
            Work::Keepalive(_nobody_waits) => Handled::next(self.give_back(taken, &Place::Pool)),
        }
    }

    /// Nobody waits for it.
    fn drop_taken(&self, taken: Taken<'_, H>, work: Work<H>) -> Handled<H> {
        let next = match &work {
            Work::Call(operation) => {
                // Its progress says so, or is made to.
                let _ = operation.header.progress.abandon();
                self.give_back(taken, &operation.place)
            }
            Work::Control(_) | Work::Keepalive(_) => self.give_back(taken, &Place::Pool),
        };
        drop(work);
        Handled::next(next)
    }

    /// Whether somebody still waits for it, while it waits for its turn in the module.
    fn is_wanted(&self, work: &Work<H>, outlet: &impl Outlet<H>) -> bool {
        match work {
            Work::Call(operation) => operation.header.is_wanted(outlet),
            Work::Control(_) | Work::Keepalive(_) => !self.is_draining(),
        }
    }

    fn admit_work(&self, work: &Work<H>, outlet: &impl Outlet<H>, now: Millis) -> Admission {
        match work {
            Work::Call(operation) => admit_call(operation, outlet, self.is_draining(), now),
            Work::Control(control) if !self.begin_control(control, outlet) => Admission::Drop,
            Work::Control(_) | Work::Keepalive(_) => Admission::Run,
        }
    }
}

/// Whether granted work is to run.
enum Admission {
    Run,
    Refuse(Error),
    /// Nobody waits for it.
    Drop,
}

fn admit_call<H: Host>(operation: &Operation<H>, outlet: &impl Outlet<H>, draining: bool, now: Millis) -> Admission {
    let Header { progress, reply, start_by, .. } = &*operation.header;
    if operation.header.is_over() || !outlet.is_wanted(reply) {
        return Admission::Drop;
    }
    if progress.state() == State::Queued {
        // What a lease's holder does on it is part of what runs already.
        if draining && !matches!(operation.place, Place::Within(_)) {
            return Admission::Refuse(Error::Draining);
        }
        if start_by.is_some_and(|start_by| start_by <= now) {
            return Admission::Refuse(Error::QueueTimeout);
        }
    }
    match progress.start(now) {
        Started::Run => Admission::Run,
        Started::Gone => Admission::Drop,
    }
}
