//! The host's types over the BEAM: who is answered, woken and told, and by which road.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustler::{Encoder, Env, LocalPid, OwnedEnv};
use token::host::{Delivery, Host, Outlet, PoolServer, Reply, Wake};
use token::{Notice, Outcome};

use crate::atoms;
use crate::caller::Caller;
use crate::encode::outcome;
use crate::sender::{Job, post, post_later};

/// The host.
pub(crate) struct Beam;

pub(crate) type TokenPool = token::TokenPool<Beam>;
pub(crate) type Header = token::Header<Beam>;
pub(crate) type Lease = token::Lease<Beam>;

impl Host for Beam {
    type Reply = Caller;
    type Runner = Runner;
    type Server = ServerPid;

    fn later(delay: Duration, run: Box<dyn FnOnce() + Send>) {
        post_later(delay, Job::Run(run));
    }
}

impl Reply for Caller {
    fn post(&self, outcome: Outcome) {
        post(Job::Answer(self.clone(), outcome));
    }
}

/// How a runner that waits inside of its call is told that there is something for it.
#[derive(Clone, Default)]
pub(crate) struct SpinFlag(Arc<AtomicBool>);

/// How often it is looked at between two offers of the processor to others.
const LOOKS: usize = 32;

impl SpinFlag {
    fn unpark(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Waits for it, or for so long. It stays awake: to be woken by the kernel would take as long as what this is to save.
    fn wait(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        loop {
            for _ in 0..LOOKS {
                if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Acquire) {
                    return;
                }
                std::hint::spin_loop();
            }
            if Instant::now() >= until {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// A runner's address.
#[derive(Clone)]
pub(crate) enum Runner {
    /// A process, which calls a dirty NIF, and its flag.
    Process(LocalPid, SpinFlag),
    /// A native thread.
    Thread(Sender<()>),
}

impl Wake for Runner {
    fn post(&self) {
        match self {
            Self::Process(pid, _) => post(Job::Wake(*pid)),
            Self::Thread(_) => self.unpark(),
        }
    }

    fn unpark(&self) {
        match self {
            Self::Process(_, flag) => flag.unpark(),
            // Full: it has been woken already. Disconnected: it has ended.
            Self::Thread(sender) => drop(sender.try_send(())),
        }
    }

    fn is_expendable(&self) -> bool {
        // A process's NIF keeps its scheduler, whatever becomes of the process.
        matches!(self, Self::Thread(_))
    }
}

/// A pool server's address.
pub(crate) struct ServerPid(pub(crate) LocalPid);

impl PoolServer for ServerPid {
    fn post(&self, notice: Notice) {
        post(Job::Tell(self.0, notice));
    }
}

/// Sending from a scheduler's thread, normal or dirty, in the name of the calling process.
pub(crate) struct Scheduler<'a>(pub(crate) Env<'a>);

/// The same for a runner, which waits on its flag.
pub(crate) struct Serving<'a>(pub(crate) Scheduler<'a>, pub(crate) SpinFlag);

impl Outlet<Beam> for Serving<'_> {
    fn is_wanted(&self, caller: &Caller) -> bool {
        self.0.is_wanted(caller)
    }

    fn answer(&mut self, caller: &Caller, result: Outcome) -> Delivery {
        self.0.answer(caller, result)
    }

    fn wake(&mut self, runner: &Runner) {
        self.0.wake(runner);
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn wait(&mut self, at_most: Duration) {
        self.1.wait(at_most);
    }
}

impl Outlet<Beam> for Scheduler<'_> {
    fn is_wanted(&self, caller: &Caller) -> bool {
        self.0.is_process_alive(caller.pid)
    }

    fn answer(&mut self, caller: &Caller, result: Outcome) -> Delivery {
        let env = self.0;
        let message = (caller.tag(env), outcome(env, &result)).encode(env);
        if env.send(&caller.pid, message).is_ok() || !env.is_process_alive(caller.pid) {
            return Delivery::Done;
        }
        // The addressee lives: it is this process that is dead.
        caller.post(result);
        Delivery::RunnerDead
    }

    fn wake(&mut self, runner: &Runner) {
        match runner {
            Runner::Process(pid, _) if self.0.send(pid, atoms::run()).is_ok() => (),
            other => other.post(),
        }
    }
}

/// Sending from a native thread of ours.
pub(crate) struct Thread(pub(crate) OwnedEnv);

impl Outlet<Beam> for Thread {
    fn is_wanted(&self, caller: &Caller) -> bool {
        self.0.run(|env| env.is_process_alive(caller.pid))
    }

    fn answer(&mut self, caller: &Caller, result: Outcome) -> Delivery {
        // A failed send means that nobody is there any more.
        let _ = self.0.send_and_clear(&caller.pid, |env| (caller.tag(env), outcome(env, &result)).encode(env));
        Delivery::Done
    }

    fn wake(&mut self, runner: &Runner) {
        runner.post();
    }
}
