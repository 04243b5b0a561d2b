//! A caller that runs its own operation: where a session lies idle and nothing waits, no runner need be woken. What comes of the operation goes
//! the same way as a runner's; whatever else it then needs (another session, a login) is left to the runners.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Error;
use crate::operation::host::{Host, Outcome, Outlet};
use crate::operation::request::{Header, Operation, Place, Request, Work};
use crate::pool::TokenPool;
use crate::pool::in_flight::Cell;
use crate::runner::Turn;
use crate::support::panics::survive;
use session_pool::Ticket;

/// Where the operation of a caller that runs it itself is now.
#[expect(clippy::large_enum_variant, reason = "it is handed over once, and never kept")]
pub enum Direct {
    /// It is done.
    Done(Outcome),
    /// A runner has it, or somebody has answered in its stead: the answer comes by the header.
    Later(Ticket),
}

/// The cells of such callers. Each has one for the time of its call.
pub(crate) struct Guests<H: Host>(Mutex<Seats<H>>);

struct Seats<H: Host> {
    all: Vec<Arc<Cell<H>>>,
    free: Vec<Arc<Cell<H>>>,
}

impl<H: Host> Default for Guests<H> {
    fn default() -> Self {
        Self(Mutex::new(Seats { all: Vec::new(), free: Vec::new() }))
    }
}

impl<H: Host> Guests<H> {
    fn sit(&self) -> Arc<Cell<H>> {
        let mut seats = self.0.lock();
        seats.free.pop().unwrap_or_else(|| {
            let cell = Arc::new(Cell::new(false));
            seats.all.push(cell.clone());
            cell
        })
    }

    fn rise(&self, cell: Arc<Cell<H>>) {
        self.0.lock().free.push(cell);
    }

    /// How many are taken.
    fn taken(&self) -> usize {
        let seats = self.0.lock();
        seats.all.len() - seats.free.len()
    }

    /// Every cell.
    pub(crate) fn cells(&self) -> Vec<Arc<Cell<H>>> {
        self.0.lock().all.clone()
    }
}

impl<H: Host> TokenPool<H> {
    /// Whether [`run_here`](Self::run_here) would find a session at once: a hint.
    pub fn has_idle(&self) -> bool {
        self.sessions.has_idle()
    }

    /// How many callers are at it.
    pub fn guests(&self) -> usize {
        self.guests.taken()
    }

    /// Runs a call on the caller's own thread, if a session lies idle and nothing waits; else takes it as `submit` does. The thread must be
    /// one that may block.
    pub fn run_here(&self, header: Arc<Header<H>>, request: Request, outlet: &mut impl Outlet<H>) -> Result<Direct, Error> {
        let operation = Operation::new(header, request, Place::Pool);
        let grant = match self.sessions.take_idle(Work::Call(operation)) {
            Ok(grant) => grant,
            Err(Work::Call(operation)) => return self.take(operation, outlet).map(Direct::Later),
            Err(_) => return Err(Error::Interrupted { cause: "the operation was mistaken for a login" }),
        };
        let ticket = grant.waiter.ticket;
        let cell = self.guests.sit();
        // The operation of one that panicked has answered itself.
        let Turn { next, answer } =
            survive(|| self.turn(grant, &cell, outlet)).unwrap_or_else(|| Turn { next: self.after_panic(&cell), answer: None });
        self.guests.rise(cell);
        if let Some(next) = next {
            self.dispatch(next, outlet);
        }
        Ok(match answer {
            Some((mut operation, outcome)) if operation.header.progress.answer() => Direct::Done(operation.settle(outcome)),
            _ => Direct::Later(ticket),
        })
    }
}
