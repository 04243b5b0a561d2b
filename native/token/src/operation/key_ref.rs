//! How a caller names a key or another object.

use std::sync::Arc;

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_KEY_TYPE, CK_OBJECT_CLASS, CK_OBJECT_HANDLE, CK_ULONG, CKA_CLASS, CKA_EC_POINT, CKA_MODULUS,
    CKA_PUBLIC_KEY_INFO, CKA_UNIQUE_ID, CKA_VALUE, CKA_VENDOR_DEFINED, CKO_PUBLIC_KEY,
};

use crate::p11::{Attribute, Template, Value};
use crate::token::Selector;

/// The key or object of a call.
#[derive(Debug, Clone)]
pub enum KeyRef {
    /// Whatever the template finds on the token, which must be the one that a URI names, if it names one.
    Find(Template, Option<Selector>),
    /// The newest of those that a template finds.
    Newest(Newest),
    /// The key that a public key belongs to.
    PublicKey(Box<PublicKey>),
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
        /// Its `CKA_UNIQUE_ID`, where the token has it: what has another one is another object.
        unique_id: Option<Vec<u8>>,
    },
    /// One that was prepared, for any number of requests at the same time. No `Shared` is in it.
    Shared(Arc<KeyRef>),
}

/// The newest key that a template finds, on the token that a URI names, if it names one.
#[derive(Debug, Clone)]
pub struct Newest {
    pub(crate) find: Template,
    pub(crate) token: Option<Selector>,
    /// By which the cache knows it.
    pub(crate) name: Template,
}

/// A public key, to which a key on the token belongs: the public key itself, or the private one that is its other half.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// Which of the two.
    pub(crate) class: CK_OBJECT_CLASS,
    pub(crate) numbers: Numbers,
    /// DER of its `SubjectPublicKeyInfo`.
    pub(crate) info: Vec<u8>,
    /// DER of a certificate of it.
    pub(crate) certificate: Option<Vec<u8>>,
    /// By which the cache knows it.
    pub(crate) name: Template,
}

/// What makes a public key.
#[derive(Debug, Clone)]
pub enum Numbers {
    /// RSA's, without zeros in front.
    Rsa {
        /// n
        modulus: Vec<u8>,
        /// e
        exponent: Vec<u8>,
    },
    /// A point on a curve.
    Curve {
        /// `CKK_EC`, `CKK_EC_EDWARDS` or `CKK_EC_MONTGOMERY`.
        key_type: CK_KEY_TYPE,
        /// DER of the curve, as in `CKA_EC_PARAMS`.
        params: Vec<u8>,
        /// The point, bare.
        point: Vec<u8>,
    },
    /// Those of ML-KEM, ML-DSA or SLH-DSA.
    PostQuantum {
        /// `CKK_ML_KEM`, `CKK_ML_DSA` or `CKK_SLH_DSA`.
        key_type: CK_KEY_TYPE,
        /// `CKA_PARAMETER_SET`.
        set: CK_ULONG,
        /// The public key, as in `CKA_VALUE`.
        value: Vec<u8>,
    },
}

/// No token's attribute: what has it is a name in the cache, and never looked for. No caller can write such a value of it.
fn mark(of: u64) -> Attribute {
    let kind = CK_ATTRIBUTE_TYPE::MAX - of;
    debug_assert!(kind > CKA_VENDOR_DEFINED);
    Attribute { kind, value: Value::Template(Vec::new()) }
}

impl Newest {
    /// The newest of what this template finds.
    pub fn new(find: Template, token: Option<Selector>) -> Self {
        let name = find.iter().cloned().chain([mark(1)]).collect();
        Self { find, token, name }
    }
}

impl PublicKey {
    /// The key of this class that the public key of these numbers belongs to.
    pub fn new(class: CK_OBJECT_CLASS, numbers: Numbers, info: Vec<u8>, certificate: Option<Vec<u8>>) -> Self {
        let name = vec![Attribute::ulong(CKA_CLASS, class), Attribute::bytes(CKA_PUBLIC_KEY_INFO, info.clone()), mark(2)];
        Self { class, numbers, info, certificate, name }
    }

    /// Templates that find it by what it is made of, on tokens that write it this way or that.
    pub(crate) fn templates(&self, class: CK_OBJECT_CLASS) -> Vec<Template> {
        let of_class = |kind, value: Vec<u8>| vec![Attribute::ulong(CKA_CLASS, class), Attribute::bytes(kind, value)];
        match &self.numbers {
            Numbers::Rsa { modulus, .. } => vec![of_class(CKA_MODULUS, modulus.clone())],
            Numbers::Curve { .. } => {
                let by_point = self.points().into_iter().map(|point| of_class(CKA_EC_POINT, point));
                by_point.chain([of_class(CKA_PUBLIC_KEY_INFO, self.info.clone())]).collect()
            }
            // A private key's CKA_VALUE is another.
            Numbers::PostQuantum { value, .. } => {
                let by_value = (class == CKO_PUBLIC_KEY).then(|| of_class(CKA_VALUE, value.clone()));
                by_value.into_iter().chain([of_class(CKA_PUBLIC_KEY_INFO, self.info.clone())]).collect()
            }
        }
    }

    /// What `CKA_EC_POINT` may be: a DER OCTET STRING, as the standard has it; the bare point; a DER BIT STRING, as some have it for Edwards and
    /// Montgomery curves.
    pub(crate) fn points(&self) -> Vec<Vec<u8>> {
        let Numbers::Curve { point, .. } = &self.numbers else { return Vec::new() };
        let bits: Vec<u8> = std::iter::once(0).chain(point.iter().copied()).collect();
        vec![der(0x04, point), point.clone(), der(0x03, &bits)]
    }
}

/// DER of a value of less than 64 KiB.
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    let length: &[u8] = match (high, low) {
        (0, 0..0x80) => &[low],
        (0, _) => &[0x81, low],
        _ => &[0x82, high, low],
    };
    [&[tag], length, value].concat()
}

impl KeyRef {
    /// Itself, or what it shares with other requests.
    pub(crate) fn named(&self) -> &Self {
        match self {
            Self::Shared(shared) => shared,
            own => own,
        }
    }

    /// The same to be changed, for this request only.
    pub(crate) fn own_mut(&mut self) -> &mut Self {
        if let Self::Shared(shared) = self {
            *self = (**shared).clone();
        }
        self
    }

    /// What finds it, and nothing else, as far as that can be.
    pub(crate) fn template(&self) -> Template {
        match self {
            Self::Shared(key) => key.template(),
            Self::Object { unique_id: Some(unique_id), .. } => by_unique_id(unique_id),
            Self::Find(template, _) | Self::Newest(Newest { find: template, .. }) | Self::Object { find: template, .. } => {
                template.clone()
            }
            Self::PublicKey(key) => key.template(),
        }
    }
}

impl PublicKey {
    /// What finds something of it. An RSA key has its modulus, whatever its class. Of private keys on curves most tokens tell nothing to find them by:
    /// then it is the public key.
    pub(crate) fn template(&self) -> Template {
        let class = if matches!(self.numbers, Numbers::Rsa { .. }) { self.class } else { CKO_PUBLIC_KEY };
        self.templates(class).swap_remove(0)
    }
}

/// The template of the one object with this unique id.
pub(crate) fn by_unique_id(unique_id: &[u8]) -> Template {
    vec![Attribute { kind: CKA_UNIQUE_ID, value: Value::Bytes(unique_id.to_vec()) }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_written_in_der_of_any_length() {
        assert_eq!(der(0x04, &[7; 2]), [4, 2, 7, 7]);
        assert_eq!(der(0x04, &[7; 0x7f])[..2], [4, 0x7f]);
        assert_eq!(der(0x04, &[7; 0x85])[..3], [4, 0x81, 0x85]);
        assert_eq!(der(0x03, &[7; 0x102])[..4], [3, 0x82, 1, 2]);
        assert_eq!(der(0x03, &[7; 0x102]).len(), 0x106);
    }

    #[test]
    fn what_a_request_changes_in_a_shared_key_is_its_own() {
        let object = |epoch| KeyRef::Object { handle: 7, epoch, token: vec![1], find: vec![], unique_id: Some(vec![2]) };
        let shared = Arc::new(object(3));
        let mut key = KeyRef::Shared(shared.clone());
        assert_eq!(key.template(), by_unique_id(&[2]));
        assert!(matches!(key.named(), KeyRef::Object { epoch: 3, .. }));
        let KeyRef::Object { epoch, .. } = key.own_mut() else { panic!("not an object") };
        *epoch = 0;
        assert!(matches!(key.named(), KeyRef::Object { epoch: 0, .. }));
        assert!(matches!(*shared, KeyRef::Object { epoch: 3, .. }));
    }

    #[test]
    fn the_names_in_the_cache_are_no_templates_of_callers() {
        let find = vec![Attribute::bytes(CKA_MODULUS, [1])];
        let newest = Newest::new(find.clone(), None);
        let numbers = Numbers::Rsa { modulus: vec![1], exponent: vec![3] };
        let key = PublicKey::new(CKO_PUBLIC_KEY, numbers, vec![1], None);
        assert_ne!(newest.name, find);
        assert_ne!(newest.name.last(), key.name.last());
        assert_eq!(KeyRef::Newest(newest).template(), find);
        assert_eq!(KeyRef::PublicKey(Box::new(key)).template(), [Attribute::ulong(CKA_CLASS, CKO_PUBLIC_KEY), find[0].clone()]);
    }
}
