//! Calls that hang. The caller of one is freed at its deadline; here its session is seen to. On a native thread it is *quarantined*: it
//! counts no longer, the thread is left behind, and both are replaced, once for each session of the pool. When the call returns after all,
//! the session is closed, and the thread ends. A dirty scheduler cannot be left behind: there a hung call is only reported, like a login that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use session_pool::{Millis, Quarantined, RunnerId};

use crate::operation::header::Header;
use crate::operation::host::{Host, Outlet, PoolServer, Posting};
use crate::operation::notice::{Cost, Notice};
use crate::pool::TokenPool;
use crate::pool::in_flight::{Current, InFlight, LateReturn, Reported};
use crate::pool::work::Kind;
use crate::support::clock::now;

/// A call that was given up earlier than this is only slow: its session is left alone for so long.
const GRACE: Millis = 100;

impl<H: Host> TokenPool<H> {
    /// A caller has given up its running operation.
    pub(crate) fn handle_given_up(&self, header: &Header<H>) {
        let is_its = |current: &Current<H>| current.purpose.header.as_ref().is_some_and(|other| std::ptr::eq(&**other, header));
        self.quarantine_after_grace(is_its);
    }

    /// Sees to those whose time is over. One that is given up early is looked at again: the pool's own look may be a second away.
    fn quarantine_after_grace(&self, is_over: impl Fn(&Current<H>) -> bool) {
        let is_early = AtomicBool::new(false);
        for (id, record) in self.in_flight.all() {
            self.handle_if_hung(id, &record, |current| {
                let (is_over, is_late) = (is_over(current), current.has_taken(GRACE));
                is_early.fetch_or(is_over && !is_late, Ordering::Relaxed);
                is_over && is_late
            });
        }
        self.advance_drain();
        if is_early.into_inner() && !self.will_recheck.swap(true, Ordering::SeqCst) {
            let pool = self.me.clone();
            let look = move || {
                if let Some(pool) = pool.upgrade() {
                    pool.will_recheck.store(false, Ordering::SeqCst);
                    pool.quarantine_after_grace(Current::is_given_up);
                }
            };
            H::later(Duration::from_millis(GRACE), Box::new(look));
        }
    }

    /// Looks for calls that were given up early, or that nobody gives up: their callers are dead, or they have none.
    pub(crate) fn find_hung_calls(&self, outlet: &impl Outlet<H>) {
        let limit = self.options.operation_timeout.unwrap_or(Millis::MAX);
        let is_hung = |current: &Current<H>| {
            let has_caller =
                current.purpose.header.as_ref().is_some_and(|header| !header.is_over() && outlet.is_wanted(&header.reply));
            let may_take_longer = has_caller && matches!(current.purpose.kind, Kind::Call(_));
            current.reported.is_some()
                || (current.is_given_up() && current.has_taken(GRACE))
                || (current.has_taken(limit) && !may_take_longer)
        };
        for (id, record) in self.in_flight.all() {
            self.handle_if_hung(id, &record, is_hung);
        }
        if let Some(token) = self.availability.bound_token() {
            token.module.replace_stuck_closing_thread(limit);
        }
    }

    /// If what a record is about hangs: quarantines it where that may be, and reports it. One that was reported may be quarantined later.
    fn handle_if_hung(&self, id: Option<RunnerId>, record: &Arc<InFlight<H>>, is_hung: impl Fn(&Current<H>) -> bool) {
        let token = self.availability.bound_token();
        let module = token.as_ref().map(|token| &token.module);
        let serialized = module.is_some_and(|module| module.is_serialized());
        let (quarantined, lease, notice) = {
            let mut current = record.lock();
            let Some(current) = current.as_mut().filter(|current| current.since.is_some() && is_hung(current)) else { return };
            let kind = current.purpose.kind;
            let replaceable = record.is_expendable && kind.is_replaceable() && !serialized;
            let quarantined = if replaceable { self.sessions.quarantine(&mut current.stake) } else { Quarantined::Kept };
            let is_new = current.reported.is_none() || matches!(quarantined, Quarantined::Freed(_));
            current.reported.get_or_insert_with(|| Reported::to(module));
            let cost = match (kind, &quarantined) {
                (_, Quarantined::Freed(_)) => Cost::Replaced,
                (Kind::Login | Kind::Logout, _) => Cost::Login,
                _ if record.is_expendable => Cost::Session,
                _ => Cost::Scheduler,
            };
            let (session, operation) = (current.session, kind.name());
            let ms = now().saturating_sub(current.since.unwrap_or_default());
            // It counts itself here, where it cannot return meanwhile.
            let hung = self.sessions.stats().hung + usize::from(!current.stake.is_hung());
            let tell = move |others| Notice::SessionHung {
                session,
                operation,
                ms,
                cost,
                threads: record.is_expendable,
                hung: hung + others,
            };
            (quarantined, current.purpose.lease.clone(), is_new.then_some(tell))
        };
        if let Some(lease) = lease {
            self.abandon_lease(&lease);
        }
        if let Quarantined::Freed(grant) = quarantined {
            self.replace_runner(id);
            if let Some(grant) = grant {
                self.dispatch(grant, &mut Posting);
            }
        }
        if let Some(notice) = notice {
            self.server.post(notice(self.in_flight.stuck_besides(Some(record))));
        }
    }

    /// A runner's place is free for a successor; when its call returns, it finds that it has none any more.
    fn replace_runner(&self, id: Option<RunnerId>) {
        let Some(id) = id else { return };
        // It is inside, so that it was woken with nothing.
        let woken_with = self.roster.leave(id);
        debug_assert!(woken_with.is_none());
        self.server.post(Notice::RunnersWanted);
    }

    /// What a record has held comes out; if it was reported as hung, that it is so no longer is reported, too.
    pub(crate) fn note_return<T>(&self, (what, late): (T, Option<LateReturn>)) -> T {
        if let Some(LateReturn { kind, session, since }) = late {
            self.server.post(Notice::HungReturned { session, operation: kind.name(), ms: now().saturating_sub(since) });
        }
        what
    }
}
