//! What Elixir holds of the native side, and what the death of a process does to it.

use std::panic::RefUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustler::{Env, LocalPid, Monitor, Resource};
use session_pool::RunnerId;
use token::p11::Mechanism;
use token::{HeldModule, KeyRef, LeaseEnd};

use crate::beam::{Header, Lease, Scheduler, SpinFlag, TokenPool};
use crate::sender::{self, Job};

/// A pool. It drains when its server dies.
pub(crate) struct PoolResource {
    pub(crate) pool: Arc<TokenPool>,
    pub(crate) shutdown_timeout: Option<Duration>,
    /// How many of its runners are to be processes; the rest are native threads.
    pub(crate) processes: Arc<AtomicUsize>,
}

/// A runner's place in a pool.
pub(crate) struct RunnerResource {
    pub(crate) pool: Arc<TokenPool>,
    pub(crate) id: RunnerId,
    pub(crate) flag: SpinFlag,
}

/// A submitted operation, for giving it up.
pub(crate) struct TicketResource {
    pub(crate) pool: Arc<TokenPool>,
    pub(crate) header: Arc<Header>,
    /// `None`: a login or logout.
    pub(crate) ticket: Option<session_pool::Ticket>,
}

/// A lease, which its holder's death ends.
pub(crate) struct LeaseResource {
    pub(crate) pool: Arc<TokenPool>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) holder: LocalPid,
}

/// The key and the mechanism of an operation that is prepared: no session, no handle of the module.
pub(crate) struct PreparedResource {
    pub(crate) key: Arc<KeyRef>,
    pub(crate) mechanism: Mechanism,
}

/// A module that is held initialized without a pool.
pub(crate) struct HeldModuleResource(pub(crate) HeldModule);

/// Whose turn it is: a slot's round robin.
pub(crate) struct IndexResource(pub(crate) AtomicUsize);

// Their locks are parking_lot's, which know no poison, and nothing that they guard is left half-done by a panic.
impl RefUnwindSafe for PoolResource {}
impl RefUnwindSafe for RunnerResource {}
impl RefUnwindSafe for TicketResource {}
impl RefUnwindSafe for LeaseResource {}
impl RefUnwindSafe for HeldModuleResource {}

#[rustler::resource_impl]
impl Resource for PoolResource {
    const IMPLEMENTS_DOWN: bool = true;

    /// The pool server has died, by whatever road: the pool stops.
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        stop(self);
    }
}

#[rustler::resource_impl]
impl Resource for RunnerResource {
    const IMPLEMENTS_DOWN: bool = true;

    /// The runner's process has died: what it had been woken with goes to another.
    fn down<'a>(&'a self, env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.pool.runner_down(self.id, &mut Scheduler(env));
    }
}

#[rustler::resource_impl]
impl Resource for TicketResource {}

#[rustler::resource_impl]
impl Resource for PreparedResource {}

#[rustler::resource_impl]
impl Resource for LeaseResource {
    const IMPLEMENTS_DOWN: bool = true;

    /// The holder has died: what it did on the session is not known.
    fn down<'a>(&'a self, env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.pool.end_lease(&self.lease, LeaseEnd::Close("holder_died"), &mut Scheduler(env));
    }
}

#[rustler::resource_impl]
impl Resource for IndexResource {}

#[rustler::resource_impl]
impl Resource for HeldModuleResource {}

pub(crate) fn stop(resource: &PoolResource) {
    resource.pool.drain();
    if let Some(timeout) = resource.shutdown_timeout {
        let pool = resource.pool.clone();
        sender::post_later(timeout, Job::Run(Box::new(move || pool.give_up())));
    }
}
