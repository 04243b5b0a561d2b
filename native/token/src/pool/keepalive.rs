//! Idle sessions that are kept alive: some tokens drop a session that is not used for a while. A runner makes one small call on it, as it would make
//! an operation's, but nobody waits for it, and whatever does goes first.
//!
//! At every moment the session is the runner's, as with an operation; the pool knows that it is only being kept alive, and since when it is idle
//! all the same. If the runner dies, the grant goes to another one; if the call hangs, it is found by the pool's look, as a call without a caller;
//! if the pool drains, the grant is dropped and the session closed.

use session_pool::Held;

use crate::module::handle::HandleUse;
use crate::operation::Place;
use crate::operation::host::{Host, Outlet};
use crate::options::LoginMode;
use crate::p11::crypto::generate_random;
use crate::p11::{CallError, Class};
use crate::pool::TokenPool;
use crate::pool::availability::Readiness;
use crate::pool::grant::Grant;
use crate::pool::in_flight::InUse;
use crate::pool::opening::enter;
use crate::pool::work::{Keepalive, Work};
use crate::support::clock::now;
use crate::token::diagnosis::{Diagnosis, FailedCall, PROBE_BYTES, Trouble, diagnose, is_suspicious};
use crate::token::session::Session;

/// What becomes of the session.
enum Kept {
    Good,
    Broken(&'static str),
    Trouble(Trouble, CallError),
}

impl<H: Host> TokenPool<H> {
    /// Time passes: if a session is to be kept alive, a runner does; it goes on with the others that are.
    pub(crate) fn keep_alive(&self, outlet: &mut impl Outlet<H>) {
        let Some(interval) = self.options.keepalive else { return };
        if matches!(self.availability.readiness(), Readiness::Ready)
            && let Some(grant) = self.next_to_keep(Keepalive { called_before: now().saturating_sub(interval) })
        {
            self.dispatch(grant, outlet);
        }
    }

    /// The next session that is to be kept alive, if there is one.
    pub(crate) fn next_to_keep(&self, keepalive: Keepalive) -> Option<Grant<H>> {
        self.sessions.take_to_keep(keepalive.called_before, now(), || Work::Keepalive(keepalive))
    }

    /// One session.
    pub(crate) fn handle_keepalive(&self, in_use: InUse<'_, H>) -> Option<Grant<H>> {
        let kept = self.call_to_keep_alive(&in_use);
        let held = self.note_return(in_use.finish());
        self.after_keeping(held, kept)
    }

    fn after_keeping(&self, held: Held<Session>, kept: Kept) -> Option<Grant<H>> {
        let reason = match kept {
            _ if held.is_hung() => "hung",
            Kept::Good => return self.free(held, &Place::Pool),
            Kept::Broken(reason) => reason,
            Kept::Trouble(trouble, call) => {
                self.respond_to(trouble, held.session.token(), held.session.generation(), call);
                self.options.policy.class(&call).name()
            }
        };
        self.discard(held, &Place::Pool, reason);
        None
    }

    /// The call. It needs no login, and asks for none.
    fn call_to_keep_alive(&self, in_use: &InUse<'_, H>) -> Kept {
        let session = in_use.session();
        let token = session.token();
        // What waits by now goes first.
        let is_wanted = || self.sessions.waiting() == 0 && !self.is_draining();
        if !is_wanted() {
            return Kept::Good;
        }
        let Ok(_inside) = enter(token, in_use.record(), is_wanted) else { return Kept::Good };
        let Some(used) = session.begin().filter(|_| !session.is_stale()) else { return Kept::Broken("stale") };
        match generate_random(token.module.functions(), used.handle(), PROBE_BYTES, PROBE_BYTES) {
            Ok(_bytes) => {
                token.suspicion.succeeded();
                Kept::Good
            }
            Err(call) => self.judge_keeping(session, &used, call),
        }
    }

    /// What a return code asks for, as of an operation that nobody waits for. Called inside of the module.
    fn judge_keeping(&self, session: &Session, used: &HandleUse<'_>, call: CallError) -> Kept {
        let token = session.token();
        let (class, epoch) = (self.options.policy.class(&call), token.gate.epoch());
        if is_suspicious(class) {
            let failed = FailedCall::Keepalive { used, epoch };
            let Diagnosis { trouble, is_session_good } = diagnose(&self.options.policy, token, class, &failed);
            return match trouble {
                Some(trouble) => Kept::Trouble(trouble, call),
                None if is_session_good && matches!(class, Class::DeviceTrouble | Class::Ambiguous) => Kept::Good,
                None => Kept::Broken(class.name()),
            };
        }
        if class == Class::LoginLost && self.options.login != LoginMode::None {
            token.gate.note_login_lost(epoch);
        }
        match class {
            Class::DirtySession => Kept::Broken(class.name()),
            _ => Kept::Good,
        }
    }
}
