//! What is remembered of a token's keys, in one epoch: the handles that templates have found, what is known of the keys, and of mechanisms.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cryptoki_sys::{CK_FLAGS, CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CKA_CLASS, CKA_ID, CKA_LABEL, CKA_UNIQUE_ID};
use parking_lot::RwLock;
use session_pool::Millis;

use crate::p11::{Attribute, ObjectInfo, Template, Value};
use crate::token::key_facts::KeyFacts;

/// How many keys a token's cache holds before it starts afresh.
const MOST_KEYS: usize = 10_000;

/// The handles that templates have found in one epoch.
#[derive(Default)]
pub(crate) struct KeyCache(RwLock<Cached>);

#[derive(Default)]
struct Cached {
    epoch: u64,
    handles: HashMap<Template, Entry>,
    /// What is known of keys beside their handles.
    facts: HashMap<CK_OBJECT_HANDLE, Arc<KeyFacts>>,
    /// Keys that want a login for each use, though their attributes do not say so.
    logins: HashSet<CK_OBJECT_HANDLE>,
    /// Mechanisms that hash a message, and that the token refuses for a key.
    refused: HashSet<(CK_OBJECT_HANDLE, CK_MECHANISM_TYPE)>,
    /// What `C_GetMechanismInfo` has said that mechanisms can do.
    flags: HashMap<CK_MECHANISM_TYPE, CK_FLAGS>,
}

impl Cached {
    /// Whether something of this epoch may be put in, beside so many; what is of an earlier one, or too much, goes.
    fn admits(&mut self, epoch: u64, count: usize) -> bool {
        if self.epoch < epoch || (self.epoch == epoch && count >= MOST_KEYS) {
            self.clear();
            self.epoch = epoch;
        }
        self.epoch == epoch
    }

    fn clear(&mut self) {
        self.handles.clear();
        self.facts.clear();
        self.logins.clear();
        self.refused.clear();
        self.flags.clear();
    }

    /// Forgets what is known of the key with this handle.
    fn forget_facts(&mut self, handle: CK_OBJECT_HANDLE) {
        self.facts.remove(&handle);
        self.logins.remove(&handle);
        self.refused.retain(|(key, _)| *key != handle);
    }
}

#[derive(Clone, Copy)]
struct Entry {
    handle: CK_OBJECT_HANDLE,
    found_at: Millis,
}

impl KeyCache {
    /// The handle that a template found, if it did in this epoch, and not before a time.
    pub(crate) fn handle(&self, template: &Template, epoch: u64, not_before: Option<Millis>) -> Option<CK_OBJECT_HANDLE> {
        let cached = self.0.read();
        let entry = cached.handles.get(template).filter(|_| cached.epoch == epoch)?;
        not_before.is_none_or(|time| entry.found_at >= time).then_some(entry.handle)
    }

    /// A template has found this handle.
    pub(crate) fn put_handle(&self, template: &Template, epoch: u64, handle: CK_OBJECT_HANDLE, now: Millis) {
        let mut cached = self.0.write();
        let count = cached.handles.len();
        if cached.admits(epoch, count) {
            // It may be another object's by now.
            cached.facts.remove(&handle);
            cached.handles.insert(template.clone(), Entry { handle, found_at: now });
        }
    }

    /// What is known of a key.
    pub(crate) fn facts(&self, key: CK_OBJECT_HANDLE, epoch: u64) -> Option<Arc<KeyFacts>> {
        let cached = self.0.read();
        cached.facts.get(&key).filter(|_| cached.epoch == epoch).cloned()
    }

    /// This is known of a key.
    pub(crate) fn put_facts(&self, key: CK_OBJECT_HANDLE, epoch: u64, facts: Arc<KeyFacts>) {
        let mut cached = self.0.write();
        let count = cached.facts.len();
        if cached.admits(epoch, count) {
            cached.facts.insert(key, facts);
        }
    }

    /// Whether the token has refused a mechanism for a key.
    pub(crate) fn is_refused(&self, key: CK_OBJECT_HANDLE, mechanism: CK_MECHANISM_TYPE, epoch: u64) -> bool {
        let cached = self.0.read();
        cached.epoch == epoch && cached.refused.contains(&(key, mechanism))
    }

    /// The token refuses a mechanism for a key.
    pub(crate) fn put_refused(&self, key: CK_OBJECT_HANDLE, mechanism: CK_MECHANISM_TYPE, epoch: u64) {
        let mut cached = self.0.write();
        let count = cached.refused.len();
        if cached.admits(epoch, count) {
            cached.refused.insert((key, mechanism));
        }
    }

    /// What the token has said that a mechanism can do.
    pub(crate) fn mechanism_flags(&self, mechanism: CK_MECHANISM_TYPE, epoch: u64) -> Option<CK_FLAGS> {
        let cached = self.0.read();
        cached.flags.get(&mechanism).filter(|_| cached.epoch == epoch).copied()
    }

    /// The token says that a mechanism can do this.
    pub(crate) fn put_mechanism_flags(&self, mechanism: CK_MECHANISM_TYPE, epoch: u64, flags: CK_FLAGS) {
        let mut cached = self.0.write();
        let count = cached.flags.len();
        if cached.admits(epoch, count) {
            cached.flags.insert(mechanism, flags);
        }
    }

    /// Whether a key is known to want a login for each use, though its attributes do not say so.
    pub(crate) fn has_wanted_login(&self, key: CK_OBJECT_HANDLE, epoch: u64) -> bool {
        let cached = self.0.read();
        cached.epoch == epoch && cached.logins.contains(&key)
    }

    /// A key wants a login for each use, though its attributes do not say so.
    pub(crate) fn put_wants_login(&self, key: CK_OBJECT_HANDLE, epoch: u64) {
        let mut cached = self.0.write();
        let count = cached.logins.len();
        if cached.admits(epoch, count) {
            cached.logins.insert(key);
        }
    }

    /// Forgets what a template found.
    pub(crate) fn forget(&self, template: &Template) {
        let mut cached = self.0.write();
        if let Some(entry) = cached.handles.remove(template) {
            cached.forget_facts(entry.handle);
        }
    }

    /// Forgets what is known of an object, and the templates that found it, which it returns.
    pub(crate) fn forget_handle(&self, handle: CK_OBJECT_HANDLE) -> Vec<Template> {
        let mut cached = self.0.write();
        cached.forget_facts(handle);
        let (its, others) = std::mem::take(&mut cached.handles).into_iter().partition(|(_, entry)| entry.handle == handle);
        let its: HashMap<_, _> = its;
        cached.handles = others;
        its.into_keys().collect()
    }

    /// Forgets every template that this new object may match, too: from now on it may be ambiguous.
    pub(crate) fn forget_matching(&self, object: &ObjectInfo) {
        let differs = |Attribute { kind, value }: &Attribute| match (*kind, value) {
            (CKA_LABEL, Value::Bytes(label)) => *label != object.label,
            (CKA_ID, Value::Bytes(id)) => *id != object.id,
            (CKA_UNIQUE_ID, Value::Bytes(id)) => object.unique_id.as_ref().is_some_and(|own| own != id),
            (CKA_CLASS, Value::Ulong(class)) => object.class.is_some_and(|own| own != *class),
            _ => false,
        };
        self.0.write().handles.retain(|template, _| template.iter().any(differs));
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.0.write().clear();
    }
}
