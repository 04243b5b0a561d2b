//! Functions for callers: operations, and what they wait for.

use std::sync::Arc;

use rustler::{Encoder, Env, ResourceArc, Term};
use session_pool::{Abandoned, State};
use token::{Direct, Error, now};

use crate::args::{Arg, Timeout, answer};
use crate::beam::{Header, Scheduler};
use crate::caller::Caller;
use crate::resources::{PoolResource, TicketResource};
use crate::{args, atoms, decode, encode, error};

/// Takes a call; the answer comes as `{tag, result}`. A ticket, or `{:error, error}`.
#[rustler::nif]
fn submit<'a>(env: Env<'a>, pool: args::Pool<'a>, tag: Term<'a>, request: Term<'a>, queue_timeout: Timeout<'a>) -> Term<'a> {
    answer(env, || {
        let (pool, request, queue_timeout) = (pool.get()?, decode::request(request)?, queue_timeout.get()?);
        let header = Header::new(Caller::new(env.pid(), tag), queue_timeout);
        let submitted = pool.pool.submit(header.clone(), request, &mut Scheduler(env));
        Ok(encode_submitted(env, &pool, header, submitted))
    })
}

/// A ticket, or `{:error, error}`.
pub(super) fn encode_submitted<'a>(
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

/// A key and a mechanism, in the form that they have in a request, for many requests of the form `{:apply, verb, prepared, input}`.
#[rustler::nif]
fn prepare<'a>(env: Env<'a>, key: Term<'a>, mechanism: Term<'a>) -> Term<'a> {
    answer(env, || Ok(ResourceArc::new(decode::prepared(key, mechanism)?)))
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
        let header = Header::new(Caller::new(env.pid(), tag), queue_timeout);
        Ok(match pool.pool.run_here(header.clone(), request, &mut Scheduler(env)) {
            Ok(Direct::Done(outcome)) => (atoms::done(), encode::outcome(env, &outcome), timing_of(&header)).encode(env),
            Ok(Direct::Later(ticket)) => encode_submitted(env, &pool, header, Ok(ticket)),
            Err(error) => encode_submitted(env, &pool, header, Err(error)),
        })
    })
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

/// `{queue_time, session}`, nanoseconds and the number of its session (0: it needs none), once an operation has started; else `nil`.
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
        let header = Header::new(Caller::new(env.pid(), tag), queue_timeout);
        pool.pool.login(header.clone(), decode::optional_pin(pin)?, force);
        Ok(ResourceArc::new(TicketResource { pool: pool.pool.clone(), header, ticket: None }))
    })
}

/// Logs out. A ticket; the answer comes as `{tag, result}`.
#[rustler::nif]
fn logout<'a>(env: Env<'a>, pool: args::Pool<'a>, tag: Term<'a>, force: Arg<'a, bool>, queue_timeout: Timeout<'a>) -> Term<'a> {
    answer(env, || {
        let (pool, force, queue_timeout) = (pool.get()?, force.get()?, queue_timeout.get()?);
        let header = Header::new(Caller::new(env.pid(), tag), queue_timeout);
        pool.pool.logout(header.clone(), force);
        Ok(ResourceArc::new(TicketResource { pool: pool.pool.clone(), header, ticket: None }))
    })
}

/// Finalizes and initializes the pool's module again. A ticket; the answer comes as `{tag, result}`.
#[rustler::nif]
fn reload<'a>(env: Env<'a>, pool: args::Pool<'a>, tag: Term<'a>, queue_timeout: Timeout<'a>) -> Term<'a> {
    answer(env, || {
        let (pool, queue_timeout) = (pool.get()?, queue_timeout.get()?);
        let header = Header::new(Caller::new(env.pid(), tag), queue_timeout);
        pool.pool.reload(header.clone());
        Ok(ResourceArc::new(TicketResource { pool: pool.pool.clone(), header, ticket: None }))
    })
}
