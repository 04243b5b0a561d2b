//! A caller that runs its own operation: where a session lies idle and nothing waits, no runner need be woken. What comes of the operation goes
//! the same way as a runner's; whatever else it then needs (another session, a login) is left to the runners.

use std::sync::Arc;

use crate::error::Error;
use crate::operation::answer::Outcome;
use crate::operation::header::Header;
use crate::operation::host::{Host, Outlet};
use crate::operation::request::Request;
use crate::operation::{Operation, Place};
use crate::pool::TokenPool;
use crate::pool::grant::Handled;
use crate::pool::work::Work;
use crate::support::panics::survive;
use session_pool::Ticket;

/// Where the operation of a caller that runs it itself is now.
pub enum Direct {
    /// It is done.
    Done(Outcome),
    /// A runner has it, or somebody has answered in its stead: the answer comes by the header.
    Later(Ticket),
}

impl<H: Host> TokenPool<H> {
    /// Whether [`run_here`](Self::run_here) would find a session at once: a hint.
    pub fn has_idle(&self) -> bool {
        self.sessions.has_idle()
    }

    /// How many callers are at it.
    pub fn inline_calls(&self) -> usize {
        self.in_flight.inline_calls()
    }

    /// Runs a call on the caller's own thread, if a session lies idle and nothing waits; else takes it as `submit` does. The thread must be
    /// one that may block.
    pub fn run_here(&self, header: Arc<Header<H>>, request: Request, outlet: &mut impl Outlet<H>) -> Result<Direct, Error> {
        let operation = Operation::new(header, request, Place::Pool);
        self.count(&operation);
        let grant = match self.sessions.take_idle(Work::Call(operation)) {
            Ok(grant) => grant,
            Err(Work::Call(operation)) => return self.submit_operation(operation, outlet).map(Direct::Later),
            Err(_) => return Err(Error::Interrupted { cause: "the operation was mistaken for a login" }),
        };
        let ticket = grant.waiter.ticket;
        let record = self.in_flight.begin_inline();
        // The operation of one that panicked has answered itself.
        let Handled { next, answer } =
            survive(|| self.handle(grant, &record, outlet)).unwrap_or_else(|| Handled::next(self.after_panic(&record)));
        self.in_flight.end_inline(record);
        if let Some(next) = next {
            self.dispatch(next, outlet);
        }
        self.advance_drain();
        Ok(match answer {
            Some((mut operation, outcome)) if operation.header.claim_answer(&outcome) => {
                Direct::Done(operation.outcome_for_caller(outcome))
            }
            _ => Direct::Later(ticket),
        })
    }
}
