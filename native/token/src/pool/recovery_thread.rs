//! How a pool finds its token: once at its start, and then by a thread of its own that looks for it until it is there or the pool ends, and then ends
//! itself.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::module::Module;
use crate::module::reinitialize::{HOLD_BACK_LIMIT, LEAVE_TIMEOUT};
use crate::operation::host::{Host, PoolServer};
use crate::operation::notice::Notice;
use crate::p11::Class;
use crate::p11::session::logout;
use crate::pool::TokenPool;
use crate::pool::availability::{Binding, Found, Had, NextLook, Remedy};
use crate::support::backoff::Backoff;
use crate::token::diagnosis::{DeviceReply, ask_device};
use crate::token::return_watch::{self, ReturnWatch};
use crate::token::{Claim, Token, Watcher};

impl<H: Host> TokenPool<H> {
    /// Loads and initializes the module and finds the token. May block for as long as the module does. What a restart cannot mend is final;
    /// else the token is looked for until it is there.
    pub fn attach(&self) -> Result<(), Error> {
        let (found, result) = match self.find_first(|_| Ok(())) {
            Ok(binding) => (Ok(binding), Ok(())),
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => (Err((error.clone(), Backoff::default().next())), Err(error)),
        };
        self.availability.attach(found);
        if result.is_err() {
            self.start_recovery_thread();
        }
        // Drained meanwhile.
        self.advance_drain();
        result
    }

    fn find_first(&self, probe: impl Fn(&Token) -> Result<(), Error>) -> Result<Binding, Error> {
        let mut module = Module::acquire(&self.options.module, &self.options.module_config)?;
        if self.options.user_name.is_some() && !module.module().functions().has_login_user() {
            // Said before anybody is asked for a PIN.
            return Err(Error::UserNameUnsupported { path: self.options.module.clone() });
        }
        let seen = module.module().incarnation();
        let token = match Token::find(module.module(), &self.options.selector) {
            // It was lost before, and nobody has noticed yet.
            Err(error) if error.call().is_some_and(|call| self.options.policy.class(&call) == Class::Module) => {
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
        module.set_in_service(true);
        Ok(Binding { claim, module })
    }

    fn claim(&self, token: &Arc<Token>) -> Result<Claim, Error> {
        let me: Weak<dyn Watcher> = self.me.clone();
        token.claim(self.options.exclusive, Some(me))
    }

    /// Starts the thread.
    pub(crate) fn start_recovery_thread(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let thread = std::thread::Builder::new().name("pkcs11-recovery".into());
        if thread.spawn(move || me.recover()).is_err() {
            self.availability.note_no_thread();
        }
    }

    /// Time passes: starts the thread where the system had refused it.
    pub(crate) fn start_recovery_thread_if_refused(&self) {
        if self.availability.wants_thread() {
            self.start_recovery_thread();
        }
    }

    fn recover(&self) {
        let mut backoff = Backoff::default();
        let mut watch = ReturnWatch::default();
        loop {
            match self.availability.await_look(|| self.is_draining(), return_watch::INTERVAL) {
                NextLook::Over => return,
                NextLook::Now(had, remedy) => match self.try_to_find(had, remedy) {
                    Ok(found) => return self.rise(found),
                    Err(error) => self.handle_failed_look(error, backoff.next()),
                },
                NextLook::Listen(had) => {
                    if !self.is_draining() && watch.sees(&had.token, &self.options.selector) {
                        self.availability.hurry();
                    }
                }
            }
        }
    }

    fn try_to_find(&self, had: Option<Had>, remedy: Remedy) -> Result<Found, Error> {
        let Some(had) = had else {
            return Ok(Found::First(self.find_first(Token::probe)?));
        };
        let token = &had.token;
        let module = &token.module;
        match remedy {
            Remedy::Look => (),
            Remedy::LogOut => log_out(token),
            Remedy::Reinitialize { seen } => self.reinitialize(module, seen, true)?,
            Remedy::Revive { restarts, logs_out } => self.revive(token, restarts, logs_out)?,
        }
        let seen = module.incarnation();
        let found = match self.find(module) {
            Ok(found) => found,
            Err(error) => {
                // Many a client of a network needs that to connect again. Others that have their tokens are left alone, unless it is the
                // module itself that asks for it.
                let is_due = error.call().is_some_and(|call| self.options.policy.class(&call) == Class::Module);
                match self.reinitialize(module, seen, is_due) {
                    Ok(()) => self.find(module)?,
                    Err(why) if is_due => return Err(why),
                    Err(_) => return Err(error),
                }
            }
        };
        if Arc::ptr_eq(&found, token) {
            return Ok(Found::Same);
        }
        Ok(Found::Replacement(self.claim(&found)?))
    }

    /// A device in trouble that lasts: a logout, if that has not been tried, and if the device does not answer then, `C_Finalize` and
    /// `C_Initialize`. Calls are held back meanwhile, and have the time of a reload to leave the module.
    fn revive(&self, token: &Arc<Token>, restarts: u64, logs_out: bool) -> Result<(), Error> {
        let module = &token.module;
        if logs_out {
            log_out(token);
            let _inside = module.enter_unless_stuck()?;
            if ask_device(&self.options.policy, token, None) == DeviceReply::Answers {
                return Ok(());
            }
        }
        let until = Some(Instant::now() + LEAVE_TIMEOUT);
        match module.reload(restarts, until, || !self.is_draining(), || true) {
            Ok(true) => self.server.post(Notice::Reinitialized { cause: "trouble" }),
            Ok(false) => (),
            // That is for the library that has initialized it.
            Err(Error::ModuleAdopted { .. }) => (),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// `is_due`: the module asks for it, so that it is waited for, and others are no reason not to.
    fn reinitialize(&self, module: &Module, seen: u64, is_due: bool) -> Result<(), Error> {
        let patience = if is_due { HOLD_BACK_LIMIT } else { Duration::ZERO };
        match module.reinitialize(seen, patience, !is_due) {
            Ok(true) if is_due => self.server.post(Notice::Reinitialized { cause: "lost" }),
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
    fn handle_failed_look(&self, error: Error, delay: Duration) {
        if let Some((token, call)) = self.availability.look_failed(error, delay) {
            // With it, all pools of the token.
            token.lose(token.generation(), call);
            self.fall(call, Remedy::Look, delay);
        }
    }
}

/// `C_Logout` on a new session; what comes of it is seen by the login that follows.
fn log_out(token: &Arc<Token>) {
    let Ok(_inside) = token.module.enter_unless_stuck() else { return };
    let _ = token.with_temporary_session(true, |session| logout(token.module.functions(), session));
}
