//! Objects: finding, reading, making, changing and destroying them.

use cryptoki_sys::*;

use super::buffer::length;
use super::error::{CallError, Phase, check};
use super::functions::{Functions, call};
use super::slots::{Count, known};
use super::template::{Attribute, Value, count, with_ck};

pub use super::attributes::get_attributes;
use super::attributes::{AttributeRead, get_attributes_and_unique_id, unique_id};
pub use super::keys::{derive_key, generate_key, generate_key_pair, unwrap_key, wrap_key};

/// Handles asked for in one `C_FindObjects`.
const BATCH: usize = 64;

/// What tells an object apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its handle on this token, valid until a logout or its destruction.
    pub handle: CK_OBJECT_HANDLE,
    /// `CKO_*`.
    pub class: Option<CK_ULONG>,
    /// `CKK_*`, of a key.
    pub key_type: Option<CK_ULONG>,
    /// `CKA_ID`; empty when it has none.
    pub id: Vec<u8>,
    /// `CKA_LABEL` as it is on the token; empty when it has none.
    pub label: Vec<u8>,
    /// `CKA_UNIQUE_ID` (PKCS#11 3.0), where the token has it: no other object has the same.
    pub unique_id: Option<Vec<u8>>,
    /// The attributes of these that the token refuses to read.
    pub unreadable: Vec<CK_ATTRIBUTE_TYPE>,
}

impl ObjectInfo {
    fn unknown(handle: CK_OBJECT_HANDLE) -> Self {
        let (id, label, unreadable) = (Vec::new(), Vec::new(), Vec::new());
        Self { handle, class: None, key_type: None, id, label, unique_id: None, unreadable }
    }

    /// Of an object that was made of a template, and that the token does not describe: what the template says.
    pub fn from_template(handle: CK_OBJECT_HANDLE, template: &[Attribute]) -> Self {
        let mut info = Self::unknown(handle);
        let bytes = |kind| {
            template.iter().find_map(|attribute| match &attribute.value {
                Value::Bytes(bytes) if attribute.kind == kind => Some(bytes.clone()),
                _ => None,
            })
        };
        let number = |kind| {
            template.iter().find_map(|attribute| match attribute.value {
                Value::Ulong(number) if attribute.kind == kind => Some(number),
                _ => None,
            })
        };
        (info.class, info.key_type) = (number(CKA_CLASS), number(CKA_KEY_TYPE));
        for (kind, text) in [(CKA_ID, &mut info.id), (CKA_LABEL, &mut info.label)] {
            match bytes(kind) {
                Some(bytes) => *text = bytes,
                None => info.unreadable.push(kind),
            }
        }
        info
    }

    fn take(&mut self, kind: CK_ATTRIBUTE_TYPE, read: &AttributeRead) {
        match kind {
            CKA_CLASS => self.class = read.ulong(),
            CKA_KEY_TYPE => self.key_type = read.ulong(),
            CKA_ID => self.id = read.bytes().unwrap_or_default().to_vec(),
            _ => self.label = read.bytes().unwrap_or_default().to_vec(),
        }
    }

    /// Whether the token refuses to read anything of it.
    pub fn is_unreadable(&self) -> bool {
        self.unreadable.len() == DESCRIBING.len()
    }

    /// The label as text, invalid UTF-8 replaced.
    pub fn label_text(&self) -> String {
        String::from_utf8_lossy(&self.label).into_owned()
    }

    /// The id, unless the token refuses to read it.
    pub fn readable_id(&self) -> Option<&[u8]> {
        (!self.unreadable.contains(&CKA_ID)).then_some(&self.id)
    }

    /// The label as text, invalid UTF-8 replaced, unless the token refuses to read it.
    pub fn readable_label(&self) -> Option<String> {
        (!self.unreadable.contains(&CKA_LABEL)).then(|| self.label_text())
    }
}

/// `C_FindObjectsInit`, `C_FindObjects` until there are no more or `limit` is reached, and `C_FindObjectsFinal`, whatever
/// happened before. Only objects that the session may see: private ones need a login.
pub fn find_objects(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    template: &[Attribute],
    limit: Option<usize>,
) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
    find_objects_until(functions, session, template, limit, &|| false)
}

/// The same; it ends early, with what there is, when `is_over` says so.
pub fn find_objects_until(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    template: &[Attribute],
    limit: Option<usize>,
    is_over: &dyn Fn() -> bool,
) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
    let code = with_ck(template, |attributes| {
        let (pointer, size) = (attributes.as_mut_ptr(), count(attributes));
        // SAFETY: the template lives through the call; the module only reads it.
        unsafe { call!(functions, C_FindObjectsInit(session, pointer, size)) }
    });
    check("C_FindObjectsInit", Phase::Init, code)?;
    let found = collect(functions, session, limit.unwrap_or(usize::MAX), is_over);
    // SAFETY: takes a handle only.
    let code = unsafe { call!(functions, C_FindObjectsFinal(session)) };
    let ended = matches!(code, CKR_OK | CKR_OPERATION_NOT_INITIALIZED);
    match found {
        Ok(handles) if ended => Ok(handles),
        Ok(_) => Err(CallError { active: true, ..CallError::new("C_FindObjectsFinal", code, Phase::Final) }),
        Err(error) => Err(CallError { active: !ended, ..error }),
    }
}

fn collect(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    limit: usize,
    is_over: &dyn Fn() -> bool,
) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
    let mut handles = Vec::new();
    while handles.len() < limit && !is_over() {
        let mut batch = [CK_INVALID_HANDLE; BATCH];
        let wanted = BATCH.min(limit - handles.len());
        let batch = &mut batch[..wanted];
        let (pointer, size) = (batch.as_mut_ptr(), length(batch));
        let mut found = 0;
        // SAFETY: `batch` has room for `size` handles.
        let code = unsafe { call!(functions, C_FindObjects(session, pointer, size, &mut found)) };
        check("C_FindObjects", Phase::Final, code)?;
        // One that claims to have written more than there is room for is not believed in anything else either.
        let found = usize::try_from(found).ok().filter(|found| *found <= wanted);
        let found = found.ok_or_else(|| CallError::new("C_FindObjects", CKR_GENERAL_ERROR, Phase::Final))?;
        if found == 0 {
            break;
        }
        handles.extend_from_slice(&batch[..found]);
    }
    Ok(handles)
}

/// What `describe` reads of every object.
const DESCRIBING: [CK_ATTRIBUTE_TYPE; 4] = [CKA_CLASS, CKA_KEY_TYPE, CKA_ID, CKA_LABEL];

/// Class, key type, id, label and unique id of an object (`C_GetAttributeValue`).
pub fn describe(functions: &Functions, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Result<ObjectInfo, CallError> {
    let (attributes, unique_id) = get_attributes_and_unique_id(functions, session, object, &DESCRIBING)?;
    let mut info = ObjectInfo { unique_id, ..ObjectInfo::unknown(object) };
    attributes.into_iter().for_each(|(kind, read)| info.take(kind, &read));
    Ok(info)
}

/// The same by a call for each attribute: those that fail with an error that `is_refusal` takes for the object's own are `unreadable`.
pub fn describe_apart(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    is_refusal: impl Fn(&CallError) -> bool,
) -> Result<ObjectInfo, CallError> {
    let mut info = ObjectInfo::unknown(object);
    for kind in DESCRIBING {
        match get_attributes(functions, session, object, &[kind]) {
            Ok(attributes) => attributes.iter().for_each(|(kind, read)| info.take(*kind, read)),
            Err(error) if is_refusal(&error) => info.unreadable.push(kind),
            Err(error) => return Err(error),
        }
    }
    info.unique_id = match unique_id(functions, session, object) {
        Err(error) if is_refusal(&error) => None,
        read => read?,
    };
    Ok(info)
}

/// `C_CreateObject`.
pub fn create_object(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    template: &[Attribute],
) -> Result<CK_OBJECT_HANDLE, CallError> {
    let mut object = CK_INVALID_HANDLE;
    let code = with_ck(template, |attributes| {
        let (pointer, size) = (attributes.as_mut_ptr(), count(attributes));
        // SAFETY: the template lives through the call; the handle is a local.
        unsafe { call!(functions, C_CreateObject(session, pointer, size, &mut object)) }
    });
    check("C_CreateObject", Phase::Single, code)?;
    Ok(object)
}

/// `C_CopyObject`, with the attributes that shall differ.
pub fn copy_object(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: &[Attribute],
) -> Result<CK_OBJECT_HANDLE, CallError> {
    let mut copy = CK_INVALID_HANDLE;
    let code = with_ck(template, |attributes| {
        let (pointer, size) = (attributes.as_mut_ptr(), count(attributes));
        // SAFETY: the template lives through the call; the handle is a local.
        unsafe { call!(functions, C_CopyObject(session, object, pointer, size, &mut copy)) }
    });
    check("C_CopyObject", Phase::Single, code)?;
    Ok(copy)
}

/// `C_GetObjectSize`, in bytes.
pub fn object_size(functions: &Functions, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Result<Count, CallError> {
    // What a module leaves alone is no size.
    let mut size = CK_UNAVAILABLE_INFORMATION;
    // SAFETY: takes handles; the size is a local.
    let code = unsafe { call!(functions, C_GetObjectSize(session, object, &mut size)) };
    check("C_GetObjectSize", Phase::Single, code)?;
    Ok(known(size))
}

/// `C_DestroyObject`.
pub fn destroy_object(functions: &Functions, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Result<(), CallError> {
    // SAFETY: takes handles only; a bad one is an error code.
    let code = unsafe { call!(functions, C_DestroyObject(session, object)) };
    check("C_DestroyObject", Phase::Single, code)
}

/// `C_SetAttributeValue`.
pub fn set_attributes(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: &[Attribute],
) -> Result<(), CallError> {
    let code = with_ck(template, |attributes| {
        let (pointer, size) = (attributes.as_mut_ptr(), count(attributes));
        // SAFETY: the template lives through the call; the module only reads it.
        unsafe { call!(functions, C_SetAttributeValue(session, object, pointer, size)) }
    });
    check("C_SetAttributeValue", Phase::Single, code)
}
