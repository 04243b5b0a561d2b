//! The reaper: one native thread per module that closes sessions, and finalizes the module behind the last one.

use std::sync::Arc;

use crossbeam_channel::{Sender, unbounded};

use crate::module::Module;
use crate::session::Closable;

enum Job {
    Close(Closable, Box<dyn FnOnce() + Send>),
    Finalize(Arc<Module>),
}

/// The way to the thread.
pub(crate) struct Reaper {
    jobs: Sender<Job>,
}

impl Reaper {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, inbox) = unbounded::<Job>();
        std::thread::Builder::new().name("pkcs11-reaper".into()).spawn(move || {
            for job in inbox {
                match job {
                    Job::Close(session, closed) => {
                        session.close();
                        closed();
                    }
                    Job::Finalize(module) => module.finalize_if_unused(),
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Closes a session, then says so.
    pub(crate) fn close(&self, session: Closable, closed: impl FnOnce() + Send + 'static) {
        // The thread lives as long as the module, which is for ever: sending cannot fail.
        let _ = self.jobs.send(Job::Close(session, Box::new(closed)));
    }

    /// Finalizes the module, if nobody uses it by then.
    pub(crate) fn finalize(&self, module: Arc<Module>) {
        let _ = self.jobs.send(Job::Finalize(module));
    }
}
