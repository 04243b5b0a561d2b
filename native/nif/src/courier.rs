//! The courier: the one native thread of ours that only sends. What cannot be sent where it arises (a destructor, a killed process's
//! dirty NIF, a thread of the reaper's) goes through it; and what is to happen later, waits here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};
use once_cell::sync::OnceCell;
use rustler::{Encoder, LocalPid, OwnedEnv};
use token::End;
use token::host::{Notice, Outcome, Posting};

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
    /// Something for later.
    At(Instant, Due),
}

/// What is to be done later.
pub(crate) enum Due {
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

static COURIER: OnceCell<Sender<Job>> = OnceCell::new();

/// Starts the thread, once.
pub(crate) fn start() -> std::io::Result<()> {
    COURIER.get_or_try_init(|| {
        let (jobs, inbox) = unbounded();
        std::thread::Builder::new().name("pkcs11-courier".into()).spawn(move || run(&inbox))?;
        Ok::<_, std::io::Error>(jobs)
    })?;
    Ok(())
}

/// Hands a job over; neither blocks nor panics.
pub(crate) fn post(job: Job) {
    if let Some(courier) = COURIER.get() {
        // The thread never ends.
        let _ = courier.send(job);
    }
}

/// A job for later, the earliest first.
struct Later(Instant, Due);

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

fn run(inbox: &crossbeam_channel::Receiver<Job>) {
    let mut env = OwnedEnv::new();
    let mut later: BinaryHeap<Reverse<Later>> = BinaryHeap::new();
    loop {
        let job = match later.peek() {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Reverse(Later(at, _))) => inbox.recv_deadline(*at),
        };
        // A failed send means that nobody is there any more.
        match job {
            Ok(Job::Answer(caller, result)) => {
                let _ = env.send_and_clear(&caller.pid, |env| (caller.tag(env), outcome(env, &result)).encode(env));
            }
            Ok(Job::Wake(pid)) => {
                let _ = env.send_and_clear(&pid, |env| atoms::run().encode(env));
            }
            Ok(Job::Tell(pid, told)) => {
                let _ = env.send_and_clear(&pid, |env| (atoms::pkcs11_pool(), notice(env, told)).encode(env));
            }
            Ok(Job::At(at, due)) => later.push(Reverse(Later(at, due))),
            Err(RecvTimeoutError::Timeout) => match later.pop() {
                Some(Reverse(Later(_, Due::GiveUp(pool)))) => pool.give_up(),
                Some(Reverse(Later(_, Due::Expire(expiry)))) => expire(&expiry, &mut env),
                Some(Reverse(Later(_, Due::Run(run)))) => run(),
                None => (),
            },
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn expire(Expiry { lease, holder, keeper, place }: &Expiry, env: &mut OwnedEnv) {
    let ended = lease.upgrade().is_some_and(|lease| lease.end(End::Close("lease_expired"), &mut Posting));
    if ended {
        let told = |env| (atoms::pkcs11_pool(), (atoms::lease_expired(), *holder, place.as_str())).encode(env);
        let _ = env.send_and_clear(keeper, told);
    }
}
