//! A session's handle, and the only way to call the module with it: within a use, of which there is one at a time, and only while the module
//! has not given the handle to a later session. See `session_pool::Handles`.

use std::sync::Arc;

use cryptoki_sys::{CK_SESSION_HANDLE, CK_SLOT_ID, CKR_SESSION_COUNT};
use session_pool::{Before, Ownership, Use};

use super::loaded::{Leftover, Module};
use crate::p11::session::{close_session, open_session};
use crate::p11::{CallError, Phase};

/// One thread's use of a session's handle.
pub(crate) type HandleUse<'a> = Use<'a, Leftover>;

/// How many handles that are still in use a module may give out in a row before there is no session to be had.
const MOST_IN_USE: usize = 256;

/// The handle of an open session.
pub(crate) struct OpenHandle {
    module: Arc<Module>,
    owned: Ownership<Leftover>,
}

impl OpenHandle {
    /// `C_OpenSession`, again for as long as the handle that it gives is still in use. The second value: whether the module is found to have
    /// lost a session of ours. Called inside of the module.
    pub(crate) fn open(module: &Arc<Module>, slot: CK_SLOT_ID, read_only: bool) -> Result<(Self, bool), CallError> {
        let functions = module.functions();
        let mut has_lost = false;
        for _ in 0..MOST_IN_USE {
            let (owned, before) = module.handles().given(open_session(functions, slot, !read_only)?);
            has_lost |= matches!(before, Before::Lost | Before::InUse);
            let opened = Self { module: module.clone(), owned };
            match before {
                Before::Unknown | Before::Lost => return Ok((opened, has_lost)),
                Before::InUse | Before::Closing => opened.close_after_use(),
            }
        }
        Err(CallError::new("C_OpenSession", CKR_SESSION_COUNT, Phase::Single))
    }

    /// Runs something on a session of its own, which is closed then; what the close returns changes nothing. Called inside of the module.
    pub(crate) fn with_temporary<T>(
        module: &Arc<Module>,
        slot: CK_SLOT_ID,
        read_only: bool,
        run: impl FnOnce(CK_SESSION_HANDLE) -> T,
    ) -> Result<T, CallError> {
        let (opened, _) = Self::open(module, slot, read_only)?;
        let done = opened.begin().map(|used| run(used.handle()));
        let _ = opened.close();
        done.ok_or_else(|| CallError::session_lost("C_OpenSession"))
    }

    /// Closes it when the thread that still uses it, for the session that had it before, has done. Until then it stays open, so that the module gives
    /// it to nobody else.
    fn close_after_use(self) {
        let holder = self.owned.holder();
        drop(holder.hold(Box::new(ClosedOnDrop(Arc::new(self)))));
    }

    /// Whether the module has given its handle to another session.
    pub(crate) fn is_displaced(&self) -> bool {
        self.owned.is_displaced()
    }

    /// Begins to call the module with it. `None`: it is displaced.
    pub(crate) fn begin(&self) -> Option<HandleUse<'_>> {
        self.owned.begin()
    }

    /// `C_CloseSession`, once. One that is displaced is gone already, and its handle is another's. Called inside of the module.
    pub(crate) fn close(&self) -> Result<(), CallError> {
        match self.owned.begin_closing() {
            Some(closing) => close_session(self.module.functions(), closing.handle()),
            None => Ok(()),
        }
    }
}

/// A handle that nobody has used, and that is closed on the closing thread when this is dropped.
struct ClosedOnDrop(Arc<OpenHandle>);

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        let handle = self.0.clone();
        self.0.module.run_on_closing_thread(move || {
            if let Ok(_inside) = handle.module.enter_patiently() {
                // What it returns changes nothing: the session is gone, one way or the other.
                let _ = handle.close();
            }
        });
    }
}
