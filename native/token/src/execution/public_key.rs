//! The key on the token that a public key belongs to. Most tokens tell of a private key on a curve, and some of a post-quantum one, neither its point nor its public half: such a key is
//! found by the `CKA_ID` that it shares with its public key or certificate, and proved by a signature. What is not proved is not used.

use std::collections::BTreeSet;

use cryptoki_sys::*;

use crate::error::Error;
use crate::execution::resolver::{CANDIDATES, Resolver};
use crate::operation::key_ref::{Numbers, PublicKey};
use crate::p11::attributes::get_attributes;
use crate::p11::objects::{create_object, destroy_object};
use crate::p11::{Attribute, CallError, Class, Mechanism, Params, Template, crypto};

/// What is signed for a proof. No message's digest is this text; and it is as long as the orders of the shortest curves.
const CHALLENGE: &[u8; 20] = b"pkcs11_pool key test";

/// What the token says of an object, as to whether it is a public key, or the private half of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Same,
    Other,
    Nothing,
}

/// `Ok(None)` for what the token does not take, which tells nothing.
fn unless_refused<T>(result: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.class() == Class::Caller && !error.active => Ok(None),
        Err(error) => Err(error),
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

impl Resolver<'_> {
    /// The one key that a public key belongs to.
    pub(crate) fn find_of_public_key(&self, key: &PublicKey) -> Result<CK_OBJECT_HANDLE, Error> {
        if let Some(handle) = self.recall(&key.name) {
            return Ok(handle);
        }
        let mut own = self.find_told(key, key.class)?;
        let error = if own.is_empty() && key.class == CKO_PRIVATE_KEY {
            let (linked, error) = self.find_linked(key)?;
            own = linked;
            error
        } else {
            Error::NoKeyOfPublicKey { public_keys: own.len(), certificates: 0, unproved: 0 }
        };
        match own.as_slice() {
            [] => Err(error),
            [handle] => Ok(self.remember(&key.name, *handle, &key.template())),
            several => Err(self.ambiguous(several, None)?),
        }
    }

    /// The objects of a class that are found by what the public key is made of, and say that they are of it.
    fn find_told(&self, key: &PublicKey, class: CK_OBJECT_CLASS) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
        let mut found = BTreeSet::new();
        for template in key.templates(class) {
            found.extend(self.find_some(&template)?);
        }
        let mut own = Vec::new();
        for handle in found {
            if self.told(key, handle)? == Told::Same {
                own.push(handle);
            }
        }
        Ok(own)
    }

    /// The private keys that share their id with public keys or certificates of it, and are proved to be its other half; and what is to be said if there
    /// are none.
    fn find_linked(&self, key: &PublicKey) -> Result<(Vec<CK_OBJECT_HANDLE>, Error), CallError> {
        let public_keys = self.find_told(key, CKO_PUBLIC_KEY)?;
        let certificates = self.find_certificates(key)?;
        let mut ids = BTreeSet::new();
        for handle in public_keys.iter().chain(&certificates) {
            let read = get_attributes(self.functions, self.session, *handle, &[CKA_ID])?.pop();
            ids.extend(read.and_then(|(_, read)| read.bytes().map(<[u8]>::to_vec)).filter(|id| !id.is_empty()));
        }
        let (mut own, mut unproved) = (Vec::new(), 0);
        for id in ids {
            let template = vec![Attribute::ulong(CKA_CLASS, CKO_PRIVATE_KEY), Attribute::bytes(CKA_ID, id)];
            for private in self.find_some(&template)? {
                match self.prove(key, private, &public_keys)? {
                    Told::Same => own.push(private),
                    Told::Other => (),
                    Told::Nothing => unproved += 1,
                }
            }
        }
        let error = Error::NoKeyOfPublicKey { public_keys: public_keys.len(), certificates: certificates.len(), unproved };
        Ok((own, error))
    }

    /// Certificates of it.
    fn find_certificates(&self, key: &PublicKey) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
        let of =
            |kind, value: &Vec<u8>| vec![Attribute::ulong(CKA_CLASS, CKO_CERTIFICATE), Attribute::bytes(kind, value.clone())];
        let mut found = BTreeSet::new();
        for (kind, value) in [(CKA_VALUE, key.certificate.as_ref()), (CKA_PUBLIC_KEY_INFO, Some(&key.info))] {
            let Some(value) = value else { continue };
            for handle in self.find_some(&of(kind, value))? {
                // Some tokens look at a part of a template only.
                let read = get_attributes(self.functions, self.session, handle, &[kind])?.pop();
                if read.is_some_and(|(_, read)| read.bytes() == Some(value)) {
                    found.insert(handle);
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The first ones that a template finds; none for what is not to be searched by.
    fn find_some(&self, template: &Template) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
        Ok(unless_refused(self.search(template, CANDIDATES))?.unwrap_or_default())
    }

    /// What an object's attributes say.
    fn told(&self, key: &PublicKey, object: CK_OBJECT_HANDLE) -> Result<Told, CallError> {
        let read = |kinds: &[CK_ATTRIBUTE_TYPE]| -> Result<Vec<Option<Vec<u8>>>, CallError> {
            let read = get_attributes(self.functions, self.session, object, kinds)?;
            Ok(read.iter().map(|(_, read)| read.bytes().filter(|bytes| !bytes.is_empty()).map(<[u8]>::to_vec)).collect())
        };
        let same_if = |is_same| if is_same { Told::Same } else { Told::Other };
        match &key.numbers {
            Numbers::Rsa { modulus, exponent } => match &read(&[CKA_MODULUS, CKA_PUBLIC_EXPONENT])?[..] {
                [Some(own), e] => {
                    Ok(same_if(without_zeros(own) == modulus && e.as_ref().is_none_or(|own| without_zeros(own) == exponent)))
                }
                _ => Ok(Told::Nothing),
            },
            Numbers::Curve { .. } => match &read(&[CKA_EC_POINT, CKA_PUBLIC_KEY_INFO])?[..] {
                [Some(point), _] => Ok(same_if(key.points().contains(point))),
                // It may be written in another way.
                [None, Some(info)] if *info == key.info => Ok(Told::Same),
                _ => Ok(Told::Nothing),
            },
            Numbers::PostQuantum { key_type, set, value } => match &read(&[CKA_CLASS, CKA_PUBLIC_KEY_INFO])?[..] {
                [_, Some(info)] if *info == key.info => Ok(Told::Same),
                // Of a private key it is the secret, and not read.
                [Some(class), _] if *class == CKO_PUBLIC_KEY.to_ne_bytes() => {
                    match &read(&[CKA_KEY_TYPE, CKA_PARAMETER_SET, CKA_VALUE])?[..] {
                        [own_type, own_set, Some(own)] => Ok(same_if(
                            own == value
                                && own_type.as_ref().is_none_or(|own| *own == key_type.to_ne_bytes())
                                && own_set.as_ref().is_none_or(|own| *own == set.to_ne_bytes()),
                        )),
                        _ => Ok(Told::Nothing),
                    }
                }
                _ => Ok(Told::Nothing),
            },
        }
    }

    /// Whether a private key is the other half of a public key: by what it says of itself, or else by a signature.
    fn prove(&self, key: &PublicKey, private: CK_OBJECT_HANDLE, public_keys: &[CK_OBJECT_HANDLE]) -> Result<Told, CallError> {
        let told = self.told(key, private)?;
        if told != Told::Nothing {
            return Ok(told);
        }
        let facts = self.facts(private)?;
        let (key_type, may_be_its_own) = match &key.numbers {
            Numbers::Rsa { .. } => return Ok(told),
            Numbers::Curve { key_type, params, .. } => {
                let is_of_curve = |own: &Vec<u8>| own.first() != params.first() || own == params;
                (*key_type, facts.ec_params.as_ref().is_none_or(is_of_curve))
            }
            Numbers::PostQuantum { key_type, set, .. } => (*key_type, facts.parameter_set.is_none_or(|own| own == *set)),
        };
        if facts.key_type.is_some_and(|own| own != key_type) || !may_be_its_own {
            return Ok(Told::Other);
        }
        let code = match key_type {
            CKK_EC => CKM_ECDSA,
            CKK_EC_EDWARDS => CKM_EDDSA,
            CKK_ML_DSA => CKM_ML_DSA,
            CKK_SLH_DSA => CKM_SLH_DSA,
            _ => return Ok(Told::Nothing),
        };
        // A login for each use is for the caller's operation.
        if facts.key_type.is_none() || self.wants_login(private, &facts) {
            return Ok(Told::Nothing);
        }
        let mechanism = Mechanism { code, params: Params::None };
        let signed = crypto::sign(self.functions, self.session, private, &mechanism, CHALLENGE, crypto::SIGNATURE_HINT);
        let Some(signature) = unless_refused(signed)? else { return Ok(Told::Nothing) };
        for public in public_keys {
            let told = self.verify_challenge(*public, &mechanism, &signature)?;
            if told != Told::Nothing {
                return Ok(told);
            }
        }
        // There may be but a certificate, or a public key that may not verify.
        let Some(public) = unless_refused(create_object(self.functions, self.session, &verifier(key)))? else {
            return Ok(Told::Nothing);
        };
        let told = self.verify_challenge(public, &mechanism, &signature);
        // A session's object: it goes with the session at the latest.
        let _ = destroy_object(self.functions, self.session, public);
        told
    }

    fn verify_challenge(&self, public: CK_OBJECT_HANDLE, mechanism: &Mechanism, signature: &[u8]) -> Result<Told, CallError> {
        match crypto::verify(self.functions, self.session, public, mechanism, CHALLENGE, signature) {
            Ok(()) => Ok(Told::Same),
            Err(CallError { code: CKR_SIGNATURE_INVALID | CKR_SIGNATURE_LEN_RANGE, active: false, .. }) => Ok(Told::Other),
            Err(error) => unless_refused(Err::<(), _>(error)).map(|_| Told::Nothing),
        }
    }
}

/// A public key, as an object of the session that verifies.
fn verifier(key: &PublicKey) -> Template {
    let (key_type, own) = match &key.numbers {
        Numbers::Rsa { .. } => return Template::new(),
        Numbers::Curve { key_type, params, .. } => {
            let point = key.points().swap_remove(0);
            (key_type, [Attribute::bytes(CKA_EC_PARAMS, params.clone()), Attribute::bytes(CKA_EC_POINT, point)])
        }
        Numbers::PostQuantum { key_type, set, value } => {
            (key_type, [Attribute::ulong(CKA_PARAMETER_SET, *set), Attribute::bytes(CKA_VALUE, value.clone())])
        }
    };
    let common = [
        Attribute::ulong(CKA_CLASS, CKO_PUBLIC_KEY),
        Attribute::ulong(CKA_KEY_TYPE, *key_type),
        Attribute::bool(CKA_TOKEN, false),
        Attribute::bool(CKA_PRIVATE, false),
        Attribute::bool(CKA_VERIFY, true),
    ];
    common.into_iter().chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_in_front_of_a_number_do_not_count() {
        assert_eq!(without_zeros(&[0, 0, 1, 0]), [1, 0]);
        assert_eq!(without_zeros(&[0]), [] as [u8; 0]);
    }
}
