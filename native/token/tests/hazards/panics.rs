//! Faults of ours. In a runner's loop, outside of the operation itself: the runner leaves, its place and its session's capacity are free, and the
//! operation is answered. In an answer: the caller gets another, and the runner goes on. On the closing thread: it closes what comes next.

use std::panic;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use session_pool::RunnerId;
use token::host::{Delivery, Outlet, Posting, Reply};
use token::{Budget, Error, Executed, LoginMode, Notice, Outcome, Request, Served};

use crate::support::host::{Caller, Channels, Header, Runner, Server, TokenPool};
use crate::support::module::Module;
use crate::support::poll;
use crate::support::pool::options;

const BUDGET: Budget = Budget { time: Duration::from_secs(1), bytes: 1 << 20 };

/// Does not know whether a caller is there, and cannot say so either.
struct Broken;

impl Outlet<Channels> for Broken {
    fn is_wanted(&self, _caller: &Caller) -> bool {
        panic!("a fault in the runner's loop, which this test makes")
    }

    fn answer(&mut self, caller: &Caller, outcome: Outcome) -> Delivery {
        caller.post(outcome);
        Delivery::Done
    }

    fn wake(&mut self, _runner: &Runner) {}
}

/// Cannot put an answer together.
struct Mute;

impl Outlet<Channels> for Mute {
    fn is_wanted(&self, _caller: &Caller) -> bool {
        true
    }

    fn answer(&mut self, _caller: &Caller, _outcome: Outcome) -> Delivery {
        panic!("a fault in an answer, which this test makes")
    }

    fn wake(&mut self, _runner: &Runner) {}
}

/// Runs something without a word about panics.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static HOOK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = HOOK.lock();
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = run();
    panic::set_hook(hook);
    result
}

/// A pool of one session, without a login, whose one runner is this thread.
struct OwnRunner {
    pool: Arc<TokenPool>,
    runner: RunnerId,
    server: Server,
}

impl OwnRunner {
    fn new(module: &Module, fault: Option<Notice>) -> Self {
        let mut options = options(module);
        options.login = LoginMode::None;
        let server = Server::new(fault).0;
        let pool = TokenPool::new(options, server.clone()).unwrap();
        pool.attach().unwrap();
        let (runner, _) = pool.join(Runner::new(true).0);
        Self { pool, runner, server }
    }

    fn ping(&self, outlet: &mut impl Outlet<Channels>) -> Receiver<Outcome> {
        let (caller, answers) = Caller::new();
        self.pool.submit(Header::new(caller, None), Request::Ping, outlet).unwrap();
        answers
    }

    fn is_drained(&self) -> bool {
        self.server.notices().contains(&Notice::Drained)
    }
}

impl Drop for OwnRunner {
    fn drop(&mut self) {
        self.pool.drain();
        self.pool.depart(self.runner);
        if !std::thread::panicking() {
            poll("the pool has drained", || self.is_drained());
        }
    }
}

#[test]
fn a_panic_in_a_runners_loop_loses_neither_its_place_nor_a_session_nor_the_answer() {
    let module = Module::new();
    let own = OwnRunner::new(&module, None);
    let answers = own.ping(&mut Broken);
    assert_eq!(own.pool.status().sessions.opening, 1);
    assert_eq!(quietly(|| own.pool.serve(own.runner, &mut Broken, BUDGET)), Served::Gone);
    assert_eq!(own.pool.vacancies(), 1);
    let status = own.pool.status();
    assert_eq!((status.sessions.opening, status.sessions.running, status.active), (0, 0, 0));
    assert!(own.server.notices().contains(&Notice::RunnersWanted));
    let answers: Vec<_> = answers.try_iter().collect();
    assert!(matches!(&answers[..], [Err(failure)] if matches!(failure.error, Error::Interrupted { .. })), "{answers:?}");
}

#[test]
fn a_panic_in_an_answer_costs_neither_the_runner_nor_the_callers_an_answer() {
    let module = Module::new();
    let own = OwnRunner::new(&module, None);
    let before = token::panics();
    for _ in 0..3 {
        let answers = own.ping(&mut Mute);
        assert_eq!(quietly(|| own.pool.serve(own.runner, &mut Mute, BUDGET)), Served::Parked);
        let answers: Vec<_> = answers.try_iter().collect();
        let [Err(failure)] = &answers[..] else { panic!("{answers:?}") };
        assert!(matches!(failure.error, Error::Interrupted { .. }), "{failure:?}");
        assert_eq!(failure.executed, Executed::Unknown);
    }
    assert!(token::panics() >= before + 3);
    let status = own.pool.status();
    assert_eq!((status.sessions.idle, status.sessions.running, status.active), (1, 0, 0));
}

#[test]
fn a_panic_on_the_closing_thread_keeps_no_session_open_and_no_pool_from_its_end() {
    let module = Module::new();
    // Told on the closing thread, behind the last close.
    let (faulty, sound) = (OwnRunner::new(&module, Some(Notice::Drained)), OwnRunner::new(&module, None));
    for own in [&faulty, &sound] {
        let _answers = own.ping(&mut Posting);
        assert_eq!(own.pool.serve(own.runner, &mut Posting, BUDGET), Served::Parked);
        assert_eq!(own.pool.status().sessions.idle, 1);
    }
    quietly(|| {
        faulty.pool.drain();
        poll("the faulty one is told", || faulty.is_drained());
        sound.pool.drain();
        poll("the other one's session is closed", || sound.pool.left() == 0);
        poll("and its end is told", || sound.is_drained());
    });
    assert_eq!(faulty.pool.left(), 0);
    assert_eq!(module.open_sessions(), []);
}
