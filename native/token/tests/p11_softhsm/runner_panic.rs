//! Faults of ours. In a runner's loop, outside of the operation itself: the runner leaves, its place and its session's capacity are free, and the
//! operation is answered. In an answer: the caller gets another, and the runner goes on. On the closing thread: it closes what comes next.

use std::panic;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use session_pool::Config;
use token::host::{Delivery, Host, Outlet, PoolServer, Posting, Reply, Wake};
use token::{
    Budget, Error, Executed, Header, LoginMode, ModuleConfig, Notice, Outcome, Policy, PoolOptions, Request, Selector, Served,
    TokenPool, now,
};

use crate::support::fixture;

struct Test;

impl Host for Test {
    type Reply = Answers;
    type Runner = Runner;
    type Server = Notices;

    fn later(_delay: std::time::Duration, _job: Box<dyn FnOnce() + Send>) {}
}

#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<Outcome>>>);

impl Reply for Answers {
    fn post(&self, outcome: Outcome) {
        self.0.lock().push(outcome);
    }
}

#[derive(Clone)]
struct Runner;

impl Wake for Runner {
    fn unpark(&self) {
        unreachable!("no outlet here may wait");
    }

    fn post(&self) {}

    fn is_expendable(&self) -> bool {
        true
    }
}

#[derive(Clone, Default)]
struct Notices(Arc<Mutex<Vec<Notice>>>, Option<Notice>);

impl PoolServer for Notices {
    fn post(&self, notice: Notice) {
        let is_fault = self.1.as_ref() == Some(&notice);
        self.0.lock().push(notice);
        assert!(!is_fault, "a fault in telling the pool server, which this test makes");
    }
}

/// Does not know whether a caller is there, and cannot say so either.
struct Broken;

impl Outlet<Test> for Broken {
    fn is_wanted(&self, _reply: &Answers) -> bool {
        panic!("a fault in the runner's loop")
    }

    fn answer(&mut self, reply: &Answers, outcome: Outcome) -> Delivery {
        reply.post(outcome);
        Delivery::Done
    }

    fn wake(&mut self, _runner: &Runner) {}
}

/// Cannot put an answer together.
struct Mute;

impl Outlet<Test> for Mute {
    fn is_wanted(&self, _reply: &Answers) -> bool {
        true
    }

    fn answer(&mut self, _reply: &Answers, _outcome: Outcome) -> Delivery {
        panic!("a fault in an answer, which this test makes")
    }

    fn wake(&mut self, _runner: &Runner) {}
}

const BUDGET: Budget = Budget { time: Duration::from_secs(1), bytes: 1 << 20 };

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

fn poll(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn options() -> PoolOptions {
    PoolOptions {
        module: fixture().module.to_string_lossy().into_owned(),
        module_config: ModuleConfig::default(),
        selector: Selector::Id(fixture().slot),
        exclusive: false,
        login: LoginMode::None,
        user: 1,
        retain_pin: false,
        inactivity_timeout: None,
        explicit_login: false,
        lazy: true,
        read_only: false,
        operation_timeout: None,
        keepalive: None,
        random_chunk: 65_536,
        key_cache_ttl: None,
        policy: Policy::default(),
        sessions: Config {
            label: "panic".into(),
            max_sessions: 1,
            stripes: 1,
            idle_ttl: None,
            max_lifetime: None,
            max_waiting: 1,
        },
    }
}

#[test]
fn a_panic_in_a_runners_loop_loses_neither_its_place_nor_a_session_nor_the_answer() {
    let notices = Notices::default();
    let pool: Arc<TokenPool<Test>> = TokenPool::new(options(), notices.clone()).unwrap();
    pool.attach().unwrap();
    let (runner, _) = pool.join(Runner);
    let answers = Answers::default();
    let header = Header::new(answers.clone(), now(), None);
    pool.submit(header, Request::Ping, &mut Broken).unwrap();
    assert_eq!(pool.status().sessions.opening, 1);

    let served = quietly(|| pool.serve(runner, &mut Broken, BUDGET));

    assert_eq!(served, Served::Gone);
    assert_eq!(pool.vacancies(), 1);
    let status = pool.status();
    assert_eq!((status.sessions.opening, status.sessions.running, status.active), (0, 0, 0));
    assert!(notices.0.lock().contains(&Notice::RunnersWanted));
    let answers = answers.0.lock();
    assert!(matches!(&answers[..], [Err(failure)] if matches!(failure.error, Error::Interrupted { .. })), "{answers:?}");
}

#[test]
fn a_panic_in_an_answer_costs_neither_the_runner_nor_the_callers_an_answer() {
    let pool: Arc<TokenPool<Test>> = TokenPool::new(options(), Notices::default()).unwrap();
    pool.attach().unwrap();
    let (runner, _) = pool.join(Runner);
    let answers = Answers::default();
    let before = token::panics();
    for _ in 0..3 {
        pool.submit(Header::new(answers.clone(), now(), None), Request::Ping, &mut Mute).unwrap();
        assert_eq!(quietly(|| pool.serve(runner, &mut Mute, BUDGET)), Served::Parked);
    }
    let answers = answers.0.lock();
    assert_eq!(answers.len(), 3);
    for answer in &*answers {
        let Err(failure) = answer else { panic!("{answer:?}") };
        assert!(matches!(failure.error, Error::Interrupted { .. }), "{failure:?}");
        assert_eq!(failure.executed, Executed::Unknown);
    }
    assert!(token::panics() >= before + 3);
    let status = pool.status();
    assert_eq!((status.sessions.idle, status.sessions.running, status.active), (1, 0, 0));
}

#[test]
fn a_panic_on_the_closing_thread_keeps_no_session_open_and_no_pool_from_its_end() {
    let pool_with = |fault| {
        let notices = Notices(Arc::default(), fault);
        let pool: Arc<TokenPool<Test>> = TokenPool::new(options(), notices.clone()).unwrap();
        pool.attach().unwrap();
        let (runner, _) = pool.join(Runner);
        pool.submit(Header::new(Answers::default(), now(), None), Request::Ping, &mut Posting).unwrap();
        assert_eq!(pool.serve(runner, &mut Posting, BUDGET), Served::Parked);
        assert_eq!(pool.status().sessions.idle, 1);
        (pool, notices)
    };
    // Told by `settle`, on the closing thread, behind the last close.
    let (faulty, told) = pool_with(Some(Notice::Drained));
    let (sound, told_too) = pool_with(None);
    quietly(|| {
        faulty.drain();
        poll("the faulty one is told", || told.0.lock().contains(&Notice::Drained));
        sound.drain();
        poll("the other one's session is closed", || sound.left() == 0);
        poll("and its end is told", || told_too.0.lock().contains(&Notice::Drained));
    });
    assert_eq!(faulty.left(), 0);
}
