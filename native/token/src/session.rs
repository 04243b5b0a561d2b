//! An open session, and the one way in which it ends: in the reaper's hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys::CK_SESSION_HANDLE;

use crate::error::Error;
use crate::p11::{self, Functions};
use crate::token::Token;

/// The number of the next session, the first being 1.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// An open session on a token. Dropped, it is closed by the reaper.
pub struct Session {
    open: Option<Closable>,
}

/// A session that is on its way to be closed.
pub(crate) struct Closable {
    index: u64,
    token: Arc<Token>,
    handle: CK_SESSION_HANDLE,
}

impl Session {
    /// `C_OpenSession`. A token that is write-protected gets a read-only one.
    pub fn open(token: &Arc<Token>, read_only: bool) -> Result<Self, Error> {
        use cryptoki_sys::CKR_TOKEN_WRITE_PROTECTED;

        let functions = token.module.functions();
        let handle = match p11::session::open_session(functions, token.slot(), !read_only) {
            Err(error) if error.code == CKR_TOKEN_WRITE_PROTECTED && !read_only => {
                p11::session::open_session(functions, token.slot(), false)?
            }
            other => other?,
        };
        token.gate.session_opened();
        Ok(Self { open: Some(Closable { index: NEXT.fetch_add(1, Ordering::Relaxed), token: token.clone(), handle }) })
    }

    /// Its number, unique in the VM; 0 while it is being closed.
    pub fn index(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.index)
    }

    /// The token that it is open on. `None` only while it is being closed.
    pub(crate) fn parts(&self) -> Option<(&Arc<Token>, &Functions, CK_SESSION_HANDLE)> {
        let open = self.open.as_ref()?;
        Some((&open.token, open.token.module.functions(), open.handle))
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

    /// `C_Logout`.
    pub(crate) fn log_out(&self) {
        if let Ok(_inside) = self.token.module.enter() {
            let _ = p11::session::logout(self.token.module.functions(), self.handle);
        }
    }

    /// Another session, if this is the last one of a token that is logged in. Where none can be had, the gate logs in again when it must.
    pub(crate) fn heir(&self, read_only: bool) -> Option<Session> {
        let gate = &self.token.gate;
        if !gate.is_logged_in() || gate.sessions() > 1 {
            return None;
        }
        let _inside = self.token.module.enter().ok()?;
        Session::open(&self.token, read_only).ok()
    }

    /// `C_CloseSession`, after `C_Logout` if it is our last one on a token that we are logged in on. What they return changes nothing: the
    /// session is gone, one way or the other.
    pub(crate) fn close(self) {
        if self.token.gate.session_closing() {
            self.log_out();
        }
        if let Ok(_inside) = self.token.module.enter() {
            let _ = p11::session::close_session(self.token.module.functions(), self.handle);
        }
    }
}
