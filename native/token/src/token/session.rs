//! An open session, and the one way in which it ends: in the reaper's hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cryptoki_sys::{CKR_SESSION_HANDLE_INVALID, CKR_TOKEN_WRITE_PROTECTED};

use crate::module::handle::{HandleUse, OpenHandle};
use crate::p11::{self, CallError, Phase};
use crate::token::Token;

/// The number of the next session, the first being 1.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The number that the next session will have.
pub(crate) fn next_number() -> u64 {
    NEXT.load(Ordering::Relaxed)
}

/// An open session on a token. Dropped, it is closed by the reaper.
pub struct Session {
    open: Option<Closable>,
    /// Whether an operation has run on it, or it has lain idle.
    used: AtomicBool,
    /// An operation failed on it without saying whether it is still active.
    unclear: AtomicBool,
}

/// What a call on a displaced session is answered with, in the module's stead.
pub(crate) fn lost(function: &'static str) -> CallError {
    CallError::new(function, CKR_SESSION_HANDLE_INVALID, Phase::Single)
}

/// A session that is on its way to be closed.
pub(crate) struct Closable {
    index: u64,
    token: Arc<Token>,
    handle: OpenHandle,
    /// The token's generation.
    generation: u64,
}

impl Session {
    /// `C_OpenSession`. A token that is write-protected gets a read-only one. Called inside of the module.
    pub fn open(token: &Arc<Token>, read_only: bool) -> Result<Self, CallError> {
        let generation = token.generation();
        let open = |read_only| OpenHandle::open(&token.module, token.slot(), read_only);
        let (handle, has_lost) = match open(read_only) {
            Err(error) if error.code == CKR_TOKEN_WRITE_PROTECTED && !read_only => open(true)?,
            opened => opened?,
        };
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        token.gate.session_opened(generation);
        let open = Closable { index, token: token.clone(), handle, generation };
        let session = Self { open: Some(open), used: AtomicBool::new(false), unclear: AtomicBool::new(false) };
        if has_lost {
            // A session is gone that nobody has missed yet, perhaps with the login and the handles of objects.
            token.doubt(token.gate.epoch());
        }
        if let Some(used) = session.begin() {
            token.settle_doubt(used.handle());
        }
        Ok(session)
    }

    /// The generation of its token in which it was opened.
    pub(crate) fn generation(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.generation)
    }

    /// Whether it died with what the token was before, or the module has lost it and given its handle to another.
    pub(crate) fn is_stale(&self) -> bool {
        self.open.as_ref().is_none_or(Closable::is_stale)
    }

    /// Its number, unique in the VM; 0 while it is being closed.
    pub fn index(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.index)
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

    /// The token that it is open on. `None` only while it is being closed.
    pub(crate) fn token(&self) -> Option<&Arc<Token>> {
        self.open.as_ref().map(|open| &open.token)
    }

    /// Begins to call the module with its handle, which nobody else may do meanwhile. `None`: it is displaced. Called inside of the module, so
    /// that it is not initialized again before the use ends.
    pub(crate) fn begin(&self) -> Option<HandleUse<'_>> {
        self.open.as_ref()?.handle.begin()
    }

    /// Closes it on the reaper's thread: calls `before` there, which may open an heir, and `closed` afterwards, with that.
    pub(crate) fn close_then(
        mut self,
        before: impl FnOnce(&Closable) -> Option<Session> + Send + 'static,
        closed: impl FnOnce(Option<Session>) + Send + 'static,
    ) {
        if let Some(open) = self.open.take() {
            let token = open.token.clone();
            token.module.reaper().close(open, before, closed);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let token = open.token.clone();
            token.module.reaper().close(open, |_| None, |_| ());
        }
    }
}

impl Closable {
    /// The token that it is open on.
    pub(crate) fn token(&self) -> &Arc<Token> {
        &self.token
    }

    /// See [`Session::is_stale`].
    pub(crate) fn is_stale(&self) -> bool {
        self.token.generation() != self.generation || self.handle.is_displaced()
    }

    /// `C_Logout`.
    pub(crate) fn log_out(&self) {
        if let Ok(_inside) = self.token.module.enter()
            && let Some(used) = self.handle.begin()
        {
            let _ = p11::session::logout(self.token.module.functions(), used.handle());
        }
    }

    /// Another session, if this is the last one of a token that is logged in. Where none can be had, the gate logs in again when it must.
    pub(crate) fn heir(&self, read_only: bool) -> Option<Session> {
        let gate = &self.token.gate;
        if self.is_stale() || !gate.is_logged_in() || gate.sessions() > 1 {
            return None;
        }
        let _inside = self.token.module.enter().ok()?;
        Session::open(&self.token, read_only).ok()
    }

    /// `C_CloseSession`, after `C_Logout` if it is our last one on a token that we are logged in on. What they return changes nothing: the
    /// session is gone, one way or the other.
    pub(crate) fn close(self) {
        if self.token.gate.session_closing(self.generation) {
            self.log_out();
        }
        if let Ok(_inside) = self.token.module.enter_patiently() {
            let _ = self.handle.close();
        }
    }
}
