//! Objects: what a search finds, what was made, and what is read.

use std::collections::HashSet;

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_OBJECT_HANDLE, CKR_OBJECT_HANDLE_INVALID};

use crate::error::Error;
use crate::execution::attempt::Attempt;
use crate::execution::resolver::Resolver;
use crate::execution::step::Fault;
use crate::operation::answer::Object;
use crate::operation::key_ref::KeyRef;
use crate::p11::attributes::{Attributes, get_attributes, get_attributes_and_unique_id};
use crate::p11::objects::{describe, find_objects_until};
use crate::p11::{ObjectInfo, Template};

/// How often objects are looked for when some vanish before they are described.
const MOST_SEARCHES: usize = 8;

impl Attempt<'_> {
    /// The objects that a template finds. One that vanishes before it is described is left out, once a later search finds nothing but what has
    /// been described: its handle alone does not tell that it is gone, for all handles may have become invalid.
    pub(crate) fn search(&self, template: &Template, limit: usize, cut: bool) -> Result<Vec<Object>, Fault> {
        let Resolver { functions, session, .. } = self.resolver;
        let find = || -> Result<Vec<CK_OBJECT_HANDLE>, Fault> {
            let most = if cut { limit } else { limit.saturating_add(1) };
            let handles = find_objects_until(functions, session, template, Some(most), self.is_over)?;
            self.check_wanted()?;
            if handles.len() > limit { Err(Error::TooManyObjects { limit }.into()) } else { Ok(handles) }
        };
        let mut handles = find()?;
        let mut searches = 1;
        loop {
            let (mut described, mut vanished) = (Vec::with_capacity(handles.len()), None);
            for handle in &handles {
                self.check_wanted()?;
                match describe(functions, session, *handle) {
                    Ok(info) => described.push(info),
                    Err(call) if call.code == CKR_OBJECT_HANDLE_INVALID => vanished = Some(call),
                    Err(call) => return Err(call.into()),
                }
            }
            if let Some(call) = vanished {
                handles = find()?;
                let known: HashSet<_> = described.iter().map(|info| info.handle).collect();
                if !handles.iter().all(|handle| known.contains(handle)) {
                    if searches == MOST_SEARCHES {
                        return Err(call.into());
                    }
                    searches += 1;
                    continue;
                }
            }
            return Ok(described.into_iter().map(|info| self.object(info)).collect());
        }
    }

    /// Fails if nobody waits for the search any more.
    fn check_wanted(&self) -> Result<(), Error> {
        if (self.is_over)() { Err(Error::Interrupted { cause: "nobody waits for it" }) } else { Ok(()) }
    }

    /// A new object. It exists: whatever becomes of its description, the operation has run.
    pub(crate) fn describe_new_object(&self, handle: CK_OBJECT_HANDLE) -> Result<Object, Fault> {
        let Resolver { token, functions, session, .. } = self.resolver;
        let info = describe(functions, session, handle).map_err(Fault::ran)?;
        token.keys.forget_matching(&info);
        Ok(self.object(info))
    }

    /// As the caller gets it.
    fn object(&self, info: ObjectInfo) -> Object {
        Object { info, epoch: self.resolver.epoch, token: self.resolver.token.identity.clone() }
    }

    /// Attributes of an object, unless its unique id tells that it is another one by now.
    pub(crate) fn read_attributes(&self, object: &KeyRef, kinds: &[CK_ATTRIBUTE_TYPE]) -> Result<Attributes, Fault> {
        let Resolver { functions, session, token, .. } = self.resolver;
        let handle = self.resolver.resolve(object)?;
        let KeyRef::Object { unique_id: Some(expected), .. } = object else {
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
}
