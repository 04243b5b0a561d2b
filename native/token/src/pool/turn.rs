//! Turns of which the pool gives one at a time: that of an operation which has it to itself, and that of a session which is kept alive. A turn ends
//! when what was granted with it has been handled, whatever became of it.

use session_pool::Ticket;

use crate::operation::host::{Host, Posting};
use crate::pool::TokenPool;
use crate::pool::work::Work;
use crate::support::panics::survive;

/// A turn. Dropped, it is over, and what was held back for it goes on.
pub(crate) struct Turn<'a, H: Host> {
    pool: &'a TokenPool<H>,
    of: Of,
}

enum Of {
    Exclusive(Ticket),
    Keepalive,
}

impl<H: Host> TokenPool<H> {
    /// The turn with which work was granted.
    pub(crate) fn turn_of(&self, work: &Work<H>, ticket: Ticket) -> Option<Turn<'_, H>> {
        let of = match work {
            Work::Control(control) if control.is_logout() => Of::Exclusive(ticket),
            Work::Keepalive(_) => Of::Keepalive,
            Work::Control(_) | Work::Call(_) => return None,
        };
        Some(Turn { pool: self, of })
    }
}

impl<H: Host> Drop for Turn<'_, H> {
    fn drop(&mut self) {
        survive(|| match self.of {
            Of::Keepalive => self.pool.sessions.end_keeping(),
            Of::Exclusive(ticket) => {
                for grant in self.pool.sessions.end_exclusive(ticket) {
                    self.pool.dispatch(grant, &mut Posting);
                }
            }
        });
    }
}
