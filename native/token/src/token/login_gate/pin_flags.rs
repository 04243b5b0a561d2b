//! What a token says of its PINs (`CK_TOKEN_INFO.flags`): one whose next wrong PIN locks it, or that is locked, is left alone.

use cryptoki_sys::{
    CK_FLAGS, CK_SLOT_ID, CK_USER_TYPE, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED,
    CKU_SO,
};

use crate::error::Error;
use crate::p11::Functions;
use crate::p11::slots::token_info;

/// Asks the token in this slot whether it may be given a PIN of this user, unless the caller insists: `C_GetTokenInfo`. `Error::Call`: it does
/// not say. Called inside of the module.
pub(crate) fn ask_pin_flags(functions: &Functions, slot: CK_SLOT_ID, user: CK_USER_TYPE) -> Result<(), Error> {
    check_pin_flags(user, token_info(functions, slot)?.flags)
}

/// Whether a token with these flags may be given a PIN of this user, unless the caller insists.
pub(crate) fn check_pin_flags(user: CK_USER_TYPE, flags: CK_FLAGS) -> Result<(), Error> {
    let (locked, last) = match user {
        CKU_SO => (CKF_SO_PIN_LOCKED, CKF_SO_PIN_FINAL_TRY),
        _ => (CKF_USER_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY),
    };
    if flags & locked != 0 {
        return Err(Error::Locked);
    }
    if flags & last != 0 { Err(Error::FinalTry) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use cryptoki_sys::CKU_USER;

    use super::*;

    #[test]
    fn each_user_has_flags_of_its_own_and_locked_is_worse_than_the_final_try() {
        assert_eq!(check_pin_flags(CKU_USER, CKF_SO_PIN_LOCKED | CKF_SO_PIN_FINAL_TRY), Ok(()));
        assert_eq!(check_pin_flags(CKU_SO, CKF_USER_PIN_LOCKED | CKF_USER_PIN_FINAL_TRY), Ok(()));
        assert_eq!(check_pin_flags(CKU_USER, CKF_USER_PIN_FINAL_TRY), Err(Error::FinalTry));
        assert_eq!(check_pin_flags(CKU_SO, CKF_SO_PIN_FINAL_TRY), Err(Error::FinalTry));
        assert_eq!(check_pin_flags(CKU_USER, CKF_USER_PIN_LOCKED | CKF_USER_PIN_FINAL_TRY), Err(Error::Locked));
    }
}
