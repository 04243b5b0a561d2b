//! Functions on modules, tokens and PIN files, without a pool.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustler::{Binary, Encoder, Env, ResourceArc, Term};

use crate::args::{Arg, answer};
use crate::resources::HeldModuleResource;
use crate::{atoms, decode, encode, error, information};

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

/// Loads a module, and does not initialize it: `:ok` or `{:error, error}`.
#[rustler::nif(schedule = "DirtyIo")]
fn load_module<'a>(env: Env<'a>, place: Arg<'a, decode::ModulePlace>) -> Term<'a> {
    answer(env, || {
        let place = place.get()?;
        Ok(match token::Module::load(&place.module, &place.config()) {
            Ok(()) => atoms::ok().encode(env),
            Err(error) => (atoms::error(), error::error(env, &error)).encode(env),
        })
    })
}

/// Initializes a module, which stays so until `release_module`: `{:ok, reference}` or `{:error, error}`.
#[rustler::nif(schedule = "DirtyIo")]
fn hold_module<'a>(env: Env<'a>, place: Arg<'a, decode::ModulePlace>) -> Term<'a> {
    answer(env, || {
        let place = place.get()?;
        Ok(match token::HeldModule::acquire(&place.module, &place.config()) {
            Ok(held) => (atoms::ok(), ResourceArc::new(HeldModuleResource(held))).encode(env),
            Err(error) => (atoms::error(), error::error(env, &error)).encode(env),
        })
    })
}

/// Ends the use of a module; returns when it has been finalized, if nobody else uses it.
#[rustler::nif(schedule = "DirtyIo")]
fn release_module<'a>(env: Env<'a>, held: Arg<'a, ResourceArc<HeldModuleResource>>) -> Term<'a> {
    answer(env, || {
        held.get()?.0.release();
        Ok(atoms::ok())
    })
}
