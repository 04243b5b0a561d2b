//! Trouble of the device behind a library that does not notice: what it knows by itself it goes on telling, and everything else fails.

use std::sync::atomic::{AtomicBool, Ordering};

use cryptoki_sys::{CK_RV, CKR_DEVICE_ERROR};
use parking_lot::Mutex;

use crate::function::Function;

/// What a library answers without its device. `C_Initialize` and `C_Finalize` do not ask either.
const LOCAL: [Function; 5] =
    [Function::C_GetInfo, Function::C_GetSlotList, Function::C_GetSlotInfo, Function::C_GetTokenInfo, Function::C_GetSessionInfo];

struct Answers {
    code: CK_RV,
    spared: Vec<Function>,
    /// Whether `C_Initialize` ends it.
    until_initialized: bool,
}

/// The trouble.
pub struct Trouble {
    is_on: AtomicBool,
    answers: Mutex<Answers>,
}

impl Trouble {
    pub const fn new() -> Self {
        let answers = Answers { code: CKR_DEVICE_ERROR, spared: Vec::new(), until_initialized: true };
        Self { is_on: AtomicBool::new(false), answers: Mutex::new(answers) }
    }

    pub fn begin(&self, code: CK_RV, spared: Vec<Function>, until_initialized: bool) {
        *self.answers.lock() = Answers { code, spared, until_initialized };
        self.is_on.store(true, Ordering::SeqCst);
    }

    pub fn end(&self) {
        self.is_on.store(false, Ordering::SeqCst);
    }

    /// The application has called `C_Initialize`.
    pub fn initialized(&self) {
        if self.answers.lock().until_initialized {
            self.end();
        }
    }

    /// `Err`: what a call is answered with.
    pub fn check(&self, function: Function) -> Result<(), CK_RV> {
        if !self.is_on.load(Ordering::SeqCst) || LOCAL.contains(&function) {
            return Ok(());
        }
        let answers = self.answers.lock();
        if answers.spared.contains(&function) { Ok(()) } else { Err(answers.code) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_knows_by_itself_is_answered_and_the_rest_is_not() {
        let trouble = Trouble::new();
        assert_eq!(trouble.check(Function::C_Sign), Ok(()));
        trouble.begin(5, vec![Function::C_OpenSession], true);
        assert_eq!(trouble.check(Function::C_Sign), Err(5));
        assert_eq!(trouble.check(Function::C_GetSessionInfo), Ok(()));
        assert_eq!(trouble.check(Function::C_OpenSession), Ok(()));
        trouble.initialized();
        assert_eq!(trouble.check(Function::C_Sign), Ok(()));
        trouble.begin(5, Vec::new(), false);
        trouble.initialized();
        assert_eq!(trouble.check(Function::C_OpenSession), Err(5));
        trouble.end();
        assert_eq!(trouble.check(Function::C_OpenSession), Ok(()));
    }
}
