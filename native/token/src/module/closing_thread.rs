//! The reaper: one native thread per module that closes sessions, and finalizes the module behind the last one. If a close hangs, another
//! thread takes its place. A panic in a part of a job does not keep the others from being done.

use std::io;
use std::sync::Arc;

use session_pool::Millis;

use crate::module::Module;
use crate::module::handle::OpenHandle;
use crate::support::panics::survive;
use crate::support::worker::{AtEnd, Worker};
use crate::token::session::{Closable, Session};

/// The way to the thread.
pub(crate) struct Reaper(Worker);

impl Reaper {
    pub(crate) fn start() -> io::Result<Self> {
        Worker::start(|run| std::thread::Builder::new().name("pkcs11-reaper".into()).spawn(run).map(drop)).map(Self)
    }

    /// Another thread takes over from one that has been at a job for longer than `limit`.
    pub(crate) fn look_after(&self, limit: Millis) {
        self.0.look_after(limit);
    }

    /// Closes a session, then says so, and hands over what `before` has opened in its stead.
    pub(crate) fn close(
        &self,
        session: Closable,
        before: impl FnOnce(&Closable) -> Option<Session> + Send + 'static,
        closed: impl FnOnce(Option<Session>) + Send + 'static,
    ) {
        self.0.post(Box::new(move || {
            let module = session.token().module.clone();
            let heir = survive(|| before(&session)).flatten();
            survive(|| session.close());
            survive(|| closed(heir));
            finalize_at_end(module)
        }));
    }

    /// Closes what nobody has used.
    pub(crate) fn close_handle(&self, handle: OpenHandle) {
        self.0.post(Box::new(move || {
            let module = handle.module().clone();
            survive(|| {
                if let Ok(_inside) = module.enter_patiently() {
                    // What it returns changes nothing: the session is gone, one way or the other.
                    let _ = handle.close();
                }
            });
            finalize_at_end(module)
        }));
    }

    /// Finalizes the module, if nobody uses it by then.
    pub(crate) fn finalize(&self, module: Arc<Module>) {
        self.0.post(Box::new(move || {
            survive(|| module.finalize_if_unused());
            finalize_at_end(module)
        }));
    }
}

/// Whoever wanted to while a thread that has lost its place was inside could not.
fn finalize_at_end(module: Arc<Module>) -> AtEnd {
    Box::new(move || module.finalize_if_unused())
}
