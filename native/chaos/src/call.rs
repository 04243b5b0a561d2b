//! One call: counted, checked, disturbed, handed on. See the crate's documentation for the order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::Ordering;

use cryptoki_sys::*;

use crate::claims::Claim;
use crate::function::Function;
use crate::point::Point;
use crate::real::real;
use crate::rule::Verdict;
use crate::state::{CHAOS, Mode};

/// The answer to a call: either way a return code; `Err` ends the call early.
pub type Answer = Result<CK_RV, CK_RV>;

/// Runs a call's body; a panic must not cross into C.
pub fn guarded(body: impl FnOnce() -> Answer) -> CK_RV {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(code) | Err(code)) => code,
        Err(_panic) => CKR_GENERAL_ERROR,
    }
}

/// A thread inside the module.
pub struct Call {
    function: Function,
    point: &'static Point,
    /// The real module's functions.
    pub real: &'static CK_FUNCTION_LIST,
    verdict: Verdict,
    size_query: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.point.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Call {
    /// Counts the call, and the thread as inside. For `C_Initialize` and `C_Finalize`, which look at the mode themselves.
    pub fn begin(function: Function, size_query: bool) -> Result<Self, CK_RV> {
        let point = CHAOS.point(function);
        point.calls.fetch_add(1, Ordering::Relaxed);
        if size_query {
            point.size_queries.fetch_add(1, Ordering::Relaxed);
        }
        let real = CHAOS.real().ok_or(CKR_GENERAL_ERROR)?;
        point.inside.fetch_add(1, Ordering::SeqCst);
        Ok(Self { function, point, real, verdict: point.judge(), size_query })
    }

    /// The same for all other functions: refused unless the module is initialized.
    pub fn enter(function: Function, size_query: bool) -> Result<Self, CK_RV> {
        let call = Self::begin(function, size_query)?;
        if CHAOS.mode() == Mode::Finalizing {
            CHAOS.violation(format!("{} called while another thread is in C_Finalize", function.name()));
        }
        call.check_mode()?;
        if CHAOS.single_threaded.load(Ordering::Relaxed)
            && let Some(other) = CHAOS.other_inside(function)
        {
            let (own, other) = (function.name(), other.name());
            CHAOS.violation(format!("{own} called while another thread is in {other}, in a module that cannot lock"));
            return Err(CKR_FUNCTION_FAILED);
        }
        CHAOS.trouble.check(function)?;
        Ok(call)
    }

    fn check_mode(&self) -> Result<(), CK_RV> {
        if CHAOS.mode() == Mode::Up { Ok(()) } else { Err(CKR_CRYPTOKI_NOT_INITIALIZED) }
    }

    /// What the rules do before the real call, which `Err` replaces.
    pub fn disturb(&mut self) -> Result<(), CK_RV> {
        if self.verdict.crash {
            process::abort();
        }
        if self.verdict.hang
            && let Some(code) = self.point.hang()
        {
            return Err(code);
        }
        if self.size_query {
            CHAOS.size_query.sleep()
        } else {
            self.point.latency.sleep()
        }
        match self.verdict.fail {
            Some((code, false)) => Err(code),
            _ => Ok(()),
        }
    }

    /// What the rules make of the real call's return code.
    pub fn answer(&self, code: CK_RV) -> Answer {
        match self.verdict.fail {
            Some((instead, true)) => Ok(instead),
            _ => Ok(code),
        }
    }

    /// After a hang or a latency the module may be another than before.
    pub fn still_up(&self) -> Result<(), CK_RV> {
        self.check_mode()
    }

    /// Its function.
    pub fn function(&self) -> Function {
        self.function
    }
}

/// A call without a session.
pub fn plain(function: Function, body: impl FnOnce(&CK_FUNCTION_LIST) -> Answer) -> CK_RV {
    guarded(|| {
        let mut call = Call::enter(function, false)?;
        call.disturb()?;
        call.still_up()?;
        let code = body(call.real)?;
        call.answer(code)
    })
}

/// A call on a slot. `body` gets the real module's slot.
pub fn on_slot(function: Function, slot: CK_SLOT_ID, body: impl FnOnce(&CK_FUNCTION_LIST, CK_SLOT_ID) -> CK_RV) -> CK_RV {
    plain(function, |real| {
        let slot = CHAOS.slots.real(slot)?;
        CHAOS.slots.check_present(slot)?;
        Ok(body(real, slot))
    })
}

/// A call on a session. `body` gets the real module's session.
pub fn on_session(
    function: Function,
    handle: CK_SESSION_HANDLE,
    size_query: bool,
    mut body: impl FnMut(&CK_FUNCTION_LIST, &Claim) -> Answer,
) -> CK_RV {
    guarded(|| {
        let mut call = Call::enter(function, size_query)?;
        // Where a number is given out again, it is looked up as late as can be: so more happens between the application's own look and ours.
        let is_late = CHAOS.sessions.reuses.load(Ordering::Relaxed);
        if is_late {
            call.disturb()?;
        }
        let claim = CHAOS.sessions.claim(handle, call.function())?;
        if !is_late {
            call.disturb()?;
        }
        call.still_up()?;
        claim.check_alive()?;
        let mut code = body(call.real, &claim)?;
        if code == CKR_OPERATION_ACTIVE && CHAOS.replaces_operations.load(Ordering::Relaxed) {
            end_operations(call.real, claim.real());
            code = body(call.real, &claim)?;
        }
        // The token may have gone meanwhile: then nobody hears what it said.
        claim.check_alive()?;
        call.answer(code)
    })
}

/// Ends whatever operation is active on a real session, by a final call of each kind.
fn end_operations(list: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE) {
    let (mut data, mut output) = ([0u8; 16], [0u8; 4096]);
    let (data, output) = (data.as_mut_ptr(), output.as_mut_ptr());
    let mut size = 4096;
    // SAFETY: the input has 16 bytes, and the output `size`, which is set anew before each call. Which of them has an operation to end, the
    // module knows; the others are refused.
    unsafe {
        let _ = real!(list, C_Sign(session, data, 16, output, &mut size));
        let _ = real!(list, C_Verify(session, data, 16, data, 16));
        size = 4096;
        let _ = real!(list, C_Encrypt(session, data, 16, output, &mut size));
        size = 4096;
        let _ = real!(list, C_Decrypt(session, data, 16, output, &mut size));
        size = 4096;
        let _ = real!(list, C_Digest(session, data, 16, output, &mut size));
        let _ = real!(list, C_FindObjectsFinal(session));
    }
}
