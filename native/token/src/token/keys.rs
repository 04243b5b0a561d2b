//! From a caller's key to a handle: found once per epoch of the token, and never the first of several silently.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cryptoki_sys::{CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKA_CLASS, CKA_ID, CKA_LABEL, CKA_UNIQUE_ID};
use parking_lot::RwLock;
use session_pool::Millis;

use crate::error::Error;
use crate::operation::key_ref::{KeyRef, by_unique_id};
use crate::p11::attributes::unique_id;
use crate::p11::objects::{describe, find_objects};
use crate::p11::{Attribute, CallError, Class, Functions, ObjectInfo, Phase, Template, Value};
use crate::token::Token;
use crate::token::key_facts::KeyFacts;

/// How many candidates an `AmbiguousKey` names.
const CANDIDATES: usize = 10;
/// How many keys a token's cache holds before it starts afresh.
const MOST_KEYS: usize = 10_000;

/// The handles that templates have found in one epoch.
#[derive(Default)]
pub struct KeyCache(RwLock<Cached>);

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

/// A handle, and how we came by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    /// Good in the epoch in which it was asked for.
    pub handle: CK_OBJECT_HANDLE,
    /// It was remembered rather than found just now.
    pub remembered: bool,
}

impl KeyCache {
    fn get(&self, template: &Template, epoch: u64, not_before: Option<Millis>) -> Option<CK_OBJECT_HANDLE> {
        let cached = self.0.read();
        let entry = cached.handles.get(template).filter(|_| cached.epoch == epoch)?;
        not_before.is_none_or(|time| entry.found_at >= time).then_some(entry.handle)
    }

    fn put(&self, template: &Template, epoch: u64, handle: CK_OBJECT_HANDLE, now: Millis) {
        let mut cached = self.0.write();
        let count = cached.handles.len();
        if cached.admits(epoch, count) {
            // It may be another object's by now.
            cached.facts.remove(&handle);
            cached.handles.insert(template.clone(), Entry { handle, found_at: now });
        }
    }

    /// What is known of a key.
    fn facts(&self, key: CK_OBJECT_HANDLE, epoch: u64) -> Option<Arc<KeyFacts>> {
        let cached = self.0.read();
        cached.facts.get(&key).filter(|_| cached.epoch == epoch).cloned()
    }

    fn put_facts(&self, key: CK_OBJECT_HANDLE, epoch: u64, facts: Arc<KeyFacts>) {
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

    fn has_wanted_login(&self, key: CK_OBJECT_HANDLE, epoch: u64) -> bool {
        let cached = self.0.read();
        cached.epoch == epoch && cached.logins.contains(&key)
    }

    /// A key wants a login for each use, though its attributes do not say so.
    pub(crate) fn wants_login(&self, key: CK_OBJECT_HANDLE, epoch: u64) {
        let mut cached = self.0.write();
        let count = cached.logins.len();
        if cached.admits(epoch, count) {
            cached.logins.insert(key);
        }
    }

    /// Forgets what a template found.
    pub fn forget(&self, template: &Template) {
        let mut cached = self.0.write();
        if let Some(entry) = cached.handles.remove(template) {
            cached.forget_facts(entry.handle);
        }
    }

    /// Forgets every template that found this object: those. And what is known of it.
    pub fn forget_handle(&self, handle: CK_OBJECT_HANDLE) -> Vec<Template> {
        let mut cached = self.0.write();
        cached.forget_facts(handle);
        let (its, others) = std::mem::take(&mut cached.handles).into_iter().partition(|(_, entry)| entry.handle == handle);
        let its: HashMap<_, _> = its;
        cached.handles = others;
        its.into_keys().collect()
    }

    /// Forgets every template that this new object may match, too: from now on it may be ambiguous.
    pub fn forget_matching(&self, object: &ObjectInfo) {
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
    pub fn clear(&self) {
        self.0.write().clear();
    }
}

/// What a resolution needs to know.
pub(crate) struct Resolver<'a> {
    pub(crate) token: &'a Token,
    pub(crate) functions: &'a Functions,
    pub(crate) session: CK_SESSION_HANDLE,
    pub(crate) epoch: u64,
    pub(crate) now: Millis,
    /// How long a handle is remembered.
    pub(crate) ttl: Option<Millis>,
    /// The last handle that was resolved.
    pub(crate) found: Cell<Option<CK_OBJECT_HANDLE>>,
}

/// An object that was there, and is not found.
fn stale(error: Error) -> Error {
    if matches!(error, Error::KeyNotFound) { Error::ObjectStale } else { error }
}

impl Resolver<'_> {
    /// The handle of a key.
    pub(crate) fn resolve(&self, key: &KeyRef) -> Result<Resolved, Error> {
        let resolved = self.look_up(key)?;
        self.found.set(Some(resolved.handle));
        Ok(resolved)
    }

    fn look_up(&self, key: &KeyRef) -> Result<Resolved, Error> {
        match key {
            KeyRef::Object { token, .. } if **token != *self.token.identity => Err(Error::ObjectOfOtherToken),
            KeyRef::Object { handle, epoch, .. } if *epoch == self.epoch => Ok(Resolved { handle: *handle, remembered: true }),
            KeyRef::Object { unique_id: Some(unique_id), find, .. } => self.find_same(unique_id, find),
            // Nothing to find it by: what an empty template finds is any object.
            KeyRef::Object { find, .. } if find.is_empty() => Err(Error::ObjectStale),
            KeyRef::Object { find, .. } => self.find(find).map_err(stale),
            KeyRef::Find(_, Some(selector)) if !self.token.is(selector) => Err(Error::ObjectOfOtherToken),
            KeyRef::Find(template, _) => self.find(template),
        }
    }

    /// The handle of an object that is to be destroyed: what a template found earlier is looked for anew, lest it match another by now. So is an
    /// object with a unique id whose handle is of an old epoch, or another object's by now. Without a unique id, one of an old epoch is not looked
    /// for: another may have its id and label by now.
    pub(crate) fn resolve_anew(&self, key: &KeyRef) -> Result<Resolved, Error> {
        match key {
            KeyRef::Find(template, _) => self.token.keys.forget(template),
            KeyRef::Object { token, .. } if **token != *self.token.identity => (),
            KeyRef::Object { unique_id: Some(unique_id), handle, epoch, .. } => {
                if *epoch != self.epoch || self.is_other(*handle, unique_id)? {
                    let handle = self.find_proved(unique_id)?.ok_or(Error::ObjectStale)?;
                    self.found.set(Some(handle));
                    return Ok(Resolved { handle, remembered: false });
                }
            }
            KeyRef::Object { epoch, .. } if *epoch != self.epoch => return Err(Error::ObjectOfOldEpoch),
            KeyRef::Object { .. } => (),
        }
        self.resolve(key)
    }

    /// Whether an object has another unique id than this one, as far as the token says.
    pub(crate) fn is_other(&self, handle: CK_OBJECT_HANDLE, expected: &[u8]) -> Result<bool, CallError> {
        Ok(self.unique_id(handle)?.is_some_and(|found| found != expected))
    }

    fn unique_id(&self, handle: CK_OBJECT_HANDLE) -> Result<Option<Vec<u8>>, CallError> {
        unique_id(self.functions, self.session, handle).map_err(|error| CallError { phase: Phase::Init, ..error })
    }

    /// The one object with this unique id: that is proved where the token finds a single one by it, and says so of that one, too.
    fn find_proved(&self, expected: &[u8]) -> Result<Option<CK_OBJECT_HANDLE>, CallError> {
        let found = match find_objects(self.functions, self.session, &by_unique_id(expected), Some(2)) {
            Ok(found) => found,
            // It is none that a search takes.
            Err(error) if error.class() == Class::Caller && !error.active => Vec::new(),
            Err(error) => return Err(error),
        };
        let [handle] = found[..] else { return Ok(None) };
        Ok(self.unique_id(handle)?.is_some_and(|found| found == expected).then_some(handle))
    }

    /// An object of an old epoch by its unique id; where the token does not find it so, by its id and label, unless its unique id is another one.
    fn find_same(&self, unique_id: &[u8], find: &Template) -> Result<Resolved, Error> {
        let own = by_unique_id(unique_id);
        if let Some(resolved) = self.recall(&own) {
            return Ok(resolved);
        }
        let handle = match self.find_proved(unique_id)? {
            Some(handle) => handle,
            // Nothing else to find it by: what an empty template finds is any object.
            None if find.is_empty() => return Err(Error::ObjectStale),
            None => {
                let handle = match self.find(find) {
                    // Which of them it is, if any, nobody can tell.
                    Err(Error::AmbiguousKey { .. }) => return Err(Error::ObjectStale),
                    found => found.map_err(stale)?.handle,
                };
                if self.is_other(handle, unique_id)? {
                    return Err(Error::ObjectStale);
                }
                handle
            }
        };
        Ok(self.remember(&own, handle))
    }

    /// What the token says of a key: asked at its first use, and remembered as long as its handle.
    pub(crate) fn facts(&self, key: CK_OBJECT_HANDLE) -> Result<Arc<KeyFacts>, CallError> {
        if let Some(facts) = self.token.keys.facts(key, self.epoch) {
            return Ok(facts);
        }
        let facts = match KeyFacts::read(self.functions, self.session, key) {
            Ok(facts) => Arc::new(facts),
            Err(error) if error.class() == Class::Caller => Arc::default(),
            Err(error) => return Err(CallError { phase: Phase::Init, ..error }),
        };
        self.token.keys.put_facts(key, self.epoch, facts.clone());
        Ok(facts)
    }

    /// Whether a key wants a login for each use.
    pub(crate) fn wants_login(&self, key: CK_OBJECT_HANDLE, facts: &KeyFacts) -> bool {
        facts.always_authenticate.unwrap_or(false) || self.token.keys.has_wanted_login(key, self.epoch)
    }

    /// Whether the token has said that a key wants no login for each use.
    pub(crate) fn says_no_login(&self, key: CK_OBJECT_HANDLE) -> bool {
        let facts = self.token.keys.facts(key, self.epoch);
        facts.is_some_and(|facts| facts.always_authenticate == Some(false)) && !self.token.keys.has_wanted_login(key, self.epoch)
    }

    /// Forgets a handle that the module refused. `false`: it cannot be found again.
    pub(crate) fn forget(&self, key: &mut KeyRef) -> bool {
        let own = key.template();
        match key {
            KeyRef::Object { handle, epoch, find, unique_id, .. } => {
                let can_be_found = unique_id.is_some() || !find.is_empty();
                self.token.keys.forget(find);
                self.token.keys.forget(&own);
                self.token.keys.forget_handle(*handle);
                // No epoch is 0: from now on it has to be found.
                *epoch = 0;
                can_be_found
            }
            KeyRef::Find(template, _) => {
                self.token.keys.forget(template);
                true
            }
        }
    }

    /// What a template found a while ago.
    fn recall(&self, template: &Template) -> Option<Resolved> {
        let not_before = self.ttl.map(|ttl| self.now.saturating_sub(ttl));
        let handle = self.token.keys.get(template, self.epoch, not_before)?;
        Some(Resolved { handle, remembered: true })
    }

    /// A template has found an object.
    fn remember(&self, template: &Template, handle: CK_OBJECT_HANDLE) -> Resolved {
        self.token.keys.put(template, self.epoch, handle, self.now);
        self.token.known.found(template);
        Resolved { handle, remembered: false }
    }

    fn find(&self, template: &Template) -> Result<Resolved, Error> {
        if let Some(resolved) = self.recall(template) {
            return Ok(resolved);
        }
        let handles = find_objects(self.functions, self.session, template, Some(CANDIDATES))?;
        match handles.as_slice() {
            [] => Err(Error::KeyNotFound),
            [handle] => Ok(self.remember(template, *handle)),
            several => {
                let describe = |handle: &CK_OBJECT_HANDLE| describe(self.functions, self.session, *handle);
                let candidates = several.iter().map(describe).collect::<Result<Vec<_>, _>>()?;
                Err(Error::AmbiguousKey { candidates: candidates.into_iter().map(|object| (object.id, object.label)).collect() })
            }
        }
    }
}
