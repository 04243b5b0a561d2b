//! How a session ends, and what one that comes free does next.

use session_pool::Closing;

use crate::operation::host::{Host, PoolServer, Posting};
use crate::operation::notice::Notice;
use crate::options::LoginMode;
use crate::pool::TokenPool;
use crate::pool::availability::Readiness;
use crate::pool::grant::Grant;
use crate::pool::in_flight::InFlight;
use crate::support::clock::now;
use crate::support::panics::survive;
use crate::token::session::{Instead, OpenSession, Session};

impl<H: Host> TokenPool<H> {
    /// Closes a session on the closing thread; its capacity comes back when it is closed.
    pub(crate) fn close(&self, closing: Closing, session: Session, reason: &'static str) {
        let is_hung = closing.is_hung();
        let reason = if is_hung { "hung" } else { reason };
        self.server.post(Notice::SessionClosed { session: session.index(), reason });
        let record = self.in_flight.begin_closing(session.index(), closing);
        let (me, its) = (self.me.clone(), record.clone());
        let before = move |session: &OpenSession| {
            its.set_inside(true);
            // What hung has its successor.
            me.upgrade().filter(|_| !is_hung).map_or(Instead::Nothing, |pool| pool.before_close(session))
        };
        let me = self.me.clone();
        session.close_then(before, move |successor| {
            // No pool, no capacity to give back.
            let Some(pool) = me.upgrade() else { return };
            pool.in_flight.end_closing(&record);
            // Its capacity comes back in any case.
            let granted = survive(|| pool.closed(&record, successor)).unwrap_or_else(|| pool.after_panic(&record));
            if let Some(grant) = granted {
                survive(|| pool.dispatch(grant, &mut Posting));
            }
            pool.advance_drain();
        });
    }

    /// Its session is closed: what its capacity, or its successor, serves next.
    fn closed(&self, record: &InFlight<H>, successor: Option<Session>) -> Option<Grant<H>> {
        let closing = self.note_return(record.end_closing());
        match successor {
            None => self.sessions.closed(closing),
            Some(session) => {
                self.server.post(Notice::SessionOpened { session: session.index(), nanos: 0 });
                self.release(self.sessions.replaced(closing, session, now()))
            }
        }
    }

    /// A session is about to be closed, on the closing thread. If it is the last one of a token that is logged in, another is opened first: its
    /// end would be a logout. If it is the last one of a pool that stops, the pool needs the login no longer.
    fn before_close(&self, session: &OpenSession) -> Instead {
        if session.is_stale() {
            return Instead::Nothing;
        }
        if self.is_draining() {
            return if self.left() == 1 { Instead::Leave(self.login.pool) } else { Instead::Nothing };
        }
        if !matches!(self.availability.readiness(), Readiness::Ready) {
            // Its login is about to be void in any case.
            return Instead::Nothing;
        }
        let word = session.token().gate.word();
        let logs_in = self.options.login != LoginMode::None || self.login.is_admitted_in(word);
        let successor = logs_in.then(|| session.successor(self.options.read_only)).flatten();
        successor.map_or(Instead::Nothing, Instead::Successor)
    }
}
