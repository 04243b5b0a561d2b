//! A library that is loaded, and what it consists of. What is done with it is in files of their own: [`super::enter`], [`super::initialize`],
//! [`super::reinitialize`], [`super::handle`].

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use session_pool::{Handles, Millis};

use super::closing_thread::ClosingThread;
use super::config::ModuleConfig;
use super::door::{Door, StuckCall};
use super::exit::Guard;
use super::lifecycle::{Lifecycle, Phase};
use super::slot_events::SlotEvents;
use super::tenant::Tenant;
use crate::error::Error;
use crate::p11::Functions;

/// What is left with a handle that is in use, and dropped when the use ends.
pub(super) type Leftover = Box<dyn Any + Send>;

/// A loaded module.
pub struct Module {
    path: PathBuf,
    /// SHA-256 of what was loaded, in lower case; `None`: the file was changed meanwhile.
    digest: Option<String>,
    functions: Functions,
    pub(super) lifecycle: Lifecycle,
    pub(super) door: Arc<Door>,
    /// How often it was initialized.
    pub(super) incarnation: AtomicU64,
    /// How often it began to be initialized again.
    pub(super) restarts: AtomicU64,
    /// Until then its pools hold calls back rather than refuse them, since it is being reloaded.
    pub(super) held_until: Mutex<Option<Instant>>,
    /// `C_Initialize` says that it is initialized already, and that may be our doing: our last one failed, or a `C_Finalize` of ours did nothing.
    pub(super) perhaps_ours: AtomicBool,
    tenants: Mutex<Vec<Arc<dyn Tenant>>>,
    handles: Handles<Leftover>,
    pub(super) closing_thread: ClosingThread,
    pub(super) exit_guard: Guard,
    slot_events: SlotEvents,
}

impl Module {
    pub(super) fn new(
        path: PathBuf,
        digest: Option<String>,
        functions: Functions,
        config: ModuleConfig,
        closing_thread: ClosingThread,
        exit_guard: Guard,
    ) -> Self {
        Self {
            path,
            digest,
            functions,
            lifecycle: Lifecycle::new(config),
            door: Arc::default(),
            incarnation: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            held_until: Mutex::default(),
            perhaps_ours: AtomicBool::new(false),
            tenants: Mutex::default(),
            handles: Handles::default(),
            closing_thread,
            exit_guard,
            slot_events: SlotEvents::default(),
        }
    }

    /// Its functions.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// Its path, for errors.
    pub(super) fn display(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether what was loaded is what `config` asks for, whatever the file is by now.
    pub(super) fn check_digest(&self, config: &ModuleConfig) -> Result<(), Error> {
        config.check_digest(&self.display(), self.digest.as_deref())
    }

    /// Changes whenever it was initialized: what was open before is gone. Read inside.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::SeqCst)
    }

    /// Whether we have initialized it, and nobody else has.
    pub(crate) fn is_ours(&self) -> bool {
        self.lifecycle.phase() == Phase::Up { ours: true }
    }

    /// The handles of our sessions.
    pub(super) fn handles(&self) -> &Handles<Leftover> {
        &self.handles
    }

    /// Whether one call is inside at a time.
    pub fn is_serialized(&self) -> bool {
        self.door.is_one_at_a_time()
    }

    /// How many threads are inside.
    pub fn inside(&self) -> usize {
        self.door.inside()
    }

    /// A call inside is known to hang.
    pub(crate) fn count_stuck_call(&self) -> StuckCall {
        self.door.count_stuck_call()
    }

    /// Another closing thread takes over from one whose job has taken longer than `limit`.
    pub(crate) fn replace_stuck_closing_thread(&self, limit: Millis) {
        self.closing_thread.replace_if_stuck(limit);
    }

    /// From now on, and for ever, `tenant` is told what becomes of the module.
    pub(crate) fn add_tenant(&self, tenant: Arc<dyn Tenant>) {
        self.tenants.lock().push(tenant);
    }

    /// A copy, so that none is called under the lock.
    pub(super) fn tenants(&self) -> Vec<Arc<dyn Tenant>> {
        self.tenants.lock().clone()
    }

    /// How many sessions of ours are open.
    pub(super) fn open_sessions(&self) -> usize {
        self.tenants().iter().map(|tenant| tenant.open_sessions()).sum()
    }

    /// Asks it for its slots' events, and says how many there have been until now.
    pub(crate) fn count_slot_events(&self) -> u64 {
        if let Ok(_inside) = self.door.enter(|| true) {
            self.slot_events.take(&self.functions);
        }
        self.slot_events.count()
    }

    /// Whether it may be asked for its slots' events. Not one that serves one thread at a time: nobody is to wait behind a question that may block.
    /// Nor one that is adopted: its events are for the library that has initialized it.
    pub(crate) fn may_tell_slot_events(&self) -> bool {
        !self.slot_events.is_unsupported() && !self.is_serialized() && self.is_ours()
    }
}
