//! What goes before all operations: a login or logout of everybody. It runs on a runner's session; here is its way to one that lives.

use session_pool::{Held, Started, Submitted};

use crate::error::Error;
use crate::operation::Place;
use crate::operation::host::{Host, Outlet, PoolServer, Posting};
use crate::operation::notice::Notice;
use crate::p11::{self, CallError, Class};
use crate::pool::TokenPool;
use crate::pool::availability::Readiness;
use crate::pool::grant::Grant;
use crate::pool::in_flight::InUse;
use crate::pool::opening::Remains;
use crate::pool::recovery::as_seen_by;
use crate::pool::work::{Change, Control, Work};
use crate::support::clock::{nanos, now};
use crate::token::diagnosis::{Trouble, from_the_start};
use crate::token::session::Session;

impl<H: Host> TokenPool<H> {
    pub(crate) fn submit_control(&self, work: Control<H>) {
        let (is_logout, work) = (work.is_logout(), Work::Control(Box::new(work)));
        let submitted = if is_logout { self.sessions.submit_exclusive(work) } else { self.sessions.submit_control(work) };
        match submitted {
            Submitted::Granted(grant) => self.dispatch(grant, &mut Posting),
            Submitted::Queued(_) => (),
            Submitted::Refused(work, _) => drop(work),
        }
    }

    /// Lets go of logins and logouts that wait for a session, and nobody for them: others wait for the login, or are held back.
    pub(crate) fn sweep_control(&self, outlet: &impl Outlet<H>) {
        let is_abandoned = |work: &Work<H>| matches!(work, Work::Control(control) if control.is_abandoned(outlet));
        let (swept, granted) = self.sessions.sweep_control(is_abandoned);
        drop(swept);
        for grant in granted {
            self.dispatch(grant, &mut Posting);
        }
    }

    /// Its turn, on an open session: it is made where that lives.
    pub(crate) fn handle_control(&self, in_use: InUse<'_, H>, work: Control<H>, started: u64) -> Option<Grant<H>> {
        let seen = in_use.session().token().module.incarnation();
        if in_use.session().is_stale() {
            self.discard(self.note_return(in_use.finish()), &Place::Pool, "stale");
            self.submit_control(work);
            return None;
        }
        if let Some(call) = self.find_dead(in_use.session()) {
            let trouble = from_the_start(in_use.session(), seen);
            self.after_trouble(self.note_return(in_use.finish()), work, call, trouble, trouble.is_none(), started);
            return None;
        }
        if let Some(header) = work.header() {
            header.runs_on(in_use.session().index());
        }
        let Control { change, asked } = work;
        match change {
            Change::Login(credential) => self.handle_login(in_use, credential, asked, started),
            Change::Logout => self.handle_logout(in_use, asked),
        }
    }

    /// It begins, unless nobody waits for it any more. A logout can be given up until it is made.
    pub(crate) fn begin_control(&self, work: &Control<H>, outlet: &impl Outlet<H>) -> bool {
        match &work.change {
            Change::Login(_) => work.header().is_none_or(|header| header.progress.start(now()) == Started::Run),
            Change::Logout => !self.is_draining() && !work.is_abandoned(outlet),
        }
    }

    /// None could be opened for it.
    pub(crate) fn handle_unopened_control(&self, work: Control<H>, error: Error, remains: &Remains, started: u64) {
        match remains {
            Remains::Return => self.await_module_for(work),
            Remains::Retry(..) if self.may_try_another(&work, false) => self.hold_control(work.again(false)),
            Remains::Answer | Remains::Pause(..) | Remains::Retry(..) => self.fail_control(work, error, started),
        }
    }

    /// It was not made, for its session is dead, or it is worse: that is seen to, and it goes on to another one. `lay_idle`: the session did,
    /// and it was not tried there.
    pub(crate) fn after_trouble(
        &self,
        held: Held<Session>,
        work: Control<H>,
        call: CallError,
        trouble: Option<Trouble>,
        lay_idle: bool,
        started: u64,
    ) {
        if let Some(trouble) = trouble {
            self.respond_to(trouble, held.session.token(), held.session.generation(), call);
        }
        self.discard(held, &Place::Pool, self.options.policy.class(&call).name());
        match self.availability.readiness() {
            Readiness::Ready | Readiness::Held if self.may_try_another(&work, lay_idle) => {
                self.hold_control(work.again(lay_idle));
            }
            Readiness::Ready | Readiness::Held => self.fail_control(work, call.into(), started),
            Readiness::Refused(error) => {
                self.report_failed_control(&work, &error, started);
                work.refuse(as_seen_by(call, error));
            }
        }
    }

    /// All that lie idle may be dead; what has failed on a live one is tried once more.
    fn may_try_another(&self, work: &Control<H>, lay_idle: bool) -> bool {
        if lay_idle { work.asked.dead <= self.size() } else { work.asked.failed == 0 }
    }

    /// It goes on when its module has been initialized again.
    pub(crate) fn await_module_for(&self, work: Control<H>) {
        self.await_module();
        self.hold_control(work);
    }

    /// It fails, and the outside is told.
    fn fail_control(&self, work: Control<H>, error: Error, started: u64) {
        self.report_failed_control(&work, &error, started);
        work.fail(error);
    }

    fn report_failed_control(&self, work: &Control<H>, error: &Error, started: u64) {
        if let Change::Login(_) = work.change {
            self.report_login(error.reason(), started);
        }
    }

    /// What the module says of a session that it has forgotten: a login or logout there would fail without having been tried.
    fn find_dead(&self, session: &Session) -> Option<CallError> {
        let token = session.token();
        let _inside = token.module.enter().ok()?;
        let Some(used) = session.begin() else { return Some(CallError::session_lost("C_GetSessionInfo")) };
        let answer = p11::session::session_info(token.module.functions(), used.handle());
        answer.err().filter(|error| self.options.policy.class(error) == Class::DeadSession)
    }

    /// Tells the outside how a login ended.
    pub(crate) fn report_login(&self, result: &'static str, started: u64) {
        self.server.post(Notice::LoginEnded { result, nanos: nanos() - started });
    }
}
