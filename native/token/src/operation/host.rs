//! What this crate asks of whoever hosts it: `nif` implements it over the BEAM, the tests over channels.

use std::time::Duration;

use crate::operation::answer::Outcome;
use crate::operation::notice::Notice;

/// The host's types.
pub trait Host: Sized + 'static {
    /// The address of an operation's caller.
    type Reply: Reply;
    /// The address of a runner.
    type Runner: Wake;
    /// The address of a pool's server.
    type Server: PoolServer;
    /// Runs something after a while, on a thread that must not wait for anything.
    fn later(delay: Duration, run: Box<dyn FnOnce() + Send>);
}

/// The address of a caller. Posting must neither block nor panic: it happens in destructors.
pub trait Reply: Send + Sync + 'static {
    /// Sends the answer, by the sender thread.
    fn post(&self, outcome: Outcome);
}

/// The address of a runner.
pub trait Wake: Clone + Send + Sync + 'static {
    /// Wakes it, by the sender thread; neither blocks nor panics.
    fn post(&self);
    /// Ends its wait in [`Outlet::wait`], the one that has begun or the next one; neither blocks nor panics.
    fn unpark(&self);
    /// Whether its thread may be left behind in a call that hangs, and a successor take its place.
    fn is_expendable(&self) -> bool;
}

/// The address of a pool server.
pub trait PoolServer: Send + Sync + 'static {
    /// Tells it, by the sender thread; neither blocks nor panics.
    fn post(&self, notice: Notice);
}

/// Whether the process on which a runner runs, and which sends its answers, is still alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// Sent, or nobody is there to receive it.
    Done,
    /// It is dead: the answer goes by the sender thread, and the runner must take nothing more.
    RunnerDead,
}

/// How the current thread sends: directly where it may, by the sender thread where it may not.
pub trait Outlet<H: Host> {
    /// Whether the caller is still there.
    fn is_wanted(&self, reply: &H::Reply) -> bool;
    /// Sends an answer; it arrives in any case.
    fn answer(&mut self, reply: &H::Reply, outcome: Outcome) -> Delivery;
    /// Wakes a runner.
    fn wake(&mut self, runner: &H::Runner);
    /// Whether the runner that this is the outlet of may wait inside of its call.
    fn may_wait(&self) -> bool {
        false
    }
    /// Waits until somebody unparks it, or for so long.
    fn wait(&mut self, _at_most: Duration) {}
}

/// The outlet of threads that may not send by themselves.
pub struct Posting;

impl<H: Host> Outlet<H> for Posting {
    fn is_wanted(&self, _reply: &H::Reply) -> bool {
        true
    }

    fn answer(&mut self, reply: &H::Reply, outcome: Outcome) -> Delivery {
        reply.post(outcome);
        Delivery::Done
    }

    fn wake(&mut self, runner: &H::Runner) {
        runner.post();
    }
}
