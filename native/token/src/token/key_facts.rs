//! What the token says of a key, beside its handle.

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_KEY_TYPE, CK_MECHANISM_TYPE, CK_OBJECT_CLASS, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CK_ULONG,
    CKA_ALWAYS_AUTHENTICATE, CKA_CLASS, CKA_EC_PARAMS, CKA_KEY_TYPE, CKA_MODULUS, CKA_PARAMETER_SET, CKK_EC, CKK_EC_EDWARDS,
    CKK_ML_DSA, CKK_ML_KEM, CKK_RSA, CKK_SLH_DSA, CKO_CERTIFICATE, CKO_DATA, CKO_DOMAIN_PARAMETERS, CKO_HW_FEATURE,
    CKO_PRIVATE_KEY,
};

use crate::p11::attributes::{AttributeRead, get_attributes, read_together};
use crate::p11::lengths::{self, SignatureLength};
use crate::p11::{CallError, Functions, curves};

/// What is asked for. Modules that stop at the first attribute that a key does not have, stop late.
const KINDS: [CK_ATTRIBUTE_TYPE; 5] = [CKA_CLASS, CKA_KEY_TYPE, CKA_ALWAYS_AUTHENTICATE, CKA_EC_PARAMS, CKA_MODULUS];

/// `CK_ULONG`s of room for each: for the modulus of RSA-16384.
const ROOM: usize = 2048 / size_of::<CK_ULONG>();

/// What the token says of a key; `None`: it does not say. Read once per handle, by `Resolver::facts`, and forgotten with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyFacts {
    /// `CKA_CLASS`.
    pub(crate) class: Option<CK_OBJECT_CLASS>,
    /// `CKA_KEY_TYPE`.
    pub(crate) key_type: Option<CK_KEY_TYPE>,
    /// `CKA_ALWAYS_AUTHENTICATE`: it wants a login for each use.
    pub(crate) always_authenticate: Option<bool>,
    /// `CKA_EC_PARAMS`, of keys on curves.
    pub(crate) ec_params: Option<Vec<u8>>,
    /// Bytes of `CKA_MODULUS`, of RSA keys.
    pub(crate) modulus_size: Option<usize>,
    /// `CKA_PARAMETER_SET`, of ML-KEM, ML-DSA and SLH-DSA keys.
    pub(crate) parameter_set: Option<CK_ULONG>,
}

impl KeyFacts {
    /// Asks: one `C_GetAttributeValue`, and another one for what a key of its kind should have and the first did not give.
    pub(crate) fn read(functions: &Functions, session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> Result<Self, CallError> {
        let mut values =
            read_together(functions, session, key, &KINDS, ROOM)?.into_iter().map(|value| value.map(AttributeRead::Value));
        let mut next = || values.next().flatten();
        let (class, key_type, login, ec_params, modulus) = (next(), next(), next(), next(), next());
        let or_alone = |read: Option<AttributeRead>, kind, is_due: bool| match read {
            None if is_due => Ok(get_attributes(functions, session, key, &[kind])?.pop().map(|(_, read)| read)),
            read => Ok::<_, CallError>(read),
        };
        let class = or_alone(class, CKA_CLASS, true)?.and_then(|read| read.ulong());
        let key_type = or_alone(key_type, CKA_KEY_TYPE, class.is_none_or(is_key))?.and_then(|read| read.ulong());
        let login = or_alone(login, CKA_ALWAYS_AUTHENTICATE, class.is_none_or(|class| class == CKO_PRIVATE_KEY))?;
        let ec_params = or_alone(ec_params, CKA_EC_PARAMS, matches!(key_type, Some(CKK_EC | CKK_EC_EDWARDS)))?;
        let modulus = or_alone(modulus, CKA_MODULUS, key_type == Some(CKK_RSA))?;
        // Few keys have one: others are not asked.
        let set = or_alone(None, CKA_PARAMETER_SET, matches!(key_type, Some(CKK_ML_KEM | CKK_ML_DSA | CKK_SLH_DSA)))?;
        Ok(Self {
            class,
            key_type,
            always_authenticate: login.and_then(|read| read.bytes()?.first().map(|byte| *byte != 0)),
            ec_params: ec_params.and_then(|read| read.bytes().map(<[u8]>::to_vec)).filter(|params| !params.is_empty()),
            modulus_size: modulus.and_then(|read| read.bytes().map(size_of_number)).filter(|size| *size > 0),
            parameter_set: set.and_then(|read| read.ulong()),
        })
    }

    /// Bytes of the order of the curve of an EC key, where the token says which, and it is known.
    pub(crate) fn order_size(&self) -> Option<usize> {
        curves::order_size(self.params_of(CKK_EC)?)
    }

    /// Whether it is on this curve, by `CKA_EC_PARAMS`, as far as the token says on which it is. Parameters that are written out may be of any.
    pub(crate) fn may_be_on_curve(&self, curve: &[u8]) -> bool {
        const OBJECT_IDENTIFIER: u8 = 6;
        self.ec_params.as_deref().is_none_or(|own| own == curve || own.first() != Some(&OBJECT_IDENTIFIER))
    }

    /// Bytes of a signature that this key makes or verifies, where mechanism and key fix them and the token says what they are.
    pub(crate) fn signature_size(&self, length: SignatureLength) -> Option<usize> {
        match length {
            SignatureLength::Bytes(size) => Some(size),
            SignatureLength::Modulus => self.modulus_size.filter(|_| self.key_type == Some(CKK_RSA)),
            SignatureLength::TwoOrders => Some(2 * self.order_size()?),
            // Before there was a type for them, Edwards keys were EC keys.
            SignatureLength::Edwards => {
                curves::edwards_signature_size(self.params_of(CKK_EC_EDWARDS).or_else(|| self.params_of(CKK_EC))?)
            }
            SignatureLength::ParameterSet(key_type) => {
                let set = self.parameter_set.filter(|_| self.key_type == Some(key_type))?;
                lengths::of_parameter_set(key_type, set)
            }
            SignatureLength::Unknown => None,
        }
    }

    /// Bytes of a ciphertext of a secret that is encapsulated for this key, where they are known.
    pub(crate) fn encapsulated_size(&self, mechanism: CK_MECHANISM_TYPE) -> Option<usize> {
        lengths::of_encapsulated(mechanism, self.parameter_set.filter(|_| self.key_type == Some(CKK_ML_KEM))?)
    }

    fn params_of(&self, key_type: CK_KEY_TYPE) -> Option<&[u8]> {
        self.ec_params.as_deref().filter(|_| self.key_type == Some(key_type))
    }
}

/// Of certificates and data there is no key type to be read.
fn is_key(class: CK_OBJECT_CLASS) -> bool {
    !matches!(class, CKO_DATA | CKO_CERTIFICATE | CKO_HW_FEATURE | CKO_DOMAIN_PARAMETERS)
}

/// Bytes of a big integer, without the zeros that it may begin with.
fn size_of_number(bytes: &[u8]) -> usize {
    bytes.iter().skip_while(|byte| **byte == 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";

    fn ec(key_type: CK_KEY_TYPE, params: &[u8]) -> KeyFacts {
        KeyFacts { key_type: Some(key_type), ec_params: Some(params.to_vec()), ..KeyFacts::default() }
    }

    #[test]
    fn the_order_is_that_of_an_ec_key_on_a_known_curve() {
        assert_eq!(ec(CKK_EC, P256).order_size(), Some(32));
        assert_eq!(ec(CKK_RSA, P256).order_size(), None);
        assert_eq!(ec(CKK_EC, b"\x06\x01\x2a").order_size(), None);
        assert_eq!(KeyFacts::default().order_size(), None);
    }

    #[test]
    fn a_key_is_not_on_another_curve_than_its_own() {
        let key = ec(CKK_EC, P256);
        assert!(key.may_be_on_curve(P256));
        assert!(!key.may_be_on_curve(b"\x06\x05\x2b\x81\x04\x00\x0a"));
        // Nobody says.
        assert!(KeyFacts::default().may_be_on_curve(P256));
        assert!(ec(CKK_EC, b"\x30\x00").may_be_on_curve(P256));
    }

    #[test]
    fn a_signature_is_as_long_as_mechanism_and_key_say() {
        let rsa = KeyFacts { key_type: Some(CKK_RSA), modulus_size: Some(256), ..KeyFacts::default() };
        assert_eq!(rsa.signature_size(SignatureLength::Modulus), Some(256));
        assert_eq!(ec(CKK_EC, P256).signature_size(SignatureLength::TwoOrders), Some(64));
        for key_type in [CKK_EC_EDWARDS, CKK_EC] {
            assert_eq!(ec(key_type, b"\x06\x03\x2b\x65\x70").signature_size(SignatureLength::Edwards), Some(64));
        }
        assert_eq!(KeyFacts::default().signature_size(SignatureLength::Bytes(32)), Some(32));
        let ml_dsa = KeyFacts { key_type: Some(CKK_ML_DSA), parameter_set: Some(2), ..KeyFacts::default() };
        assert_eq!(ml_dsa.signature_size(SignatureLength::ParameterSet(CKK_ML_DSA)), Some(3_309));
        assert_eq!(ml_dsa.signature_size(SignatureLength::ParameterSet(CKK_SLH_DSA)), None);
    }

    #[test]
    fn what_the_token_does_not_say_or_says_of_another_key_is_not_guessed() {
        let none = KeyFacts::default();
        for length in [SignatureLength::Modulus, SignatureLength::TwoOrders, SignatureLength::Edwards, SignatureLength::Unknown] {
            assert_eq!(none.signature_size(length), None);
        }
        assert_eq!(ec(CKK_RSA, P256).signature_size(SignatureLength::TwoOrders), None);
        assert_eq!(ec(CKK_EC, P256).signature_size(SignatureLength::Modulus), None);
        assert_eq!(ec(CKK_EC, b"\x06\x01\x2a").signature_size(SignatureLength::TwoOrders), None);
    }

    #[test]
    fn a_modulus_may_begin_with_zeros() {
        assert_eq!(size_of_number(&[0, 0, 0x80, 0]), 2);
        assert_eq!(size_of_number(&[]), 0);
    }
}
