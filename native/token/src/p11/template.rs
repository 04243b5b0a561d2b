//! Templates: attributes of objects, owned, comparable, and safe to print.

use std::fmt;

use super::buffer::{input, length};
use crate::support::wiped::wipe;
use cryptoki_sys::*;

/// The attributes of an object that is to be found or made.
pub type Template = Vec<Attribute>;

/// An attribute. Its `Debug` shows bytes of `CKA_LABEL` and `CKA_ID` only, and the bytes of all others are wiped when
/// it is dropped.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// `CKA_*`.
    pub kind: CK_ATTRIBUTE_TYPE,
    /// Its value.
    pub value: Value,
}

/// The value of an [`Attribute`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// `CK_BBOOL`.
    Bool(bool),
    /// `CK_ULONG`: classes, key types, sizes.
    Ulong(CK_ULONG),
    /// Bytes: strings, dates, big integers, DER.
    Bytes(Vec<u8>),
    /// Attributes, as in `CKA_WRAP_TEMPLATE`.
    Template(Template),
    /// `CK_ULONG`s, as in `CKA_ALLOWED_MECHANISMS`.
    Ulongs(Vec<CK_ULONG>),
}

static TRUE: [CK_BBOOL; 1] = [CK_TRUE];
static FALSE: [CK_BBOOL; 1] = [CK_FALSE];

impl Attribute {
    /// A boolean attribute.
    pub fn bool(kind: CK_ATTRIBUTE_TYPE, value: bool) -> Attribute {
        Attribute { kind, value: Value::Bool(value) }
    }

    /// A `CK_ULONG` attribute.
    pub fn ulong(kind: CK_ATTRIBUTE_TYPE, value: CK_ULONG) -> Attribute {
        Attribute { kind, value: Value::Ulong(value) }
    }

    /// An attribute of bytes.
    pub fn bytes(kind: CK_ATTRIBUTE_TYPE, value: impl Into<Vec<u8>>) -> Attribute {
        Attribute { kind, value: Value::Bytes(value.into()) }
    }

    fn is_public(&self) -> bool {
        matches!(self.kind, CKA_LABEL | CKA_ID)
    }
}

/// Calls `f` with the C structures of a template; they and all they point to live as long as `f` runs. The module
/// may read the values, not write them.
pub(super) fn with_ck<R>(template: &[Attribute], f: impl FnOnce(&mut [CK_ATTRIBUTE]) -> R) -> R {
    let mut nested = Vec::new();
    let mut attributes = structures(template, &mut nested);
    f(&mut attributes)
}

/// The structures of one level; those of the levels below are kept alive in `nested`.
fn structures(template: &[Attribute], nested: &mut Vec<Vec<CK_ATTRIBUTE>>) -> Vec<CK_ATTRIBUTE> {
    template
        .iter()
        .map(|attribute| {
            let (pointer, size): (CK_VOID_PTR, usize) = match &attribute.value {
                Value::Bool(value) => (input(if *value { &TRUE } else { &FALSE }).cast(), 1),
                Value::Ulong(value) => ((&raw const *value).cast_mut().cast(), size_of::<CK_ULONG>()),
                Value::Bytes(bytes) => (input(bytes).cast(), bytes.len()),
                Value::Ulongs(values) => (values.as_ptr().cast_mut().cast(), size_of_val(&values[..])),
                Value::Template(template) => {
                    let mut inner = structures(template, nested);
                    let place = (inner.as_mut_ptr().cast(), size_of_val(&inner[..]));
                    // Moving the Vec leaves its buffer, hence the pointer, where it is.
                    nested.push(inner);
                    place
                }
            };
            CK_ATTRIBUTE { type_: attribute.kind, pValue: pointer, ulValueLen: size as CK_ULONG }
        })
        .collect()
}

/// The length of a template as C has it.
pub(super) fn count(attributes: &[CK_ATTRIBUTE]) -> CK_ULONG {
    length(attributes)
}

impl Drop for Attribute {
    fn drop(&mut self) {
        if !self.is_public()
            && let Value::Bytes(bytes) = &mut self.value
        {
            wipe(bytes);
        }
    }
}

impl fmt::Debug for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Bytes(bytes) if self.kind == CKA_LABEL => {
                write!(f, "label: {:?}", String::from_utf8_lossy(bytes))
            }
            Value::Bytes(bytes) if self.kind == CKA_ID => {
                write!(f, "id: ")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            value => write!(f, "{:#x}: {value:?}", self.kind),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Ulong(value) => write!(f, "{value:#x}"),
            Value::Bytes(bytes) => write!(f, "[{} bytes]", bytes.len()),
            Value::Template(template) => write!(f, "{template:?}"),
            Value::Ulongs(values) => write!(f, "{values:#x?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_labels_and_ids_only() {
        let template = vec![
            Attribute::bytes(CKA_LABEL, "signing"),
            Attribute::bytes(CKA_ID, [1, 0xab]),
            Attribute::bytes(CKA_VALUE, "secret"),
            Attribute::bool(CKA_TOKEN, true),
            Attribute { kind: CKA_WRAP_TEMPLATE, value: Value::Template(vec![Attribute::bytes(CKA_VALUE, "secret")]) },
        ];
        assert_eq!(
            format!("{template:?}"),
            "[label: \"signing\", id: 01ab, 0x11: [6 bytes], 0x1: true, 0x40000211: [0x11: [6 bytes]]]"
        );
    }

    #[test]
    fn structures_point_at_the_values() {
        let template = vec![
            Attribute::bool(CKA_SIGN, true),
            Attribute::ulong(CKA_CLASS, CKO_PRIVATE_KEY),
            Attribute::bytes(CKA_LABEL, ""),
            Attribute { kind: CKA_UNWRAP_TEMPLATE, value: Value::Template(vec![Attribute::ulong(CKA_KEY_TYPE, CKK_AES)]) },
            Attribute { kind: CKA_ALLOWED_MECHANISMS, value: Value::Ulongs(vec![CKM_RSA_PKCS, CKM_ECDSA]) },
        ];
        with_ck(&template, |ck| {
            assert_eq!(ck.len(), 5);
            let sizes: Vec<usize> = ck.iter().map(|a| a.ulValueLen as usize).collect();
            let ulong = size_of::<CK_ULONG>();
            assert_eq!(sizes, [1, ulong, 0, size_of::<CK_ATTRIBUTE>(), 2 * ulong]);
            assert!(!{ ck[2].pValue }.is_null());
            // SAFETY: the pointers are to values of these types, alive here.
            unsafe {
                assert_eq!(ck[0].pValue.cast::<CK_BBOOL>().read(), CK_TRUE);
                assert_eq!(ck[1].pValue.cast::<CK_ULONG>().read(), CKO_PRIVATE_KEY);
                let inner = ck[3].pValue.cast::<CK_ATTRIBUTE>().read();
                assert_eq!({ inner.type_ }, CKA_KEY_TYPE);
                assert_eq!(inner.pValue.cast::<CK_ULONG>().read(), CKK_AES);
                assert_eq!(ck[4].pValue.cast::<[CK_ULONG; 2]>().read()[1], CKM_ECDSA);
            }
        });
    }
}
