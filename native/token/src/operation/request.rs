//! What a caller asks for.

use cryptoki_sys::CK_ATTRIBUTE_TYPE;

use crate::error::Failure;
use crate::operation::answer::Outcome;
use crate::operation::batch::Batch;
use crate::operation::key_ref::KeyRef;
use crate::operation::stream::{StreamKind, StreamPart};
use crate::operation::task::Task;
use crate::p11::{Mechanism, Template};
use crate::support::data::Data;

/// How many keys a request may name.
pub(crate) const MOST_KEYS: usize = 2;

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
    /// Whether there is a key, and it is one for what is to be done with it: asked before the first of many operations.
    Prepare {
        /// What is to be done.
        kind: StreamKind,
        /// The key.
        key: KeyRef,
        /// The mechanism.
        mechanism: Mechanism,
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
    /// A part of an operation of several calls.
    Stream(StreamKind, StreamPart),
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
    /// `C_WrapKey`.
    WrapKey {
        /// The key that wraps.
        key: KeyRef,
        /// The mechanism.
        mechanism: Mechanism,
        /// The key that is wrapped.
        wrapped: Box<KeyRef>,
    },
    /// `C_UnwrapKey`.
    UnwrapKey {
        /// The key that unwraps.
        key: KeyRef,
        /// The mechanism.
        mechanism: Mechanism,
        /// The wrapped key.
        wrapped: Data,
        /// The template of the key that comes of it.
        template: Template,
    },
    /// `C_DeriveKey`.
    DeriveKey {
        /// The key that another is derived from.
        key: KeyRef,
        /// The mechanism.
        mechanism: Mechanism,
        /// The other key that the mechanism's parameters name.
        other: Option<Box<KeyRef>>,
        /// The template of the key that comes of it.
        template: Template,
    },
    /// `C_EncapsulateKey`.
    EncapsulateKey {
        /// The public key of whoever is to have the secret, too.
        key: KeyRef,
        /// The mechanism.
        mechanism: Mechanism,
        /// The template of the key that is made of the secret.
        template: Template,
    },
    /// `C_DecapsulateKey`.
    DecapsulateKey {
        /// The private key.
        key: KeyRef,
        /// The mechanism.
        mechanism: Mechanism,
        /// The ciphertext.
        ciphertext: Data,
        /// The template of the key that is made of the secret.
        template: Template,
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
    /// `C_GetObjectSize`.
    ObjectSize {
        /// The object.
        object: KeyRef,
    },
    /// `C_CreateObject`.
    CreateObject {
        /// Its attributes.
        template: Template,
    },
    /// `C_CopyObject`.
    CopyObject {
        /// What is copied.
        object: KeyRef,
        /// The attributes that are to differ.
        template: Template,
    },
    /// `C_SetAttributeValue`.
    SetAttributes {
        /// Of what.
        object: KeyRef,
        /// Their new values.
        template: Template,
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
    /// Whether its success is the device's. That of a slice is not: each of its tasks speaks for itself; nor is that of the beginning of a stream, which
    /// many a module keeps to itself; nor is that of [`Request::Prepare`], for which the cache may have all answers.
    pub(crate) fn reaches_device(&self) -> bool {
        match self {
            Self::Ping | Self::Prepare { .. } | Self::Mechanisms | Self::TokenInfo | Self::Batch(_) => false,
            Self::Stream(_, part) => matches!(part, StreamPart::Finish),
            _ => true,
        }
    }

    /// Whether it goes on with a stream that is in progress on its session.
    pub(crate) fn continues_stream(&self) -> bool {
        matches!(self, Self::Stream(_, StreamPart::Update(_) | StreamPart::Finish | StreamPart::BreakOff))
    }

    /// What the caller calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Probe => "probe",
            Self::Apply { task, .. } => task.names().0,
            Self::Prepare { .. } => "prepare",
            Self::Batch(batch) => batch.name(),
            Self::Digest { .. } => "digest",
            Self::Stream(kind, _) => kind.name(),
            Self::GenerateRandom { .. } => "generate_random",
            Self::SeedRandom { .. } => "seed_random",
            Self::GenerateKey { .. } => "generate_key",
            Self::GenerateKeyPair { .. } => "generate_key_pair",
            Self::FindObjects { .. } => "find_objects",
            Self::GetAttributes { .. } => "get_attributes",
            Self::WrapKey { .. } => "wrap_key",
            Self::UnwrapKey { .. } => "unwrap_key",
            Self::DeriveKey { .. } => "derive_key",
            Self::EncapsulateKey { .. } => "encapsulate",
            Self::DecapsulateKey { .. } => "decapsulate",
            Self::ObjectSize { .. } => "object_size",
            Self::CreateObject { .. } => "create_object",
            Self::CopyObject { .. } => "copy_object",
            Self::SetAttributes { .. } => "set_attributes",
            Self::DestroyObject { .. } => "destroy_object",
            Self::Mechanisms => "mechanisms",
            Self::TokenInfo => "token_info",
        }
    }

    /// The keys or objects that it names, at most [`MOST_KEYS`], in the order of their places: the one that does something, and the one to which it is done.
    pub(crate) fn keys_mut(&mut self) -> impl Iterator<Item = &mut KeyRef> {
        let keys = match self {
            Self::Apply { key, .. }
            | Self::Prepare { key, .. }
            | Self::Batch(Batch { key, .. })
            | Self::UnwrapKey { key, .. }
            | Self::EncapsulateKey { key, .. }
            | Self::DecapsulateKey { key, .. } => [Some(key), None],
            Self::DeriveKey { key, other, .. } => [Some(key), other.as_deref_mut()],
            Self::WrapKey { key, wrapped, .. } => [Some(key), Some(&mut **wrapped)],
            Self::Stream(_, StreamPart::Begin(beginning)) => [beginning.key.as_mut(), None],
            Self::GetAttributes { object, .. }
            | Self::ObjectSize { object }
            | Self::DestroyObject { object }
            | Self::CopyObject { object, .. }
            | Self::SetAttributes { object, .. } => [Some(object), None],
            _ => [None, None],
        };
        keys.into_iter().flatten()
    }

    /// What the caller calls the key of a place, where it names several.
    pub(crate) fn argument(&self, place: usize) -> Option<&'static str> {
        let names: [&'static str; MOST_KEYS] = match self {
            Self::WrapKey { .. } => ["wrapping_key", "key"],
            Self::DeriveKey { other: Some(_), .. } => ["base_key", "mechanism"],
            _ => return None,
        };
        names.get(place).copied()
    }

    /// Whether it uses its keys for something that may not be done twice. A handle that is refused is refused before that: it is tried again with the handle that
    /// the key has by now. What is done to the object itself is not, since another may have its name by now.
    pub(crate) fn only_uses_keys(&self) -> bool {
        matches!(
            self,
            Self::WrapKey { .. }
                | Self::UnwrapKey { .. }
                | Self::DeriveKey { .. }
                | Self::EncapsulateKey { .. }
                | Self::DecapsulateKey { .. }
        )
    }

    /// Whether it asks in its midst if anybody waits for it still: it takes many calls, or what it makes is of use to nobody else.
    pub(crate) fn asks_if_wanted(&self) -> bool {
        matches!(self, Self::FindObjects { .. } | Self::EncapsulateKey { .. })
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
            // An Init call has done nothing.
            Self::Stream(_, part) => matches!(part, StreamPart::Begin(_)),
            Self::Ping
            | Self::Probe
            | Self::Prepare { .. }
            | Self::Digest { .. }
            | Self::GenerateRandom { .. }
            // Mixed in twice, it does no harm.
            | Self::SeedRandom { .. }
            | Self::FindObjects { .. }
            | Self::GetAttributes { .. }
            | Self::ObjectSize { .. }
            | Self::Mechanisms
            | Self::TokenInfo => true,
            Self::GenerateKey { .. }
            | Self::GenerateKeyPair { .. }
            | Self::WrapKey { .. }
            | Self::UnwrapKey { .. }
            | Self::DeriveKey { .. }
            | Self::EncapsulateKey { .. }
            | Self::DecapsulateKey { .. }
            | Self::CreateObject { .. }
            | Self::CopyObject { .. }
            | Self::SetAttributes { .. }
            | Self::DestroyObject { .. } => false,
        }
    }

    /// What the caller gets of an outcome: in a batch, each task has its own. Once.
    pub(crate) fn outcome_for_caller(&mut self, outcome: Outcome) -> Outcome {
        match self {
            Self::Batch(batch) => Ok(batch.finish(outcome)),
            _ => outcome,
        }
    }
}
