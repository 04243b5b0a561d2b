//! The login that a key wants for each use: `CKA_ALWAYS_AUTHENTICATE`, as on PIV cards. Between the Init call and the final one, on the same session,
//! `C_Login` with `CKU_CONTEXT_SPECIFIC`. It is never tried again, whatever comes of it.

use cryptoki_sys::{CK_OBJECT_HANDLE, CKR_USER_NOT_LOGGED_IN, CKU_CONTEXT_SPECIFIC};

use crate::error::{Error, Executed};
use crate::execution::attempt::Attempt;
use crate::execution::step::{Fault, Needs, Then};
use crate::operation::ContextPin;
use crate::options::LoginMode;
use crate::p11::slots::token_info;
use crate::p11::{self, CallError, Class, Phase};
use crate::support::clock::now;
use crate::token::key_facts::KeyFacts;
use crate::token::login_gate::pin_flags::check_pin_flags;

impl Attempt<'_> {
    /// Runs an operation with a private key: it is given what it has to do between Init and final call, the login that the key may want.
    pub(crate) fn run_with_login<T>(
        &self,
        key: CK_OBJECT_HANDLE,
        facts: &KeyFacts,
        context: &mut ContextPin,
        run: impl FnOnce(&mut dyn FnMut() -> Result<(), CallError>) -> Result<T, CallError>,
    ) -> Result<T, Fault> {
        if self.options.login == LoginMode::None || !self.resolver.wants_login(key, facts) {
            return Ok(run(&mut || self.check_session())?);
        }
        self.run_authenticated(context, run)
    }

    /// The same with a key that wants it.
    fn run_authenticated<T>(
        &self,
        context: &mut ContextPin,
        run: impl FnOnce(&mut dyn FnMut() -> Result<(), CallError>) -> Result<T, CallError>,
    ) -> Result<T, Fault> {
        let (token, functions, session) = (self.resolver.token, self.resolver.functions, self.resolver.session);
        let pin = match context {
            ContextPin::Given(pin) => pin.as_ref().map(|pin| pin.as_slice()),
            ContextPin::None => return Err(Fault::await_login(Needs::Pin)),
            ContextPin::Used => return Err(CallError::new("C_Login", CKR_USER_NOT_LOGGED_IN, Phase::Init).into()),
        };
        let (user, name) = (self.options.user, self.options.user_name.as_deref());
        let Some(proof) = token.gate.begin_context_login(user, pin.map(|pin| token.gate.mark(name, pin)), now())? else {
            return Err(Fault::await_login(Needs::Turn));
        };
        let flags = token_info(functions, token.slot()).map_err(|error| CallError { phase: Phase::Init, ..error })?.flags;
        if let Err(error) = check_pin_flags(user, flags) {
            proof.poison(error.clone(), false, now());
            return Err(error.into());
        }
        let (mut proof, mut refused) = (Some(proof), None);
        let result = run(&mut || {
            self.check_session()?;
            // One at a time goes as far as this; the operation itself may run beside others.
            let Some(proof) = proof.take() else { return Ok(()) };
            let Err(error) = p11::session::login(functions, session, CKU_CONTEXT_SPECIFIC, name, pin) else {
                proof.succeed();
                return Ok(());
            };
            let (error, cause) = match self.class(&error) {
                Class::AlreadyLoggedIn => return Ok(()),
                Class::Credential => {
                    let cause = Error::Poisoned { code: error.code, function: error.function };
                    proof.poison(cause.clone(), true, now());
                    (error, cause)
                }
                _ => (error, error.into()),
            };
            refused = Some(cause);
            Err(error)
        });
        if proof.is_none() {
            *context = ContextPin::Used;
        }
        match refused {
            // The operation has begun, and does not go on.
            Some(error) => Err(Fault { error, executed: Some(Executed::No), then: Some(Then::CancelAndAnswer("context_login")) }),
            None => Ok(result?),
        }
    }
}
