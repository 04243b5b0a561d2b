//! Objects: what a search finds, what was made, and what is read.

use std::collections::HashMap;

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_OBJECT_CLASS, CK_OBJECT_HANDLE, CKR_ATTRIBUTE_VALUE_INVALID, CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR,
    CKR_OBJECT_HANDLE_INVALID,
};

use crate::error::Error;
use crate::execution::attempt::Attempt;
use crate::execution::resolver::Resolver;
use crate::execution::step::Fault;
use crate::operation::answer::Object;
use crate::operation::key_ref::KeyRef;
use crate::p11::attributes::{Attributes, get_attributes, get_attributes_and_unique_id};
use crate::p11::objects::{describe, describe_apart, find_objects_until, object_size};
use crate::p11::{CallError, Count, ObjectInfo, Template};

/// How often objects are described, and looked for again, when the token refuses to describe some.
const MOST_SEARCHES: usize = 8;

/// From this search on, an object that is still refused is described by what can be read of it.
const FIRST_APART: usize = 4;

/// What tokens answer for an object that is being made or destroyed by somebody else, or is broken. SoftHSM does so with the first three.
fn is_refusal(call: &CallError) -> bool {
    matches!(call.code, CKR_OBJECT_HANDLE_INVALID | CKR_ATTRIBUTE_VALUE_INVALID | CKR_GENERAL_ERROR | CKR_FUNCTION_FAILED)
}

impl Attempt<'_> {
    /// The objects that a template finds. Where the token refuses to describe one, it is looked for again: one that is not found any more has
    /// vanished. What it is refused with does not tell that alone: all handles may have become invalid, or an object may be half made.
    pub(crate) fn search(&self, template: &Template, limit: usize, cut: bool) -> Result<Vec<Object>, Fault> {
        let Resolver { functions, session, .. } = self.resolver;
        let find = || -> Result<Vec<CK_OBJECT_HANDLE>, Fault> {
            let most = if cut { limit } else { limit.saturating_add(1) };
            let handles = find_objects_until(functions, session, template, Some(most), self.is_over)?;
            self.check_wanted()?;
            if handles.len() > limit { Err(Error::TooManyObjects { limit }.into()) } else { Ok(handles) }
        };
        let mut described: HashMap<CK_OBJECT_HANDLE, ObjectInfo> = HashMap::new();
        let mut handles = find()?;
        for search in 1.. {
            let mut refused = HashMap::new();
            for handle in &handles {
                if described.contains_key(handle) {
                    continue;
                }
                self.check_wanted()?;
                let read = match describe(functions, session, *handle) {
                    Err(call) if search >= FIRST_APART => self.describe_apart(*handle, call, &described),
                    read => read,
                };
                match read {
                    Ok(info) => drop(described.insert(*handle, info)),
                    Err(call) if is_refusal(&call) => drop(refused.insert(*handle, call)),
                    Err(call) => return Err(call.into()),
                }
            }
            if refused.is_empty() {
                break;
            }
            handles = find()?;
            if handles.iter().all(|handle| described.contains_key(handle)) {
                break;
            }
            if search == MOST_SEARCHES {
                // Others are made and destroyed all the while: those that were made last are left out. Unless nothing stays, as if all handles
                // went on changing.
                let stays = handles.iter().any(|handle| described.contains_key(handle));
                let refusal = handles.iter().find_map(|handle| refused.get(handle));
                match refusal.or_else(|| refused.values().next().filter(|_| !stays)) {
                    Some(call) => return Err((*call).into()),
                    None => break,
                }
            }
        }
        Ok(handles.iter().filter_map(|handle| described.get(handle)).map(|info| self.object(info.clone())).collect())
    }

    /// An object that was refused, and is there all the same: what can be read of it. That may be nothing, but then the token must have spoken of the
    /// object's attributes, or describe another object: else it may be the device that fails.
    fn describe_apart(
        &self,
        handle: CK_OBJECT_HANDLE,
        call: CallError,
        others: &HashMap<CK_OBJECT_HANDLE, ObjectInfo>,
    ) -> Result<ObjectInfo, CallError> {
        let Resolver { functions, session, .. } = self.resolver;
        let is_its_own = |call: &CallError| is_refusal(call) && call.code != CKR_OBJECT_HANDLE_INVALID;
        if !is_its_own(&call) {
            return Err(call);
        }
        let info = describe_apart(functions, session, handle, is_its_own)?;
        let is_proved = !info.is_unreadable()
            || call.code == CKR_ATTRIBUTE_VALUE_INVALID
            || others
                .values()
                .find(|other| other.unreadable.is_empty())
                .is_some_and(|other| describe(functions, session, other.handle).is_ok());
        if is_proved { Ok(info) } else { Err(call) }
    }

    /// Fails if nobody waits for the operation any more.
    pub(crate) fn check_wanted(&self) -> Result<(), Error> {
        if (self.is_over)() { Err(Error::Interrupted { cause: "nobody waits for it" }) } else { Ok(()) }
    }

    /// A new object. It exists, whatever becomes of its description: where the token gives none, it is what its template says, and `class` where that says
    /// no class.
    pub(crate) fn describe_new_object(
        &self,
        handle: CK_OBJECT_HANDLE,
        class: Option<CK_OBJECT_CLASS>,
        template: &Template,
    ) -> Object {
        let Resolver { token, functions, session, .. } = self.resolver;
        let describe = || describe(functions, session, handle);
        let info = match describe().or_else(|_| describe()) {
            Ok(info) => {
                token.keys.forget_matching(&info);
                info
            }
            Err(call) => {
                // It may be what any of them finds.
                token.keys.clear();
                if !self.session_answers() {
                    self.session_failed.set(Some(self.class(&call)));
                }
                let info = ObjectInfo::from_template(handle, template);
                ObjectInfo { class: info.class.or(class), ..info }
            }
        };
        self.object(info)
    }

    /// As the caller gets it.
    fn object(&self, info: ObjectInfo) -> Object {
        Object { info, epoch: self.resolver.epoch, token: self.resolver.token.identity.clone() }
    }

    /// Attributes of an object, unless its unique id tells that it is another one by now.
    pub(crate) fn read_attributes(&self, object: &KeyRef, kinds: &[CK_ATTRIBUTE_TYPE]) -> Result<Attributes, Fault> {
        let Resolver { functions, session, token, .. } = self.resolver;
        let handle = self.resolver.resolve(object)?;
        let KeyRef::Object { unique_id: Some(expected), .. } = object.named() else {
            return Ok(get_attributes(functions, session, handle, kinds)?);
        };
        let (read, found) = get_attributes_and_unique_id(functions, session, handle, kinds)?;
        let is_other = match found {
            Some(found) => found != *expected,
            // The module may have stopped at another attribute.
            None => self.resolver.is_other(handle, expected)?,
        };
        if is_other {
            token.keys.forget_handle(handle);
            return Err(Error::ObjectStale.into());
        }
        Ok(read)
    }

    /// The size of an object, unless its unique id tells that it is another one by now.
    pub(crate) fn read_size(&self, object: &KeyRef) -> Result<Count, Fault> {
        let Resolver { functions, session, token, .. } = self.resolver;
        let handle = self.resolver.resolve(object)?;
        let size = object_size(functions, session, handle)?;
        if let KeyRef::Object { unique_id: Some(expected), .. } = object.named()
            && self.resolver.is_other(handle, expected)?
        {
            token.keys.forget_handle(handle);
            return Err(Error::ObjectStale.into());
        }
        Ok(size)
    }
}
