//! A fault of ours in a runner's loop, outside of the operation itself: the runner leaves, its place and its session's capacity are free, and the
//! operation is answered.

use std::collections::HashMap;
use std::panic;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use session_pool::Config;
use token::host::{Delivery, Host, Keeper, Notice, Outcome, Outlet, Reply, Wake};
use token::{Budget, Error, Header, LoginMode, ModuleConfig, PoolOptions, Request, Selector, Served, TokenPool, now};

use crate::support::fixture;

struct Test;

impl Host for Test {
    type Reply = Answers;
    type Runner = Runner;
    type Keeper = Notices;

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
    fn ring(&self) {
        unreachable!("no outlet here may wait");
    }

    fn post(&self) {}

    fn is_expendable(&self) -> bool {
        true
    }
}

#[derive(Clone, Default)]
struct Notices(Arc<Mutex<Vec<Notice>>>);

impl Keeper for Notices {
    fn post(&self, notice: Notice) {
        self.0.lock().push(notice);
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
        key_cache_ttl: None,
        policy: HashMap::new(),
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

    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let served = pool.serve(runner, &mut Broken, Budget { time: Duration::from_secs(1), bytes: 1 });
    panic::set_hook(hook);

    assert_eq!(served, Served::Gone);
    assert_eq!(pool.vacancies(), 1);
    let status = pool.status();
    assert_eq!((status.sessions.opening, status.sessions.running, status.active), (0, 0, 0));
    assert!(notices.0.lock().contains(&Notice::RunnersWanted));
    let answers = answers.0.lock();
    assert!(matches!(&answers[..], [Err(failure)] if matches!(failure.error, Error::Interrupted { .. })), "{answers:?}");
}
