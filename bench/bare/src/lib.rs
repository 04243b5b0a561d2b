//! What the pool's model can do at best: callers put operations into a queue, runners with a session each take them, and each answer is one
//! message. The C calls are the library's own. None of the pool's rules is here: no deadline, no monitor, no registry, no login, no record, no
//! telemetry; a session that fails is not replaced.
//!
//! The module must be initialized, and the token logged in: a pool on the same token does both.

#![deny(unsafe_op_in_unsafe_fn)]

use std::error::Error;
use std::panic::RefUnwindSafe;
use std::path::Path;
use std::{iter, thread};

use crossbeam_channel::{Receiver, Sender, unbounded};
use cryptoki_sys::{CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKA_CLASS, CKA_LABEL};
use rustler::{Atom, Binary, Encoder, Env, LocalPid, NewBinary, OwnedEnv, Resource, ResourceArc, Term};
use token::p11::crypto::{SIGNATURE_HINT, sign};
use token::p11::objects::find_objects;
use token::p11::session::{close_session, open_session};
use token::p11::{Attribute, CallError, Functions, Mechanism};

use tag::Tag;

#[path = "../../../native/nif/src/tag.rs"]
mod tag;

/// Answers after which a process's runner leaves its NIF for a moment: until then they stay on the process's heap.
const TURN: usize = 256;

struct Job {
    caller: LocalPid,
    tag: Tag,
    data: Vec<u8>,
}

struct Bare {
    functions: Functions,
    /// `None`: nothing is done.
    task: Option<(CK_OBJECT_HANDLE, Mechanism)>,
    /// `None`: the runner that takes it ends.
    queue: (Sender<Option<Job>>, Receiver<Option<Job>>),
    ended: (Sender<()>, Receiver<()>),
}

impl RefUnwindSafe for Bare {}

#[rustler::resource_impl]
impl Resource for Bare {}

impl Bare {
    /// Serves for so many operations; `false`: its end has come.
    fn serve(&self, session: CK_SESSION_HANDLE, turn: usize, mut answer: impl FnMut(&Job, Result<&[u8], CallError>)) -> bool {
        for _ in 0..turn {
            let Ok(Some(job)) = self.queue.1.recv() else {
                let _ = self.ended.0.send(());
                return false;
            };
            match &self.task {
                None => answer(&job, Ok(&[])),
                Some((key, mechanism)) => {
                    let signature = sign(&self.functions, session, *key, mechanism, &job.data, SIGNATURE_HINT);
                    answer(&job, signature.as_deref().map_err(|error| *error));
                }
            }
        }
        true
    }
}

/// `{tag, signature}`, or `{tag, error}` with a text.
fn message<'a>(env: Env<'a>, job: &Job, signature: Result<&[u8], CallError>) -> Term<'a> {
    let signature = signature.map_err(|error| error.to_string());
    let bytes = signature.as_ref().map_or_else(|text| text.as_bytes(), |bytes| *bytes);
    let mut binary = NewBinary::new(env, bytes.len());
    binary.as_mut_slice().copy_from_slice(bytes);
    let status = if signature.is_ok() { atoms::ok() } else { atoms::error() };
    (job.tag.copy(env), (status, Binary::from(binary))).encode(env)
}

mod atoms {
    rustler::atoms! { ok, error }
}

/// `{:ok, bare, sessions}`, or `{:error, text}`. `task`: the class and the label of a key, and a mechanism; `nil`: nothing is done.
#[rustler::nif(schedule = "DirtyIo")]
fn start<'a>(env: Env<'a>, module: &str, slot: u64, task: Option<(u64, &str, u64)>, sessions: usize) -> Term<'a> {
    match open(module, slot, task, sessions) {
        Ok((bare, sessions)) => (atoms::ok(), ResourceArc::new(bare), sessions).encode(env),
        Err(error) => (atoms::error(), error.to_string()).encode(env),
    }
}

fn open(module: &str, slot: u64, task: Option<(u64, &str, u64)>, count: usize) -> Result<(Bare, Vec<u64>), Box<dyn Error>> {
    let functions = Functions::load(Path::new(module))?;
    let sessions = iter::repeat_with(|| open_session(&functions, slot, false)).take(count).collect::<Result<Vec<_>, _>>()?;
    let first = *sessions.first().ok_or("no sessions")?;
    let find = |(class, label, mechanism): (u64, &str, u64)| {
        let template = [Attribute::ulong(CKA_CLASS, class), Attribute::bytes(CKA_LABEL, label)];
        let key = *find_objects(&functions, first, &template, Some(1))?.first().ok_or("no such key")?;
        Ok::<_, Box<dyn Error>>((key, Mechanism::new(mechanism)))
    };
    let task = task.map(find).transpose()?;
    Ok((Bare { functions, task, queue: unbounded(), ended: unbounded() }, sessions))
}

/// The calling process is a runner, until this returns; `true`: it must call it again.
#[rustler::nif(schedule = "DirtyIo")]
fn serve(env: Env<'_>, bare: ResourceArc<Bare>, session: u64) -> bool {
    bare.serve(session, TURN, |job, signature| {
        let _ = env.send(&job.caller, message(env, job, signature));
    })
}

/// Starts a runner on a native thread.
#[rustler::nif]
fn start_thread(bare: ResourceArc<Bare>, session: u64) -> Atom {
    thread::spawn(move || {
        let mut own = OwnedEnv::new();
        bare.serve(session, usize::MAX, |job, signature| {
            let _ = own.send_and_clear(&job.caller, |env| message(env, job, signature));
        })
    });
    atoms::ok()
}

/// Takes an operation; its answer comes as `{tag, {:ok, signature}}`.
#[rustler::nif]
fn submit<'a>(env: Env<'a>, bare: ResourceArc<Bare>, tag: Term<'a>, data: Binary<'a>) -> Atom {
    let job = Job { caller: env.pid(), tag: Tag::new(tag), data: data.to_vec() };
    let _ = bare.queue.0.send(Some(job));
    atoms::ok()
}

/// Ends so many runners, and waits until they have ended.
#[rustler::nif(schedule = "DirtyIo")]
fn rest(bare: ResourceArc<Bare>, runners: usize) -> Atom {
    for _ in 0..runners {
        let _ = bare.queue.0.send(None);
    }
    for _ in 0..runners {
        let _ = bare.ended.1.recv();
    }
    atoms::ok()
}

/// Closes sessions that no runner has.
#[rustler::nif(schedule = "DirtyIo")]
fn close(bare: ResourceArc<Bare>, sessions: Vec<u64>) -> Atom {
    for session in sessions {
        let _ = close_session(&bare.functions, session);
    }
    atoms::ok()
}

rustler::init!("Elixir.Bench.Bare");
