//! A pool with its runners, its server, and its callers.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use cryptoki_sys::{CK_SLOT_ID, CKA_LABEL, CKM_GENERIC_SECRET_KEY_GEN, CKM_SHA256_HMAC, CKU_USER};
use fake_module::{KEY_LABEL, PIN};
use parking_lot::Mutex;
use session_pool::{Abandoned, Config, RunnerId, State, Ticket};
use token::p11::{Attribute, Mechanism};
use token::{
    Answer, Budget, Data, Error, Failure, KeyRef, LeaseEnd, LoginMode, ModuleConfig, Notice, Outcome, Pin, Policy, PoolOptions,
    Request, Selector, Served, Task, Wiped,
};

use super::host::{Caller, Direct, Header, Lease, Runner, Server, Serving, TokenPool};
use super::module::Module;
use super::{TIMEOUT, poll};

const BUDGET: Budget = Budget { time: Duration::from_millis(20), bytes: 1 << 20 };

/// How often a runner of a draining pool looks whether leases are left.
const LEASES: Duration = Duration::from_millis(5);

/// The options of a pool of one session, which logs in.
pub fn options(module: &Module) -> PoolOptions {
    PoolOptions {
        module: module.path.to_string_lossy().into_owned(),
        module_config: ModuleConfig::default(),
        selector: Selector::Id(0),
        exclusive: false,
        login: LoginMode::Pin,
        user: CKU_USER,
        user_name: None,
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
            label: "hazards".into(),
            max_sessions: 1,
            stripes: 1,
            idle_ttl: None,
            max_lifetime: None,
            max_waiting: 100,
        },
    }
}

/// The PIN source.
type Source = Mutex<Option<Result<Pin, Error>>>;

/// A pool with its runners. It drains at its end, and everything must come to an end then.
pub struct TestPool {
    pool: Arc<TokenPool>,
    server: Server,
    /// What the source gives at once; `None`: the test is asked.
    source: Arc<Source>,
    pin_requests: Receiver<u64>,
    runners: Arc<AtomicUsize>,
    processes: Arc<Mutex<Vec<Process>>>,
}

/// A runner's process, which may die.
struct Process {
    id: RunnerId,
    is_dead: Arc<AtomicBool>,
}

/// What is the same for all runners of a pool.
#[derive(Clone)]
struct Kind {
    are_threads: bool,
    running: Arc<AtomicUsize>,
    processes: Arc<Mutex<Vec<Process>>>,
}

impl TestPool {
    /// A pool of one session.
    pub fn new(module: &Module) -> Self {
        Self::with(module, |_| ())
    }

    /// A pool of so many sessions.
    pub fn of(module: &Module, sessions: usize) -> Self {
        Self::with(module, |options| options.sessions.max_sessions = sessions)
    }

    /// One with other options, on native threads.
    pub fn with(module: &Module, change: impl FnOnce(&mut PoolOptions)) -> Self {
        let mut options = options(module);
        change(&mut options);
        Self::start(options, true).unwrap()
    }

    /// One whose runners are on threads that may be left behind, or may not.
    pub fn start(options: PoolOptions, are_threads: bool) -> Result<Self, Error> {
        let (server, to_do) = Server::new(None);
        let pool = TokenPool::new(options, server.clone()).unwrap();
        let attached = pool.attach();
        if let Err(error) = attached
            && error.is_fatal()
        {
            return Err(error);
        }
        let kind = Kind { are_threads, running: Arc::default(), processes: Arc::default() };
        let source: Arc<Source> = Arc::new(Mutex::new(Some(Ok(PIN.to_vec().into()))));
        let (requests, pin_requests) = unbounded();
        let (own, own_kind, own_source) = (Arc::downgrade(&pool), kind.clone(), source.clone());
        thread::spawn(move || {
            for notice in to_do {
                let Some(pool) = own.upgrade() else { return };
                serve_notice(&pool, notice, &own_kind, &own_source, &requests);
            }
        });
        start_missing_runners(&pool, &kind);
        Ok(Self { pool, server, source, pin_requests, runners: kind.running, processes: kind.processes })
    }

    /// From now on the PIN source gives this.
    pub fn source_gives(&self, pin: &[u8]) {
        *self.source.lock() = Some(Ok(pin.to_vec().into()));
    }

    /// From now on the test itself is the PIN source: it waits for a request, and answers it by `provide_pin`.
    pub fn source_waits(&self) {
        *self.source.lock() = None;
    }

    /// The attempt for which the source is asked.
    pub fn pin_request(&self) -> u64 {
        self.pin_requests.recv_timeout(TIMEOUT).expect("the PIN source is asked")
    }

    /// Whether the source was asked, and the test has not seen it yet.
    pub fn has_pin_request(&self) -> bool {
        !self.pin_requests.is_empty()
    }

    /// What the pool's server was told.
    pub fn notices(&self) -> Vec<Notice> {
        self.server.notices()
    }

    /// Waits until the pool's server has been told something.
    pub fn await_notice(&self, what: &str, is_it: impl Fn(&Notice) -> bool) {
        poll(what, || self.notices().iter().any(&is_it));
    }

    /// Somebody asks for an operation.
    pub fn ask(&self, request: Request) -> Asked {
        self.ask_within(request, None)
    }

    /// The same; it may wait for so long.
    pub fn ask_within(&self, request: Request, queue_timeout: Option<u64>) -> Asked {
        Asked::new(&self.pool, queue_timeout, |header| self.pool.submit(header, request, &mut Direct))
    }

    /// Somebody asks for an operation, on a thread of his own that may block.
    pub fn run_here(&self, request: Request) -> (Asked, token::Direct) {
        let mut direct = None;
        let asked = Asked::control(&self.pool, |header| direct = Some(self.pool.run_here(header, request, &mut Direct)));
        (asked, direct.expect("it was called").expect("it was taken"))
    }

    /// Somebody asks for a session of his own.
    pub fn ask_lease(&self) -> (Asked, Arc<Lease>) {
        self.ask_lease_for(Request::Ping)
    }

    /// Somebody asks for a session of his own, on which this is to run first.
    pub fn ask_lease_for(&self, request: Request) -> (Asked, Arc<Lease>) {
        let mut lease = None;
        let asked = Asked::new(&self.pool, None, |header| {
            let (ticket, own) = self.pool.submit_lease(header, request, &mut Direct)?;
            lease = Some(own);
            Ok(ticket)
        });
        (asked, lease.expect("the lease was not refused at once"))
    }

    /// A lease that has its session.
    pub fn lease(&self) -> Arc<Lease> {
        let (asked, lease) = self.ask_lease();
        asked.done();
        lease
    }

    /// The holder asks for an operation on its session.
    pub fn ask_on(&self, lease: &Arc<Lease>, request: Request) -> Asked {
        Asked::new(&self.pool, None, |header| self.pool.submit_within(lease, header, request, &mut Direct))
    }

    /// The holder gives its session back. `false`: it had it no longer.
    pub fn holder_is_done(&self, lease: &Lease) -> bool {
        self.pool.end_lease(lease, LeaseEnd::Return, &mut Direct)
    }

    /// The holder's process dies.
    pub fn holder_dies(&self, lease: &Lease) -> bool {
        self.pool.end_lease(lease, LeaseEnd::Close("holder_died"), &mut Direct)
    }

    /// Somebody logs in with a PIN of his own.
    pub fn log_in(&self, pin: &[u8]) -> Asked {
        Asked::control(&self.pool, |header| self.pool.login(header, Some(pin.to_vec().into()), false))
    }

    /// The same, though the token says that it may be the last try.
    pub fn log_in_by_force(&self, pin: &[u8]) -> Asked {
        Asked::control(&self.pool, |header| self.pool.login(header, Some(pin.to_vec().into()), true))
    }

    /// Somebody logs out.
    pub fn log_out(&self, force: bool) -> Asked {
        Asked::control(&self.pool, |header| self.pool.logout(header, force))
    }

    /// Somebody wants the module to be initialized again.
    pub fn ask_reload(&self) -> Asked {
        Asked::control(&self.pool, |header| self.pool.reload(header))
    }

    /// The processes of all its runners die.
    pub fn kill_runners(&self) {
        let processes = std::mem::take(&mut *self.processes.lock());
        for process in processes {
            process.is_dead.store(true, Ordering::SeqCst);
            self.pool.runner_down(process.id, &mut Direct);
        }
    }

    /// It takes nothing any more. Waits for its end.
    pub fn drain_to_its_end(&self) {
        self.pool.drain();
        self.await_notice("the pool has drained", |notice| *notice == Notice::Drained);
    }

    /// How many runners' threads there are, those that were left behind among them.
    pub fn runner_threads(&self) -> usize {
        self.runners.load(Ordering::SeqCst)
    }
}

impl Deref for TestPool {
    type Target = Arc<TokenPool>;

    fn deref(&self) -> &Arc<TokenPool> {
        &self.pool
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        self.pool.drain();
        if !thread::panicking() {
            self.await_notice("the pool has drained", |notice| *notice == Notice::Drained);
            poll("its runners have ended", || self.runner_threads() == 0);
        }
    }
}

fn serve_notice(pool: &Arc<TokenPool>, notice: Notice, kind: &Kind, source: &Source, requests: &Sender<u64>) {
    match notice {
        Notice::RunnersWanted => start_missing_runners(pool, kind),
        Notice::PinWanted { attempt } => {
            let given = source.lock().clone();
            match given {
                Some(pin) => pool.provide_pin(attempt, pin),
                None => drop(requests.send(attempt)),
            }
        }
        _ => (),
    }
}

fn start_missing_runners(pool: &Arc<TokenPool>, kind: &Kind) {
    for _ in 0..pool.vacancies() {
        start_runner(pool, kind);
    }
}

/// As the host over the BEAM starts a runner on a native thread.
fn start_runner(pool: &Arc<TokenPool>, kind: &Kind) {
    let (address, wakes) = Runner::new(kind.are_threads);
    let (id, woken) = pool.join(address);
    let is_dead = Arc::new(AtomicBool::new(false));
    kind.processes.lock().push(Process { id, is_dead: is_dead.clone() });
    let (pool, running) = (pool.clone(), kind.running.clone());
    running.fetch_add(1, Ordering::SeqCst);
    thread::spawn(move || {
        let mut serves = woken;
        let mut outlet = Serving { is_dead };
        loop {
            if serves {
                match pool.serve(id, &mut outlet, BUDGET) {
                    Served::Again => continue,
                    Served::Parked => (),
                    Served::Gone => break,
                }
            }
            serves = match pool.is_draining() {
                false if wakes.recv().is_ok() => true,
                true if pool.has_leases() => wakes.recv_timeout(LEASES).is_ok(),
                _ => {
                    pool.depart(id);
                    break;
                }
            };
        }
        drop(pool);
        running.fetch_sub(1, Ordering::SeqCst);
    });
}

/// What somebody has asked for.
pub struct Asked {
    pool: Arc<TokenPool>,
    pub header: Arc<Header>,
    caller: Caller,
    ticket: Option<Ticket>,
    answers: Receiver<Outcome>,
}

impl Asked {
    fn new(pool: &Arc<TokenPool>, queue_timeout: Option<u64>, submit: impl FnOnce(Arc<Header>) -> Result<Ticket, Error>) -> Self {
        let (caller, answers) = Caller::new();
        let header = Header::new(caller.clone(), queue_timeout);
        let ticket = match submit(header.clone()) {
            Ok(ticket) => Some(ticket),
            Err(error) => {
                // The caller has it as the result of its call.
                token::host::Reply::post(&caller, Err(Failure::not_executed(error)));
                None
            }
        };
        Self { pool: pool.clone(), header, caller, ticket, answers }
    }

    fn control(pool: &Arc<TokenPool>, submit: impl FnOnce(Arc<Header>)) -> Self {
        let (caller, answers) = Caller::new();
        let header = Header::new(caller.clone(), None);
        submit(header.clone());
        Self { pool: pool.clone(), header, caller, ticket: None, answers }
    }

    /// Its one answer.
    pub fn outcome(&self) -> Outcome {
        self.answers.recv_timeout(TIMEOUT).expect("it is answered")
    }

    /// Its answer, which is good.
    pub fn done(&self) -> Answer {
        self.outcome().unwrap()
    }

    /// Its answer, which is bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match self.done() {
            Answer::Bytes(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Its answer, which is none that one wants.
    pub fn failure(&self) -> Failure {
        self.outcome().expect_err("it fails")
    }

    /// The reason of its failure.
    pub fn reason(&self) -> &'static str {
        self.failure().error.reason()
    }

    /// Whether it has an answer that the test has not seen yet.
    pub fn is_answered(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Its caller dies.
    pub fn caller_dies(&self) {
        self.caller.dies();
    }

    /// Waits until a runner has it.
    pub fn await_running(&self) {
        poll("a runner has it", || matches!(self.header.progress.state(), State::Running { .. }));
    }

    /// Its caller does not wait any longer.
    pub fn give_up(&self) -> Abandoned {
        self.pool.abandon(&self.header, self.ticket, true)
    }
}

/// Signs some data with the token's key.
pub fn sign(data: &[u8]) -> Request {
    let task = Task::Sign(Data::Owned(Wiped::from(data)));
    Request::Apply { key: key(), mechanism: Mechanism::new(CKM_SHA256_HMAC), task }
}

/// The signature that comes of it.
pub fn signature(data: &[u8]) -> Vec<u8> {
    fake_module::signature(KEY_LABEL, data)
}

/// Makes a key, which may not be done twice.
pub fn generate_key(label: &[u8]) -> Request {
    Request::GenerateKey {
        mechanism: Mechanism::new(CKM_GENERIC_SECRET_KEY_GEN),
        template: vec![Attribute::bytes(CKA_LABEL, label)],
    }
}

/// The token's key, by its label.
pub fn key() -> KeyRef {
    KeyRef::Find(vec![Attribute::bytes(CKA_LABEL, KEY_LABEL)], None)
}

/// A pool on this slot.
pub fn in_slot(slot: CK_SLOT_ID) -> impl FnOnce(&mut PoolOptions) {
    move |options| options.selector = Selector::Id(slot)
}
