//! Terms out: what modules, slots and tokens say of themselves. Flags are numbers, for which the Elixir side has the names.

use rustler::{Encoder, Env, Term};
use token::p11::{Count, Interface, LibraryInfo, SlotInfo, TokenInfo};
use token::{ModuleReport, SlotReport};

use crate::atoms;
use crate::error::{error, map};

/// `%{module: map, slots: [map]}`.
pub(crate) fn module<'a>(env: Env<'a>, report: &ModuleReport) -> Term<'a> {
    let slots: Vec<_> = report.slots.iter().map(|report| slot(env, report)).collect();
    let library = or_unavailable(env, report.library.as_ref().map(|info| library(env, info, report)));
    map(env, vec![(atoms::module(), library), (atoms::slots(), slots.encode(env))])
}

fn library<'a>(env: Env<'a>, info: &LibraryInfo, report: &ModuleReport) -> Term<'a> {
    let interfaces = report.interfaces.as_ref().map(|all| all.iter().map(|one| interface(env, one)).collect::<Vec<_>>());
    map(
        env,
        vec![
            (atoms::manufacturer(), info.manufacturer.encode(env)),
            (atoms::description(), info.description.encode(env)),
            (atoms::version(), info.version.encode(env)),
            (atoms::cryptoki_version(), info.cryptoki_version.encode(env)),
            (atoms::function_list(), report.functions.encode(env)),
            (atoms::interfaces(), or_unavailable(env, interfaces.map(|all| all.encode(env)))),
        ],
    )
}

fn interface<'a>(env: Env<'a>, Interface { name, version, flags }: &Interface) -> Term<'a> {
    let version = or_unavailable(env, version.map(|version| version.encode(env)));
    map(env, vec![(atoms::name(), name.encode(env)), (atoms::version(), version), (atoms::flags(), flags.encode(env))])
}

fn slot<'a>(env: Env<'a>, report: &SlotReport) -> Term<'a> {
    let field = |read: fn(Env<'a>, &SlotInfo) -> Term<'a>| or_unavailable(env, report.slot.as_ref().map(|info| read(env, info)));
    let token = match &report.token {
        Some(Some(info)) => token(env, info),
        Some(None) => atoms::nil().encode(env),
        None => atoms::unavailable().encode(env),
    };
    let failed = report.error.as_ref().map(|failed| error(env, failed));
    map(
        env,
        vec![
            (atoms::slot_id(), report.id.encode(env)),
            (atoms::description(), field(|env, info| info.description.encode(env))),
            (atoms::manufacturer(), field(|env, info| info.manufacturer.encode(env))),
            (atoms::flags(), field(|env, info| info.flags.encode(env))),
            (atoms::hardware_version(), field(|env, info| info.hardware_version.encode(env))),
            (atoms::firmware_version(), field(|env, info| info.firmware_version.encode(env))),
            (atoms::token(), token),
            (atoms::error(), failed.encode(env)),
        ],
    )
}

/// A number, or what there is instead of one.
pub(crate) fn count<'a>(env: Env<'a>, count: Count) -> Term<'a> {
    match count {
        Count::Known(number) => number.encode(env),
        Count::Unavailable => atoms::unavailable().encode(env),
        Count::Infinite => atoms::infinity().encode(env),
    }
}

/// A token. Its time is a text, as it came.
pub(crate) fn token<'a>(env: Env<'a>, info: &TokenInfo) -> Term<'a> {
    let count = |count: Count| self::count(env, count);
    map(
        env,
        vec![
            (atoms::label(), info.label.encode(env)),
            (atoms::manufacturer(), info.manufacturer.encode(env)),
            (atoms::model(), info.model.encode(env)),
            (atoms::serial(), info.serial.encode(env)),
            (atoms::flags(), info.flags.encode(env)),
            (atoms::hardware_version(), info.hardware_version.encode(env)),
            (atoms::firmware_version(), info.firmware_version.encode(env)),
            (atoms::session_count(), count(info.session_count)),
            (atoms::max_session_count(), count(info.max_session_count)),
            (atoms::rw_session_count(), count(info.rw_session_count)),
            (atoms::max_rw_session_count(), count(info.max_rw_session_count)),
            (atoms::min_pin_length(), count(info.min_pin_length)),
            (atoms::max_pin_length(), count(info.max_pin_length)),
            (atoms::total_public_memory(), count(info.public_memory.0)),
            (atoms::free_public_memory(), count(info.public_memory.1)),
            (atoms::total_private_memory(), count(info.private_memory.0)),
            (atoms::free_private_memory(), count(info.private_memory.1)),
            (atoms::utc_time(), info.utc_time.encode(env)),
        ],
    )
}

fn or_unavailable<'a>(env: Env<'a>, term: Option<Term<'a>>) -> Term<'a> {
    term.unwrap_or_else(|| atoms::unavailable().encode(env))
}
