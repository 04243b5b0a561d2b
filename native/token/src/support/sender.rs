//! A native thread that does small jobs, at once or after a while. A job that panics ends neither the thread nor the jobs behind it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::support::panics::survive;

/// The way to the thread.
pub struct SenderThread<J> {
    inbox: Sender<Message<J>>,
    next: AtomicU64,
    /// How many jobs wait for their time.
    waiting: Arc<AtomicUsize>,
}

enum Message<J> {
    Now(J),
    Later(Instant, u64, J),
    Forget(u64),
}

/// A job that waits for its time. Dropped, it is forgotten.
pub struct Timer(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(forget) = self.0.take() {
            forget();
        }
    }
}

impl<J: Send + 'static> SenderThread<J> {
    /// Starts the thread, which does each job by `perform`. It ends with the sender.
    pub fn start(name: &str, perform: impl FnMut(J) + Send + 'static) -> io::Result<Self> {
        let (inbox, messages) = unbounded();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut thread = Thread { later: BTreeMap::new(), times: HashMap::new(), waiting: waiting.clone(), perform };
        std::thread::Builder::new().name(name.into()).spawn(move || thread.run(&messages))?;
        Ok(Self { inbox, next: AtomicU64::new(0), waiting })
    }

    /// Hands a job over; neither blocks nor panics.
    pub fn post(&self, job: J) {
        self.send(Message::Now(job));
    }

    /// The same for a job that is to be done after a while, whatever happens.
    pub fn post_later(&self, delay: Duration, job: J) {
        self.put_off(delay, job);
    }

    /// The same for one that may be forgotten before that.
    pub fn schedule(&self, delay: Duration, job: J) -> Timer {
        let (number, inbox) = (self.put_off(delay, job), self.inbox.clone());
        Timer(Some(Box::new(move || drop(inbox.send(Message::Forget(number))))))
    }

    /// How many jobs wait for their time.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn put_off(&self, delay: Duration, job: J) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // A time that no clock reaches is none: the thread would have to keep it for ever.
        if let Some(at) = Instant::now().checked_add(delay) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.send(Message::Later(at, number, job));
        }
        number
    }

    fn send(&self, message: Message<J>) {
        // There is a thread as long as there is a sender.
        let _ = self.inbox.send(message);
    }
}

struct Thread<J, F> {
    later: BTreeMap<(Instant, u64), J>,
    /// When a job is due, by its number.
    times: HashMap<u64, Instant>,
    waiting: Arc<AtomicUsize>,
    perform: F,
}

impl<J, F: FnMut(J)> Thread<J, F> {
    fn run(&mut self, messages: &Receiver<Message<J>>) {
        loop {
            // First what is due: messages may come without end.
            let message = match self.later.first_key_value() {
                Some(((at, _), _)) if *at <= Instant::now() => Err(RecvTimeoutError::Timeout),
                Some(((at, _), _)) => messages.recv_deadline(*at),
                None => messages.recv().map_err(RecvTimeoutError::from),
            };
            match message {
                Ok(Message::Now(job)) => self.perform(job),
                Ok(Message::Later(at, number, job)) => {
                    self.later.insert((at, number), job);
                    self.times.insert(number, at);
                }
                Ok(Message::Forget(number)) => {
                    let job = self.times.remove(&number).and_then(|at| self.later.remove(&(at, number)));
                    if let Some(job) = job {
                        self.waiting.fetch_sub(1, Ordering::SeqCst);
                        survive(|| drop(job));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(((_, number), job)) = self.later.pop_first() {
                        self.times.remove(&number);
                        self.waiting.fetch_sub(1, Ordering::SeqCst);
                        self.perform(job);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.shrink();
        }
    }

    fn perform(&mut self, job: J) {
        survive(|| (self.perform)(job));
    }

    /// After a storm of them its memory goes back.
    fn shrink(&mut self) {
        if self.times.capacity() > 1024 && self.times.len() < self.times.capacity() / 8 {
            self.times.shrink_to(self.times.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const NEVER: Duration = Duration::from_secs(3_600);

    type Run = Box<dyn FnOnce() + Send>;

    fn sender() -> SenderThread<Run> {
        SenderThread::start("test", |run: Run| run()).unwrap()
    }

    /// Waits until everything that was handed over before has been seen to.
    fn sync(sender: &SenderThread<Run>) {
        let (done, is_done) = crossbeam_channel::bounded(1);
        sender.post(Box::new(move || done.send(()).unwrap()));
        is_done.recv_timeout(LONG).unwrap();
    }

    #[test]
    fn a_job_that_panics_ends_neither_the_thread_nor_the_jobs_behind_it() {
        let sender = sender();
        let (done, is_done) = crossbeam_channel::unbounded();
        sender.post(Box::new(|| panic!("a fault in a job, which this test makes")));
        sender.post_later(Duration::ZERO, Box::new(|| panic!("a fault in a job for later, which this test makes")));
        sender.post_later(Duration::from_millis(1), Box::new(move || done.send(()).unwrap()));
        assert!(is_done.recv_timeout(LONG).is_ok());
        sync(&sender);
    }

    #[test]
    fn jobs_are_done_when_their_time_has_come_the_earliest_first() {
        let sender = sender();
        let (done, is_done) = crossbeam_channel::unbounded();
        for ms in [40, 1, 20] {
            let done = done.clone();
            sender.post_later(Duration::from_millis(ms), Box::new(move || done.send(ms).unwrap()));
        }
        let order: Vec<_> = (0..3).map(|_| is_done.recv_timeout(LONG).unwrap()).collect();
        assert_eq!(order, [1, 20, 40]);
        assert_eq!(sender.waiting(), 0);
    }

    #[test]
    fn a_timer_that_is_dropped_leaves_nothing_behind() {
        let sender = sender();
        let kept = Arc::new(());
        for _ in 0..10_000 {
            let kept = kept.clone();
            let timer = sender.schedule(NEVER, Box::new(move || drop(kept)));
            drop(timer);
        }
        sync(&sender);
        assert_eq!((sender.waiting(), Arc::strong_count(&kept)), (0, 1));
    }

    #[test]
    fn a_timer_that_is_not_dropped_fires_and_then_has_nothing_to_forget() {
        let sender = sender();
        let (done, is_done) = crossbeam_channel::unbounded();
        let timer = sender.schedule(Duration::from_millis(1), Box::new(move || done.send(()).unwrap()));
        is_done.recv_timeout(LONG).unwrap();
        drop(timer);
        sync(&sender);
        assert_eq!(sender.waiting(), 0);
    }

    #[test]
    fn a_time_that_no_clock_reaches_is_none() {
        let sender = sender();
        let timer = sender.schedule(Duration::MAX, Box::new(|| unreachable!("it is never due")));
        assert_eq!(sender.waiting(), 0);
        drop(timer);
        sync(&sender);
    }
}
