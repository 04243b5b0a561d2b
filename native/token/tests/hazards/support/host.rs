//! A host over channels: answers and notices go where a test looks for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use token::host::{Delivery, Host, Outlet, PoolServer, Reply, Wake};
use token::{Notice, Outcome};

pub struct Channels;

impl Host for Channels {
    type Reply = Caller;
    type Runner = Runner;
    type Server = Server;

    fn later(delay: Duration, run: Box<dyn FnOnce() + Send>) {
        thread::spawn(move || {
            thread::sleep(delay);
            run();
        });
    }
}

pub type TokenPool = token::TokenPool<Channels>;
pub type Header = token::Header<Channels>;
pub type Lease = token::Lease<Channels>;

/// A caller, who may die.
#[derive(Clone)]
pub struct Caller {
    answers: Sender<Outcome>,
    is_alive: Arc<AtomicBool>,
}

impl Caller {
    pub fn new() -> (Self, Receiver<Outcome>) {
        let (answers, receiver) = unbounded();
        (Self { answers, is_alive: Arc::new(AtomicBool::new(true)) }, receiver)
    }

    pub fn dies(&self) {
        self.is_alive.store(false, Ordering::SeqCst);
    }
}

impl Reply for Caller {
    fn post(&self, outcome: Outcome) {
        // Nobody may be there to receive it.
        let _ = self.answers.send(outcome);
    }
}

/// A runner's address: a native thread's, which may be left behind, or a process's, which may not.
#[derive(Clone)]
pub struct Runner {
    wakes: Sender<()>,
    is_thread: bool,
}

impl Runner {
    pub fn new(is_thread: bool) -> (Self, Receiver<()>) {
        let (wakes, receiver) = bounded(1);
        (Self { wakes, is_thread }, receiver)
    }
}

impl Wake for Runner {
    fn post(&self) {
        self.unpark();
    }

    fn unpark(&self) {
        // Full: it has been woken already. Disconnected: it has ended.
        let _ = self.wakes.try_send(());
    }

    fn is_expendable(&self) -> bool {
        self.is_thread
    }
}

/// A pool's server: it keeps all that it is told, and a thread of the pool's acts on it.
#[derive(Clone)]
pub struct Server {
    told: Arc<Mutex<Vec<Notice>>>,
    to_do: Sender<Notice>,
    /// At this notice it panics, when it has kept it.
    fault: Option<Notice>,
}

impl Server {
    pub fn new(fault: Option<Notice>) -> (Self, Receiver<Notice>) {
        let (to_do, receiver) = unbounded();
        (Self { told: Arc::default(), to_do, fault }, receiver)
    }

    pub fn notices(&self) -> Vec<Notice> {
        self.told.lock().clone()
    }
}

impl PoolServer for Server {
    fn post(&self, notice: Notice) {
        let is_fault = self.fault.as_ref() == Some(&notice);
        self.told.lock().push(notice.clone());
        let _ = self.to_do.send(notice);
        assert!(!is_fault, "a fault in telling the pool server, which a test makes");
    }
}

/// How the thread of a caller sends.
pub struct Direct;

/// How a runner's thread sends: as long as its process lives, by itself.
pub struct Serving {
    pub is_dead: Arc<AtomicBool>,
}

impl Outlet<Channels> for Serving {
    fn is_wanted(&self, caller: &Caller) -> bool {
        Direct.is_wanted(caller)
    }

    fn answer(&mut self, caller: &Caller, outcome: Outcome) -> Delivery {
        caller.post(outcome);
        if self.is_dead.load(Ordering::SeqCst) { Delivery::RunnerDead } else { Delivery::Done }
    }

    fn wake(&mut self, runner: &Runner) {
        runner.unpark();
    }
}

impl Outlet<Channels> for Direct {
    fn is_wanted(&self, caller: &Caller) -> bool {
        caller.is_alive.load(Ordering::SeqCst)
    }

    fn answer(&mut self, caller: &Caller, outcome: Outcome) -> Delivery {
        caller.post(outcome);
        Delivery::Done
    }

    fn wake(&mut self, runner: &Runner) {
        runner.unpark();
    }
}
