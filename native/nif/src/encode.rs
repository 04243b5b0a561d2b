//! Terms out: answers, errors, notices, status.

use rustler::types::map::map_new;
use rustler::{Atom, Encoder, Env, Term};
use session_pool::Stats;
use token::p11::{AttributeRead, MechanismInfo};
use token::{Ailment, Answer, Cost, Health, Latency, Notice, Object, Outcome, Pin, PinFileError, Readers, Retry, Status};

use crate::error::{binary, error, failure, map, name};
use crate::{atoms, information};

/// `{:ok, answer}`, `:ok`, or `{:error, error}`.
pub(crate) fn outcome<'a>(env: Env<'a>, outcome: &Outcome) -> Term<'a> {
    match outcome {
        Ok(Answer::Done) => atoms::ok().encode(env),
        Ok(answer) => (atoms::ok(), self::answer(env, answer)).encode(env),
        Err(failed) => (atoms::error(), failure(env, failed)).encode(env),
    }
}

fn answer<'a>(env: Env<'a>, answer: &Answer) -> Term<'a> {
    match answer {
        Answer::Done => atoms::ok().encode(env),
        Answer::Bytes(bytes) => binary(env, bytes).encode(env),
        Answer::Sealed { iv, bytes } => (binary(env, iv), binary(env, bytes)).encode(env),
        Answer::Encapsulated { ciphertext, key } => (binary(env, ciphertext), object(env, key)).encode(env),
        Answer::Many(outcomes) => outcomes.iter().map(|one| outcome(env, one)).collect::<Vec<_>>().encode(env),
        Answer::Object(key) => object(env, key),
        Answer::KeyPair(pair) => (object(env, &pair.0), object(env, &pair.1)).encode(env),
        Answer::Objects(objects) => objects.iter().map(|info| object(env, info)).collect::<Vec<_>>().encode(env),
        Answer::Attributes(attributes) => {
            attributes.iter().map(|(code, read)| (*code, attribute(env, read))).collect::<Vec<_>>().encode(env)
        }
        Answer::Size(size) => information::count(env, *size),
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
        AttributeRead::Template(attributes) => {
            attributes.iter().map(|(code, bytes)| (*code, binary(env, bytes))).collect::<Vec<_>>().encode(env)
        }
        AttributeRead::Sensitive => atoms::sensitive().encode(env),
        AttributeRead::Unknown => atoms::unavailable().encode(env),
    }
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

/// How many operations have ended in which way.
fn results<'a>(env: Env<'a>, results: &[(&'static str, u64)]) -> Term<'a> {
    results.iter().fold(map_new(env), |map, (result, count)| map.map_put(name(env, result), count).unwrap_or(map))
}

/// Times in microseconds.
fn latency<'a>(env: Env<'a>, Latency { count, p50, p99 }: Latency) -> Term<'a> {
    let micros = |nanos: Option<u64>| nanos.map(|nanos| nanos as f64 / 1_000.0).encode(env);
    map(env, vec![(atoms::count(), count.encode(env)), (atoms::p50(), micros(p50)), (atoms::p99(), micros(p99))])
}

/// What errors say of a pool.
pub(crate) fn counts<'a>(env: Env<'a>, sessions: &Stats, hung: usize) -> Term<'a> {
    map(
        env,
        vec![
            (atoms::size(), sessions.size.encode(env)),
            (atoms::idle(), sessions.idle.encode(env)),
            (atoms::running(), sessions.running.encode(env)),
            (atoms::waiting(), sessions.waiting.encode(env)),
            (atoms::hung(), hung.encode(env)),
        ],
    )
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
            (atoms::results(), results(env, &status.results)),
            (atoms::latency(), latency(env, status.latency)),
        ],
    )
}
