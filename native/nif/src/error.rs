//! Terms out: errors, and what all terms are made of.

use rustler::types::map::map_new;
use rustler::{Atom, Binary, Encoder, Env, NewBinary, Term};
use token::{Error, Executed, Failure, Unavailable};

use crate::atoms;

/// The error of an operation: `{reason, code, function, executed, details}`.
pub(crate) fn failure<'a>(env: Env<'a>, Failure { error, executed }: &Failure) -> Term<'a> {
    let executed = match executed {
        Executed::No => false.encode(env),
        Executed::Yes => true.encode(env),
        Executed::Unknown => atoms::unknown().encode(env),
    };
    (name(env, error.reason()), error.code(), error.function(), executed, details(env, error)).encode(env)
}

/// The error of something that is no operation.
pub(crate) fn error<'a>(env: Env<'a>, error: &Error) -> Term<'a> {
    failure(env, &Failure::not_executed(error.clone()))
}

fn details<'a>(env: Env<'a>, error: &Error) -> Term<'a> {
    map(env, pairs(env, error))
}

fn pairs<'a>(env: Env<'a>, error: &Error) -> Vec<(Atom, Term<'a>)> {
    match error {
        Error::OfKey { argument, error } => {
            let mut pairs = pairs(env, error);
            pairs.push((atoms::argument(), name(env, argument)));
            pairs
        }
        Error::Poisoned { .. } | Error::Locked => vec![(atoms::poisoned(), true.encode(env))],
        Error::PinSourceFailed { cause, word } => {
            let word = word.as_ref().map(|word| (atoms::source_reason(), word.encode(env)));
            std::iter::once((atoms::cause(), cause.encode(env))).chain(word).collect()
        }
        Error::LoginShared { pools, leases } => {
            vec![(atoms::pools(), pools.encode(env)), (atoms::leases(), leases.encode(env))]
        }
        Error::Interrupted { cause } => vec![(atoms::cause(), cause.encode(env))],
        Error::TooManyObjects { limit } => vec![(atoms::limit(), limit.encode(env))],
        Error::NoKeyOfPublicKey { public_keys, certificates, unproved } => vec![
            (atoms::public_keys(), public_keys.encode(env)),
            (atoms::certificates(), certificates.encode(env)),
            (atoms::unproved(), unproved.encode(env)),
        ],
        Error::AmbiguousKey { candidates, newest } => {
            let candidate = |(id, label): &(Vec<u8>, Vec<u8>)| {
                (binary(env, id), binary(env, String::from_utf8_lossy(label).as_bytes())).encode(env)
            };
            let newest = newest.map(|why| (atoms::newest(), name(env, why)));
            let candidates = candidates.iter().map(candidate).collect::<Vec<_>>().encode(env);
            std::iter::once((atoms::candidates(), candidates)).chain(newest).collect()
        }
        Error::ModuleLoadFailed { path, cause } => {
            vec![(atoms::path(), path.encode(env)), (atoms::cause(), cause.encode(env))]
        }
        Error::ModuleDigestMismatch { path, expected, actual } => vec![
            (atoms::path(), path.encode(env)),
            (atoms::expected(), expected.encode(env)),
            (atoms::actual(), actual.encode(env)),
        ],
        Error::UserNameUnsupported { path } => {
            vec![(atoms::path(), path.encode(env)), (atoms::option(), name(env, "username"))]
        }
        Error::ModuleConflict { path, option } => {
            vec![(atoms::path(), path.encode(env)), (atoms::option(), name(env, option))]
        }
        Error::SignatureLength { expected, given } | Error::CiphertextLength { expected, given } => {
            vec![(atoms::expected_bytes(), expected.encode(env)), (atoms::given_bytes(), given.encode(env))]
        }
        Error::SessionsHung { hung, size } => vec![(atoms::hung(), hung.encode(env)), (atoms::size(), size.encode(env))],
        Error::CurveMisfit => vec![(atoms::cause(), name(env, "other_curve"))],
        Error::KeyMisfit { class, key_type } => {
            let class = class.map(|class| (atoms::class(), class.encode(env)));
            class.into_iter().chain(key_type.map(|key_type| (atoms::key_type(), key_type.encode(env)))).collect()
        }
        Error::DigestTooLong { size, longest } => {
            vec![(atoms::size(), size.encode(env)), (atoms::longest(), longest.encode(env))]
        }
        Error::IvReplaced { iv, .. } => vec![(atoms::iv(), binary(env, iv).encode(env))],
        Error::ModuleBusy { path } | Error::ModuleAdopted { path } | Error::ModuleInitializeFailed { path, .. } => {
            vec![(atoms::path(), path.encode(env))]
        }
        Error::ModuleStuck { path, inside } => vec![(atoms::path(), path.encode(env)), (atoms::inside(), inside.encode(env))],
        Error::TokenUnavailable(Unavailable { cause, away, retry_after, .. }) => {
            let cause = cause.as_ref().map(|cause| (atoms::cause(), cause.encode(env)));
            let times = [(atoms::away_ms(), away.encode(env)), (atoms::retry_after_ms(), retry_after.encode(env))];
            times.into_iter().chain(cause).collect()
        }
        Error::SlotNotFound { wanted, available } => {
            vec![(atoms::selector(), wanted.encode(env)), (atoms::available(), available.encode(env))]
        }
        Error::AmbiguousSlot { wanted, matching } => {
            vec![(atoms::selector(), wanted.encode(env)), (atoms::available(), matching.encode(env))]
        }
        _ => vec![],
    }
}

pub(crate) fn map<'a>(env: Env<'a>, pairs: Vec<(Atom, Term<'a>)>) -> Term<'a> {
    // Only a map's own `put` can fail, on what is no map.
    pairs.into_iter().fold(map_new(env), |map, (key, value)| map.map_put(key, value).unwrap_or(map))
}

/// The atom of a name of ours, never of input: the names are `&'static str`.
pub(crate) fn name<'a>(env: Env<'a>, name: &'static str) -> Term<'a> {
    Atom::from_str(env, name).map_or_else(|_| atoms::unknown().encode(env), |atom| atom.encode(env))
}

pub(crate) fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Binary<'a> {
    let mut binary = NewBinary::new(env, bytes.len());
    binary.as_mut_slice().copy_from_slice(bytes);
    binary.into()
}
