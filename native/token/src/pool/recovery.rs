//! How a pool gets its token back: a thread of its own looks for it until it is there or the pool ends, and then ends itself.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use session_pool::Ticket;

use crate::error::{Error, Failure, Unavailable};
use crate::module::handle::OpenHandle;
use crate::module::slot_events::{self, Ear};
use crate::module::{Module, ModuleUse};
use crate::operation::host::{Host, Keeper, Notice, Outlet};
use crate::operation::request::Operation;
use crate::p11::session::logout;
use crate::p11::{CallError, Class};
use crate::pool::availability::{Absence, Anchor, Attachment, PATIENCE, Readiness, Remedy};
use crate::pool::control::Express;
use crate::pool::drain::refuse;
use crate::pool::grant::Grant;
use crate::pool::reload::WAIT;
use crate::pool::{LoginMode, PoolOptions, TokenPool};
use crate::support::backoff::Backoff;
use crate::support::clock::now;
use crate::token::diagnosis::{Reply, ask_device, is_trouble};
use crate::token::escalation::Rung;
use crate::token::session::Session;
use crate::token::suspicion::{Failed, Verdict};
use crate::token::{Claim, Token, Watcher};

/// What an operation has run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The token does not answer.
    Silence,
    /// The token answers, but what was open on it is gone.
    Renewed,
    /// A new session was dead, though the token answers.
    DeadFromTheStart {
        /// The module's incarnation.
        seen: u64,
    },
    /// The device fails, and goes on to, though the library says that all is well.
    Lasting {
        /// How often its module had begun to be initialized again.
        restarts: u64,
    },
    /// The module is not initialized.
    Module {
        /// Its incarnation.
        seen: u64,
    },
}

/// What a look for the token has found.
enum Found {
    /// What it had.
    Same,
    /// Another one that is as good.
    Partner(Claim),
    /// For the first time.
    First(Anchor),
}

/// What a pool had that looks for it. The pool may stop while a look is inside of the module: the use keeps that from being finalized.
struct Had {
    token: Arc<Token>,
    _use: ModuleUse,
}

impl Had {
    fn of(anchor: &Anchor) -> Self {
        Self { token: anchor.claim.token().clone(), _use: anchor.module.share() }
    }
}

/// That of a session which is dead though the token answers, if nothing has ever run on it. `seen`: the module's incarnation when it was found.
pub(crate) fn from_the_start(session: &Session, seen: u64) -> Option<Trouble> {
    session.is_new().then_some(Trouble::DeadFromTheStart { seen })
}

/// That of a device which fails a login, or the opening of a session, where no caller's input can be to blame. Called inside of the module.
pub(crate) fn own_trouble(options: &PoolOptions, token: &Token, class: Class) -> Option<Trouble> {
    let limits = options.trouble.filter(|_| is_trouble(class))?;
    let verdict = match token.suspicion.failed(Failed::Own, now(), limits) {
        Verdict::Ask => match ask_device(options, token, None) {
            Reply::Answers => {
                // It answers, but does not log in.
                return None;
            }
            Reply::Fails { on } => token.suspicion.confirmed(on, now(), limits),
        },
        verdict => verdict,
    };
    (verdict == Verdict::Act).then(|| Trouble::Lasting { restarts: token.module.restarts() })
}

impl<H: Host> TokenPool<H> {
    /// Loads and initializes the module and finds the token. May block for as long as the module does. What a restart cannot mend is final;
    /// else the token is looked for until it is there.
    pub fn attach(&self) -> Result<(), Error> {
        let found = self.find_first(|_| Ok(()));
        let result = found.as_ref().map(|_| ()).map_err(Clone::clone);
        let attachment = match found {
            Ok(anchor) => Attachment::Up(anchor),
            Err(error) if error.is_fatal() => return result,
            Err(error) => Attachment::Down(Absence::never_found(error, Backoff::default().next())),
        };
        {
            let mut own = self.mooring.attachment.write();
            if matches!(*own, Attachment::Detached) {
                *own = attachment;
                self.mooring.troubled.store(result.is_err(), Ordering::Release);
            }
        }
        if result.is_err() {
            self.attend();
        }
        // Drained meanwhile.
        self.settle();
        result
    }

    fn find_first(&self, probe: impl Fn(&Token) -> Result<(), Error>) -> Result<Anchor, Error> {
        let mut module = Module::acquire(&self.options.module, &self.options.module_config)?;
        let seen = module.module().incarnation();
        let token = match Token::find(module.module(), &self.options.selector) {
            // It was lost before, and nobody has noticed yet.
            Err(error) if error.call().is_some_and(|call| self.options.class(&call) == Class::Module) => {
                self.reinitialize(module.module(), seen, true)?;
                Token::find(module.module(), &self.options.selector)?
            }
            found => found?,
        };
        // Before it is claimed: the pool may stop meanwhile, and its successor want it.
        probe(&token)?;
        let claim = self.claim(&token)?;
        if self.is_draining() {
            claim.leave();
        }
        module.set_up(true);
        Ok(Anchor { claim, module })
    }

    fn claim(&self, token: &Arc<Token>) -> Result<Claim, Error> {
        let me: Weak<dyn Watcher> = self.me.clone();
        token.claim(self.options.exclusive, Some(me))
    }

    /// An operation has run into trouble with this token, in this generation.
    pub(crate) fn face(&self, trouble: Trouble, token: &Arc<Token>, generation: u64, call: CallError) {
        match trouble {
            Trouble::Silence => drop(token.lose(generation, Some(call))),
            Trouble::Renewed => drop(token.renew(generation)),
            Trouble::Module { seen } if token.module.incarnation() == seen => {
                self.recover_by(Remedy::Reinitialize { seen }, Some(call));
            }
            Trouble::Module { .. } => (),
            Trouble::Lasting { restarts } => {
                // All that is open on it is as good as dead.
                if token.renew(generation) {
                    let is_first = token.ladder.climb() == Rung::LogOut;
                    let logs_out = is_first && self.options.login != LoginMode::None;
                    self.recover_by(Remedy::Revive { restarts, logs_out }, Some(call));
                }
            }
            Trouble::DeadFromTheStart { seen } => {
                // Of those who find it at the same time, one climbs.
                if !token.renew(generation) {
                    return;
                }
                match token.ladder.climb() {
                    Rung::LogOut => self.recover_by(Remedy::LogOut, Some(call)),
                    Rung::Reinitialize => self.recover_by(Remedy::Reinitialize { seen }, Some(call)),
                    Rung::Again(delay) => {
                        self.fall(Some(call), Remedy::Reinitialize { seen }, delay);
                        token.lose(token.generation(), Some(call));
                    }
                }
            }
        }
    }

    /// The module is being initialized again: this pool looks for its token when that is done.
    pub(crate) fn await_module(&self) {
        self.recover_by(Remedy::Look, None);
    }

    fn recover_by(&self, remedy: Remedy, call: Option<CallError>) {
        let changed = self.change(|attachment| match attachment {
            Attachment::Up(anchor) => (Attachment::Recovering(Absence::of(anchor, call, remedy, Duration::ZERO)), Some(())),
            other => (other, None),
        });
        if changed.is_some() {
            self.sessions.close_gate();
            self.attend();
        }
    }

    /// The token is away: whoever waits is told, and whoever comes.
    fn fall(&self, call: Option<CallError>, remedy: Remedy, delay: Duration) {
        let fallen = self.change(|attachment| match attachment {
            Attachment::Up(anchor) => (Attachment::Down(Absence::of(anchor, call, remedy, delay)), Some(false)),
            Attachment::Recovering(absence) => (Attachment::Down(absence), Some(true)),
            other => (other, None),
        });
        let Some(is_attended) = fallen else { return };
        self.went_down();
        if !is_attended {
            self.attend();
        }
    }

    /// A look that takes longer than who waits is held back for (it hangs in the module) is as good as one that has failed, until it returns.
    pub(crate) fn lose_patience(&self) {
        if !self.mooring.troubled.load(Ordering::Acquire) {
            return;
        }
        let is_late = self.change(|attachment| match attachment {
            Attachment::Recovering(absence) if absence.is_late() => (Attachment::Down(absence), true),
            other => (other, false),
        });
        if is_late {
            self.went_down();
        }
    }

    /// It has just gone down: whoever waits is told, and the keeper.
    fn went_down(&self) {
        self.flush();
        if let Readiness::Refused(error) = self.readiness() {
            self.refuse_waiting(&error);
            self.keeper.post(Notice::Down { error });
        }
        self.open_gate();
    }

    /// Closes what lies idle.
    fn flush(&self) {
        for (closing, session) in self.sessions.flush() {
            self.close(closing, session, Class::TokenGone.name());
        }
    }

    fn refuse_waiting(&self, error: &Error) {
        let held = std::mem::take(&mut *self.mooring.held.lock());
        for work in self.sessions.take_waiting() {
            refuse(work, error);
        }
        for work in held {
            work.refuse(error.clone());
        }
        self.refuse_parked(error);
    }

    /// An operation goes back to its place, with the pool's gate closed, until the recovery has ended.
    pub(crate) fn hold_back(&self, operation: Operation<H>, ticket: Ticket, outlet: &mut impl Outlet<H>) -> Option<Grant<H>> {
        self.sessions.close_gate();
        let next = self.requeue(operation, ticket, outlet);
        // It may have ended before.
        self.open_gate();
        next
    }

    /// The same for a login or logout. A pool that drains does not rise again: other pools would wait for its login until it is gone.
    pub(crate) fn hold_express(&self, work: Express<H>) {
        self.mooring.held.lock().push(work);
        if self.is_draining() || !matches!(self.readiness(), Readiness::Held) {
            self.resume_held();
        }
    }

    fn resume_held(&self) {
        let held = std::mem::take(&mut *self.mooring.held.lock());
        for work in held {
            self.submit_express(work);
        }
    }

    /// A pool that drains holds nothing back any more, and its thread ends.
    pub(crate) fn end_recovery(&self) {
        self.resume_held();
        let _bed = self.mooring.bed.lock();
        self.mooring.woken.notify_all();
    }

    /// Starts the thread.
    fn attend(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let thread = std::thread::Builder::new().name("pkcs11-recovery".into());
        let attended = thread.spawn(move || me.recover()).is_ok();
        if !attended && let Attachment::Recovering(absence) | Attachment::Down(absence) = &mut *self.mooring.attachment.write() {
            absence.attended = false;
        }
    }

    /// Starts the thread where the system had refused it.
    pub(crate) fn attend_if_alone(&self) {
        if !self.mooring.troubled.load(Ordering::Acquire) {
            return;
        }
        let alone = match &mut *self.mooring.attachment.write() {
            Attachment::Recovering(absence) | Attachment::Down(absence) => !std::mem::replace(&mut absence.attended, true),
            _ => false,
        };
        if alone {
            self.attend();
        }
    }

    fn recover(&self) {
        let mut backoff = Backoff::default();
        let mut ear = Ear::default();
        while let Some((had, remedy)) = self.next_look(&mut ear) {
            match self.look(had, remedy) {
                Ok(found) => return self.rise(found),
                Err(error) => self.stay_down(error, backoff.next()),
            }
        }
    }

    /// Sleeps until the next look is due, or the token seems to be back: at what it had, and how. `None`: there is nothing to look for any more.
    fn next_look(&self, ear: &mut Ear) -> Option<(Option<Had>, Remedy)> {
        loop {
            let mut bed = self.mooring.bed.lock();
            let listen_at = Instant::now() + slot_events::INTERVAL;
            let (retry_at, listens) = match &*self.mooring.attachment.read() {
                _ if self.is_draining() => return None,
                Attachment::Recovering(absence) | Attachment::Down(absence) if absence.retry_at <= Instant::now() => {
                    return Some((absence.anchor.as_ref().map(Had::of), absence.remedy));
                }
                Attachment::Recovering(absence) | Attachment::Down(absence) => {
                    // What is due but a look is not to be hurried.
                    let may_listen = absence.remedy == Remedy::Look && listen_at < absence.retry_at;
                    let anchor = absence.anchor.as_ref().filter(|_| may_listen);
                    (absence.retry_at, anchor.filter(|anchor| anchor.claim.token().has_events()).map(Had::of))
                }
                Attachment::Up(_) | Attachment::Detached | Attachment::Stopped => return None,
            };
            let Some(had) = listens else {
                self.mooring.woken.wait_until(&mut bed, retry_at);
                continue;
            };
            self.mooring.woken.wait_until(&mut bed, listen_at);
            drop(bed);
            if !self.is_draining() && ear.hears(&had.token, &self.options.selector) {
                self.look_at_once();
            }
        }
    }

    fn look_at_once(&self) {
        if let Attachment::Recovering(absence) | Attachment::Down(absence) = &mut *self.mooring.attachment.write() {
            absence.retry_at = Instant::now();
        }
    }

    fn look(&self, had: Option<Had>, remedy: Remedy) -> Result<Found, Error> {
        let Some(Had { token, _use }) = had else {
            return Ok(Found::First(self.find_first(Token::probe)?));
        };
        let module = &token.module;
        match remedy {
            Remedy::Look => (),
            Remedy::LogOut => log_out(&token),
            Remedy::Reinitialize { seen } => self.reinitialize(module, seen, true)?,
            Remedy::Revive { restarts, logs_out } => self.revive(&token, restarts, logs_out)?,
        }
        let seen = module.incarnation();
        let found = match self.find(module) {
            Ok(found) => found,
            Err(error) => {
                // Many a client of a network needs that to connect again. Others that have their tokens are left alone, unless it is the
                // module itself that asks for it.
                let is_due = error.call().is_some_and(|call| self.options.class(&call) == Class::Module);
                match self.reinitialize(module, seen, is_due) {
                    Ok(()) => self.find(module)?,
                    Err(why) if is_due => return Err(why),
                    Err(_) => return Err(error),
                }
            }
        };
        if Arc::ptr_eq(&found, &token) {
            return Ok(Found::Same);
        }
        Ok(Found::Partner(self.claim(&found)?))
    }

    /// A device in trouble that lasts: a logout, if that has not been tried, and if the device does not answer then, `C_Finalize` and
    /// `C_Initialize`. Calls are held back meanwhile, and have the time of a reload to leave the module.
    fn revive(&self, token: &Arc<Token>, restarts: u64, logs_out: bool) -> Result<(), Error> {
        let module = &token.module;
        if logs_out {
            log_out(token);
            let _inside = module.enter_unless_stuck()?;
            if ask_device(&self.options, token, None) == Reply::Answers {
                return Ok(());
            }
        }
        let until = Some(Instant::now() + WAIT);
        match module.reload(restarts, until, || !self.is_draining(), || true) {
            Ok(true) => self.keeper.post(Notice::Reinitialized { cause: "trouble" }),
            Ok(false) => (),
            // That is for the library that has initialized it.
            Err(Error::ModuleAdopted { .. }) => (),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// `is_due`: the module asks for it, so that it is waited for, and others are no reason not to.
    fn reinitialize(&self, module: &Module, seen: u64, is_due: bool) -> Result<(), Error> {
        let patience = if is_due { PATIENCE } else { Duration::ZERO };
        match module.reinitialize(seen, patience, !is_due) {
            Ok(true) if is_due => self.keeper.post(Notice::Reinitialized { cause: "lost" }),
            Ok(_) => (),
            // Whoever has initialized it may have done so again: the look will tell.
            Err(Error::ModuleOthers { .. }) if is_due => module.lose_if_adopted(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(crate) fn find(&self, module: &Arc<Module>) -> Result<Arc<Token>, Error> {
        let token = Token::find(module, &self.options.selector)?;
        token.probe()?;
        Ok(token)
    }

    /// The token is not there: it is looked for again after `delay`.
    fn stay_down(&self, error: Error, delay: Duration) {
        let lost = {
            let mut attachment = self.mooring.attachment.write();
            let (absence, recovers) = match &mut *attachment {
                Attachment::Recovering(absence) => (absence, true),
                Attachment::Down(absence) => (absence, false),
                Attachment::Up(_) | Attachment::Detached | Attachment::Stopped => return,
            };
            if matches!(absence.remedy, Remedy::LogOut | Remedy::Revive { .. }) {
                absence.remedy = Remedy::Look;
            }
            absence.cause = Some(error);
            absence.retry_at = Instant::now() + delay;
            let anchor = absence.anchor.as_ref().filter(|_| recovers);
            anchor.map(|anchor| (anchor.claim.token().clone(), absence.call))
        };
        if let Some((token, call)) = lost {
            // With it, all pools of the token.
            token.lose(token.generation(), call);
            self.fall(call, Remedy::Look, delay);
        }
    }

    /// The token is there.
    fn rise(&self, found: Found) {
        // What the pool had before is dropped outside of the lock.
        let mut left_over = None;
        let rise = |absence: Absence| {
            let anchor = match (absence.anchor, found) {
                (Some(mut anchor), Found::Partner(claim)) => {
                    left_over = Some(std::mem::replace(&mut anchor.claim, claim));
                    // Words are of one gate.
                    self.access.admitted.store(0, Ordering::Release);
                    self.access.standing.lock().conflict = None;
                    Some(anchor)
                }
                (Some(anchor), _) | (None, Found::First(anchor)) => Some(anchor),
                (None, _) => None,
            };
            anchor.map_or(Attachment::Stopped, |mut anchor| {
                anchor.module.set_up(true);
                Attachment::Up(anchor)
            })
        };
        let risen = self.change(|attachment| match attachment {
            Attachment::Recovering(absence) => (rise(absence), Some(None)),
            Attachment::Down(absence) => {
                let was_there = absence.anchor.is_some();
                (rise(absence), Some(Some(Notice::Up { was_there })))
            }
            other => (other, None),
        });
        drop(left_over);
        // What could not be opened on the token of before may be now.
        self.record.may_open();
        if let Some(notice) = risen {
            self.resume_held();
            self.open_gate();
            if let Some(notice) = notice {
                self.keeper.post(notice);
            }
        }
        self.settle();
    }

    /// What an operation that ran into trouble is answered, if it is answered.
    pub(crate) fn troubled_failure(&self, call: CallError, failure: Failure) -> Failure {
        match self.readiness() {
            Readiness::Refused(error) => Failure { error: as_seen_by(call, error), ..failure },
            Readiness::Ready | Readiness::Held => failure,
        }
    }
}

/// `C_Logout` on a new session; what comes of it is seen by the login that follows.
fn log_out(token: &Arc<Token>) {
    let Ok(_inside) = token.module.enter_unless_stuck() else { return };
    let _ = OpenHandle::on_another(token, true, |session| logout(token.module.functions(), session));
}

impl<H: Host> Watcher for TokenPool<H> {
    fn token_lost(&self, call: Option<CallError>) {
        self.fall(call, Remedy::Look, Duration::ZERO);
    }

    fn token_renewed(&self) {
        self.flush();
    }

    fn module_restarts(&self) {
        self.await_module();
    }
}

/// The error of an operation that has seen by itself what brought the pool down.
pub(crate) fn as_seen_by(call: CallError, error: Error) -> Error {
    match error {
        Error::TokenUnavailable(unavailable) => Error::TokenUnavailable(Unavailable { call: Some(call), ..unavailable }),
        other => other,
    }
}
