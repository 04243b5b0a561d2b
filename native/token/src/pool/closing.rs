//! How a session ends, and what one that comes free does next.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use session_pool::{Closing, Freed, Held};

use crate::operation::host::{Host, Keeper, Notice, Posting};
use crate::pool::availability::Readiness;
use crate::pool::in_flight::Cell;
use crate::pool::{Grant, LoginMode, TokenPool};
use crate::support::clock::now;
use crate::support::panics::survive;
use crate::token::session::{Closable, Session};

impl<H: Host> TokenPool<H> {
    /// Closes a session by the reaper; its capacity comes back when it is closed.
    pub(crate) fn close(&self, closing: Closing, session: Session, reason: &'static str) {
        let is_hung = closing.is_hung();
        let reason = if is_hung { "hung" } else { reason };
        self.keeper.post(Notice::SessionClosed { session: session.index(), reason });
        let cell = Arc::new(Cell::closing(session.index(), closing));
        self.closes.lock().push(cell.clone());
        let (me, its) = (self.me.clone(), cell.clone());
        let before = move |session: &Closable| {
            its.begins(true);
            // What hung has its successor.
            me.upgrade().filter(|_| !is_hung)?.before_close(session)
        };
        let me = self.me.clone();
        session.close_then(before, move |heir| {
            // No pool, no capacity to give back.
            let Some(pool) = me.upgrade() else { return };
            pool.closes.lock().retain(|other| !Arc::ptr_eq(other, &cell));
            // Its capacity comes back in any case.
            let granted = survive(|| pool.closed(&cell, heir)).unwrap_or_else(|| pool.after_panic(&cell));
            if let Some(grant) = granted {
                survive(|| pool.dispatch(grant, &mut Posting));
            }
            survive(|| pool.resume_logouts());
            pool.settle();
        });
    }

    /// Its session is closed: what its capacity, or its heir, serves next.
    fn closed(&self, cell: &Cell<H>, heir: Option<Session>) -> Option<Grant<H>> {
        let closing = self.returned(cell.closed());
        match heir {
            None => self.sessions.closed(closing),
            Some(session) => {
                self.keeper.post(Notice::SessionOpened { session: session.index(), nanos: 0 });
                self.release(self.sessions.replaced(closing, session, now()))
            }
        }
    }

    /// A session is about to be closed, on the reaper's thread. If it is the last one of a token that is logged in, another is opened first: its
    /// end would be a logout. If it is the last one of a pool that stops, and no other shares the login, the login ends.
    fn before_close(&self, session: &Closable) -> Option<Session> {
        if session.is_stale() {
            return None;
        }
        if !self.is_draining() {
            if !matches!(self.readiness(), Readiness::Ready) {
                // Its login is about to be void in any case.
                return None;
            }
            let word = session.token().gate.word();
            let logs_in = self.options.login != LoginMode::None || self.access.admitted.load(Ordering::Relaxed) == word;
            return if logs_in { session.heir(self.options.read_only) } else { None };
        }
        if self.left() == 1 && session.token().gate.leave(self.access.id) {
            session.log_out();
        }
        None
    }

    /// A session comes free: what it serves next.
    pub(crate) fn release(&self, held: Held<Session>) -> Option<Grant<H>> {
        if held.session.is_stale() {
            let (closing, session) = self.sessions.discard(held);
            self.close(closing, session, "stale");
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
}
