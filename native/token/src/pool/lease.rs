//! Leases: sessions that callers have for themselves.

use std::sync::{Arc, Weak};

use session_pool::{Ended, GivenBack, Grant as PoolGrant, Held, LeaseEnd, OnLease, Ticket, Waiting};

use crate::error::Error;
use crate::operation::header::Header;
use crate::operation::host::{Host, Outlet};
use crate::operation::request::Request;
use crate::operation::{Operation, OperationLease, Place};
use crate::pool::TokenPool;
use crate::pool::grant::Grant;
use crate::pool::work::Work;
use crate::token::session::Session;

impl<H: Host> TokenPool<H> {
    /// Takes a call for a session of its own, on which this is to run first: it is answered when the lease has one.
    pub fn submit_lease(
        &self,
        header: Arc<Header<H>>,
        request: Request,
        outlet: &mut impl Outlet<H>,
    ) -> Result<(Ticket, Arc<OperationLease<H>>), Error> {
        let lease = Arc::new(OperationLease::default());
        let ticket = self.submit_operation(Operation::new(header, request, Place::Takes(lease.clone())), outlet)?;
        let mut leases = self.leases.lock();
        leases.retain(|lease| lease.strong_count() > 0);
        leases.push(Arc::downgrade(&lease));
        Ok((ticket, lease))
    }

    /// Takes a call on the session of one of this pool's leases.
    pub fn submit_within(
        &self,
        lease: &Arc<OperationLease<H>>,
        header: Arc<Header<H>>,
        request: Request,
        outlet: &mut impl Outlet<H>,
    ) -> Result<Ticket, Error> {
        header.count_in(&self.tally);
        match lease.submit(Operation::new(header, request, Place::Within(lease.clone()))) {
            OnLease::Granted(granted) => {
                let ticket = granted.waiter.ticket;
                self.dispatch(on_lease(granted), outlet);
                self.advance_drain();
                Ok(ticket)
            }
            OnLease::Queued(ticket) => Ok(ticket),
            OnLease::Ended(operation) => {
                // The caller gets the error as this function's result: nobody is to answer it once more.
                operation.header.refuse(&Error::LeaseEnded);
                Err(Error::LeaseEnded)
            }
        }
    }

    /// A lease ends: now, or when its operation is done. `false`: it had ended.
    pub fn end_lease(&self, lease: &OperationLease<H>, end: LeaseEnd, outlet: &mut impl Outlet<H>) -> bool {
        match lease.end(end) {
            Ended::Already => false,
            Ended::Before | Ended::Later => true,
            Ended::Now(held, end) => {
                if let Some(grant) = self.take_from_lease(held, end) {
                    self.dispatch(grant, outlet);
                }
                self.advance_drain();
                true
            }
        }
    }

    /// An operation has become a lease: its session is the holder's from now on. `Err`: the lease has ended meanwhile.
    pub(crate) fn start_lease(
        &self,
        lease: &OperationLease<H>,
        held: Held<Session>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Result<(), Held<Session>> {
        let (held, granted) = self.sessions.lease(held);
        let started = lease.start(held, ticket);
        if let Some(grant) = granted {
            self.dispatch(grant, outlet);
        }
        started
    }

    /// An operation on a lease is done: what runs next. `broken`: its session must not be used again, for this reason.
    pub(crate) fn give_back_to_lease(
        &self,
        lease: &OperationLease<H>,
        held: Held<Session>,
        broken: Option<&'static str>,
    ) -> Option<Grant<H>> {
        match lease.give_back(held, broken) {
            GivenBack::Granted(granted) => Some(on_lease(granted)),
            GivenBack::Kept => None,
            GivenBack::Ended { held, end, waiting } => {
                for operation in waiting {
                    operation.post(Error::LeaseEnded);
                }
                self.take_from_lease(held, end)
            }
        }
    }

    /// The call of a lease's operation hangs: the lease ends now. Its session finds out when it comes back.
    pub(crate) fn abandon_lease(&self, lease: &OperationLease<H>) {
        for operation in lease.abandon() {
            operation.post(Error::LeaseEnded);
        }
    }

    /// Whoever still has a lease of a pool that ends has it no longer.
    pub(crate) fn end_leases(&self, reason: &'static str, outlet: &mut impl Outlet<H>) {
        let leases: Vec<_> = self.leases.lock().iter().filter_map(Weak::upgrade).collect();
        for lease in leases {
            self.end_lease(&lease, LeaseEnd::Close(reason), outlet);
        }
    }

    /// Whether callers have sessions for themselves.
    pub fn has_leases(&self) -> bool {
        self.sessions.stats().leased > 0
    }

    fn take_from_lease(&self, held: Held<Session>, end: LeaseEnd) -> Option<Grant<H>> {
        match end {
            LeaseEnd::Return => self.release(held),
            LeaseEnd::Close(reason) => {
                let (closing, session) = self.sessions.discard(held);
                self.close(closing, session, reason);
                None
            }
        }
    }
}

fn on_lease<H: Host>(PoolGrant { source, waiter }: PoolGrant<Session, Box<Operation<H>>>) -> Grant<H> {
    let Waiting { payload, ticket } = waiter;
    PoolGrant { source, waiter: Waiting { payload: Work::Call(payload), ticket } }
}
