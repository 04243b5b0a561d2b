//! Modules that do not look at parameters which they are given, and the parameters of EdDSA that a curve wants.
//!
//! SoftHSM 2.6.1 takes the context and the prehash flag of EdDSA, and the label of OAEP where it decrypts, and goes on as if they were not there. What it
//! would answer is the signature of something else, or the plaintext of a ciphertext that was made with another label. So each success is compared with
//! what comes of no parameters: a signature by EdDSA (RFC 8032) is deterministic, and valid for one of the two only, as an OAEP ciphertext is.

use std::borrow::Cow;

use cryptoki_sys::{CK_OBJECT_HANDLE, CKM_EDDSA};

use crate::error::Error;
use crate::execution::attempt::Attempt;
use crate::execution::step::Fault;
use crate::p11::crypto::{self, SIGNATURE_HINT};
use crate::p11::lengths::SignatureLength;
use crate::p11::{CallError, Class, Mechanism, Params, Phase};
use crate::token::key_facts::KeyFacts;

/// Bytes of an Ed448 signature.
const ED448: usize = 114;

/// The mechanism with the parameters that the key's curve wants, where none are given: PKCS#11 has them for Ed448, and none for Ed25519.
pub(crate) fn with_params_of_curve<'m>(mechanism: &'m Mechanism, facts: &KeyFacts) -> Cow<'m, Mechanism> {
    let is_bare = mechanism.code == CKM_EDDSA && mechanism.params == Params::None;
    if is_bare && facts.signature_size(SignatureLength::Edwards) == Some(ED448) {
        let params = Params::Eddsa { prehash: false, context: Vec::new() };
        return Cow::Owned(Mechanism { code: CKM_EDDSA, params });
    }
    Cow::Borrowed(mechanism)
}

impl Attempt<'_> {
    /// Refuses a signature for which the module did not look at its parameters. Of a key that wants a login for each use there is no second signature to
    /// compare it with.
    pub(crate) fn check_params_were_signed(
        &self,
        key: CK_OBJECT_HANDLE,
        facts: &KeyFacts,
        mechanism: &Mechanism,
        data: &[u8],
        signature: &[u8],
    ) -> Result<(), Fault> {
        if !mechanism.has_signed_params() || self.resolver.wants_login(key, facts) {
            return Ok(());
        }
        let (functions, session) = (self.resolver.functions, self.resolver.session);
        let bare = Mechanism::new(mechanism.code);
        match crypto::sign(functions, session, key, &with_params_of_curve(&bare, facts), data, SIGNATURE_HINT) {
            Ok(plain) if *plain == *signature => Err(Fault::ran(Error::ParametersIgnored { function: "C_Sign" })),
            Ok(_other) => Ok(()),
            Err(error) if self.is_refused(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a verification for which it did not.
    pub(crate) fn check_params_were_verified(
        &self,
        key: CK_OBJECT_HANDLE,
        facts: &KeyFacts,
        mechanism: &Mechanism,
        data: &[u8],
        signature: &[u8],
    ) -> Result<(), Fault> {
        if !mechanism.has_signed_params() {
            return Ok(());
        }
        let (functions, session) = (self.resolver.functions, self.resolver.session);
        let bare = Mechanism::new(mechanism.code);
        let error = match crypto::verify(functions, session, key, &with_params_of_curve(&bare, facts), data, signature) {
            Ok(()) => return Err(Fault::ran(Error::ParametersIgnored { function: "C_Verify" })),
            Err(error) if self.is_refused(&error) => return Ok(()),
            Err(error) => error,
        };
        let fault = self.tell_refusal_from_failure(error.into(), |call| Error::SignatureInvalid { call });
        if matches!(fault.error, Error::SignatureInvalid { .. }) { Ok(()) } else { Err(fault) }
    }

    /// Refuses a plaintext for which it did not. Of a key that wants a login for each use there is no second decryption to compare it with.
    pub(crate) fn check_params_were_decrypted(
        &self,
        key: CK_OBJECT_HANDLE,
        facts: &KeyFacts,
        mechanism: &Mechanism,
        data: &[u8],
    ) -> Result<(), Fault> {
        let Params::RsaOaep { hash, mgf, source } = &mechanism.params else { return Ok(()) };
        if source.is_empty() || self.resolver.wants_login(key, facts) {
            return Ok(());
        }
        let (functions, session) = (self.resolver.functions, self.resolver.session);
        let params = Params::RsaOaep { hash: *hash, mgf: *mgf, source: Vec::new() };
        let error = match crypto::decrypt(functions, session, key, &Mechanism { code: mechanism.code, params }, data) {
            Ok(_plaintext) => return Err(Fault::ran(Error::ParametersIgnored { function: "C_Decrypt" })),
            Err(error) if self.is_refused(&error) => return Ok(()),
            Err(error) => error,
        };
        let fault = self.tell_refusal_from_failure(error.into(), |call| Error::DecryptionFailed { call });
        if matches!(fault.error, Error::DecryptionFailed { .. }) { Ok(()) } else { Err(fault) }
    }

    /// A module that takes no EdDSA without parameters looks at them.
    fn is_refused(&self, error: &CallError) -> bool {
        error.phase == Phase::Init && self.class(error) == Class::Caller
    }
}

#[cfg(test)]
mod tests {
    use cryptoki_sys::CKK_EC_EDWARDS;

    use super::*;

    #[test]
    fn ed448_has_parameters_and_ed25519_none() {
        let facts = |oid: u8| KeyFacts {
            key_type: Some(CKK_EC_EDWARDS),
            ec_params: Some(vec![6, 3, 0x2B, 0x65, oid]),
            ..KeyFacts::default()
        };
        let bare = Mechanism::new(CKM_EDDSA);
        let explicit = Mechanism { code: CKM_EDDSA, params: Params::Eddsa { prehash: false, context: vec![] } };
        assert_eq!(*with_params_of_curve(&bare, &facts(0x71)), explicit);
        assert_eq!(*with_params_of_curve(&bare, &facts(0x70)), bare);
        assert_eq!(*with_params_of_curve(&bare, &KeyFacts::default()), bare);
        let context = Mechanism { code: CKM_EDDSA, params: Params::Eddsa { prehash: true, context: vec![1] } };
        assert_eq!(*with_params_of_curve(&context, &facts(0x71)), context);
    }
}
