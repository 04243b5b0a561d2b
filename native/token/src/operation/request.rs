//! What a caller asks for, what comes back, and the operation that carries it through the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_OBJECT_HANDLE};
use session_pool::{Millis, Progress};

use crate::error::{Error, Executed, Failure};
use crate::operation::batch::Batch;
use crate::operation::host::{Delivery, Host, Outcome, Outlet, Reply};
use crate::operation::task::Task;
use crate::p11::{AttributeRead, CallError, Class, Mechanism, MechanismInfo, ObjectInfo, Template, TokenInfo};
use crate::pool::control::Control;
use crate::pool::keepalive::Keepalive;
use crate::pool::lease::Lease;
use crate::support::clock::nanos;
use crate::support::data::Data;
use crate::support::panics::survive;
use crate::support::pin::Pin;
use crate::support::wiped::Wiped;
use crate::token::Selector;

/// The key or object of a call.
#[derive(Debug)]
pub enum KeyRef {
    /// Whatever the template finds on the token, which must be the one that a URI names, if it names one.
    Find(Template, Option<Selector>),
    /// An object that an earlier call returned.
    Object {
        /// Its handle, good in its epoch only.
        handle: CK_OBJECT_HANDLE,
        /// The epoch.
        epoch: u64,
        /// The identity of its token.
        token: Vec<u8>,
        /// What finds it again in another epoch.
        find: Template,
    },
}

impl KeyRef {
    /// What finds it.
    pub(crate) fn template(&self) -> &Template {
        let (Self::Find(template, _) | Self::Object { find: template, .. }) = self;
        template
    }
}

/// What a caller asks for.
#[derive(Debug)]
pub enum Request {
    /// Nothing but an open, logged-in session.
    Ping,
    /// `C_GenerateRandom` of a few bytes, whether anybody is logged in or not: a round trip to the device, for who wants to know if it answers.
    Probe,
    /// What a key does with data.
    Apply {
        /// The key.
        key: KeyRef,
        /// The mechanism.
        mechanism: Mechanism,
        /// What it does.
        task: Task,
    },
    /// What a key does with much data.
    Batch(Batch),
    /// `C_DigestInit`, `C_Digest`.
    Digest {
        /// The mechanism.
        mechanism: Mechanism,
        /// What to digest.
        data: Data,
    },
    /// `C_GenerateRandom`.
    GenerateRandom {
        /// Bytes.
        length: usize,
    },
    /// `C_SeedRandom`.
    SeedRandom {
        /// What is mixed in.
        seed: Data,
    },
    /// `C_GenerateKey`.
    GenerateKey {
        /// The mechanism.
        mechanism: Mechanism,
        /// The key's template.
        template: Template,
    },
    /// `C_GenerateKeyPair`.
    GenerateKeyPair {
        /// The mechanism.
        mechanism: Mechanism,
        /// The public key's template.
        public: Template,
        /// The private key's template.
        private: Template,
    },
    /// `C_FindObjectsInit`, `C_FindObjects`, `C_FindObjectsFinal`.
    FindObjects {
        /// What they must have.
        template: Template,
        /// How many are taken.
        limit: usize,
        /// Whether those beyond are left out; otherwise they are an error.
        cut: bool,
    },
    /// `C_GetAttributeValue`.
    GetAttributes {
        /// The object.
        object: KeyRef,
        /// Which.
        attributes: Vec<CK_ATTRIBUTE_TYPE>,
    },
    /// `C_DestroyObject`.
    DestroyObject {
        /// The object.
        object: KeyRef,
    },
    /// `C_GetMechanismList`, `C_GetMechanismInfo`.
    Mechanisms,
    /// `C_GetTokenInfo`.
    TokenInfo,
}

impl Request {
    /// Whether its success is the device's. That of a slice is not: each of its tasks speaks for itself.
    pub(crate) fn reaches_device(&self) -> bool {
        !matches!(self, Self::Ping | Self::Mechanisms | Self::TokenInfo | Self::Batch(_))
    }

    /// What the caller calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Probe => "probe",
            Self::Apply { task, .. } => task.names().0,
            Self::Batch(batch) => batch.name(),
            Self::Digest { .. } => "digest",
            Self::GenerateRandom { .. } => "generate_random",
            Self::SeedRandom { .. } => "seed_random",
            Self::GenerateKey { .. } => "generate_key",
            Self::GenerateKeyPair { .. } => "generate_key_pair",
            Self::FindObjects { .. } => "find_objects",
            Self::GetAttributes { .. } => "get_attributes",
            Self::DestroyObject { .. } => "destroy_object",
            Self::Mechanisms => "mechanisms",
            Self::TokenInfo => "token_info",
        }
    }

    /// The key or object that it names.
    pub(crate) fn key_mut(&mut self) -> Option<&mut KeyRef> {
        match self {
            Self::Apply { key, .. } | Self::Batch(Batch { key, .. }) => Some(key),
            Self::GetAttributes { object, .. } | Self::DestroyObject { object } => Some(object),
            _ => None,
        }
    }

    /// How many tasks of its list have an answer.
    pub(crate) fn answered(&self) -> usize {
        if let Self::Batch(batch) = self { batch.answered() } else { 0 }
    }

    /// Takes back the answers that came after so many; how many there were.
    pub(crate) fn withdraw_answers(&mut self, after: usize) -> usize {
        if let Self::Batch(batch) = self { batch.withdraw_answers(after) } else { 0 }
    }

    /// Answers so many tasks of its list with a failure. `false`: it is none, or has no such task.
    pub(crate) fn refuse_answers(&mut self, count: usize, failure: &Failure) -> bool {
        if let Self::Batch(batch) = self { batch.refuse_answers(count, failure) } else { false }
    }

    /// Whether it may be run again when nobody knows if it ran: it changes nothing on the token.
    pub fn is_idempotent(&self) -> bool {
        match self {
            Self::Apply { mechanism, task, .. } => task.is_idempotent(mechanism),
            Self::Batch(batch) => batch.is_idempotent(),
            Self::Ping
            | Self::Probe
            | Self::Digest { .. }
            | Self::GenerateRandom { .. }
            // Mixed in twice, it does no harm.
            | Self::SeedRandom { .. }
            | Self::FindObjects { .. }
            | Self::GetAttributes { .. }
            | Self::Mechanisms
            | Self::TokenInfo => true,
            Self::GenerateKey { .. } | Self::GenerateKeyPair { .. } | Self::DestroyObject { .. } => false,
        }
    }

    /// What the caller gets of an outcome: in a batch, each task has its own. Once.
    pub(crate) fn settle(&mut self, outcome: Outcome) -> Outcome {
        match self {
            Self::Batch(batch) => Ok(batch.settle(outcome)),
            _ => outcome,
        }
    }
}

/// An object as a caller gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What the token says of it.
    pub info: ObjectInfo,
    /// The epoch in which its handle is good.
    pub epoch: u64,
    /// The identity of its token.
    pub token: Arc<[u8]>,
}

/// What comes back.
#[derive(Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// A signature, a ciphertext, a plaintext, a digest, random bytes.
    Bytes(Wiped),
    /// A ciphertext, and the IV that the token has made for it.
    Sealed {
        /// The IV.
        iv: Vec<u8>,
        /// The ciphertext.
        bytes: Wiped,
    },
    /// Those of a batch's first tasks, in their order; at least one.
    Many(Vec<Outcome>),
    /// A key.
    Object(Object),
    /// A public and a private key.
    KeyPair(Object, Object),
    /// Objects.
    Objects(Vec<Object>),
    /// Attributes in the order asked for.
    Attributes(Vec<(CK_ATTRIBUTE_TYPE, AttributeRead)>),
    /// The token's mechanisms.
    Mechanisms(Vec<MechanismInfo>),
    /// The token itself.
    TokenInfo(Box<TokenInfo>),
}

impl Answer {
    /// About how many bytes it takes on a heap.
    pub fn weight(&self) -> usize {
        match self {
            Self::Done => 64,
            Self::Bytes(bytes) => 64 + bytes.len(),
            Self::Sealed { iv, bytes } => 64 + iv.len() + bytes.len(),
            Self::Many(outcomes) => outcomes.iter().map(weight).sum(),
            Self::Object(_) => 512,
            Self::KeyPair(..) => 1024,
            Self::Objects(objects) => 512 * objects.len(),
            Self::Attributes(list) => list.iter().map(|(_, read)| 64 + read.bytes().map_or(0, <[u8]>::len)).sum(),
            Self::Mechanisms(list) => 64 * list.len(),
            Self::TokenInfo(_) => 1024,
        }
    }
}

/// About how many bytes an outcome takes on a heap.
pub(crate) fn weight(outcome: &Outcome) -> usize {
    outcome.as_ref().map_or(256, Answer::weight)
}

/// What caller, queue and runner share of an operation.
pub struct Header<H: Host> {
    /// Where it is.
    pub progress: Progress,
    /// Who asked.
    pub reply: H::Reply,
    /// When.
    pub submitted: Millis,
    /// When it may no longer start.
    pub start_by: Option<Millis>,
    /// The same in nanoseconds.
    pub(crate) asked_at: u64,
    /// Nanoseconds from when it was asked for to its first start; 0: it has not started.
    queued_for: AtomicU64,
    session: AtomicU64,
}

/// How an operation went, for telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Nanoseconds until it started.
    pub queue_time: u64,
    /// The number of the session that it ran on last.
    pub session: u64,
}

impl<H: Host> Header<H> {
    /// The header of a new operation.
    pub fn new(reply: H::Reply, submitted: Millis, queue_timeout: Option<Millis>) -> Arc<Self> {
        let start_by = queue_timeout.map(|timeout| submitted.saturating_add(timeout));
        Arc::new(Self {
            progress: Progress::new(),
            reply,
            submitted,
            start_by,
            asked_at: nanos(),
            queued_for: AtomicU64::new(0),
            session: AtomicU64::new(0),
        })
    }

    /// It is about to run on this session.
    pub(crate) fn runs_on(&self, session: u64) {
        if self.session.swap(session, Ordering::Relaxed) == 0 {
            self.queued_for.store(nanos().saturating_sub(self.asked_at).max(1), Ordering::Relaxed);
        }
    }

    /// How it went; `None`: it has not started.
    pub fn timing(&self) -> Option<Timing> {
        let session = self.session.load(Ordering::Relaxed);
        (session != 0).then(|| Timing { queue_time: self.queued_for.load(Ordering::Relaxed), session })
    }

    /// Whether nobody waits for its answer.
    pub fn is_over(&self) -> bool {
        !matches!(self.progress.state(), session_pool::State::Queued | session_pool::State::Running { .. })
    }

    /// Answers by the sender, if nobody has answered or abandoned it.
    pub fn post(&self, outcome: Outcome) {
        if self.progress.answer() {
            self.reply.post(outcome);
        }
    }
}

/// A call on its way through the pool. It is answered exactly once, by whatever road it ends.
pub struct Operation<H: Host> {
    /// What is shared of it.
    pub header: Arc<Header<H>>,
    /// What is asked for.
    pub request: Request,
    /// How often it has been tried again.
    pub retries: u8,
    /// What it failed with before it was tried again.
    pub retried_as: Option<Class>,
    /// The number of the first session that was opened after its last failure.
    pub(crate) opened_since: u64,
    /// The same, until it has been told.
    pub retry: Option<Retry>,
    /// Whether an earlier try of it may have run.
    pub executed: Executed,
    /// Where it runs.
    pub place: Place<H>,
    /// The PIN of a key that wants a login for each use.
    pub context: ContextPin,
}

/// Why an operation is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The class of what it failed with.
    pub class: Class,
    /// What it failed with.
    pub call: CallError,
}

/// How far an operation is with the login that its key wants for each use (`CKA_ALWAYS_AUTHENTICATE`).
pub enum ContextPin {
    /// No key has wanted it yet.
    None,
    /// The PIN (`None`: NULL, for a protected authentication path), which has not been tried.
    Given(Option<Pin>),
    /// It was tried: the operation is never tried again.
    Used,
}

/// Where an operation runs.
pub enum Place<H: Host> {
    /// On any session of the pool.
    Pool,
    /// On any session, which becomes this lease's.
    Takes(Arc<Lease<H>>),
    /// On this lease's session.
    Within(Arc<Lease<H>>),
}

impl<H: Host> Operation<H> {
    /// A new operation.
    pub fn new(header: Arc<Header<H>>, request: Request, place: Place<H>) -> Self {
        Self {
            header,
            request,
            retries: 0,
            retried_as: None,
            opened_since: 0,
            retry: None,
            executed: Executed::No,
            place,
            context: ContextPin::None,
        }
    }

    /// It is to be tried again, after this call.
    pub(crate) fn again(&mut self, class: Class, call: CallError, executed: Executed) {
        self.retries += 1;
        self.retried_as = Some(class);
        self.opened_since = crate::token::session::next_number();
        self.retry = Some(Retry { class, call });
        if executed != Executed::No {
            self.executed = Executed::Unknown;
        }
    }

    /// It fails without another try.
    pub(crate) fn failure(&self, error: impl Into<Error>) -> Failure {
        Failure { error: error.into(), executed: self.executed }
    }

    /// What its caller gets of an outcome. Once.
    pub(crate) fn settle(&mut self, outcome: Outcome) -> Outcome {
        survive(|| self.request.settle(outcome)).unwrap_or_else(|| Err(unanswerable()))
    }

    /// Answers it; where the outlet fails to, by the sender.
    pub fn answer(self, outlet: &mut impl Outlet<H>, outcome: Outcome) -> Delivery {
        if !self.header.progress.answer() {
            return Delivery::Done;
        }
        let reply = &self.header.reply;
        survive(|| outlet.answer(reply, outcome)).unwrap_or_else(|| {
            reply.post(Err(unanswerable()));
            Delivery::Done
        })
    }

    /// Answers it by the sender.
    pub fn post(mut self, error: Error) {
        let failure = self.failure(error);
        let outcome = self.settle(Err(failure));
        self.header.post(outcome);
    }

    /// Whether nothing speaks against another try, as far as the operation goes: never under a lease, whose holder may have state on the session.
    pub(crate) fn may_be_tried_again(&self) -> bool {
        self.retries == 0
            && !self.header.is_over()
            && matches!(self.place, Place::Pool)
            && !matches!(self.context, ContextPin::Used)
    }
}

impl<H: Host> Drop for Operation<H> {
    fn drop(&mut self) {
        let executed = match self.header.progress.state() {
            session_pool::State::Running { .. } => Executed::Unknown,
            session_pool::State::Queued => Executed::No,
            _ => return,
        };
        let error = Error::Interrupted { cause: "the operation was dropped" };
        let outcome = self.settle(Err(Failure { error, executed }));
        self.header.post(outcome);
    }
}

/// The operation may well have run.
pub fn unanswerable() -> Failure {
    Failure { error: Error::Interrupted { cause: "its answer could not be put together" }, executed: Executed::Unknown }
}

/// What the pool queues.
pub enum Work<H: Host> {
    /// A caller's operation.
    Call(Operation<H>),
    /// A login or logout of everybody.
    Control(Control<H>),
    /// A session that lies idle is kept alive.
    Keepalive(Keepalive<H>),
}
