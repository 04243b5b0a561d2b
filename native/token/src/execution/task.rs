//! What a key does with data: an Init call and a final one, and what their outcome means.

use std::ops::RangeInclusive;

use cryptoki_sys::{
    CK_OBJECT_HANDLE, CKM_ECDSA, CKR_AEAD_DECRYPT_FAILED, CKR_ARGUMENTS_BAD, CKR_DATA_INVALID, CKR_DATA_LEN_RANGE,
    CKR_DEVICE_MEMORY, CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_FIPS_SELF_TEST_FAILED, CKR_HOST_MEMORY,
    CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE,
};

use crate::error::Error;
use crate::execution::attempt::Attempt;
use crate::execution::ignored_params::with_params_of_curve;
use crate::execution::step::Fault;
use crate::operation::ContextPin;
use crate::operation::answer::Answer;
use crate::operation::task::Task;
use crate::p11::crypto::{self, Encrypted, SIGNATURE_HINT};
use crate::p11::fit::{Use, fits};
use crate::p11::lengths;
use crate::p11::{CallError, Class, Mechanism, Params, Phase};
use crate::support::wiped::Wiped;
use crate::token::key_facts::KeyFacts;

impl Attempt<'_> {
    /// Does one task with a key.
    pub(crate) fn run_task(
        &self,
        key: CK_OBJECT_HANDLE,
        mechanism: &Mechanism,
        task: &Task,
        context: &mut ContextPin,
    ) -> Result<Answer, Fault> {
        let (functions, session) = (self.resolver.functions, self.resolver.session);
        let facts = &*self.resolver.facts(key)?;
        self.check_task(mechanism, task, facts)?;
        let mechanism = &*with_params_of_curve(mechanism, facts);
        match task {
            Task::Sign(data) => {
                let size = facts.signature_size(lengths::of_signature(mechanism));
                // More than it gives: what fills the buffer is not believed.
                let hint = SIGNATURE_HINT.max(size.map_or(0, |size| size.saturating_add(1)));
                let signature = self.run_with_login(key, facts, context, |login| {
                    self.run_hashed(key, facts, mechanism, data, |mechanism, data| {
                        crypto::sign_after(functions, session, key, mechanism, data, hint, login)
                    })
                })?;
                let signature = check_output_length("C_Sign", signature, size.map(|size| size..=size))?;
                self.check_params_were_signed(key, facts, mechanism, data, &signature)?;
                Ok(Answer::Bytes(signature))
            }
            Task::Verify { data, signature } => {
                let verified = self.run_hashed(key, facts, mechanism, data, |mechanism, data| {
                    crypto::verify(functions, session, key, mechanism, data, signature)
                });
                match verified {
                    Ok(()) => {
                        self.check_params_were_verified(key, facts, mechanism, data, signature)?;
                        Ok(Answer::Done)
                    }
                    Err(call) => Err(self.tell_refusal_from_failure(call.into(), |call| Error::SignatureInvalid { call })),
                }
            }
            Task::Encrypt(data) => {
                let allowed = lengths::of_ciphertext(mechanism, data.len(), facts.modulus_size);
                let is_allowed = |size| allowed.as_ref().is_none_or(|allowed| allowed.contains(&size));
                if let Some(made) = self.encrypt_message(key, mechanism, data)? {
                    return check_ciphertext("C_EncryptMessage", mechanism, made, is_allowed);
                }
                check_ciphertext("C_Encrypt", mechanism, crypto::encrypt(functions, session, key, mechanism, data)?, is_allowed)
            }
            Task::Decrypt(data) => {
                let (function, bytes) = self
                    .run_with_login(key, facts, context, |login| {
                        if let Some(bytes) = self.decrypt_message(key, mechanism, data, login)? {
                            return Ok(("C_DecryptMessage", bytes));
                        }
                        let bytes = crypto::decrypt_after(functions, session, key, mechanism, data, login)?;
                        Ok(("C_Decrypt", bytes))
                    })
                    .map_err(|fault| self.tell_refusal_from_failure(fault, |call| Error::DecryptionFailed { call }))?;
                let bytes = check_output_length(function, bytes, lengths::of_plaintext(mechanism, data.len()))?;
                self.check_params_were_decrypted(key, facts, mechanism, data)?;
                Ok(Answer::Bytes(bytes))
            }
            Task::DigestKey { prefix, suffix } => {
                Ok(Answer::Bytes(crypto::digest_key(functions, session, key, mechanism, prefix, suffix)?))
            }
        }
    }

    /// Refuses what no module should be asked: some crash on a key that is none of the mechanism's, some sign the first bytes of a message
    /// that is given in place of a digest, some take a signature to be as long as it should be, and read on behind its end, and some answer for the
    /// MAC of no data with what happens to be in their memory.
    fn check_task(&self, mechanism: &Mechanism, task: &Task, facts: &KeyFacts) -> Result<(), Error> {
        let Some(usage) = task.usage() else { return Ok(()) };
        check_key(mechanism, usage, facts)?;
        if let Task::Verify { signature, .. } = task {
            check_signature_length(mechanism, signature.len(), facts)?;
        }
        let (Task::Sign(data) | Task::Verify { data, .. }) = task else { return Ok(()) };
        if data.is_empty() && lengths::is_chained_mac(mechanism.code) {
            return Err(Error::NoDataForMac);
        }
        match (mechanism, facts.order_size()) {
            (Mechanism { code: CKM_ECDSA, params }, Some(longest))
                if !matches!(params, Params::Hashed { .. }) && data.len() > longest =>
            {
                Err(Error::DigestTooLong { size: data.len(), longest })
            }
            _ => Ok(()),
        }
    }

    /// The fault, or this error where the module has refused what it was to decrypt or to verify, rather than failed to. Some modules say so by a
    /// code that may mean anything (SoftHSM: `CKR_GENERAL_ERROR`; kryoptic and NSS: `CKR_DEVICE_ERROR`; NSS: `CKR_ARGUMENTS_BAD`): then a call that
    /// no input decides tells it from a failing session. It is made whatever the code, so that each refusal takes as long as any other, and none is
    /// tried again.
    pub(crate) fn tell_refusal_from_failure(&self, fault: Fault, error: impl FnOnce(CallError) -> Error) -> Fault {
        let Fault { error: Error::Call(call @ CallError { phase: Phase::Final, .. }), then: None, .. } = fault else {
            return fault;
        };
        let class = self.class(&call);
        if !is_refusal(&call, class) || !self.session_answers() {
            return fault;
        }
        if call.active || class != Class::Caller {
            // Whether the module has ended the operation, the next one sees.
            self.session.set_unclear();
        }
        Fault::ran(error(call))
    }
}

/// A key that is none of the mechanism's.
pub(crate) fn check_key(mechanism: &Mechanism, usage: Use, facts: &KeyFacts) -> Result<(), Error> {
    if !fits(mechanism.code, usage, facts.class, facts.key_type) {
        return Err(Error::KeyMisfit { class: facts.class, key_type: facts.key_type });
    }
    match &mechanism.params {
        Params::Hashed { curve: Some(curve), .. } if !facts.may_be_on_curve(curve) => Err(Error::CurveMisfit),
        _ => Ok(()),
    }
}

/// A signature of a length that mechanism and key do not allow.
pub(crate) fn check_signature_length(mechanism: &Mechanism, given: usize, facts: &KeyFacts) -> Result<(), Error> {
    match facts.signature_size(lengths::of_signature(mechanism)) {
        Some(expected) if expected != given => Err(Error::SignatureLength { expected, given }),
        _ => Ok(()),
    }
}

/// Whether a final call that returned this code may have found fault with a ciphertext or signature. What speaks of memory does not.
fn is_refusal(call: &CallError, class: Class) -> bool {
    match class {
        Class::Caller => matches!(
            call.code,
            CKR_ARGUMENTS_BAD
                | CKR_DATA_INVALID
                | CKR_DATA_LEN_RANGE
                | CKR_ENCRYPTED_DATA_INVALID
                | CKR_ENCRYPTED_DATA_LEN_RANGE
                | CKR_AEAD_DECRYPT_FAILED
                | CKR_SIGNATURE_INVALID
                | CKR_SIGNATURE_LEN_RANGE
        ),
        Class::Ambiguous => true,
        Class::DeviceTrouble => !matches!(call.code, CKR_HOST_MEMORY | CKR_DEVICE_MEMORY | CKR_FIPS_SELF_TEST_FAILED),
        _ => false,
    }
}

/// An output goes out if it has a length that mechanism, input and key allow, as far as they are known.
pub(crate) fn check_output_length(
    function: &'static str,
    bytes: Wiped,
    allowed: Option<RangeInclusive<usize>>,
) -> Result<Wiped, Fault> {
    if allowed.is_none_or(|allowed| allowed.contains(&bytes.len())) {
        return Ok(bytes);
    }
    Err(Fault::ran(Error::OutputLength { function }))
}

/// A ciphertext goes out with the IV that it was made with, and with a length that it may have, or not at all.
pub(crate) fn check_ciphertext(
    function: &'static str,
    mechanism: &Mechanism,
    Encrypted { bytes, iv }: Encrypted,
    is_allowed: impl FnOnce(usize) -> bool,
) -> Result<Answer, Fault> {
    let is_allowed = is_allowed(bytes.len());
    match (mechanism.has_token_iv(), iv) {
        (false, Some(iv)) => Err(Fault::ran(Error::IvReplaced { function, iv })),
        // Made with our zeros, then, as everything else under this key would be.
        (true, None) => Err(Fault::ran(Error::IvNotMade { function })),
        _ if !is_allowed => Err(Fault::ran(Error::OutputLength { function })),
        (false, None) => Ok(Answer::Bytes(bytes)),
        (true, Some(iv)) => Ok(Answer::Sealed { iv, bytes }),
    }
}
