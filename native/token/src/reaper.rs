//! The reaper: one native thread per module that closes sessions, and finalizes the module behind the last one.

use std::sync::Arc;

use crossbeam_channel::{Sender, unbounded};

use crate::module::Module;
use crate::session::{Closable, Session};

type Before = Box<dyn FnOnce(&Closable) -> Option<Session> + Send>;
type Closed = Box<dyn FnOnce(Option<Session>) + Send>;

enum Job {
    Close { session: Closable, before: Before, closed: Closed },
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
                    Job::Close { session, before, closed } => {
                        let heir = before(&session);
                        session.close();
                        closed(heir);
                    }
                    Job::Finalize(module) => module.finalize_if_unused(),
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Closes a session, then says so, and hands over what `before` has opened in its stead.
    pub(crate) fn close(
        &self,
        session: Closable,
        before: impl FnOnce(&Closable) -> Option<Session> + Send + 'static,
        closed: impl FnOnce(Option<Session>) + Send + 'static,
    ) {
        // The thread lives as long as the module, which is for ever: sending cannot fail.
        let _ = self.jobs.send(Job::Close { session, before: Box::new(before), closed: Box::new(closed) });
    }

    /// Finalizes the module, if nobody uses it by then.
    pub(crate) fn finalize(&self, module: Arc<Module>) {
        let _ = self.jobs.send(Job::Finalize(module));
    }
}
