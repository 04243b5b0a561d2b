//! A session on a token. However it ends, it is closed on its module's closing thread: whoever drops it does not wait.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cryptoki_sys::CKR_TOKEN_WRITE_PROTECTED;
use parking_lot::Mutex;

use crate::module::handle::{HandleUse, OpenHandle};
use crate::p11::CallError;
use crate::p11::session::logout;
use crate::support::panics::survive;
use crate::token::Token;

/// The number of the next session, the first being 1.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The number that the next session will have.
pub(crate) fn next_number() -> u64 {
    NEXT.load(Ordering::Relaxed)
}

/// A session that somebody owns. Dropped, it is closed on the closing thread.
pub struct Session {
    open: Arc<OpenSession>,
    /// Whether an operation has run on it, or it has lain idle.
    used: AtomicBool,
    /// An operation failed on it without saying whether it is still active.
    unclear: AtomicBool,
    /// `None`: nothing, as where its owner has panicked.
    around_close: Option<AroundClose>,
}

type BeforeClose = Box<dyn FnOnce(&OpenSession) -> Instead + Send + Sync>;
type AfterClose = Box<dyn FnOnce(Option<Session>) + Send + Sync>;

/// What its owner does around its close, on the closing thread.
struct AroundClose {
    before: BeforeClose,
    after: AfterClose,
}

/// What its owner does instead of leaving a login to a session's close.
pub(crate) enum Instead {
    /// Nothing.
    Nothing,
    /// Another session keeps the login.
    Successor(Session),
    /// The pool of this number needs the login no longer.
    Leave(u64),
}

/// What is to be closed of a session: shared by the [`Session`] and, from its drop on, the closing thread.
pub(crate) struct OpenSession {
    index: u64,
    token: Arc<Token>,
    handle: OpenHandle,
    /// The token's generation.
    generation: u64,
    /// What an operation of several calls needs that is active on it. The module may look there until the operation has ended or the session is closed.
    stream: Mutex<Option<Box<dyn Any + Send>>>,
    has_stream: AtomicBool,
}

impl Session {
    /// `C_OpenSession`, then `C_GetTokenInfo`: a token that was taken out has closed its sessions, and another one may be in the slot since, which must not
    /// be given this one's PIN, nor its operations. A token that is write-protected gets a read-only session. Called inside of the module.
    pub fn open(token: &Arc<Token>, read_only: bool) -> Result<Self, CallError> {
        let generation = token.generation();
        let open = |read_only| OpenHandle::open(&token.module, token.slot(), read_only);
        let (handle, has_lost) = match open(read_only) {
            Err(error) if error.code == CKR_TOKEN_WRITE_PROTECTED && !read_only => open(true)?,
            opened => opened?,
        };
        if let Err(error) = token.is_in_its_slot() {
            // What it returns changes nothing: it is not ours.
            let _ = handle.close();
            return Err(error);
        }
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        token.gate.session_opened(generation);
        let (stream, has_stream) = (Mutex::default(), AtomicBool::new(false));
        let open = Arc::new(OpenSession { index, token: token.clone(), handle, generation, stream, has_stream });
        let session = Self { open, used: AtomicBool::new(false), unclear: AtomicBool::new(false), around_close: None };
        if has_lost {
            // A session is gone that nobody has missed yet, perhaps with the login and the handles of objects.
            token.doubt(token.gate.epoch());
        }
        if let Some(used) = session.begin() {
            token.check_doubtful_login(used.handle());
        }
        Ok(session)
    }

    /// The generation of its token in which it was opened.
    pub(crate) fn generation(&self) -> u64 {
        self.open.generation
    }

    /// Whether it died with what the token was before, or the module has lost it and given its handle to another.
    pub(crate) fn is_stale(&self) -> bool {
        self.open.is_stale()
    }

    /// Its number, unique in the VM.
    pub fn index(&self) -> u64 {
        self.open.index
    }

    /// Whether nothing has run on it.
    pub(crate) fn is_new(&self) -> bool {
        !self.used.load(Ordering::Relaxed)
    }

    /// An operation is about to run on it. `true`: the first one.
    pub(crate) fn begin_use(&self) -> bool {
        !self.used.load(Ordering::Relaxed) && !self.used.swap(true, Ordering::Relaxed)
    }

    /// Whether an operation may have been left active on it: the next one that finds it so has not been tried.
    pub(crate) fn is_unclear(&self) -> bool {
        self.unclear.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unclear(&self) {
        self.unclear.store(true, Ordering::Relaxed);
    }

    /// An operation of several calls is active on it, which needs this: nothing else may run on it, and who does not go on with that must close it.
    pub(crate) fn put_stream(&self, stream: Box<dyn Any + Send>) {
        let before = self.open.stream.lock().replace(stream);
        drop(before);
        self.open.has_stream.store(true, Ordering::Release);
    }

    /// What was put there last: whoever takes it ends the operation, or puts it back.
    pub(crate) fn take_stream(&self) -> Option<Box<dyn Any + Send>> {
        self.open.has_stream.store(false, Ordering::Release);
        self.open.stream.lock().take()
    }

    /// Whether an operation of several calls is active on it.
    pub(crate) fn has_stream(&self) -> bool {
        self.open.has_stream.load(Ordering::Acquire)
    }

    /// The token that it is open on.
    pub(crate) fn token(&self) -> &Arc<Token> {
        &self.open.token
    }

    /// Begins to call the module with its handle, which nobody else may do meanwhile. `None`: it is displaced. Called inside of the module, so
    /// that it is not initialized again before the use ends.
    pub(crate) fn begin(&self) -> Option<HandleUse<'_>> {
        self.open.handle.begin()
    }

    /// Closes it on the closing thread: calls `before` there, which may open a successor, and `after` afterwards, with that.
    pub(crate) fn close_then(
        mut self,
        before: impl FnOnce(&OpenSession) -> Instead + Send + Sync + 'static,
        after: impl FnOnce(Option<Session>) + Send + Sync + 'static,
    ) {
        self.around_close = Some(AroundClose { before: Box::new(before), after: Box::new(after) });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (open, around) = (self.open.clone(), self.around_close.take());
        self.open.token.module.run_on_closing_thread(move || open.close(around));
    }
}

impl OpenSession {
    /// The token that it is open on.
    pub(crate) fn token(&self) -> &Arc<Token> {
        &self.token
    }

    /// See [`Session::is_stale`].
    pub(crate) fn is_stale(&self) -> bool {
        self.token.generation() != self.generation || self.handle.is_displaced()
    }

    /// `C_Logout`. What it returns changes nothing.
    fn log_out(&self) {
        if let Ok(_inside) = self.token.module.enter()
            && let Some(used) = self.handle.begin()
        {
            let _ = logout(self.token.module.functions(), used.handle());
        }
    }

    /// Another session, if this is the last one of a token that is logged in. Where none can be had, the gate logs in again when it must.
    pub(crate) fn successor(&self, read_only: bool) -> Option<Session> {
        let gate = &self.token.gate;
        if self.is_stale() || !gate.is_logged_in() || gate.sessions() > 1 {
            return None;
        }
        let _inside = self.token.module.enter().ok()?;
        Session::open(&self.token, read_only).ok()
    }

    /// Each step is taken even where the one before has panicked.
    fn close(&self, around: Option<AroundClose>) {
        let (before, after) = around.map(|AroundClose { before, after }| (before, after)).unzip();
        let instead = survive(|| before.map(|before| before(self))).flatten();
        let (successor, leaves) = match instead {
            Some(Instead::Successor(session)) => (Some(session), None),
            Some(Instead::Leave(pool)) => (None, Some(pool)),
            Some(Instead::Nothing) | None => (None, None),
        };
        survive(|| self.log_out_and_close(leaves));
        survive(|| after.map(|after| after(successor)));
    }

    /// `C_CloseSession`; before it `C_Logout` of a login that was ours, if no pool needs it any longer (`leaves`: this one does not), or no session
    /// of ours is left. What they return changes nothing: the session is gone, one way or the other.
    fn log_out_and_close(&self, leaves: Option<u64>) {
        let gate = &self.token.gate;
        let is_unneeded = leaves.is_some_and(|pool| gate.leave(pool));
        let is_last = gate.session_closing(self.generation);
        if is_unneeded || is_last {
            self.log_out();
        }
        if let Ok(_inside) = self.token.module.enter_patiently() {
            let _ = self.handle.close();
        }
    }
}
