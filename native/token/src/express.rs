//! What goes before all operations: a login or logout of everybody. It runs on a runner's session; here is its way to one that lives.

use std::sync::{Arc, Weak};

use session_pool::{Started, Submitted, Ticket, Waiting};

use crate::cell::{Hand, Kind};
use crate::clock::{nanos, now};
use crate::error::{Error, Failure};
use crate::gate::Attempt;
use crate::host::{Host, Keeper, Notice, Outcome, Outlet, Posting};
use crate::opening::{Refusal, Refused};
use crate::p11::{self, Class};
use crate::pool::{Grant, TokenPool};
use crate::request::{Header, Pin, Place, Work};
use crate::serve::is_wanted;
use crate::session::Session;
use crate::turns::Remains;

/// A login or logout of everybody. Dropped without an end, it holds nobody back any more, and then tells who asked for it.
pub struct Express<H: Host> {
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
    /// How many sessions it has found dead.
    dead: usize,
}

/// Who waits for a login or logout. Dropped unanswered, its pool drains.
pub(crate) struct Asker<H: Host>(pub(crate) Arc<Header<H>>);

impl<H: Host> Express<H> {
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

    /// It has found a session dead.
    pub(crate) fn after_dead(mut self) -> Self {
        self.asked.dead += 1;
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
        Self { by, force, dead: 0 }
    }

    pub(crate) fn answer(self, outcome: Outcome) {
        if let Some(asker) = self.by {
            asker.answer(outcome);
        }
    }
}

impl<H: Host> Asker<H> {
    /// Answers, by the courier.
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
    pub(crate) fn submit_express(&self, work: Express<H>) {
        match self.sessions.submit_express(Work::Express(work)) {
            Submitted::Granted(grant) => self.dispatch(grant, &mut Posting),
            Submitted::Queued(_) => (),
            Submitted::Refused(work, _) => drop(work),
        }
    }

    /// Lets go of logins and logouts that wait for a session, and nobody for them: others wait for the login, or are held back.
    pub(crate) fn sweep_express(&self, outlet: &impl Outlet<H>) {
        let is_off = |work: &Work<H>| matches!(work, Work::Express(express) if express.is_off(outlet));
        drop(self.sessions.sweep_express(is_off));
    }

    /// Operations are held back from here on, until what comes of it is dropped.
    pub(crate) fn hold_all_back(&self, holds_back: &mut Option<HoldsBack<H>>) {
        // Whoever had closed the gate may have opened it since.
        self.sessions.close_gate();
        holds_back.get_or_insert_with(|| HoldsBack(self.me.clone()));
    }

    /// Its turn: on a session that lives, opened if need be.
    pub(crate) fn turn_of_express(
        &self,
        hand: Hand<'_, H>,
        work: Express<H>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Option<Grant<H>> {
        if self.has_no_use(&work, outlet) {
            return self.give_back(hand, &Place::Pool);
        }
        let started = nanos();
        let in_use = match self.session(hand, || !self.is_draining()) {
            Ok(in_use) => in_use,
            Err(unopened) => {
                return match self.unopened(*unopened, Waiting { payload: Work::Express(work), ticket }, outlet) {
                    Refused::Waits(next) => next,
                    Refused::For(Refusal { error, remains, next }, Work::Express(work)) => {
                        self.without_session(work, error, &remains, started);
                        next
                    }
                    Refused::For(Refusal { next, .. }, _) => next,
                };
            }
        };
        if in_use.session().is_stale() || (self.may_try_another(&work.asked) && is_dead(in_use.session())) {
            self.discard(self.returned(in_use.lay_down()), &Place::Pool, Class::DeadSession.name());
            self.submit_express(work.after_dead());
            return None;
        }
        let Express { change, asked } = work;
        match change {
            Change::Login(credential) => self.turn_of_login(in_use, credential, asked, started),
            Change::Logout(holds_back) => self.turn_of_logout(in_use, holds_back, asked),
        }
    }

    /// Whether nobody waits for it.
    fn has_no_use(&self, work: &Express<H>, outlet: &impl Outlet<H>) -> bool {
        match &work.change {
            Change::Login(_) => work.header().is_some_and(|header| header.progress.start(now()) == Started::Gone),
            Change::Logout(_) => self.is_draining() || work.is_off(outlet),
        }
    }

    /// None could be opened for it.
    fn without_session(&self, work: Express<H>, error: Error, remains: &Remains, started: u64) {
        match remains {
            Remains::Return if self.may_try_another(&work.asked) => self.await_module_for(work),
            Remains::Retry(..) if self.may_try_another(&work.asked) => self.hold_express(work.after_dead()),
            Remains::Answer | Remains::Pause(..) | Remains::Return | Remains::Retry(..) => {
                self.fail_express(work, error, started)
            }
        }
    }

    /// It fails, and the outside is told.
    pub(crate) fn fail_express(&self, work: Express<H>, error: Error, started: u64) {
        if let Change::Login(_) = work.change {
            self.tell_of_login(error.reason(), started);
        }
        work.fail(error);
    }

    /// It goes on when its module has been initialized again.
    pub(crate) fn await_module_for(&self, work: Express<H>) {
        self.await_module();
        self.hold_express(work);
    }

    /// Whether it may go on to another session: each of the pool's may be dead.
    pub(crate) fn may_try_another(&self, asked: &Asked<H>) -> bool {
        asked.dead <= self.size()
    }

    /// Tells the outside how a login ended.
    pub(crate) fn tell_of_login(&self, result: &'static str, started: u64) {
        self.keeper.post(Notice::LoginEnded { result, nanos: nanos() - started });
    }
}

/// Whether the module has forgotten the session: a login or logout there would fail without having been tried.
fn is_dead(session: &Session) -> bool {
    let Some((token, functions, handle)) = session.parts() else { return true };
    let Ok(_inside) = token.module.enter() else { return false };
    p11::session::session_info(functions, handle).is_err_and(|error| error.class() == Class::DeadSession)
}
