//! The courier: the one native thread of ours that only sends. What cannot be sent where it arises (a destructor, a killed process's
//! dirty NIF, a thread of the reaper's) goes through it; and what is to happen later, waits here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use once_cell::sync::OnceCell;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term};
use token::host::{Notice, Outcome, Posting};
use token::{End, Timer, survive, unanswerable};

use crate::atoms;
use crate::beam::{Caller, Lease, TokenPool};
use crate::encode::{notice, outcome};

pub(crate) enum Job {
    /// An operation's answer.
    Answer(Caller, Outcome),
    /// Wakes a runner.
    Wake(LocalPid),
    /// Tells a keeper.
    Tell(LocalPid, Notice),
    /// Answers what still runs in a drained pool.
    GiveUp(Arc<TokenPool>),
    /// Ends a lease that has been held for too long.
    Expire(Expiry),
    /// Something short of the pool's own.
    Run(Box<dyn FnOnce() + Send>),
}

/// A lease, and whom to tell about it.
pub(crate) struct Expiry {
    pub(crate) lease: Weak<Lease>,
    pub(crate) holder: LocalPid,
    pub(crate) keeper: LocalPid,
    pub(crate) place: String,
}

static COURIER: OnceCell<token::Courier<Job>> = OnceCell::new();

/// Starts the thread, once.
pub(crate) fn start() -> std::io::Result<()> {
    COURIER.get_or_try_init(|| token::Courier::start("pkcs11-courier", perform))?;
    Ok(())
}

/// Hands a job over; neither blocks nor panics.
pub(crate) fn post(job: Job) {
    if let Some(courier) = COURIER.get() {
        courier.post(job);
    }
}

/// The same for a job that is to be done after a while.
pub(crate) fn post_later(delay: Duration, job: Job) {
    if let Some(courier) = COURIER.get() {
        courier.post_later(delay, job);
    }
}

/// The same, unless the timer is dropped before.
pub(crate) fn schedule(delay: Duration, job: Job) -> Option<Timer> {
    Some(COURIER.get()?.schedule(delay, job))
}

/// How many jobs wait for their time.
pub(crate) fn waiting() -> usize {
    COURIER.get().map_or(0, token::Courier::waiting)
}

fn perform(job: Job) {
    match job {
        Job::Answer(caller, result) => {
            let answer = |result: &Outcome| send(&caller.pid, |env| (caller.tag(env), outcome(env, result)).encode(env));
            // A caller waits for it, whatever it is.
            if survive(|| answer(&result)).is_none() {
                answer(&Err(unanswerable()));
            }
        }
        Job::Wake(pid) => send(&pid, |env| atoms::run().encode(env)),
        Job::Tell(pid, told) => send(&pid, |env| (atoms::pkcs11_pool(), notice(env, told)).encode(env)),
        Job::GiveUp(pool) => pool.give_up(),
        Job::Expire(expiry) => expire(&expiry),
        Job::Run(run) => run(),
    }
}

/// A failed send means that nobody is there any more.
fn send(pid: &LocalPid, message: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
    let _ = OwnedEnv::new().send_and_clear(pid, message);
}

fn expire(Expiry { lease, holder, keeper, place }: &Expiry) {
    let ended = lease.upgrade().is_some_and(|lease| lease.end(End::Close("lease_expired"), &mut Posting));
    if ended {
        send(keeper, |env| (atoms::pkcs11_pool(), (atoms::lease_expired(), *holder, place.as_str())).encode(env));
    }
}
