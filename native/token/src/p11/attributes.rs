//! Reading attributes, `C_GetAttributeValue`.

use std::fmt;
use std::ptr;

use cryptoki_sys::*;
use zeroize::Zeroize;

use super::buffer::length;
use super::codes::Class;
use super::error::{CallError, Phase, check};
use super::functions::{Functions, call};
use crate::support::wiped::Wiped;

/// `CK_ULONG`s in the buffer that each attribute gets at first; 512 bytes hold all but certificates and large keys.
const GUESS: usize = 512 / size_of::<CK_ULONG>();

/// Most bytes that one attribute is believed to have.
const MOST: usize = 64 << 20;

/// How often an attribute may change its length between the call that asks for it and the call that reads it.
const ATTEMPTS: usize = 4;

/// Most attributes that a template in an attribute is believed to have.
const MOST_NESTED: usize = 1_024;

/// `CK_UNAVAILABLE_INFORMATION`.
const UNAVAILABLE: CK_ULONG = CK_ULONG::MAX;

/// Attributes in the order asked for.
pub type Attributes = Vec<(CK_ATTRIBUTE_TYPE, AttributeRead)>;

/// What reading an attribute gave. Its `Debug` shows lengths in place of bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum AttributeRead {
    /// Its value, as the module has it: a `CK_ULONG` in the machine's own byte order.
    Value(Wiped),
    /// The attributes of a template (`CKA_WRAP_TEMPLATE` ...), with their values.
    Template(Vec<(CK_ATTRIBUTE_TYPE, Wiped)>),
    /// The token does not reveal it.
    Sensitive,
    /// The object has no such attribute, or none that can be read.
    Unknown,
}

impl AttributeRead {
    /// The bytes, where there are any to be had.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            AttributeRead::Value(bytes) => Some(bytes),
            AttributeRead::Template(_) | AttributeRead::Sensitive | AttributeRead::Unknown => None,
        }
    }

    /// How many bytes it has, with what it takes to hold those of a template.
    pub fn weight(&self) -> usize {
        match self {
            AttributeRead::Template(attributes) => attributes.iter().map(|(_, bytes)| 64 + bytes.len()).sum(),
            read => read.bytes().map_or(0, <[u8]>::len),
        }
    }

    /// The value as a `CK_ULONG`, where it has the size of one.
    pub fn ulong(&self) -> Option<CK_ULONG> {
        let bytes = self.bytes()?.try_into().ok()?;
        Some(CK_ULONG::from_ne_bytes(bytes))
    }

    /// The value as a `CK_BBOOL`, where it has the size of one.
    pub fn bool(&self) -> Option<bool> {
        match self.bytes()? {
            [byte] => Some(*byte != CK_FALSE),
            _ => None,
        }
    }
}

impl fmt::Debug for AttributeRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttributeRead::Value(bytes) => write!(f, "Value([{} bytes])", bytes.len()),
            AttributeRead::Template(attributes) => write!(f, "Template([{} attributes])", attributes.len()),
            AttributeRead::Sensitive => write!(f, "Sensitive"),
            AttributeRead::Unknown => write!(f, "Unknown"),
        }
    }
}

/// `C_GetAttributeValue`: reads attributes of an object, in the order asked for. One call for all of them, and up to
/// two more for each that is longer than 512 bytes or cannot be read. Up to three for each that holds a template (`CKA_WRAP_TEMPLATE` ...).
pub fn get_attributes(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kinds: &[CK_ATTRIBUTE_TYPE],
) -> Result<Attributes, CallError> {
    let values = read_together(functions, session, object, &readable(kinds), GUESS)?;
    complete(functions, session, object, kinds, values)
}

/// The same, and the object's `CKA_UNIQUE_ID` (PKCS#11 3.0), by the same calls. `None`: it has none, or an empty one, which tells nothing apart.
pub fn get_attributes_and_unique_id(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kinds: &[CK_ATTRIBUTE_TYPE],
) -> Result<(Attributes, Option<Vec<u8>>), CallError> {
    let mut asked = readable(kinds);
    // The last one: modules that stop at the first attribute that an object does not have have read the others by then.
    asked.push(CKA_UNIQUE_ID);
    let mut values = read_together(functions, session, object, &asked, GUESS)?;
    let unique_id = values.pop().flatten().map(|bytes| bytes.to_vec()).filter(|bytes| !bytes.is_empty());
    Ok((complete(functions, session, object, kinds, values)?, unique_id))
}

/// An object's `CKA_UNIQUE_ID`, where it has one that is not empty.
pub fn unique_id(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
) -> Result<Option<Vec<u8>>, CallError> {
    let read = get_attributes(functions, session, object, &[CKA_UNIQUE_ID])?.pop();
    Ok(read.and_then(|(_, read)| read.bytes().map(<[u8]>::to_vec)).filter(|bytes| !bytes.is_empty()))
}

/// Those that hold no templates: these are read by themselves.
fn readable(kinds: &[CK_ATTRIBUTE_TYPE]) -> Vec<CK_ATTRIBUTE_TYPE> {
    kinds.iter().copied().filter(|kind| !holds_template(*kind)).collect()
}

/// What the call for all has read, and the others one by one.
fn complete(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kinds: &[CK_ATTRIBUTE_TYPE],
    values: Vec<Option<Wiped>>,
) -> Result<Attributes, CallError> {
    let mut values = values.into_iter();
    kinds
        .iter()
        .map(|kind| {
            if holds_template(*kind) {
                return Ok((*kind, read_template(functions, session, object, *kind)?));
            }
            match values.next().flatten() {
                Some(bytes) => Ok((*kind, AttributeRead::Value(bytes))),
                None => Ok((*kind, read_alone(functions, session, object, *kind)?)),
            }
        })
        .collect()
}

/// One `C_GetAttributeValue` for attributes that hold no templates, with room for as many `CK_ULONG`s each. `None`: the call gave none, for
/// whatever reason.
pub(crate) fn read_together(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kinds: &[CK_ATTRIBUTE_TYPE],
    room: usize,
) -> Result<Vec<Option<Wiped>>, CallError> {
    let mut scratch = Scratch::new(kinds.len().saturating_mul(room))?;
    let mut attributes: Vec<CK_ATTRIBUTE> = kinds
        .iter()
        .zip(scratch.0.chunks_exact_mut(room))
        .map(|(kind, room)| CK_ATTRIBUTE {
            type_: *kind,
            pValue: room.as_mut_ptr().cast(),
            ulValueLen: size_of_val(room) as CK_ULONG,
        })
        .collect();
    let code = if attributes.is_empty() { CKR_OK } else { read(functions, session, object, &mut attributes)? };
    let rooms = scratch.0.chunks_exact(room);
    Ok(attributes.iter().zip(rooms).map(|(attribute, room)| value(attribute, room, code)).collect())
}

/// The value that the call for all has left in an attribute's room, or None where it has to be read alone to know.
fn value(attribute: &CK_ATTRIBUTE, room: &[CK_ULONG], code: CK_RV) -> Option<Wiped> {
    let size = usize::try_from(attribute.ulValueLen).ok()?;
    let bytes = as_bytes(room);
    // A call that failed for another attribute may have stopped there, and left this one as it was.
    if code != CKR_OK && size == bytes.len() {
        return None;
    }
    Some(bytes.get(..size)?.into())
}

/// Reads one attribute by asking for its length first; its return code says why when there is no value.
fn read_alone(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kind: CK_ATTRIBUTE_TYPE,
) -> Result<AttributeRead, CallError> {
    for _ in 0..ATTEMPTS {
        let mut attribute = [CK_ATTRIBUTE { type_: kind, pValue: ptr::null_mut(), ulValueLen: 0 }];
        match read(functions, session, object, &mut attribute)? {
            CKR_ATTRIBUTE_SENSITIVE => return Ok(AttributeRead::Sensitive),
            CKR_ATTRIBUTE_TYPE_INVALID => return Ok(AttributeRead::Unknown),
            // No buffer was given, and no length was said: that is no empty attribute.
            CKR_BUFFER_TOO_SMALL if attribute[0].ulValueLen == 0 => continue,
            _ => {}
        }
        let size = attribute[0].ulValueLen;
        if size == UNAVAILABLE {
            return Ok(AttributeRead::Unknown);
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size == 0 {
            return Ok(AttributeRead::Value(Wiped::default()));
        }
        let mut scratch = Scratch::new(size.div_ceil(size_of::<CK_ULONG>()))?;
        attribute[0].pValue = scratch.0.as_mut_ptr().cast();
        match read(functions, session, object, &mut attribute)? {
            CKR_OK => {
                let size = usize::try_from(attribute[0].ulValueLen).unwrap_or(usize::MAX);
                let bytes = as_bytes(&scratch.0).get(..size);
                return Ok(bytes.map_or(AttributeRead::Unknown, |bytes| AttributeRead::Value(bytes.into())));
            }
            CKR_ATTRIBUTE_SENSITIVE => return Ok(AttributeRead::Sensitive),
            CKR_ATTRIBUTE_TYPE_INVALID => return Ok(AttributeRead::Unknown),
            _ => {}
        }
    }
    Err(CallError::new("C_GetAttributeValue", CKR_BUFFER_TOO_SMALL, Phase::Single))
}

/// Reads an attribute that holds a template: how many attributes that has, which and how long they are, and their values.
fn read_template(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kind: CK_ATTRIBUTE_TYPE,
) -> Result<AttributeRead, CallError> {
    for _ in 0..ATTEMPTS {
        let mut attribute = [CK_ATTRIBUTE { type_: kind, pValue: ptr::null_mut(), ulValueLen: 0 }];
        match read(functions, session, object, &mut attribute)? {
            CKR_OK => {}
            CKR_ATTRIBUTE_SENSITIVE => return Ok(AttributeRead::Sensitive),
            CKR_ATTRIBUTE_TYPE_INVALID => return Ok(AttributeRead::Unknown),
            _ => continue,
        }
        let size = usize::try_from(attribute[0].ulValueLen).unwrap_or(usize::MAX);
        let count = size / size_of::<CK_ATTRIBUTE>();
        // Of no length, no whole attributes, or more than anybody has: it is none that can be read.
        if size % size_of::<CK_ATTRIBUTE>() != 0 || count > MOST_NESTED {
            return Ok(AttributeRead::Unknown);
        }
        // What their types are, is asked for (PKCS#11 3.2, 5.7.5).
        let mut nested = vec![CK_ATTRIBUTE { type_: UNAVAILABLE, pValue: ptr::null_mut(), ulValueLen: 0 }; count];
        match read_nested(functions, session, object, kind, &mut nested)? {
            Nested::Read => {}
            Nested::Changed => continue,
            Nested::Refused => return Ok(AttributeRead::Unknown),
        }
        let asked: Vec<_> =
            nested.iter().map(|attribute| (attribute.type_, usize::try_from(attribute.ulValueLen).ok())).collect();
        let mut rooms = Vec::with_capacity(count);
        for (nested, (kind, size)) in nested.iter_mut().zip(&asked) {
            let Some(size) = size.filter(|size| !holds_template(*kind) && *size <= MOST / MOST_NESTED) else {
                return Ok(AttributeRead::Unknown);
            };
            // One at least: an address says that the value is wanted, also where it has no length.
            let mut room = Scratch::new(size.div_ceil(size_of::<CK_ULONG>()).max(1))?;
            nested.pValue = room.0.as_mut_ptr().cast();
            rooms.push(room);
        }
        match read_nested(functions, session, object, kind, &mut nested)? {
            Nested::Read => {}
            Nested::Changed => continue,
            Nested::Refused => return Ok(AttributeRead::Unknown),
        }
        let is_same = |nested: &CK_ATTRIBUTE, room: &Scratch, asked: &(CK_ATTRIBUTE_TYPE, Option<usize>)| {
            let size = usize::try_from(nested.ulValueLen).ok().filter(|size| Some(*size) <= asked.1)?;
            let bytes = as_bytes(&room.0).get(..size)?;
            (nested.type_ == asked.0).then(|| (nested.type_, Wiped::from(bytes)))
        };
        let values = nested.iter().zip(&rooms).zip(&asked).map(|((nested, room), asked)| is_same(nested, room, asked));
        if let Some(values) = values.collect() {
            return Ok(AttributeRead::Template(values));
        }
    }
    Ok(AttributeRead::Unknown)
}

/// What came of a call for the attributes of a template.
enum Nested {
    /// It has written what is asked for.
    Read,
    /// They are others by now, or longer.
    Changed,
    /// The module does not do such calls, or not as the standard has them.
    Refused,
}

/// The call for the attributes of a template.
fn read_nested(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kind: CK_ATTRIBUTE_TYPE,
    nested: &mut [CK_ATTRIBUTE],
) -> Result<Nested, CallError> {
    if nested.is_empty() {
        return Ok(Nested::Read);
    }
    let rooms: Vec<CK_VOID_PTR> = nested.iter().map(|attribute| attribute.pValue).collect();
    let size = size_of_val(nested) as CK_ULONG;
    let mut attribute = [CK_ATTRIBUTE { type_: kind, pValue: nested.as_mut_ptr().cast(), ulValueLen: size }];
    let code = match read(functions, session, object, &mut attribute) {
        Err(error) if error.class() == Class::Caller => return Ok(Nested::Refused),
        read => read?,
    };
    // Types and lengths are its to write, and nothing else.
    if nested.iter().zip(&rooms).any(|(attribute, room)| attribute.pValue != *room) {
        return Ok(Nested::Refused);
    }
    Ok(if code == CKR_OK && attribute[0].ulValueLen == size { Nested::Read } else { Nested::Changed })
}

/// The call. Its codes that speak of single attributes are answers, the others errors.
fn read(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attributes: &mut [CK_ATTRIBUTE],
) -> Result<CK_RV, CallError> {
    let (pointer, count) = (attributes.as_mut_ptr(), length(attributes));
    // SAFETY: each `pValue` is NULL or has room for `ulValueLen` initialized bytes, aligned for `CK_ULONG`: that of a template is an array of
    // attributes of which the same is true.
    let code = unsafe { call!(functions, C_GetAttributeValue(session, object, pointer, count)) };
    match code {
        CKR_ATTRIBUTE_SENSITIVE | CKR_ATTRIBUTE_TYPE_INVALID | CKR_BUFFER_TOO_SMALL => Ok(code),
        code => check("C_GetAttributeValue", Phase::Single, code).map(|()| CKR_OK),
    }
}

fn holds_template(kind: CK_ATTRIBUTE_TYPE) -> bool {
    matches!(
        kind,
        CKA_WRAP_TEMPLATE | CKA_UNWRAP_TEMPLATE | CKA_DERIVE_TEMPLATE | CKA_ENCAPSULATE_TEMPLATE | CKA_DECAPSULATE_TEMPLATE
    )
}

/// Zeroed room for values, which may be keys: wiped when dropped. Of `CK_ULONG`s, since modules store such in place.
struct Scratch(Vec<CK_ULONG>);

impl Scratch {
    fn new(ulongs: usize) -> Result<Scratch, CallError> {
        let mut room = Vec::new();
        let no_room = || CallError::new("C_GetAttributeValue", CKR_HOST_MEMORY, Phase::Single);
        if ulongs > MOST / size_of::<CK_ULONG>() {
            return Err(no_room());
        }
        room.try_reserve_exact(ulongs).map_err(|_| no_room())?;
        room.resize(ulongs, 0);
        Ok(Scratch(room))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn as_bytes(ulongs: &[CK_ULONG]) -> &[u8] {
    // SAFETY: the same initialized memory; bytes have no alignment and no invalid values.
    unsafe { std::slice::from_raw_parts(ulongs.as_ptr().cast(), size_of_val(ulongs)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_by_type() {
        let seven = AttributeRead::Value((7 as CK_ULONG).to_ne_bytes().to_vec().into());
        assert_eq!((seven.ulong(), seven.bool()), (Some(7), None));
        let yes = AttributeRead::Value(vec![1].into());
        assert_eq!((yes.ulong(), yes.bool()), (None, Some(true)));
        assert_eq!(AttributeRead::Sensitive.bytes(), None);
        assert_eq!(format!("{seven:?}"), format!("Value([{} bytes])", size_of::<CK_ULONG>()));
    }

    #[test]
    fn an_untouched_room_is_no_value() {
        let room = [0; GUESS];
        let attribute = |size: usize| CK_ATTRIBUTE { ulValueLen: size as CK_ULONG, ..Default::default() };
        assert_eq!(value(&attribute(2), &room, CKR_OK), Some(vec![0; 2].into()));
        assert_eq!(value(&attribute(512), &room, CKR_OK), Some(vec![0; 512].into()));
        assert_eq!(value(&attribute(512), &room, CKR_ATTRIBUTE_SENSITIVE), None);
        assert_eq!(value(&attribute(513), &room, CKR_OK), None);
        assert_eq!(value(&attribute(usize::MAX), &room, CKR_OK), None);
    }
}
