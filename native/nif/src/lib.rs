//! The NIF library of pkcs11_pool: terms in, terms out, resources and answers. No logic: that is in `token` and `session_pool`.
//!
//! Only `pool_start`, `serve`, `run_here` and `provision` may call the module, and they run on dirty-IO schedulers, as do `read_module`, which
//! waits for a thread that calls it, and `read_pin_file`; everything else is a few microseconds on a normal one. None of them raises: each takes what
//! `args` decodes, and answers by its `answer`.

#![deny(unsafe_op_in_unsafe_fn)]

mod args;
mod atoms;
mod beam;
mod caller;
mod decode;
mod encode;
mod error;
mod executor;
mod information;
mod interrupt;
mod resources;
mod sender;
mod tag;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;
use rustler::{Binary, Encoder, Env, LocalPid, OwnedEnv, ResourceArc, Term};
use session_pool::{Abandoned, State};
use token::host::Posting;
use token::{Budget, Direct, Error, LeaseEnd, Served, now, survive};

use crate::args::{Arg, Timeout, answer};
use crate::beam::{Header, Runner, Scheduler, ServerPid, Serving, SpinFlag, Thread, TokenPool};
use crate::caller::Caller;
use crate::resources::{IndexResource, LeaseResource, PoolResource, RunnerResource, TicketResource, stop};
use crate::sender::Job;

/// How much a runner does in one call: long enough that the way in costs nothing, short enough that its process can be stopped, and
/// other users of the dirty-IO schedulers get their turn.
const BUDGET: Budget = Budget { time: Duration::from_millis(20), bytes: 1 << 20 };

/// How often a thread of a draining pool looks whether leases are left.
const LEASES: Duration = Duration::from_millis(50);

fn load(_env: Env, _info: Term) -> bool {
    sender::start().is_ok()
}

/// Makes a pool for the calling server, and attaches it to its token. `{:ok, pool, executor, nil | error}`: what the token refuses is no reason not to
/// start. `{:error, error}`: what no restart can mend.
#[rustler::nif(schedule = "DirtyIo")]
fn pool_start<'a>(env: Env<'a>, options: Arg<'a, decode::Options<'a>>) -> Term<'a> {
    answer(env, || {
        let options = options.get()?;
        let server = env.pid();
        let pool = TokenPool::new(options.pool()?, ServerPid(server)).map_err(|_| rustler::Error::BadArg)?;
        let attached = pool.attach();
        if let Err(error) = &attached
            && error.is_fatal()
        {
            return Ok((atoms::error(), error::error(env, error)).encode(env));
        }
        let processes = executor::choose(options.executor, options.dirty_io_schedulers, &pool);
        let executor = executor::name(processes.load(Ordering::Relaxed), pool.size());
        let shutdown_timeout = options.shutdown_timeout.map(Duration::from_millis);
        let resource = ResourceArc::new(PoolResource { pool, shutdown_timeout, processes });
        if resource.monitor(Some(env), &server).is_none() {
            // Killed meanwhile.
            stop(&resource);
        }
        let down = attached.err().map(|error| error::error(env, &error));
        Ok((atoms::ok(), resource, executor, down).encode(env))
    })
}

/// The calling process becomes a runner. `{runner, true}`: it must serve at once.
#[rustler::nif]
fn runner_join<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || {
        let pool = pool.get()?;
        let pid = env.pid();
        let flag = SpinFlag::default();
        let (id, woken) = pool.pool.join(Runner::Process(pid, flag.clone()));
        let runner = ResourceArc::new(RunnerResource { pool: pool.pool.clone(), id, flag });
        if runner.monitor(Some(env), &pid).is_none() {
            pool.pool.runner_down(id, &mut Scheduler(env));
        }
        Ok((runner, woken))
    })
}

/// Serves until nothing waits (`:parked`) or the budget is used up (`:again`).
#[rustler::nif(schedule = "DirtyIo")]
fn serve<'a>(env: Env<'a>, runner: Arg<'a, ResourceArc<RunnerResource>>) -> Term<'a> {
    answer(env, || {
        let runner = runner.get()?;
        Ok(match runner.pool.serve(runner.id, &mut Serving(Scheduler(env), runner.flag.clone()), BUDGET) {
            Served::Parked => atoms::parked(),
            Served::Again => atoms::again(),
            Served::Gone => atoms::gone(),
        })
    })
}

/// Starts a runner on a native thread of its own. `false`: the system refuses one.
#[rustler::nif]
fn start_thread<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || Ok(start_runner(&pool.get()?.pool)))
}

fn start_runner(pool: &Arc<TokenPool>) -> bool {
    let (sender, wakes) = bounded(1);
    // Before there is a thread: its place is counted as taken at once, so that nobody starts another for it.
    let (id, woken) = pool.join(Runner::Thread(sender));
    let own = pool.clone();
    let run = move || {
        let pool = own;
        let mut outlet = Thread(OwnedEnv::new());
        let mut serves = woken;
        loop {
            if serves {
                match survive(|| pool.serve(id, &mut outlet, BUDGET)) {
                    Some(Served::Again) => continue,
                    Some(Served::Parked) => (),
                    Some(Served::Gone) => return,
                    // Another takes its place.
                    None => return pool.depart(id),
                }
            }
            serves = match pool.is_draining() {
                false if wakes.recv().is_ok() => true,
                // What a lease's holder does goes on. Its end wakes nobody: hence a look now and then.
                true if pool.has_leases() => wakes.recv_timeout(LEASES).is_ok(),
                _ => return pool.depart(id),
            };
        }
    };
    let started = std::thread::Builder::new().name("pkcs11-runner".into()).spawn(run).is_ok();
    if !started {
        pool.withdraw(id);
    }
    started
}

/// Takes a call; the answer comes as `{tag, result}`. A ticket, or `{:error, error}`.
#[rustler::nif]
fn submit<'a>(env: Env<'a>, pool: args::Pool<'a>, tag: Term<'a>, request: Term<'a>, queue_timeout: Timeout<'a>) -> Term<'a> {
    answer(env, || {
        let (pool, request, queue_timeout) = (pool.get()?, decode::request(request)?, queue_timeout.get()?);
        let header = Header::new(Caller::new(env.pid(), tag), now(), queue_timeout);
        let submitted = pool.pool.submit(header.clone(), request, &mut Scheduler(env));
        Ok(encode_submitted(env, &pool, header, submitted))
    })
}

/// A ticket, or `{:error, error}`.
fn encode_submitted<'a>(
    env: Env<'a>,
    pool: &PoolResource,
    header: Arc<Header>,
    submitted: Result<session_pool::Ticket, Error>,
) -> Term<'a> {
    match submitted {
        Ok(ticket) => ResourceArc::new(TicketResource { pool: pool.pool.clone(), header, ticket: Some(ticket) }).encode(env),
        Err(error) => (atoms::error(), error::error(env, &error)).encode(env),
    }
}

/// Whether `run_here` would find a session at once: a hint.
#[rustler::nif]
fn has_idle<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || Ok(pool.get()?.pool.has_idle()))
}

/// Runs a call on the calling process's own dirty scheduler, if a session lies idle and nothing waits: `{:done, result, timing}`. Else it is
/// submitted: a ticket, or `{:error, error}`.
#[rustler::nif(schedule = "DirtyIo")]
fn run_here<'a>(env: Env<'a>, pool: args::Pool<'a>, tag: Term<'a>, request: Term<'a>, queue_timeout: Timeout<'a>) -> Term<'a> {
    answer(env, || {
        let (pool, request, queue_timeout) = (pool.get()?, decode::request(request)?, queue_timeout.get()?);
        let header = Header::new(Caller::new(env.pid(), tag), now(), queue_timeout);
        Ok(match pool.pool.run_here(header.clone(), request, &mut Scheduler(env)) {
            Ok(Direct::Done(outcome)) => (atoms::done(), encode::outcome(env, &outcome), timing_of(&header)).encode(env),
            Ok(Direct::Later(ticket)) => encode_submitted(env, &pool, header, Ok(ticket)),
            Err(error) => encode_submitted(env, &pool, header, Err(error)),
        })
    })
}

/// Takes a call for a session of the caller's own: `{ticket, lease}`, or `{:error, error}`. `:ok` comes when the lease has one.
#[rustler::nif]
fn submit_lease<'a>(env: Env<'a>, pool: args::Pool<'a>, tag: Term<'a>, queue_timeout: Timeout<'a>) -> Term<'a> {
    answer(env, || {
        let (pool, queue_timeout) = (pool.get()?, queue_timeout.get()?);
        let holder = env.pid();
        let header = Header::new(Caller::new(holder, tag), now(), queue_timeout);
        Ok(match pool.pool.submit_lease(header.clone(), &mut Scheduler(env)) {
            Ok((ticket, lease)) => {
                let lease = ResourceArc::new(LeaseResource { pool: pool.pool.clone(), lease, holder });
                if lease.monitor(Some(env), &holder).is_none() {
                    pool.pool.end_lease(&lease.lease, LeaseEnd::Close("holder_died"), &mut Scheduler(env));
                }
                (ResourceArc::new(TicketResource { pool: pool.pool.clone(), header, ticket: Some(ticket) }), lease).encode(env)
            }
            Err(error) => (atoms::error(), error::error(env, &error)).encode(env),
        })
    })
}

/// Takes a call on a lease's session: a ticket, or `{:error, error}`.
#[rustler::nif]
fn submit_within<'a>(env: Env<'a>, pool: args::Pool<'a>, lease: args::Lease<'a>, tag: Term<'a>, request: Term<'a>) -> Term<'a> {
    answer(env, || {
        let (pool, lease, request) = (pool.get()?, lease.get()?, decode::request(request)?);
        let caller = env.pid();
        let header = Header::new(Caller::new(caller, tag), now(), None);
        let submitted = if lease.holder == caller {
            lease.pool.submit_within(&lease.lease, header.clone(), request, &mut Scheduler(env))
        } else {
            Err(Error::NotOwner)
        };
        Ok(encode_submitted(env, &pool, header, submitted))
    })
}

/// The lease ends after `ms`, and the pool server is told who held it, and where it was taken.
#[rustler::nif]
fn expire_lease<'a>(
    env: Env<'a>,
    lease: args::Lease<'a>,
    server: Arg<'a, LocalPid>,
    place: Arg<'a, String>,
    ms: Arg<'a, u64>,
) -> Term<'a> {
    answer(env, || {
        let (lease, after) = (lease.get()?, Duration::from_millis(ms.get()?));
        let (pool, expiring, holder) = (Arc::downgrade(&lease.pool), Arc::downgrade(&lease.lease), lease.holder);
        let (server, place) = (server.get()?, place.get()?);
        let expire = move || {
            let (Some(pool), Some(lease)) = (pool.upgrade(), expiring.upgrade()) else { return };
            let ended = pool.end_lease(&lease, LeaseEnd::Close("lease_expired"), &mut Posting);
            if ended {
                sender::send(&server, |env| (atoms::pkcs11_pool(), (atoms::lease_expired(), holder, place.as_str())).encode(env));
            }
        };
        if let Some(timer) = sender::schedule(after, Job::Run(Box::new(expire))) {
            lease.lease.expires_with(timer);
        }
        Ok(atoms::ok())
    })
}

/// How many things wait for their time, such as the ends of leases.
#[rustler::nif]
fn timers<'a>(env: Env<'a>) -> Term<'a> {
    answer(env, || Ok(sender::waiting()))
}

/// The lease ends: its session goes back to the pool, or is closed if the caller left an operation running on it.
#[rustler::nif]
fn end_lease<'a>(env: Env<'a>, lease: args::Lease<'a>) -> Term<'a> {
    answer(env, || {
        let lease = lease.get()?;
        Ok(lease.pool.end_lease(&lease.lease, LeaseEnd::Return, &mut Scheduler(env)))
    })
}

/// Whether the lease still has its session.
#[rustler::nif]
fn is_lease_active<'a>(env: Env<'a>, lease: args::Lease<'a>) -> Term<'a> {
    answer(env, || Ok(lease.get()?.lease.is_active()))
}

/// Where an operation is: `:queued`, `{:running, ms}`, or `:over` (its answer comes, or it was given up).
#[rustler::nif]
fn progress<'a>(env: Env<'a>, ticket: args::Ticket<'a>) -> Term<'a> {
    answer(env, || {
        Ok(match ticket.get()?.header.progress.state() {
            State::Queued => atoms::queued().encode(env),
            State::Running { since } => (atoms::running(), now().saturating_sub(since)).encode(env),
            State::Answered | State::Abandoned => atoms::over().encode(env),
        })
    })
}

/// `{queue_time, session}`, nanoseconds and the number of its session, once an operation has started; else `nil`.
#[rustler::nif]
fn timing<'a>(env: Env<'a>, ticket: args::Ticket<'a>) -> Term<'a> {
    answer(env, || Ok(timing_of(&ticket.get()?.header)))
}

fn timing_of(header: &Header) -> Option<(u64, u64)> {
    header.timing().map(|token::Timing { queue_time, session }| (queue_time, session))
}

/// Gives an operation up, while it waits or (`running`) in any case: `:before_start`, `{:while_running, since}`, `{:still_running, since}`
/// (nothing changed), or `:answered` (the answer comes). Times are milliseconds ago.
#[rustler::nif]
fn abandon<'a>(env: Env<'a>, ticket: args::Ticket<'a>, running: Arg<'a, bool>) -> Term<'a> {
    answer(env, || {
        let (ticket, running) = (ticket.get()?, running.get()?);
        let ago = |since: u64| now().saturating_sub(since);
        Ok(match ticket.pool.abandon(&ticket.header, ticket.ticket, running) {
            Abandoned::BeforeStart => atoms::before_start().encode(env),
            Abandoned::WhileRunning { since } => (atoms::while_running(), ago(since)).encode(env),
            Abandoned::StillRunning { since } => (atoms::still_running(), ago(since)).encode(env),
            Abandoned::Answered => atoms::answered().encode(env),
        })
    })
}

/// The PIN for an attempt at a login, `{:ok, pin}`, or a word for why there is none, `{:error, cause}`.
#[rustler::nif]
fn provide_pin<'a>(env: Env<'a>, pool: args::Pool<'a>, attempt: Arg<'a, u64>, pin: Term<'a>) -> Term<'a> {
    answer(env, || {
        pool.get()?.pool.provide_pin(attempt.get()?, decode::pin(pin)?);
        Ok(atoms::ok())
    })
}

/// Logs in with this PIN (nil: a NULL one). A ticket; the answer comes as `{tag, result}`.
#[rustler::nif]
fn login<'a>(
    env: Env<'a>,
    pool: args::Pool<'a>,
    tag: Term<'a>,
    pin: Term<'a>,
    force: Arg<'a, bool>,
    queue_timeout: Timeout<'a>,
) -> Term<'a> {
    answer(env, || {
        let (pool, force, queue_timeout) = (pool.get()?, force.get()?, queue_timeout.get()?);
        let header = Header::new(Caller::new(env.pid(), tag), now(), queue_timeout);
        pool.pool.login(header.clone(), decode::optional_pin(pin)?, force);
        Ok(ResourceArc::new(TicketResource { pool: pool.pool.clone(), header, ticket: None }))
    })
}

/// Logs out. A ticket; the answer comes as `{tag, result}`.
#[rustler::nif]
fn logout<'a>(env: Env<'a>, pool: args::Pool<'a>, tag: Term<'a>, force: Arg<'a, bool>, queue_timeout: Timeout<'a>) -> Term<'a> {
    answer(env, || {
        let (pool, force, queue_timeout) = (pool.get()?, force.get()?, queue_timeout.get()?);
        let header = Header::new(Caller::new(env.pid(), tag), now(), queue_timeout);
        pool.pool.logout(header.clone(), force);
        Ok(ResourceArc::new(TicketResource { pool: pool.pool.clone(), header, ticket: None }))
    })
}

/// Finalizes and initializes the pool's module again. A ticket; the answer comes as `{tag, result}`.
#[rustler::nif]
fn reload<'a>(env: Env<'a>, pool: args::Pool<'a>, tag: Term<'a>, queue_timeout: Timeout<'a>) -> Term<'a> {
    answer(env, || {
        let (pool, queue_timeout) = (pool.get()?, queue_timeout.get()?);
        let header = Header::new(Caller::new(env.pid(), tag), now(), queue_timeout);
        pool.pool.reload(header.clone());
        Ok(ResourceArc::new(TicketResource { pool: pool.pool.clone(), header, ticket: None }))
    })
}

/// The PIN in a file: `{:ok, bytes, readers}` or `{:error, why}`.
#[rustler::nif(schedule = "DirtyIo")]
fn read_pin_file<'a>(env: Env<'a>, path: Arg<'a, Binary<'a>>, any: Arg<'a, bool>) -> Term<'a> {
    answer(env, || Ok(encode::pin_file(env, token::read_pin_file(Path::new(OsStr::from_bytes(&path.get()?)), any.get()?))))
}

/// Makes a token, or sets a PIN: `:ok` or `{:error, error}`.
#[rustler::nif(schedule = "DirtyIo")]
fn provision<'a>(env: Env<'a>, place: Arg<'a, decode::Place<'a>>, what: Term<'a>) -> Term<'a> {
    answer(env, || {
        let (place, what) = (place.get()?, decode::provision(what)?);
        Ok(match token::provision(&place.module, &place.config(), &place.selector()?, &what, place.force) {
            Ok(()) => atoms::ok().encode(env),
            Err(error) => (atoms::error(), error::error(env, &error)).encode(env),
        })
    })
}

/// What a module says of itself, its slots and tokens: `{:ok, map}`, `{:error, error}`, or `:timeout`.
#[rustler::nif(schedule = "DirtyIo")]
fn read_module<'a>(env: Env<'a>, place: Arg<'a, decode::ModulePlace>) -> Term<'a> {
    answer(env, || {
        let place = place.get()?;
        Ok(match token::report(place.module.clone(), place.config(), Duration::from_millis(place.timeout)) {
            Some(Ok(report)) => (atoms::ok(), information::module(env, &report)).encode(env),
            Some(Err(error)) => (atoms::error(), error::error(env, &error)).encode(env),
            None => atoms::timeout().encode(env),
        })
    })
}

/// Time passes: surplus sessions close, a pool that was not used for long logs out, calls are found to hang. The ceiling, as it was before.
#[rustler::nif]
fn tick<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || Ok(pool.get()?.pool.tick(&Scheduler(env))))
}

/// `{own, others}`: how many of the dirty-IO schedulers the pool may occupy, and all others.
#[rustler::nif]
fn occupied_schedulers<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || {
        let pool = pool.get()?;
        Ok(executor::occupied(&pool))
    })
}

/// How many runners are missing: processes, and native threads.
#[rustler::nif]
fn vacancies<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || {
        let pool = pool.get()?;
        Ok(executor::vacancies(&pool.pool, pool.processes.load(Ordering::Relaxed)))
    })
}

/// Grows or shrinks. The executor: `:mixed` where some runners are processes and some threads.
#[rustler::nif]
fn resize<'a>(env: Env<'a>, pool: args::Pool<'a>, size: Arg<'a, usize>, dirty_io_schedulers: Arg<'a, usize>) -> Term<'a> {
    answer(env, || {
        let (pool, size, dirty_io_schedulers) = (pool.get()?, size.get()?, dirty_io_schedulers.get()?);
        let processes = executor::resize(&pool, size, dirty_io_schedulers);
        pool.pool.resize(size, &mut Scheduler(env));
        Ok(executor::name(processes, size))
    })
}

/// A slot's round robin.
#[rustler::nif]
fn new_index<'a>(env: Env<'a>) -> Term<'a> {
    answer(env, || Ok(ResourceArc::new(IndexResource(AtomicUsize::new(0)))))
}

/// The next of `0..size`. It never leaves that range, so that nothing can overflow or skip.
#[rustler::nif]
fn next_index<'a>(env: Env<'a>, index: Arg<'a, ResourceArc<IndexResource>>, size: Arg<'a, usize>) -> Term<'a> {
    answer(env, || {
        let (index, size) = (index.get()?, size.get()?);
        if size == 0 {
            return Err(rustler::Error::BadArg);
        }
        let step = |index| Some((index + 1) % size);
        let (Ok(taken) | Err(taken)) = index.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        Ok(taken % size)
    })
}

/// The pool takes nothing any more.
#[rustler::nif]
fn drain<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || {
        pool.get()?.pool.drain();
        Ok(atoms::ok())
    })
}

/// Sessions that a draining pool has yet to close.
#[rustler::nif]
fn left<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || Ok(pool.get()?.pool.left()))
}

/// Those of them for which it is worth waiting: they are in no call that hangs.
#[rustler::nif]
fn pending<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || Ok(pool.get()?.pool.pending()))
}

/// Answers what still runs in a drained pool.
#[rustler::nif]
fn give_up<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || {
        pool.get()?.pool.give_up();
        Ok(atoms::ok())
    })
}

/// Forgets every key's handle.
#[rustler::nif]
fn forget_keys<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || {
        pool.get()?.pool.forget_keys();
        Ok(atoms::ok())
    })
}

/// One snapshot.
#[rustler::nif]
fn status<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || Ok(encode::status(env, &pool.get()?.pool.status())))
}

/// Counts SIGINT, SIGTERM and SIGHUP instead of handing them to the VM.
#[rustler::nif]
fn trap_interrupts() -> rustler::Atom {
    interrupt::trap();
    atoms::ok()
}

/// Hands them back to the VM.
#[rustler::nif]
fn release_interrupts() -> rustler::Atom {
    interrupt::release();
    atoms::ok()
}

/// How often they have come while they were counted.
#[rustler::nif]
fn interrupts() -> usize {
    interrupt::counted()
}

rustler::init!("Elixir.Pkcs11Pool.Native", load = load);
