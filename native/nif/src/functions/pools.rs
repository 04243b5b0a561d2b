//! Functions on a pool, for its pool server.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustler::{Encoder, Env, ResourceArc, Term};

use crate::args::{Arg, answer};
use crate::beam::{Scheduler, ServerPid, TokenPool};
use crate::resources::{PoolResource, stop};
use crate::{args, atoms, decode, encode, error, executor};

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

/// The PIN for an attempt at a login, `{:ok, pin}`, or a word for why there is none, `{:error, cause}`.
#[rustler::nif]
fn provide_pin<'a>(env: Env<'a>, pool: args::Pool<'a>, attempt: Arg<'a, u64>, pin: Term<'a>) -> Term<'a> {
    answer(env, || {
        pool.get()?.pool.provide_pin(attempt.get()?, decode::pin(pin)?);
        Ok(atoms::ok())
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

/// How many operations wait, or nil while the pool drains or has trouble with its token.
#[rustler::nif]
fn load<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || Ok(pool.get()?.pool.load().encode(env)))
}

/// Sessions and waiters, as errors tell them.
#[rustler::nif]
fn counts<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || {
        let (sessions, hung) = pool.get()?.pool.counts();
        Ok(encode::counts(env, &sessions, hung))
    })
}

/// The identity of the pool's token, as an object of it has it, or nil.
#[rustler::nif]
fn token_identity<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || {
        Ok(match pool.get()?.pool.token_identity() {
            Some(identity) => error::binary(env, &identity).encode(env),
            None => atoms::nil().encode(env),
        })
    })
}

/// One snapshot.
#[rustler::nif]
fn status<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || Ok(encode::status(env, &pool.get()?.pool.status())))
}
