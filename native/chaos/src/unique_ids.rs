//! `CKA_UNIQUE_ID`, which SoftHSM 2.6 lacks. The one of a public or private key is kept in its `CKA_SUBJECT`, which the real module stores with it,
//! and which is written when the unique id is first read: so it is as old as the key, whatever becomes of handles and sessions. A copy of a key has
//! that of its original. What has no `CKA_SUBJECT` (secret keys, data), or may not be written to, has no unique id.

use std::ptr;
use std::sync::atomic::Ordering;

use cryptoki_sys::*;
use parking_lot::Mutex;

use crate::call::on_session;
use crate::function::Function;
use crate::real::real;
use crate::state::CHAOS;

/// How the token answers: as the real module does.
const OFF: u8 = 0;
/// Each key has its own, and is found by it.
const OWN: u8 = 1;
/// The same, but `CKR_ATTRIBUTE_TYPE_INVALID` in a search.
const REFUSED: u8 = 2;
/// The same, but a search takes no notice of it.
const IGNORED: u8 = 3;
/// All objects have the same.
const SAME: u8 = 4;
/// All have an empty one.
const EMPTY: u8 = 5;

/// Bytes of a unique id.
const SIZE: usize = 16;

/// The unique id of all.
const OF_ALL: [u8; SIZE] = *b"the same for all";

/// Held while one is made: of two threads that read it first, both see the same.
static MAKING: Mutex<()> = Mutex::new(());

/// What a word of a command stands for.
pub fn mode(word: &str) -> Result<u8, String> {
    match word {
        "off" => Ok(OFF),
        "on" => Ok(OWN),
        "refused" => Ok(REFUSED),
        "ignored" => Ok(IGNORED),
        "same" => Ok(SAME),
        "empty" => Ok(EMPTY),
        _ => Err(format!("{word} is none of on, off, refused, ignored, same, empty")),
    }
}

/// A template in which the real module sees another attribute in place of the unique id.
fn translated(template: &[CK_ATTRIBUTE]) -> Vec<CK_ATTRIBUTE> {
    let translate = |attribute: &CK_ATTRIBUTE| match attribute.type_ {
        CKA_UNIQUE_ID => CK_ATTRIBUTE { type_: CKA_SUBJECT, ..*attribute },
        _ => *attribute,
    };
    template.iter().map(translate).collect()
}

/// # Safety
/// NULL, or `count` attributes that nobody else uses meanwhile.
unsafe fn attributes<'a>(template: *mut CK_ATTRIBUTE, count: CK_ULONG) -> &'a mut [CK_ATTRIBUTE] {
    if template.is_null() {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(template, count as usize) }
}

/// Gives an object a unique id, unless it has one. What the real module refuses has none.
fn give(list: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) {
    let _one_at_a_time = MAKING.lock();
    let mut subject = CK_ATTRIBUTE { type_: CKA_SUBJECT, pValue: ptr::null_mut(), ulValueLen: 0 };
    // SAFETY: asks for a length only.
    let code = unsafe { real!(list, C_GetAttributeValue(session, object, &mut subject, 1)) };
    if code != CKR_OK || subject.ulValueLen != 0 {
        return;
    }
    let mut own = format!("{:0SIZE$x}", crate::rule::random()).into_bytes();
    subject.pValue = own.as_mut_ptr().cast();
    subject.ulValueLen = SIZE as CK_ULONG;
    // SAFETY: as many bytes as it says.
    let _ = unsafe { real!(list, C_SetAttributeValue(session, object, &mut subject, 1)) };
}

pub unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    on_session(Function::C_GetAttributeValue, session, false, |list, claim| {
        let object = CHAOS.objects.real(object, claim.generation(), CKR_OBJECT_HANDLE_INVALID)?;
        // SAFETY: the application's promise.
        let asked = unsafe { attributes(template, count) };
        CHAOS.objects.check_readable(object, asked)?;
        let mode = CHAOS.unique_ids.load(Ordering::SeqCst);
        let is_ours = mode != OFF && asked.iter().any(|attribute| attribute.type_ == CKA_UNIQUE_ID);
        let code = if is_ours {
            give(list, claim.real(), object);
            let mut translated = translated(asked);
            // SAFETY: the same buffers, for which the application promises what the real function needs; the handles are the real ones.
            let code = unsafe { real!(list, C_GetAttributeValue(claim.real(), object, translated.as_mut_ptr(), count)) };
            for (asked, read) in asked.iter_mut().zip(&translated) {
                asked.ulValueLen = read.ulValueLen;
                // SAFETY: the real function has answered for this attribute.
                unsafe { answer(mode, asked) };
            }
            code
        } else {
            // SAFETY: the application promises the real function what it needs; the handles are the real ones.
            unsafe { real!(list, C_GetAttributeValue(claim.real(), object, template, count)) }
        };
        if code == CKR_OK {
            for attribute in asked {
                // SAFETY: a reference is a good pointer.
                unsafe { CHAOS.point(Function::C_GetAttributeValue).tell_count(&raw mut attribute.ulValueLen) };
            }
        }
        Ok(code)
    })
}

/// Writes over a unique id that the real module has given.
///
/// # Safety
/// `pValue` is NULL or room for `ulValueLen` bytes, unless that is `CK_UNAVAILABLE_INFORMATION`.
unsafe fn answer(mode: u8, attribute: &mut CK_ATTRIBUTE) {
    if attribute.type_ != CKA_UNIQUE_ID || attribute.ulValueLen != SIZE as CK_ULONG {
        return;
    }
    match mode {
        // SAFETY: so many bytes were written there.
        SAME if !attribute.pValue.is_null() => unsafe {
            ptr::copy_nonoverlapping(OF_ALL.as_ptr(), attribute.pValue.cast(), SIZE)
        },
        EMPTY => attribute.ulValueLen = 0,
        _ => {}
    }
}

pub unsafe extern "C" fn C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG) -> CK_RV {
    on_session(Function::C_FindObjectsInit, session, false, |list, claim| {
        // SAFETY: the application's promise.
        let asked = unsafe { attributes(template, count) };
        let mode = CHAOS.unique_ids.load(Ordering::SeqCst);
        if mode == OFF || asked.iter().all(|attribute| attribute.type_ != CKA_UNIQUE_ID) {
            // SAFETY: the application promises the real function what it needs; the session is the real one.
            return Ok(unsafe { real!(list, C_FindObjectsInit(claim.real(), template, count)) });
        }
        if mode == REFUSED {
            return Err(CKR_ATTRIBUTE_TYPE_INVALID);
        }
        let mut wanted = translated(asked);
        if matches!(mode, IGNORED | SAME | EMPTY) {
            wanted.retain(|attribute| attribute.type_ != CKA_SUBJECT);
        }
        // SAFETY: the same values, of which the application promises what the real function needs; the session is the real one.
        Ok(unsafe { real!(list, C_FindObjectsInit(claim.real(), wanted.as_mut_ptr(), wanted.len() as CK_ULONG)) })
    })
}
