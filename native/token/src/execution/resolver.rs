//! From a caller's key to a handle: found once per epoch of the token, and never the first of several silently.

use std::cell::Cell;
use std::sync::Arc;

use cryptoki_sys::{CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKA_CLASS, CKA_UNIQUE_ID};
use session_pool::Millis;

use crate::error::Error;
use crate::operation::key_ref::{KeyRef, Newest, by_unique_id};
use crate::operation::request::MOST_KEYS;
use crate::p11::attributes::{get_attributes, unique_id};
use crate::p11::objects::{describe, find_objects};
use crate::p11::{CallError, Class, Functions, Phase, Template, Value};
use crate::token::Token;
use crate::token::key_facts::KeyFacts;

/// How many candidates an `AmbiguousKey` names.
pub(crate) const CANDIDATES: usize = 10;

/// How many objects' unique ids are read where the token does not search by them.
const COMPARED: usize = 1_000;

/// Finds the objects that a caller names, on one session.
pub(crate) struct Resolver<'a> {
    pub(crate) token: &'a Token,
    pub(crate) functions: &'a Functions,
    pub(crate) session: CK_SESSION_HANDLE,
    /// The one in which the session was found logged in: handles are good in it.
    pub(crate) epoch: u64,
    pub(crate) now: Millis,
    /// How long a handle is remembered.
    pub(crate) ttl: Option<Millis>,
    /// What was resolved of the request's keys.
    pub(crate) found: Found,
}

/// The handles of a request's keys, by their places in it: see [`Request::keys_mut`](crate::operation::request::Request::keys_mut).
#[derive(Default)]
pub(crate) struct Found {
    handles: Cell<[Option<CK_OBJECT_HANDLE>; MOST_KEYS]>,
    /// The place of the key that was last looked for.
    place: Cell<usize>,
}

impl Found {
    /// The last handles that were resolved.
    pub(crate) fn handles(&self) -> [Option<CK_OBJECT_HANDLE>; MOST_KEYS] {
        self.handles.get()
    }

    /// The place of the key that a failure is of, where it is one of keys.
    pub(crate) fn place(&self) -> usize {
        self.place.get()
    }

    /// From here on, what is found, or found fault with, is the key of this place.
    pub(crate) fn turn_to(&self, place: usize) {
        self.place.set(place);
    }

    fn put(&self, handle: CK_OBJECT_HANDLE) {
        let mut handles = self.handles.get();
        if let Some(found) = handles.get_mut(self.place.get()) {
            *found = Some(handle);
        }
        self.handles.set(handles);
    }
}

/// The error of an object that was there, where it is not found.
fn as_stale(error: Error) -> Error {
    if matches!(error, Error::KeyNotFound) { Error::ObjectStale } else { error }
}

impl Resolver<'_> {
    /// The handle of a request's only key, or of its first one.
    pub(crate) fn resolve(&self, key: &KeyRef) -> Result<CK_OBJECT_HANDLE, Error> {
        self.resolve_at(0, key)
    }

    /// The handle of a key that has this place in its request.
    pub(crate) fn resolve_at(&self, place: usize, key: &KeyRef) -> Result<CK_OBJECT_HANDLE, Error> {
        self.found.turn_to(place);
        let handle = self.look_up(key)?;
        self.found.put(handle);
        Ok(handle)
    }

    /// The same, not yet noted as found.
    fn look_up(&self, key: &KeyRef) -> Result<CK_OBJECT_HANDLE, Error> {
        match key.named() {
            KeyRef::Object { token, .. } if **token != *self.token.identity => Err(Error::ObjectOfOtherToken),
            KeyRef::Object { handle, epoch, .. } if *epoch == self.epoch => Ok(*handle),
            KeyRef::Object { unique_id: Some(unique_id), find, .. } => self.find_same(unique_id, find),
            // Nothing to find it by: what an empty template finds is any object.
            KeyRef::Object { find, .. } if find.is_empty() => Err(Error::ObjectStale),
            KeyRef::Object { find, .. } => self.find(find).map_err(as_stale),
            KeyRef::Find(_, Some(selector)) | KeyRef::Newest(Newest { token: Some(selector), .. })
                if !self.token.is(selector) =>
            {
                Err(Error::ObjectOfOtherToken)
            }
            KeyRef::Find(template, _) => self.find(template),
            KeyRef::Newest(newest) => self.find_newest(newest),
            KeyRef::PublicKey(key) => self.find_of_public_key(key),
            KeyRef::Shared(key) => self.look_up(key),
        }
    }

    /// The handle of an object that is to be destroyed, changed or copied: what a template found earlier is looked for anew, lest it match another by now. So is an
    /// object with a unique id whose handle is of an old epoch, or another object's by now. Without a unique id, one of an old epoch is not looked
    /// for: another may have its id and label by now.
    pub(crate) fn resolve_anew(&self, key: &KeyRef) -> Result<CK_OBJECT_HANDLE, Error> {
        match key.named() {
            KeyRef::Find(name, _) | KeyRef::Newest(Newest { name, .. }) => self.token.keys.forget(name),
            KeyRef::PublicKey(key) => self.token.keys.forget(&key.name),
            KeyRef::Object { token, .. } if **token != *self.token.identity => (),
            KeyRef::Object { unique_id: Some(unique_id), handle, epoch, .. } => {
                if *epoch != self.epoch || self.is_other(*handle, unique_id)? {
                    let handle = self.find_proved(unique_id)?.ok_or(Error::ObjectStale)?;
                    self.found.put(handle);
                    return Ok(handle);
                }
            }
            KeyRef::Object { epoch, .. } if *epoch != self.epoch => return Err(Error::ObjectOfOldEpoch),
            KeyRef::Object { .. } | KeyRef::Shared(_) => (),
        }
        self.resolve(key)
    }

    /// Whether an object has another unique id than this one, as far as the token says.
    pub(crate) fn is_other(&self, handle: CK_OBJECT_HANDLE, expected: &[u8]) -> Result<bool, CallError> {
        Ok(self.unique_id(handle)?.is_some_and(|found| found != expected))
    }

    /// Whether the module says that it knows no object with this handle.
    pub(crate) fn is_unknown(&self, handle: CK_OBJECT_HANDLE) -> bool {
        let read = get_attributes(self.functions, self.session, handle, &[CKA_CLASS]);
        read.is_err_and(|error| error.class() == Class::StaleHandle)
    }

    /// What the token says of an object's `CKA_UNIQUE_ID`; `None`: nothing.
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
    fn find_same(&self, unique_id: &[u8], find: &Template) -> Result<CK_OBJECT_HANDLE, Error> {
        let own = by_unique_id(unique_id);
        if let Some(handle) = self.recall(&own) {
            return Ok(handle);
        }
        let handle = match self.find_proved(unique_id)? {
            Some(handle) => handle,
            // Nothing else to find it by: what an empty template finds is any object.
            None if find.is_empty() => return Err(Error::ObjectStale),
            None => {
                let handle = match self.find(find) {
                    // Which of them it is, if any, nobody can tell.
                    Err(Error::AmbiguousKey { .. }) => return Err(Error::ObjectStale),
                    found => found.map_err(as_stale)?,
                };
                if self.is_other(handle, unique_id)? {
                    return Err(Error::ObjectStale);
                }
                handle
            }
        };
        Ok(self.remember(&own, handle, &own))
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
        match key.own_mut() {
            KeyRef::Object { handle, epoch, find, unique_id, .. } => {
                let can_be_found = unique_id.is_some() || !find.is_empty();
                self.token.keys.forget(find);
                self.token.keys.forget(&own);
                self.token.keys.forget_handle(*handle);
                if can_be_found {
                    // No epoch is 0: from now on it has to be found.
                    *epoch = 0;
                }
                can_be_found
            }
            KeyRef::Find(name, _) | KeyRef::Newest(Newest { name, .. }) => {
                self.token.keys.forget(name);
                true
            }
            KeyRef::PublicKey(key) => {
                self.token.keys.forget(&key.name);
                true
            }
            KeyRef::Shared(_) => true,
        }
    }

    /// What the cache has by this name.
    pub(super) fn recall(&self, name: &Template) -> Option<CK_OBJECT_HANDLE> {
        let not_before = self.ttl.map(|ttl| self.now.saturating_sub(ttl));
        self.token.keys.handle(name, self.epoch, not_before)
    }

    /// A key of this name has been found; `template` finds it, too.
    pub(super) fn remember(&self, name: &Template, handle: CK_OBJECT_HANDLE, template: &Template) -> CK_OBJECT_HANDLE {
        self.token.keys.put_handle(name, self.epoch, handle, self.now);
        self.token.known.note_found(template);
        handle
    }

    /// The one object that a template finds.
    fn find(&self, template: &Template) -> Result<CK_OBJECT_HANDLE, Error> {
        if let Some(handle) = self.recall(template) {
            return Ok(handle);
        }
        match self.search(template, CANDIDATES)?.as_slice() {
            [] => Err(Error::KeyNotFound),
            [handle] => Ok(self.remember(template, *handle, template)),
            several => Err(self.ambiguous(several, None)?),
        }
    }

    /// The first ones that a template finds, up to so many.
    pub(super) fn search(&self, template: &Template, most: usize) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
        let unique_id = template.iter().find(|attribute| attribute.kind == CKA_UNIQUE_ID);
        match unique_id.map(|attribute| &attribute.value) {
            Some(Value::Bytes(unique_id)) => self.search_by_unique_id(template, unique_id),
            _ => find_objects(self.functions, self.session, template, Some(most)),
        }
    }

    /// What a template with a unique id finds. Not all tokens search by it, and some take no notice of what they do not know: each is asked for its own.
    fn search_by_unique_id(&self, template: &Template, unique_id: &[u8]) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
        let find = |template: &Template| find_objects(self.functions, self.session, template, Some(COMPARED));
        let mut found = match find(template) {
            Err(error) if error.class() == Class::Caller && !error.active => {
                find(&template.iter().filter(|attribute| attribute.kind != CKA_UNIQUE_ID).cloned().collect())?
            }
            found => found?,
        };
        let mut error = None;
        found.retain(|handle| match self.unique_id(*handle) {
            Ok(own) => own.is_some_and(|own| own == unique_id),
            Err(call) => {
                error = error.or(Some(call));
                false
            }
        });
        error.map_or(Ok(found), Err)
    }

    /// The error that names the first of several objects. `newest`: why none of them is the newest, where that was asked for.
    pub(super) fn ambiguous(&self, several: &[CK_OBJECT_HANDLE], newest: Option<&'static str>) -> Result<Error, CallError> {
        let describe = |handle: &CK_OBJECT_HANDLE| describe(self.functions, self.session, *handle);
        let candidates = several.iter().take(CANDIDATES).map(describe).collect::<Result<Vec<_>, _>>()?;
        let candidates = candidates.into_iter().map(|object| (object.id, object.label)).collect();
        Ok(Error::AmbiguousKey { candidates, newest })
    }
}
