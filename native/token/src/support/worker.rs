//! A native thread that does jobs, one after the other. If one hangs, another thread replaces it; if one panics, the thread goes on.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use session_pool::Millis;

use crate::support::clock::now;
use crate::support::panics::survive;

/// How many replaced threads may be in jobs that hang; with more, the thread is not replaced.
const MOST_REPLACED: usize = 4;

struct Job {
    run: Box<dyn FnOnce() + Send>,
    if_replaced: Box<dyn FnOnce() + Send>,
}

/// Starts a thread.
type Spawn = fn(Box<dyn FnOnce() + Send>) -> io::Result<()>;

/// The way to the thread.
pub(crate) struct Worker {
    spawn: Spawn,
    jobs: Sender<Job>,
    inbox: Receiver<Job>,
    watch: Arc<Mutex<Watch>>,
}

#[derive(Default)]
struct Watch {
    /// The number of the thread that does the jobs.
    current: u64,
    /// Since when it has been at a job.
    since: Option<Millis>,
    /// Threads that were replaced and are still at their last job.
    replaced: usize,
}

impl Watch {
    fn may_be_replaced(&self, limit: Millis) -> bool {
        self.replaced < MOST_REPLACED && self.since.is_some_and(|since| since.saturating_add(limit) <= now())
    }

    /// Another thread does the jobs from now on. Its number; `None`: there is no need any more.
    fn replace(&mut self, limit: Millis) -> Option<u64> {
        if !self.may_be_replaced(limit) {
            return None;
        }
        self.replaced += 1;
        self.since = None;
        self.current += 1;
        Some(self.current)
    }

    /// A job is done; `false`: its thread was replaced meanwhile.
    fn end_job(&mut self, number: u64) -> bool {
        let is_current = self.current == number;
        if is_current {
            self.since = None;
        } else {
            self.replaced -= 1;
        }
        is_current
    }
}

impl Worker {
    pub(crate) fn start(spawn: Spawn) -> io::Result<Self> {
        let (jobs, inbox) = unbounded();
        let worker = Self { spawn, jobs, inbox, watch: Arc::default() };
        worker.add_thread(|_| Some(0))?;
        Ok(worker)
    }

    /// Starts a thread that asks for its number when it runs: where none can be started, everything is as it was.
    fn add_thread(&self, take_over: impl FnOnce(&mut Watch) -> Option<u64> + Send + 'static) -> io::Result<()> {
        let (inbox, watch) = (self.inbox.clone(), self.watch.clone());
        (self.spawn)(Box::new(move || {
            let Some(number) = take_over(&mut watch.lock()) else { return };
            for job in inbox {
                watch.lock().since = Some(now());
                survive(job.run);
                if !watch.lock().end_job(number) {
                    survive(job.if_replaced);
                    return;
                }
            }
        }))
    }

    /// Another thread takes over from one that has been at a job for longer than `limit`. Where none can be started, it is tried again when
    /// this is called again.
    pub(crate) fn replace_if_stuck(&self, limit: Millis) {
        if self.watch.lock().may_be_replaced(limit) {
            let _refused = self.add_thread(move |watch| watch.replace(limit));
        }
    }

    /// Hands a job over; blocks nobody. `if_replaced` is called behind it, on the same thread, if that was replaced during the job.
    pub(crate) fn post(&self, run: impl FnOnce() + Send + 'static, if_replaced: impl FnOnce() + Send + 'static) {
        // There is an inbox as long as there is a worker.
        let _ = self.jobs.send(Job { run: Box::new(run), if_replaced: Box::new(if_replaced) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn spawn(run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        std::thread::Builder::new().spawn(run).map(drop)
    }

    /// A worker whose thread is at a job that goes on until something is sent.
    fn stuck_worker(spawn: Spawn) -> (Worker, Sender<()>, Receiver<&'static str>) {
        let worker = Worker::start(spawn).unwrap();
        let (began, begins) = bounded::<()>(1);
        let (release, released) = bounded::<()>(1);
        let (told, tells) = unbounded();
        let job = move || {
            began.send(()).unwrap();
            let _ = released.recv();
        };
        worker.post(job, move || told.send("the end of the one that was stuck").unwrap());
        begins.recv_timeout(LONG).unwrap();
        (worker, release, tells)
    }

    fn does_jobs(worker: &Worker) -> bool {
        let (done, is_done) = bounded(1);
        worker.post(move || done.send(()).unwrap(), || ());
        is_done.recv_timeout(LONG).is_ok()
    }

    #[test]
    fn a_job_that_panics_ends_no_thread() {
        static SPAWNED: Mutex<usize> = Mutex::new(0);
        let worker = Worker::start(|run| {
            *SPAWNED.lock() += 1;
            spawn(run)
        })
        .unwrap();
        let before = crate::panics();
        worker.post(|| panic!("a fault in a job, which this test makes"), || ());
        assert!(does_jobs(&worker));
        assert!(crate::panics() > before);
        assert_eq!(*SPAWNED.lock(), 1);
    }

    #[test]
    fn another_thread_replaces_one_that_hangs_and_that_one_ends() {
        let (worker, release, tells) = stuck_worker(spawn);
        worker.replace_if_stuck(60_000);
        worker.replace_if_stuck(0);
        assert!(does_jobs(&worker));
        assert_eq!(worker.watch.lock().replaced, 1);
        release.send(()).unwrap();
        assert!(tells.recv_timeout(LONG).is_ok());
        assert_eq!(worker.watch.lock().replaced, 0);
        assert!(does_jobs(&worker));
    }

    #[test]
    fn one_whose_replacement_could_not_be_started_is_replaced_later() {
        static REFUSES: AtomicBool = AtomicBool::new(false);
        let (worker, release, _tells) = stuck_worker(|run| match REFUSES.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::OutOfMemory.into()),
            false => spawn(run),
        });
        REFUSES.store(true, Ordering::SeqCst);
        worker.replace_if_stuck(0);
        worker.replace_if_stuck(0);
        REFUSES.store(false, Ordering::SeqCst);
        worker.replace_if_stuck(0);
        assert!(does_jobs(&worker));
        drop(release);
    }

    #[test]
    fn one_that_returns_while_its_replacement_is_refused_is_not_replaced() {
        static RELEASE: Mutex<Option<Sender<()>>> = Mutex::new(None);
        static WATCH: Mutex<Option<Arc<Mutex<Watch>>>> = Mutex::new(None);
        let (worker, release, _tells) = stuck_worker(|run| {
            let Some(release) = RELEASE.lock().take() else { return spawn(run) };
            let watch = WATCH.lock().clone().unwrap();
            release.send(()).unwrap();
            while watch.lock().since.is_some() {
                std::thread::yield_now();
            }
            Err(io::ErrorKind::OutOfMemory.into())
        });
        *WATCH.lock() = Some(worker.watch.clone());
        *RELEASE.lock() = Some(release);
        worker.replace_if_stuck(0);
        assert!(does_jobs(&worker));
    }
}
