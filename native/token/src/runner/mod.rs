//! The runner's loop: it takes the next grant, has it handled, answers, and goes on while there is work. Two kinds of runner call it: a process in a
//! dirty NIF, and a native thread; and callers that run their own operations ([`inline_call`]).
//!
//! `granted` is what becomes of a grant, `call` a caller's operation on an open session, `setbacks` what does not go as it should, `spin` how a
//! runner without work parks. Nothing else of this crate may know this folder.

mod call;
mod granted;
pub(crate) mod inline_call;
mod setbacks;
mod spin;

use std::time::{Duration, Instant};

use session_pool::{Entered, RunnerId};

use crate::operation::answer::weight;
use crate::operation::host::{Delivery, Host, Outlet};
use crate::pool::TokenPool;
use crate::pool::grant::{Grant, Handled};
use crate::support::clock::nanos;
use crate::support::panics::survive;

/// How much a runner does before it steps outside for a moment.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Time.
    pub time: Duration,
    /// Bytes of answers, which stay on its process's heap until then.
    pub bytes: usize,
}

/// How a runner's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Served {
    /// It has nothing to do.
    Parked,
    /// It has, and must come in again.
    Again,
    /// It is not on the roster any more.
    Gone,
}

impl<H: Host> TokenPool<H> {
    /// A runner's turn.
    pub fn serve(&self, id: RunnerId, outlet: &mut impl Outlet<H>, budget: Budget) -> Served {
        let mut grant = match self.roster.enter(id) {
            Entered::Run(grant) => grant,
            Entered::Parked => return self.stay_parked(id),
            Entered::Gone => return Served::Gone,
        };
        let record = self.in_flight.of_runner(id);
        record.pace.note_call(nanos());
        let until = Instant::now() + budget.time;
        let mut bytes = 0;
        loop {
            let Some(Handled { next, answer }) = survive(|| self.handle(grant, &record, outlet)) else {
                let next = self.after_panic(&record);
                return self.leave(id, next, outlet);
            };
            let mut delivery = Delivery::Done;
            if let Some((mut operation, outcome)) = answer {
                let outcome = operation.outcome_for_caller(outcome);
                bytes += weight(&outcome);
                delivery = operation.answer(outlet, outcome);
            }
            if delivery == Delivery::RunnerDead {
                return self.leave(id, next, outlet);
            }
            let next = match next {
                Some(next) => next,
                None => match self.park(id, &record, outlet) {
                    Entered::Run(next) => next,
                    Entered::Parked => return self.stay_parked(id),
                    Entered::Gone => return self.leave(id, None, outlet),
                },
            };
            if bytes < budget.bytes && Instant::now() < until {
                grant = next;
                continue;
            }
            return match self.roster.step_out(id, next) {
                None => Served::Again,
                Some(next) => self.leave(id, Some(next), outlet),
            };
        }
    }

    /// A parked runner stays, unless the pool has shrunk and it is one too many.
    fn stay_parked(&self, id: RunnerId) -> Served {
        if self.roster.retire(id, self.places()) {
            self.in_flight.remove_runner(id);
            return Served::Gone;
        }
        Served::Parked
    }

    /// A dead runner's call returns: what it has in hand goes to another.
    fn leave(&self, id: RunnerId, grant: Option<Grant<H>>, outlet: &mut impl Outlet<H>) -> Served {
        if let Some(grant) = grant {
            self.dispatch(grant, outlet);
        }
        self.depart(id);
        Served::Gone
    }
}
