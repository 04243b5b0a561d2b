//! A runner that has nothing more to do parks: at once, or after it has waited for a moment for the next call.

use session_pool::{Entered, RunnerId};

use crate::operation::host::{Host, Outlet};
use crate::pool::TokenPool;
use crate::pool::grant::Grant;
use crate::pool::in_flight::InFlight;
use crate::pool::pace::MOMENT;
use crate::support::clock::nanos;

impl<H: Host> TokenPool<H> {
    /// A runner has nothing more to do.
    pub(crate) fn park(&self, id: RunnerId, in_flight: &InFlight<H>, outlet: &mut impl Outlet<H>) -> Entered<Grant<H>> {
        if !outlet.may_wait() || !in_flight.pace.note_idle(nanos()) || self.is_draining() {
            return self.roster.park(id);
        }
        match self.roster.spin(id) {
            Entered::Parked => outlet.wait(MOMENT),
            found => return found,
        }
        let entered = self.roster.park(id);
        in_flight.pace.note_wait(matches!(entered, Entered::Run(_)));
        entered
    }
}
