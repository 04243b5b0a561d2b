//! The closing thread: each module has one native thread that makes the calls by which things end (`C_CloseSession`, `C_Logout`, `C_Finalize`), so
//! that no scheduler and no caller waits for them. It knows neither sessions nor the module: it does the jobs that it is given, one after the other. If
//! one hangs, another thread takes over.

use std::io;

use session_pool::Millis;

use crate::support::worker::Worker;

/// The way to the thread.
pub(super) struct ClosingThread(Worker);

impl ClosingThread {
    pub(super) fn start() -> io::Result<Self> {
        Worker::start(|run| std::thread::Builder::new().name("pkcs11-closing".into()).spawn(run).map(drop)).map(Self)
    }

    /// Does a job, which may panic, and blocks nobody. `if_replaced` is called behind it if another thread has taken over meanwhile.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static, if_replaced: impl FnOnce() + Send + 'static) {
        self.0.post(job, if_replaced);
    }

    /// Another thread takes over from one that has been at a job for longer than `limit`.
    pub(super) fn replace_if_stuck(&self, limit: Millis) {
        self.0.replace_if_stuck(limit);
    }
}
