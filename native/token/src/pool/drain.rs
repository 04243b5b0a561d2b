//! How a pool ends: it takes nothing any more, what runs goes on for as long as it may, and the last session lets the module go.

use session_pool::{Drained, Millis, Source};

use crate::error::{Error, Executed, Failure};
use crate::module::exit;
use crate::operation::host::{Host, PoolServer, Posting, Wake};
use crate::operation::notice::Notice;
use crate::pool::TokenPool;
use crate::pool::in_flight::{InFlight, Reported};

impl<H: Host> TokenPool<H> {
    /// Takes nothing any more: what waits is answered, what is idle closed, what runs goes on.
    pub fn drain(&self) {
        self.record.note_drain();
        self.availability.announce_leaving();
        let Drained { waiting, closing } = self.sessions.drain();
        for work in waiting {
            work.refuse(&Error::Draining);
        }
        for (closing, session) in closing {
            self.close(closing, session, "drain");
        }
        self.refuse_backlog();
        self.advance_drain();
        self.availability.wake();
        // Runners on native threads see that they may end.
        for (_, runner, _) in self.roster.list() {
            runner.post();
        }
    }

    /// Whether it takes nothing any more.
    pub fn is_draining(&self) -> bool {
        self.sessions.is_draining()
    }

    /// Sessions of a draining pool that are not yet closed.
    pub fn left(&self) -> usize {
        let stats = self.sessions.stats();
        stats.idle + stats.running + stats.leased + stats.opening + stats.closing + stats.hung
    }

    /// Those of them for which it is worth waiting: they are not in a call that hangs.
    pub fn pending(&self) -> usize {
        let hung = self.sessions.stats().hung + self.in_flight.stuck();
        self.left().saturating_sub(hung)
    }

    /// Answers the callers of what still runs in a pool that has drained for long enough. For what has been at it for as long as the VM's end
    /// would wait for it, that waits no more.
    pub fn give_up(&self) {
        let token = self.availability.bound_token();
        let module = token.as_ref().map(|token| &token.module);
        let header = |record: &InFlight<H>| {
            let mut current = record.lock();
            let current = current.as_mut()?;
            if current.has_taken(exit::TIMEOUT.as_millis() as Millis) {
                current.reported.get_or_insert_with(|| Reported::to(module));
            }
            current.purpose.header.clone()
        };
        let running: Vec<_> = self.in_flight.all().iter().filter_map(|(_, record)| header(record)).collect();
        for header in running {
            header.post(Err(Failure { error: Error::Draining, executed: Executed::Unknown }));
        }
        self.end_leases("drain", &mut Posting);
        self.availability.release_claim();
    }

    /// The end of every event. In a pool that drains, what waits for what will not come any more is let go, whatever has begun to wait meanwhile;
    /// and with the last session the module. Nothing else looks after that.
    #[inline]
    pub(crate) fn advance_drain(&self) {
        if self.is_draining() {
            self.drop_what_waits();
        }
    }

    #[cold]
    fn drop_what_waits(&self) {
        // Nobody will bring a PIN any more.
        self.abandon_logins();
        // The token is not waited for: other pools would wait for this one's login.
        self.resume_held_controls();
        if self.roster.is_empty() {
            self.refuse_backlog();
        }
        if self.left() > 0 {
            return;
        }
        let Some(binding) = self.availability.stop() else { return };
        if let Some(binding) = binding {
            // It had no session any more to log out with.
            let _ = binding.claim.token().gate.leave(self.login.pool);
        }
        self.server.post(Notice::Drained);
    }

    fn refuse_backlog(&self) {
        for grant in self.roster.take_backlog() {
            if grant.waiter.payload.lease().is_some() && !self.roster.is_empty() {
                // What a lease's holder does on it is part of what runs already.
                self.dispatch(grant, &mut Posting);
                continue;
            }
            match (grant.source, grant.waiter.payload.lease()) {
                // A closed session grants nothing.
                (Source::Session(held), Some(lease)) => drop(self.give_back_to_lease(lease, held, Some("drain"))),
                (Source::Session(held), None) => {
                    let (closing, session) = self.sessions.discard(held);
                    self.close(closing, session, "drain");
                }
                (Source::Capacity(opening), _) => drop(self.sessions.open_failed(opening)),
            }
            grant.waiter.payload.refuse(&Error::Draining);
        }
    }
}
