//! What goes into a NIF, and what comes out: whatever is wrong with an argument, and whatever panics, is an answer. No NIF of ours raises: the
//! stack trace of an exception has the NIF's arguments, which may be a PIN or data.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustler::{Decoder, Encoder, Env, NifResult, ResourceArc, Term};
use token::{Error, Executed, Failure};

use crate::resources::{LeaseResource, PoolResource, TicketResource};
use crate::{atoms, error};

const REFUSED: &str = "the native library did not take an argument";
const PANICKED: &str = "the native library panicked";

/// An argument, which is decoded where its refusal is an answer.
pub(crate) struct Arg<'a, T>(Term<'a>, PhantomData<T>);

pub(crate) type Pool<'a> = Arg<'a, ResourceArc<PoolResource>>;
pub(crate) type Lease<'a> = Arg<'a, ResourceArc<LeaseResource>>;
pub(crate) type Ticket<'a> = Arg<'a, ResourceArc<TicketResource>>;
/// Milliseconds; nil for no end.
pub(crate) type Timeout<'a> = Arg<'a, Option<u64>>;

impl<'a, T: 'a> Decoder<'a> for Arg<'a, T> {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        Ok(Self(term, PhantomData))
    }
}

impl<'a, T: Decoder<'a>> Arg<'a, T> {
    pub(crate) fn get(&self) -> NifResult<T> {
        self.0.decode()
    }
}

/// What `run` returns, or `{:error, error}` for an argument that it refuses and for a panic.
pub(crate) fn answer<'a, T: Encoder>(env: Env<'a>, run: impl FnOnce() -> NifResult<T>) -> Term<'a> {
    let encoded = catch_unwind(AssertUnwindSafe(|| run().map(|answer| answer.encode(env))));
    let (cause, executed) = match encoded {
        Ok(Ok(answer)) => return answer,
        Ok(Err(_refused)) => (REFUSED, Executed::No),
        Err(_panic) => (PANICKED, Executed::Unknown),
    };
    let failure = Failure { error: Error::Interrupted { cause }, executed };
    (atoms::error(), error::failure(env, &failure)).encode(env)
}
