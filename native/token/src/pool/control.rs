//! What goes before all operations: a login or logout of everybody. It runs on a runner's session; here is its way to one that lives.

use std::sync::{Arc, Weak};

use session_pool::{Held, Started, Submitted, Ticket, Waiting};

use crate::error::{Error, Failure};
use crate::operation::host::{Host, Notice, Outcome, Outlet, PoolServer, Posting};
use crate::operation::request::{Header, Place, Work};
use crate::p11::{self, CallError, Class};
use crate::pool::TokenPool;
use crate::pool::availability::Readiness;
use crate::pool::grant::Grant;
use crate::pool::in_flight::{Kind, Taken};
use crate::pool::opening::Remains;
use crate::pool::opening::{Refusal, Refused};
use crate::pool::recovery::as_seen_by;
use crate::runner::is_wanted;
use crate::support::clock::{nanos, now};
use crate::support::pin::Pin;
use crate::token::diagnosis::{Trouble, from_the_start};
use crate::token::login_gate::Attempt;
use crate::token::session::Session;

/// A login or logout of everybody. Dropped without an end, it holds nobody back any more, and then tells who asked for it.
pub struct Control<H: Host> {
    change: Change<H>,
    asked: Asked<H>,
}

/// What it makes of the login.
enum Change<H: Host> {
    Login(Credential),
    Logout(Option<HoldsBack<H>>),
}

/// What a login is made with.
pub(crate) struct Credential {
    pub(crate) attempt: Attempt,
    /// `None` for a protected authentication path.
    pub(crate) pin: Option<Pin>,
}

/// The pool's gate is closed for as long as this lives: a logout waits for operations to end.
pub(crate) struct HoldsBack<H: Host>(Weak<TokenPool<H>>);

/// How it was asked for.
pub(crate) struct Asked<H: Host> {
    /// Who waits for it; nobody if the pool itself wants it.
    pub(crate) by: Option<Asker<H>>,
    /// Even if a wrong PIN would lock the token, or others share the login.
    pub(crate) force: bool,
    /// How many sessions it has found dead that had lain idle.
    dead: usize,
    /// How often it has failed for what another session may mend: one that was new, or died of it, or could not be opened.
    failed: usize,
}

/// Who waits for a login or logout. Dropped unanswered, its pool drains.
pub(crate) struct Asker<H: Host>(pub(crate) Arc<Header<H>>);

impl<H: Host> Control<H> {
    pub(crate) fn login(credential: Credential, asked: Asked<H>) -> Self {
        Self { change: Change::Login(credential), asked }
    }

    pub(crate) fn logout(holds_back: Option<HoldsBack<H>>, asked: Asked<H>) -> Self {
        Self { change: Change::Logout(holds_back), asked }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.change {
            Change::Login(_) => Kind::Login,
            Change::Logout(_) => Kind::Logout,
        }
    }

    /// Of who waits for it.
    pub(crate) fn header(&self) -> Option<&Arc<Header<H>>> {
        self.asked.by.as_ref().map(|asker| &asker.0)
    }

    /// Whether somebody asked for it who does not wait any more.
    pub(crate) fn is_off(&self, outlet: &impl Outlet<H>) -> bool {
        self.header().is_some_and(|header| !is_wanted(header, outlet))
    }

    /// It goes on to another session; `lay_idle`: nothing has failed but a session that lay idle.
    fn again(mut self, lay_idle: bool) -> Self {
        let count = if lay_idle { &mut self.asked.dead } else { &mut self.asked.failed };
        *count += 1;
        self
    }

    /// It is not made: who asked for it is told, and the next who needs a login begins anew.
    pub(crate) fn refuse(self, error: Error) {
        let Self { change, asked } = self;
        drop(change);
        asked.answer(Err(Failure::not_executed(error)));
    }

    /// It fails: all who wait for a login are told.
    fn fail(self, error: Error) {
        match self.change {
            Change::Login(Credential { attempt, .. }) => attempt.fail(error.clone(), false, nanos()),
            Change::Logout(holds_back) => drop(holds_back),
        }
        self.asked.answer(Err(Failure::not_executed(error)));
    }
}

impl<H: Host> Asked<H> {
    pub(crate) fn new(by: Option<Asker<H>>, force: bool) -> Self {
        Self { by, force, dead: 0, failed: 0 }
    }

    pub(crate) fn answer(self, outcome: Outcome) {
        if let Some(asker) = self.by {
            asker.answer(outcome);
        }
    }
}

impl<H: Host> Asker<H> {
    /// Answers, by the sender.
    pub(crate) fn answer(self, outcome: Outcome) {
        self.0.post(outcome);
    }
}

impl<H: Host> Drop for Asker<H> {
    fn drop(&mut self) {
        self.0.post(Err(Failure::not_executed(Error::Draining)));
    }
}

impl<H: Host> Drop for HoldsBack<H> {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.open_gate();
        }
    }
}

impl<H: Host> TokenPool<H> {
    pub(crate) fn submit_control(&self, work: Control<H>) {
        match self.sessions.submit_control(Work::Control(work)) {
            Submitted::Granted(grant) => self.dispatch(grant, &mut Posting),
            Submitted::Queued(_) => (),
            Submitted::Refused(work, _) => drop(work),
        }
    }

    /// Lets go of logins and logouts that wait for a session, and nobody for them: others wait for the login, or are held back.
    pub(crate) fn sweep_control(&self, outlet: &impl Outlet<H>) {
        let is_off = |work: &Work<H>| matches!(work, Work::Control(control) if control.is_off(outlet));
        drop(self.sessions.sweep_control(is_off));
    }

    /// Operations are held back from here on, until what comes of it is dropped.
    pub(crate) fn hold_all_back(&self, holds_back: &mut Option<HoldsBack<H>>) {
        // Whoever had closed the gate may have opened it since.
        self.sessions.close_gate();
        holds_back.get_or_insert_with(|| HoldsBack(self.me.clone()));
    }

    /// Its turn: on a session that lives, opened if need be.
    pub(crate) fn handle_control(
        &self,
        taken: Taken<'_, H>,
        work: Control<H>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Option<Grant<H>> {
        if self.has_no_use(&work, outlet) {
            return self.give_back(taken, &Place::Pool);
        }
        let started = nanos();
        let in_use = match self.session(taken, || !self.is_draining()) {
            Ok(in_use) => in_use,
            Err(unopened) => {
                return match self.unopened(*unopened, Waiting { payload: Work::Control(work), ticket }, outlet) {
                    Refused::Waits(next) => next,
                    Refused::For(Refusal { error, remains, next }, Work::Control(work)) => {
                        self.without_session(work, error, &remains, started);
                        next
                    }
                    Refused::For(Refusal { next, .. }, _) => next,
                };
            }
        };
        let seen = in_use.session().token().module.incarnation();
        if in_use.session().is_stale() {
            self.discard(self.returned(in_use.finish()), &Place::Pool, "stale");
            self.submit_control(work);
            return None;
        }
        if let Some(call) = self.death(in_use.session()) {
            let trouble = from_the_start(in_use.session(), seen);
            self.after_trouble(self.returned(in_use.finish()), work, call, trouble, trouble.is_none(), started);
            return None;
        }
        let Control { change, asked } = work;
        match change {
            Change::Login(credential) => self.handle_login(in_use, credential, asked, started),
            Change::Logout(holds_back) => self.handle_logout(in_use, holds_back, asked),
        }
    }

    /// Whether nobody waits for it.
    fn has_no_use(&self, work: &Control<H>, outlet: &impl Outlet<H>) -> bool {
        match &work.change {
            Change::Login(_) => work.header().is_some_and(|header| header.progress.start(now()) == Started::Gone),
            Change::Logout(_) => self.is_draining() || work.is_off(outlet),
        }
    }

    /// None could be opened for it.
    fn without_session(&self, work: Control<H>, error: Error, remains: &Remains, started: u64) {
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
        self.discard(held, &Place::Pool, self.options.class(&call).name());
        match self.availability.readiness() {
            Readiness::Ready | Readiness::Held if self.may_try_another(&work, lay_idle) => {
                self.hold_control(work.again(lay_idle));
            }
            Readiness::Ready | Readiness::Held => self.fail_control(work, call.into(), started),
            Readiness::Refused(error) => {
                self.tell_of(&work, &error, started);
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
        self.tell_of(&work, &error, started);
        work.fail(error);
    }

    fn tell_of(&self, work: &Control<H>, error: &Error, started: u64) {
        if let Change::Login(_) = work.change {
            self.tell_of_login(error.reason(), started);
        }
    }

    /// What the module says of a session that it has forgotten: a login or logout there would fail without having been tried.
    fn death(&self, session: &Session) -> Option<CallError> {
        let token = session.token();
        let _inside = token.module.enter().ok()?;
        let Some(used) = session.begin() else { return Some(CallError::session_lost("C_GetSessionInfo")) };
        let answer = p11::session::session_info(token.module.functions(), used.handle());
        answer.err().filter(|error| self.options.class(error) == Class::DeadSession)
    }

    /// Tells the outside how a login ended.
    pub(crate) fn tell_of_login(&self, result: &'static str, started: u64) {
        self.server.post(Notice::LoginEnded { result, nanos: nanos() - started });
    }
}
