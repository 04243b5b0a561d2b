//! Encryption and decryption by messages (PKCS#11 3.0), where `C_Encrypt` and `C_Decrypt` do not do the same: with an IV that the token makes, and on a token that
//! offers the mechanism by messages only.
//!
//! The operation serves all messages of one attempt with the same key and mechanism: one Init call for as much of a list as a slice does. It ends with the attempt, with
//! a message that fails, or before something else runs: by its final call, else by `C_SessionCancel`, else with its session.

use cryptoki_sys::{
    CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CKF_DECRYPT, CKF_ENCRYPT, CKR_FUNCTION_NOT_SUPPORTED, CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID, CKR_OPERATION_NOT_INITIALIZED,
};

use crate::execution::attempt::Attempt;
use crate::execution::step::Step;
use crate::p11::crypto::Encrypted;
use crate::p11::messages::{self, Direction, Messages};
use crate::p11::slots::mechanism_info;
use crate::p11::{CallError, Class, Mechanism, Phase};
use crate::support::wiped::Wiped;

impl Attempt<'_> {
    /// Encrypts a message; `None`: it is for `C_Encrypt`.
    pub(crate) fn encrypt_message(
        &self,
        key: CK_OBJECT_HANDLE,
        mechanism: &Mechanism,
        data: &[u8],
    ) -> Result<Option<Encrypted>, CallError> {
        let (functions, session) = (self.resolver.functions, self.resolver.session);
        self.run_message(key, mechanism, Direction::Encrypt, &mut || Ok(()), |messages| {
            messages.encrypt(functions, session, mechanism, data)
        })
    }

    /// Decrypts a message, with something between the Init call and this, as in [`crate::p11::crypto::decrypt_after`]; `None`: it is for `C_Decrypt`.
    pub(crate) fn decrypt_message(
        &self,
        key: CK_OBJECT_HANDLE,
        mechanism: &Mechanism,
        data: &[u8],
        between: &mut dyn FnMut() -> Result<(), CallError>,
    ) -> Result<Option<Wiped>, CallError> {
        let (functions, session) = (self.resolver.functions, self.resolver.session);
        self.run_message(key, mechanism, Direction::Decrypt, between, |messages| {
            messages.decrypt(functions, session, mechanism, data)
        })
    }

    /// Runs a message in the operation that has begun, or in one that begins; `None`: it is for the functions that have no messages, and no operation goes on.
    fn run_message<T>(
        &self,
        key: CK_OBJECT_HANDLE,
        mechanism: &Mechanism,
        direction: Direction,
        between: &mut dyn FnMut() -> Result<(), CallError>,
        run: impl Fn(&Messages) -> Result<T, CallError>,
    ) -> Result<Option<T>, CallError> {
        let (functions, session, code) = (self.resolver.functions, self.resolver.session, mechanism.code);
        if self.messages.get().is_some_and(|messages| !messages.serves(key, code, direction)) {
            self.end_messages();
        }
        let is_for_messages = messages::are_defined(mechanism)
            && functions.has_messages()
            && (mechanism.has_token_iv() || self.is_offered_by_messages_only(code, direction));
        if !is_for_messages {
            self.end_messages();
            return Ok(None);
        }
        let begun = self.messages.take();
        let messages = match begun {
            Some(messages) => messages,
            None => match messages::begin(functions, session, key, code, direction) {
                Err(error) if is_not_offered(&error) => return Ok(None),
                messages => messages?,
            },
        };
        if let Err(error) = between() {
            self.end(messages);
            return Err(error);
        }
        match run(&messages) {
            Ok(done) => {
                self.messages.set(Some(messages));
                Ok(Some(done))
            }
            // A module may end it with a message, which it should not. Nothing has been done with this one.
            Err(error) if begun.is_some() && error.code == CKR_OPERATION_NOT_INITIALIZED && self.used.is_owner() => {
                self.run_message(key, mechanism, direction, between, run)
            }
            // What speaks of another failure than the message's own is left to whoever looks into it.
            Err(error) if !is_of_message(&error, self.class(&error), direction) => Err(CallError { active: true, ..error }),
            Err(error) => {
                self.end(messages);
                Err(CallError { active: false, ..error })
            }
        }
    }

    /// Ends the operation that has begun, if one has.
    pub(crate) fn end_messages(&self) {
        if let Some(messages) = self.messages.take() {
            self.end(messages);
        }
    }

    /// Whatever comes of it: what was encrypted and decrypted has been, and it is the session that has failed.
    fn end(&self, messages: Messages) {
        // The handle may be another session's by now, whose operations are not ours to end.
        if !self.used.is_owner() {
            return;
        }
        if let Err(error) = messages.end(self.resolver.functions, self.resolver.session)
            && !self.cancel_messages(messages.direction())
        {
            self.session_failed.set(Some(self.class(&error)));
        }
    }

    /// The same step, after which a session is closed on which an operation could not be ended.
    pub(crate) fn discard_failed_session(&self, step: Step) -> Step {
        match (step, self.session_failed.get()) {
            (Step::Answer(outcome), Some(class)) => Step::AnswerAndDiscard(outcome, class.name()),
            (step, _) => step,
        }
    }

    /// Whether a mechanism can be offered by messages only: the token does not say that it offers it otherwise. It is asked once. That it has it by messages it need
    /// not say (NSS 3.87 does not): the Init call shows it.
    fn is_offered_by_messages_only(&self, code: CK_MECHANISM_TYPE, direction: Direction) -> bool {
        let (functions, token, epoch) = (self.resolver.functions, self.resolver.token, self.resolver.epoch);
        let flags = token.keys.mechanism_flags(code, epoch).or_else(|| {
            let flags = match mechanism_info(functions, token.slot(), code) {
                Ok(info) => info.flags,
                Err(error) if self.class(&error) == Class::Caller => 0,
                // What it says next time may be another thing.
                Err(_) => return None,
            };
            token.keys.put_mechanism_flags(code, epoch, flags);
            Some(flags)
        });
        let whole = match direction {
            Direction::Encrypt => CKF_ENCRYPT,
            Direction::Decrypt => CKF_DECRYPT,
        };
        flags.is_some_and(|flags| flags & whole == 0)
    }
}

/// Whether the module does not have the mechanism by messages: nothing has been done.
fn is_not_offered(error: &CallError) -> bool {
    error.phase == Phase::Init
        && matches!(error.code, CKR_FUNCTION_NOT_SUPPORTED | CKR_MECHANISM_INVALID | CKR_MECHANISM_PARAM_INVALID)
}

/// Whether a call may have failed of its message. For a tag that is wrong some modules have a code that may mean anything.
fn is_of_message(error: &CallError, class: Class, direction: Direction) -> bool {
    if error.is_of_output() {
        return !error.active;
    }
    match class {
        Class::Caller | Class::StaleHandle | Class::LoginLost => true,
        Class::Ambiguous | Class::DeviceTrouble => direction == Direction::Decrypt && error.phase == Phase::Final,
        _ => false,
    }
}
