//! How sessions and work change hands: what comes free serves the next, and what cannot run goes back to its place.

use session_pool::{Dispatch, Freed, Held, Opening, Source, Ticket, Waiting};

use crate::error::Error;
use crate::operation::host::{Host, Outlet, Wake};
use crate::operation::{Operation, Place};
use crate::pool::TokenPool;
use crate::pool::grant::Grant;
use crate::pool::in_flight::{InFlight, Taken};
use crate::pool::work::Work;
use crate::support::clock::now;
use crate::token::session::Session;

impl<H: Host> TokenPool<H> {
    /// Finds a runner for a grant.
    pub(crate) fn dispatch(&self, grant: Grant<H>, outlet: &mut impl Outlet<H>) {
        match self.roster.dispatch(grant) {
            Dispatch::Wake(_, runner) => outlet.wake(&runner),
            Dispatch::Unpark(_, runner) => runner.unpark(),
            Dispatch::Later => (),
        }
    }

    /// A session comes free: for the lease that it belongs to, or for the pool.
    pub(crate) fn free(&self, held: Held<Session>, place: &Place<H>) -> Option<Grant<H>> {
        if let Place::Within(lease) = place {
            return self.give_back_to_lease(lease, held, None);
        }
        self.release(held)
    }

    /// A session must not be used again: what runs next is nothing of its own.
    pub(crate) fn discard(&self, held: Held<Session>, place: &Place<H>, reason: &'static str) {
        if let Place::Within(lease) = place {
            // A closed session grants nothing.
            let granted = self.give_back_to_lease(lease, held, Some(reason));
            debug_assert!(granted.is_none());
            return;
        }
        let (closing, session) = self.sessions.discard(held);
        self.close(closing, session, reason);
    }

    /// Puts an operation back to its place. What is granted meanwhile: the first for this runner, the rest for others.
    pub(crate) fn requeue(&self, operation: Box<Operation<H>>, ticket: Ticket, outlet: &mut impl Outlet<H>) -> Option<Grant<H>> {
        match self.sessions.requeue(Waiting { payload: Work::Call(operation), ticket }) {
            Ok(grants) => self.keep_first_of(grants, outlet),
            Err(work) => {
                work.refuse(&Error::Draining);
                None
            }
        }
    }

    pub(crate) fn keep_first_of(&self, grants: Vec<Grant<H>>, outlet: &mut impl Outlet<H>) -> Option<Grant<H>> {
        let mut grants = grants.into_iter();
        let first = grants.next();
        for grant in grants {
            self.dispatch(grant, outlet);
        }
        first
    }

    pub(crate) fn keep_first(
        &self,
        first: Option<Grant<H>>,
        second: Option<Grant<H>>,
        outlet: &mut impl Outlet<H>,
    ) -> Option<Grant<H>> {
        match (first, second) {
            (Some(first), Some(second)) => {
                self.dispatch(second, outlet);
                Some(first)
            }
            (first, second) => first.or(second),
        }
    }

    /// A session comes free: what it serves next.
    pub(crate) fn release(&self, held: Held<Session>) -> Option<Grant<H>> {
        if held.session.is_stale() {
            let (closing, session) = self.sessions.discard(held);
            self.close(closing, session, "stale");
            return None;
        }
        if held.session.has_stream() {
            // Nobody goes on with it, and its operation is active.
            let (closing, session) = self.sessions.discard(held);
            self.close(closing, session, "stream_broken_off");
            return None;
        }
        // From now on it may die for another reason than that it never lived.
        let _ = held.session.begin_use();
        match self.sessions.release(held, now()) {
            Freed::Granted(grant) => Some(grant),
            Freed::Idle => None,
            Freed::Close(closing, session) => {
                self.close(closing, session, "surplus");
                None
            }
        }
    }

    /// Capacity comes back unused: whose it is next.
    pub(crate) fn never_opened(&self, opening: Opening) -> Option<Grant<H>> {
        self.sessions.open_failed(opening)
    }

    /// Gives back what was granted to work that does not run.
    pub(crate) fn give_back(&self, taken: Taken<'_, H>, place: &Place<H>) -> Option<Grant<H>> {
        self.put_back(self.note_return(taken.finish()), place)
    }

    /// The same for what nobody has taken in taken.
    pub(crate) fn put_back(&self, source: Source<Session>, place: &Place<H>) -> Option<Grant<H>> {
        match source {
            Source::Session(held) => self.free(held, place),
            Source::Capacity(opening) => self.never_opened(opening),
        }
    }

    /// After a panic of ours: the session is being closed, and its capacity goes to the next.
    pub(crate) fn after_panic(&self, record: &InFlight<H>) -> Option<Grant<H>> {
        record.take_stake().and_then(|stake| self.sessions.forfeit(stake))
    }
}
