//! The reaper: one native thread per module that closes sessions, and finalizes the module behind the last one. If a close hangs, another
//! thread takes its place.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use session_pool::Millis;

use crate::clock::now;
use crate::module::Module;
use crate::session::{Closable, Session};

type Before = Box<dyn FnOnce(&Closable) -> Option<Session> + Send>;
type Closed = Box<dyn FnOnce(Option<Session>) + Send>;

enum Job {
    Close { session: Closable, before: Before, closed: Closed },
    Finalize(Arc<Module>),
}

/// How many threads may be left behind in a module whose closes hang.
const MOST_LEFT: usize = 4;

/// The way to the thread.
pub(crate) struct Reaper {
    jobs: Sender<Job>,
    inbox: Receiver<Job>,
    watch: Arc<Mutex<Watch>>,
}

#[derive(Default)]
struct Watch {
    /// The number of the thread whose place it is.
    current: u64,
    /// Since when it has been at a job.
    since: Option<Millis>,
    /// Threads that have lost their place, and have not yet come back.
    left: usize,
}

impl Reaper {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, inbox) = unbounded::<Job>();
        let reaper = Self { jobs, inbox, watch: Arc::default() };
        reaper.spawn(0)?;
        Ok(reaper)
    }

    fn spawn(&self, number: u64) -> std::io::Result<()> {
        let (inbox, watch) = (self.inbox.clone(), self.watch.clone());
        let run = move || {
            for job in inbox {
                watch.lock().since = Some(now());
                let module = job.run();
                let mut watch = watch.lock();
                if watch.current != number {
                    watch.left -= 1;
                    drop(watch);
                    // Whoever wanted to meanwhile could not, since this thread was inside.
                    return module.finalize_if_unused();
                }
                watch.since = None;
            }
        };
        std::thread::Builder::new().name("pkcs11-reaper".into()).spawn(run).map(drop)
    }

    /// Another thread takes over from one that has been at a job for longer than `limit`.
    pub(crate) fn look_after(&self, limit: Millis) {
        let number = {
            let mut watch = self.watch.lock();
            let is_stuck = watch.since.is_some_and(|since| since.saturating_add(limit) <= now());
            if !is_stuck || watch.left >= MOST_LEFT {
                return;
            }
            watch.left += 1;
            watch.since = None;
            watch.current += 1;
            watch.current
        };
        if self.spawn(number).is_err() {
            // The one that is stuck keeps its place.
            let mut watch = self.watch.lock();
            watch.current -= 1;
            watch.left -= 1;
        }
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

impl Job {
    fn run(self) -> Arc<Module> {
        match self {
            Self::Close { session, before, closed } => {
                let module = session.token().module.clone();
                let heir = before(&session);
                session.close();
                closed(heir);
                module
            }
            Self::Finalize(module) => {
                module.finalize_if_unused();
                module
            }
        }
    }
}
