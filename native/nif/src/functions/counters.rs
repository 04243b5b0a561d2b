//! Counters: whose turn it is in a slot, and interrupts that are held back.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustler::{Env, ResourceArc, Term};

use crate::args::{Arg, answer};
use crate::resources::IndexResource;
use crate::{atoms, interrupt};

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
