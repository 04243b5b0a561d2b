//! Making a token and setting its PINs: for scripts and tests, while no pool uses the token.

use cryptoki_sys::{CK_SESSION_HANDLE, CK_USER_TYPE, CKF_TOKEN_INITIALIZED, CKU_SO, CKU_USER};

use crate::error::Error;
use crate::module::{Module, ModuleConfig};
use crate::p11::session::{init_pin, init_token, login, logout, set_pin};
use crate::p11::slots::token_info;
use crate::p11::{CallError, Class, Functions};
use crate::support::clock::now;
use crate::support::pin::Pin;
use crate::token::login_gate::pin_flags::check_pin_flags;
use crate::token::{Selector, Token};

/// What is to be done.
pub enum Provision {
    /// `C_InitToken`.
    Token {
        /// At most 32 bytes.
        label: String,
        /// The security officer's PIN; of a token that has one, the present one.
        so_pin: Pin,
    },
    /// `C_InitPIN`.
    UserPin {
        /// The security officer's PIN.
        so_pin: Pin,
        /// The user's new one.
        pin: Pin,
    },
    /// `C_SetPIN`.
    ChangePin {
        /// Whose.
        user: CK_USER_TYPE,
        /// The present one.
        old: Pin,
        /// The new one.
        new: Pin,
    },
}

/// Does it. `force`: even if a wrong PIN would lock the token. May block for as long as the module does.
pub fn provision(path: &str, config: &ModuleConfig, selector: &Selector, what: &Provision, force: bool) -> Result<(), Error> {
    let module = Module::acquire(path, config)?;
    let token = Token::find(module.module(), selector)?;
    let _claim = token.claim(true, None)?;
    let _inside = module.module().enter_unless_stuck()?;
    let functions = module.module().functions();
    // Whose PIN the token is to compare, if it compares one.
    let user = match what {
        Provision::ChangePin { user, .. } => *user,
        Provision::Token { .. } | Provision::UserPin { .. } => CKU_SO,
    };
    let flags = token_info(functions, token.slot())?.flags;
    // A slot that has no token yet has no PIN either, whatever its flags say of it.
    let is_new = matches!(what, Provision::Token { .. }) && flags & CKF_TOKEN_INITIALIZED == 0;
    // Somebody else has made a token there since it was found: it is not the one that was meant.
    if *selector == Selector::Uninitialized && !is_new {
        return Err(Error::SlotNotFound { wanted: selector.to_string(), available: Vec::new() });
    }
    if !force && !is_new {
        check_pin_flags(user, flags)?;
    }
    let tried = match what {
        Provision::Token { so_pin, .. } | Provision::UserPin { so_pin, .. } => so_pin,
        Provision::ChangePin { old, .. } => old,
    };
    let result = match what {
        Provision::Token { label, so_pin } => init_token(functions, token.slot(), Some(so_pin), label),
        Provision::UserPin { so_pin, pin } => within(&token, |session| {
            login(functions, session, CKU_SO, None, Some(so_pin))?;
            let result = init_pin(functions, session, Some(pin));
            logged_out(functions, session, result)
        }),
        Provision::ChangePin { user: CKU_SO, old, new } => within(&token, |session| {
            login(functions, session, CKU_SO, None, Some(old))?;
            let result = set_pin(functions, session, Some(old), Some(new));
            logged_out(functions, session, result)
        }),
        Provision::ChangePin { old, new, .. } => within(&token, |session| set_pin(functions, session, Some(old), Some(new))),
    };
    match result {
        Ok(()) => {
            // Whatever was refused before may be right now.
            let changed = if matches!(what, Provision::UserPin { .. }) { CKU_USER } else { user };
            token.gate.forget_refusals(changed);
            Ok(())
        }
        // `C_InitPIN` says the like of a new PIN that it does not take.
        Err(error) if error.class() == Class::Credential && error.function != "C_InitPIN" => {
            let poisoned = Error::Poisoned { code: error.code, function: error.function };
            if error.code == cryptoki_sys::CKR_PIN_INCORRECT {
                token.gate.note_refused_pin(user, token.gate.mark(None, tried), poisoned, now());
            }
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn within(token: &Token, run: impl FnOnce(CK_SESSION_HANDLE) -> Result<(), CallError>) -> Result<(), CallError> {
    token.with_temporary_session(false, run)?
}

fn logged_out(functions: &Functions, session: CK_SESSION_HANDLE, result: Result<(), CallError>) -> Result<(), CallError> {
    result.and(logout(functions, session))
}
