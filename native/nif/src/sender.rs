//! The sender: the one native thread of ours that only sends. What cannot be sent where it arises (a destructor, a killed process's
//! dirty NIF, the thread that closes sessions) goes through it; and what is to happen later, waits here.

use std::time::Duration;

use once_cell::sync::OnceCell;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term};
use token::{Notice, Outcome, Timer, survive, unanswerable};

use crate::atoms;
use crate::caller::Caller;
use crate::encode::{notice, outcome};

pub(crate) enum Job {
    /// An operation's answer.
    Answer(Caller, Outcome),
    /// Wakes a runner.
    Wake(LocalPid),
    /// Tells a pool server.
    Tell(LocalPid, Notice),
    /// Does something short that may send, too.
    Run(Box<dyn FnOnce() + Send>),
}

static SENDER: OnceCell<token::SenderThread<Job>> = OnceCell::new();

/// Starts the thread, once.
pub(crate) fn start() -> std::io::Result<()> {
    SENDER.get_or_try_init(|| token::SenderThread::start("pkcs11-sender", perform))?;
    Ok(())
}

/// Hands a job over; neither blocks nor panics.
pub(crate) fn post(job: Job) {
    if let Some(sender) = SENDER.get() {
        sender.post(job);
    }
}

/// The same for a job that is to be done after a while.
pub(crate) fn post_later(delay: Duration, job: Job) {
    if let Some(sender) = SENDER.get() {
        sender.post_later(delay, job);
    }
}

/// The same, unless the timer is dropped before.
pub(crate) fn schedule(delay: Duration, job: Job) -> Option<Timer> {
    Some(SENDER.get()?.schedule(delay, job))
}

/// How many jobs wait for their time.
pub(crate) fn waiting() -> usize {
    SENDER.get().map_or(0, token::SenderThread::waiting)
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
        Job::Run(run) => run(),
    }
}

/// A failed send means that nobody is there any more.
pub(crate) fn send(pid: &LocalPid, message: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
    let _ = OwnedEnv::new().send_and_clear(pid, message);
}
