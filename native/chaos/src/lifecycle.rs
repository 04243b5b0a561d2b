//! `C_Initialize` and `C_Finalize`.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::Ordering;

use cryptoki_sys::*;

use crate::call::{Call, guarded};
use crate::config;
use crate::function::Function;
use crate::real::real;
use crate::state::{CHAOS, Mode};

/// The application's arguments, made fit for the real module: that one must always lock, since the control calls it, too.
fn for_real_module(arguments: Option<&CK_C_INITIALIZE_ARGS>) -> CK_C_INITIALIZE_ARGS {
    let mut ours = arguments.copied().unwrap_or_default();
    ours.flags |= CKF_OS_LOCKING_OK;
    ours
}

/// An application that has threads says that the module may lock, or gives it locks.
fn has_threads(arguments: Option<&CK_C_INITIALIZE_ARGS>) -> bool {
    arguments.is_some_and(|arguments| arguments.flags & CKF_OS_LOCKING_OK != 0 || arguments.LockMutex.is_some())
}

pub unsafe extern "C" fn C_Initialize(arguments: *mut c_void) -> CK_RV {
    guarded(|| {
        config::apply();
        let mut call = Call::begin(Function::C_Initialize, false)?;
        call.disturb()?;
        // SAFETY: NULL, or the structure that the application promises, for the call.
        let arguments = unsafe { arguments.cast::<CK_C_INITIALIZE_ARGS>().as_ref() };
        if CHAOS.cant_lock.load(Ordering::SeqCst) && has_threads(arguments) {
            return Err(CKR_CANT_LOCK);
        }
        let _one_at_a_time = CHAOS.lifecycle.lock();
        if CHAOS.mode() == Mode::Lost {
            if let Some(other) = CHAOS.other_inside(Function::C_Initialize) {
                CHAOS.violation(format!("C_Initialize after a loss called while another thread is in {}", other.name()));
                return Err(CKR_FUNCTION_FAILED);
            }
            // SAFETY: nobody is inside, and nobody comes in before the mode is `Up`.
            let _code = unsafe { real!(call.real, C_Finalize(ptr::null_mut())) };
            CHAOS.sessions.forget_all(None);
        }
        let mut ours = for_real_module(arguments);
        // SAFETY: the arguments outlive the call; mutex functions, if any, are the application's.
        let code = unsafe { real!(call.real, C_Initialize((&raw mut ours).cast())) };
        if matches!(code, CKR_OK | CKR_CRYPTOKI_ALREADY_INITIALIZED) && CHAOS.mode() != Mode::Up {
            CHAOS.single_threaded.store(!has_threads(arguments), Ordering::SeqCst);
            CHAOS.hides_objects.store(false, Ordering::SeqCst);
            CHAOS.set_mode(Mode::Up);
        }
        if code == CKR_OK {
            CHAOS.trouble.initialized();
        }
        call.answer(code)
    })
}

pub unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    guarded(|| {
        let mut call = Call::begin(Function::C_Finalize, false)?;
        call.disturb()?;
        let _one_at_a_time = CHAOS.lifecycle.lock();
        if !CHAOS.change_mode(Mode::Up, Mode::Finalizing) {
            return Err(CKR_CRYPTOKI_NOT_INITIALIZED);
        }
        if let Some(other) = CHAOS.other_inside(Function::C_Finalize) {
            CHAOS.set_mode(Mode::Up);
            CHAOS.violation(format!("C_Finalize called while another thread is in {}", other.name()));
            return Err(CKR_FUNCTION_FAILED);
        }
        // SAFETY: nobody is inside, and whoever comes is turned away. The argument is the application's.
        let code = unsafe { real!(call.real, C_Finalize(reserved)) };
        if code == CKR_OK {
            CHAOS.sessions.forget_all(None);
        }
        CHAOS.set_mode(if code == CKR_OK { Mode::Down } else { Mode::Up });
        call.answer(code)
    })
}
