//! Functions on leases.

use std::sync::Arc;
use std::time::Duration;

use rustler::{Encoder, Env, LocalPid, ResourceArc, Term};
use token::host::Posting;
use token::{Error, LeaseEnd};

use super::operations::encode_submitted;
use crate::args::{Arg, Timeout, answer};
use crate::beam::{Header, Scheduler};
use crate::caller::Caller;
use crate::resources::{LeaseResource, TicketResource};
use crate::sender::Job;
use crate::{args, atoms, decode, error, sender};

/// Takes a call for a session of the caller's own, on which this request runs first: `{ticket, lease}`, or `{:error, error}`. The answer comes when the
/// lease has one.
#[rustler::nif]
fn submit_lease<'a>(
    env: Env<'a>,
    pool: args::Pool<'a>,
    tag: Term<'a>,
    request: Term<'a>,
    queue_timeout: Timeout<'a>,
) -> Term<'a> {
    answer(env, || {
        let (pool, request, queue_timeout) = (pool.get()?, decode::request(request)?, queue_timeout.get()?);
        let holder = env.pid();
        let header = Header::new(Caller::new(holder, tag), queue_timeout);
        Ok(match pool.pool.submit_lease(header.clone(), request, &mut Scheduler(env)) {
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
        let header = Header::new(Caller::new(caller, tag), None);
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
        let (lease, ms) = (lease.get()?, ms.get()?);
        let (pool, expiring, holder) = (Arc::downgrade(&lease.pool), Arc::downgrade(&lease.lease), lease.holder);
        let (server, place) = (server.get()?, place.get()?);
        let expire = move || {
            let (Some(pool), Some(lease)) = (pool.upgrade(), expiring.upgrade()) else { return };
            let ended = pool.end_lease(&lease, LeaseEnd::Close("lease_expired"), &mut Posting);
            if ended {
                sender::send(&server, |env| {
                    (atoms::pkcs11_pool(), (atoms::lease_expired(), holder, place.as_str(), ms)).encode(env)
                });
            }
        };
        if let Some(timer) = sender::schedule(Duration::from_millis(ms), Job::Run(Box::new(expire))) {
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
