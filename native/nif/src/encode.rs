//! Terms out: answers, errors, notices, status.

use rustler::types::map::map_new;
use rustler::{Atom, Binary, Encoder, Env, NewBinary, Term};
use token::p11::{AttributeRead, MechanismInfo};
use token::{
    Ailment, Answer, Cost, Error, Executed, Failure, Health, Notice, Object, Outcome, Pin, PinFileError, Readers, Retry, Status,
    Unavailable,
};

use crate::{atoms, information};

/// `{:ok, answer}`, `:ok`, or `{:error, error}`.
pub(crate) fn outcome<'a>(env: Env<'a>, outcome: &Outcome) -> Term<'a> {
    match outcome {
        Ok(Answer::Done) => atoms::ok().encode(env),
        Ok(answer) => (atoms::ok(), self::answer(env, answer)).encode(env),
        Err(failure) => (atoms::error(), self::failure(env, failure)).encode(env),
    }
}

fn answer<'a>(env: Env<'a>, answer: &Answer) -> Term<'a> {
    match answer {
        Answer::Done => atoms::ok().encode(env),
        Answer::Bytes(bytes) => binary(env, bytes).encode(env),
        Answer::Sealed { iv, bytes } => (binary(env, iv), binary(env, bytes)).encode(env),
        Answer::Many(outcomes) => outcomes.iter().map(|one| outcome(env, one)).collect::<Vec<_>>().encode(env),
        Answer::Object(key) => object(env, key),
        Answer::KeyPair(pair) => (object(env, &pair.0), object(env, &pair.1)).encode(env),
        Answer::Objects(objects) => objects.iter().map(|info| object(env, info)).collect::<Vec<_>>().encode(env),
        Answer::Attributes(attributes) => {
            attributes.iter().map(|(code, read)| (*code, attribute(env, read))).collect::<Vec<_>>().encode(env)
        }
        Answer::TokenInfo(info) => information::token(env, info),
        Answer::Mechanisms(list) => {
            list.iter().map(|MechanismInfo { code, min, max, flags }| (*code, *min, *max, *flags)).collect::<Vec<_>>().encode(env)
        }
    }
}

/// `{handle, epoch, token, class, key_type, id, label}`, with `:unavailable` for an id or a label that the token refuses to read;
/// `{object, unique_id}` of one that has it.
fn object<'a>(env: Env<'a>, Object { info, epoch, token }: &Object) -> Term<'a> {
    let text =
        |bytes: Option<&[u8]>| bytes.map_or_else(|| atoms::unavailable().encode(env), |bytes| binary(env, bytes).encode(env));
    let (id, label) = (text(info.readable_id()), text(info.readable_label().as_deref().map(str::as_bytes)));
    let object = (info.handle, *epoch, binary(env, token), info.class, info.key_type, id, label).encode(env);
    match &info.unique_id {
        Some(unique_id) => (object, binary(env, unique_id)).encode(env),
        None => object,
    }
}

fn attribute<'a>(env: Env<'a>, read: &AttributeRead) -> Term<'a> {
    match read {
        AttributeRead::Value(bytes) => binary(env, bytes).encode(env),
        AttributeRead::Sensitive => atoms::sensitive().encode(env),
        AttributeRead::Unknown => atoms::unavailable().encode(env),
    }
}

fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Binary<'a> {
    let mut binary = NewBinary::new(env, bytes.len());
    binary.as_mut_slice().copy_from_slice(bytes);
    binary.into()
}

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
    let pairs: Vec<(Atom, Term<'a>)> = match error {
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
        Error::AmbiguousKey { candidates } => {
            let candidate = |(id, label): &(Vec<u8>, Vec<u8>)| {
                (binary(env, id), binary(env, String::from_utf8_lossy(label).as_bytes())).encode(env)
            };
            vec![(atoms::candidates(), candidates.iter().map(candidate).collect::<Vec<_>>().encode(env))]
        }
        Error::ModuleLoadFailed { path, cause } => {
            vec![(atoms::path(), path.encode(env)), (atoms::cause(), cause.encode(env))]
        }
        Error::ModuleDigestMismatch { path, expected, actual } => vec![
            (atoms::path(), path.encode(env)),
            (atoms::expected(), expected.encode(env)),
            (atoms::actual(), actual.encode(env)),
        ],
        Error::ModuleConflict { path, option } => {
            vec![(atoms::path(), path.encode(env)), (atoms::option(), name(env, option))]
        }
        Error::SignatureLength { expected, given } => {
            vec![(atoms::expected_bytes(), expected.encode(env)), (atoms::given_bytes(), given.encode(env))]
        }
        Error::SessionsHung { hung, size } => vec![(atoms::hung(), hung.encode(env)), (atoms::size(), size.encode(env))],
        Error::KeyMisfit { class, key_type } => {
            let class = class.map(|class| (atoms::class(), class.encode(env)));
            class.into_iter().chain(key_type.map(|key_type| (atoms::key_type(), key_type.encode(env)))).collect()
        }
        Error::DigestTooLong { size, longest } => {
            vec![(atoms::size(), size.encode(env)), (atoms::longest(), longest.encode(env))]
        }
        Error::IvReplaced { iv } => vec![(atoms::iv(), binary(env, iv).encode(env))],
        Error::ModuleBusy { path } | Error::ModuleAdopted { path } => vec![(atoms::path(), path.encode(env))],
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
    };
    map(env, pairs)
}

/// `{:ok, bytes, readers}`, or `{:error, why}` with a POSIX reason for what the system says.
pub(crate) fn pin_file<'a>(env: Env<'a>, read: Result<(Pin, Readers), PinFileError>) -> Term<'a> {
    let why = match read {
        Ok((pin, readers)) => {
            let readers = match readers {
                Readers::Owner => "owner",
                Readers::ReadOnlyMount => "read_only_mount",
                Readers::MountOfRoot => "mount_of_root",
                Readers::Any => "any",
            };
            return (atoms::ok(), binary(env, &pin), name(env, readers)).encode(env);
        }
        Err(PinFileError::NotRegular) => "not_regular",
        Err(PinFileError::TooLarge) => "too_large",
        Err(PinFileError::Readable) => "readable",
        Err(PinFileError::Writable) => "writable",
        Err(PinFileError::Io(error)) => posix(error.raw_os_error().unwrap_or(0)),
    };
    (atoms::error(), name(env, why)).encode(env)
}

/// The reason's name in the VM's `:file`.
fn posix(code: i32) -> &'static str {
    match code {
        libc::ENOENT => "enoent",
        libc::EACCES => "eacces",
        libc::EPERM => "eperm",
        libc::ENOTDIR => "enotdir",
        libc::ELOOP => "eloop",
        libc::ENAMETOOLONG => "enametoolong",
        libc::EIO => "eio",
        libc::EMFILE => "emfile",
        libc::ENFILE => "enfile",
        libc::ENOMEM => "enomem",
        libc::ESTALE => "estale",
        libc::ENXIO => "enxio",
        libc::ENODEV => "enodev",
        libc::EINVAL => "einval",
        _ => "unknown",
    }
}

/// What a pool server is told.
pub(crate) fn notice<'a>(env: Env<'a>, notice: Notice) -> Term<'a> {
    match notice {
        Notice::RunnersWanted => atoms::runners_wanted().encode(env),
        Notice::PinWanted { attempt } => (atoms::pin_wanted(), attempt).encode(env),
        Notice::SessionOpened { session, nanos } => (atoms::session_opened(), session, nanos).encode(env),
        Notice::SessionRefused { reason, nanos } => (atoms::session_refused(), name(env, reason), nanos).encode(env),
        Notice::SessionClosed { session, reason } => (atoms::session_closed(), session, name(env, reason)).encode(env),
        Notice::SessionHung { session, operation, ms, cost, threads, hung } => {
            let executor = if threads { atoms::threads() } else { atoms::dirty_io() };
            (atoms::session_hung(), session, name(env, operation), ms, self::cost(cost), executor, hung).encode(env)
        }
        Notice::HungReturned { session, operation, ms } => {
            (atoms::hung_returned(), session, name(env, operation), ms).encode(env)
        }
        Notice::LoginEnded { result, nanos } => (atoms::login_ended(), name(env, result), nanos).encode(env),
        Notice::LoggedOut { reason } => (atoms::logged_out(), name(env, reason)).encode(env),
        Notice::Retried(Retry { class, call }) => {
            (atoms::retried(), name(env, class.name()), name(env, call.name()), call.function).encode(env)
        }
        Notice::Down { error } => (atoms::down(), self::error(env, &error)).encode(env),
        Notice::Up { was_there } => (atoms::up(), was_there).encode(env),
        Notice::Reinitialized { cause } => (atoms::reinitialized(), name(env, cause)).encode(env),
        Notice::Drained => atoms::drained().encode(env),
    }
}

fn cost(cost: Cost) -> Atom {
    match cost {
        Cost::Replaced => atoms::replaced(),
        Cost::Session => atoms::session(),
        Cost::Scheduler => atoms::scheduler(),
        Cost::Login => atoms::login(),
    }
}

fn health(health: Health) -> Atom {
    match health {
        Health::Ready => atoms::ready(),
        Health::Degraded => atoms::degraded(),
        Health::Down => atoms::down(),
    }
}

/// One snapshot.
pub(crate) fn status<'a>(env: Env<'a>, status: &Status) -> Term<'a> {
    let stats = &status.sessions;
    let down = match &status.down {
        Some(error) => self::error(env, error),
        None => atoms::nil().encode(env),
    };
    let (health, reason, since) = match &status.ailment {
        Some(Ailment { health, error, since }) => {
            (self::health(*health), self::error(env, error), token::unix(*since).encode(env))
        }
        None => (atoms::ready(), atoms::nil().encode(env), atoms::nil().encode(env)),
    };
    map(
        env,
        vec![
            (atoms::size(), stats.size.encode(env)),
            (atoms::ceiling(), stats.ceiling.encode(env)),
            (atoms::idle(), stats.idle.encode(env)),
            (atoms::running(), stats.running.encode(env)),
            (atoms::opening(), stats.opening.encode(env)),
            (atoms::closing(), stats.closing.encode(env)),
            (atoms::waiting(), stats.waiting.encode(env)),
            (atoms::draining(), stats.draining.encode(env)),
            (atoms::leased(), status.sessions.leased.encode(env)),
            (atoms::active(), status.active.encode(env)),
            (atoms::hung(), status.hung.encode(env)),
            (atoms::serialized(), status.serialized.encode(env)),
            (atoms::panics(), token::panics().encode(env)),
            (atoms::runners(), status.runners.encode(env)),
            (atoms::epoch(), status.epoch.encode(env)),
            (atoms::login(), name(env, status.login)),
            (atoms::down(), down),
            (atoms::health(), health.encode(env)),
            (atoms::health_reason(), reason),
            (atoms::health_since(), since),
        ],
    )
}

pub(crate) fn map<'a>(env: Env<'a>, pairs: Vec<(Atom, Term<'a>)>) -> Term<'a> {
    // Only a map's own `put` can fail, on what is no map.
    pairs.into_iter().fold(map_new(env), |map, (key, value)| map.map_put(key, value).unwrap_or(map))
}

/// The atom of a name of ours, never of input: the names are `&'static str`.
fn name<'a>(env: Env<'a>, name: &'static str) -> Term<'a> {
    Atom::from_str(env, name).map_or_else(|_| atoms::unknown().encode(env), |atom| atom.encode(env))
}
