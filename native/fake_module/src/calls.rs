//! The C functions.

use std::ptr;
use std::slice;
use std::sync::LazyLock;

use cryptoki_sys::*;

use crate::model::{Message, Model, ciphertext_for, code};
use crate::{C_GetFunctionList, C_GetInterface, FAKE};

/// A list of the functions that there are, and their names; those of later versions apart.
macro_rules! functions {
    ($($name:ident)*; $($later:ident)*) => {
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name),)* $(stringify!($later)),*];

        /// The list that the application gets; what is not there is NULL.
        pub(crate) static LIST: LazyLock<CK_FUNCTION_LIST> = LazyLock::new(|| CK_FUNCTION_LIST {
            version: CK_VERSION { major: 2, minor: 40 },
            C_GetFunctionList: Some(C_GetFunctionList),
            $($name: Some($name),)*
            ..CK_FUNCTION_LIST::default()
        });

        /// The list of an interface, without the functions that a test has hidden.
        fn list_of(version: CK_VERSION) -> CK_FUNCTION_LIST_3_2 {
            CK_FUNCTION_LIST_3_2 {
                version,
                C_GetFunctionList: Some(C_GetFunctionList),
                C_GetInterface: Some(C_GetInterface),
                $($name: (!FAKE.hides(stringify!($name))).then_some($name),)*
                $($later: (!FAKE.hides(stringify!($later))).then_some($later),)*
                ..CK_FUNCTION_LIST_3_2::default()
            }
        }
    };
}

functions! {
    C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_OpenSession C_CloseSession C_GetSessionInfo C_Login
    C_Logout C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_GetAttributeValue C_SignInit C_Sign C_VerifyInit C_Verify
    C_GenerateRandom C_GenerateKey C_DestroyObject C_GetMechanismInfo;
    C_GetInterfaceList C_SessionCancel C_LoginUser C_EncapsulateKey C_DecapsulateKey C_MessageEncryptInit C_EncryptMessage
    C_MessageEncryptFinal C_MessageDecryptInit C_DecryptMessage C_MessageDecryptFinal
}

/// The name of the interfaces that the standard defines.
const STANDARD: &[u8] = b"PKCS 11\0";

/// An interface. It and its list are never freed: the application keeps them.
fn interface((major, minor): (u8, u8)) -> &'static mut CK_INTERFACE {
    let list = Box::leak(Box::new(list_of(CK_VERSION { major, minor })));
    let list = ptr::from_mut(list).cast();
    Box::leak(Box::new(CK_INTERFACE { pInterfaceName: STANDARD.as_ptr().cast_mut(), pFunctionList: list, flags: 0 }))
}

/// See [`crate::C_GetInterface`].
///
/// # Safety
/// `version` is NULL or valid, `found` NULL or room for one pointer.
pub(crate) unsafe fn get_interface(version: CK_VERSION_PTR, found: CK_INTERFACE_PTR_PTR) -> CK_RV {
    let offered = FAKE.interfaces();
    let asked = match ptr::NonNull::new(version) {
        // SAFETY: valid, by the caller's promise.
        Some(version) => Some(unsafe { version.read() }).map(|version| (version.major, version.minor)),
        None => offered.last().copied(),
    };
    match asked.filter(|asked| offered.contains(asked)) {
        Some(asked) if !found.is_null() => {
            // SAFETY: room for one pointer, by the caller's promise.
            unsafe { found.write(interface(asked)) };
            CKR_OK
        }
        Some(_) => CKR_ARGUMENTS_BAD,
        None => CKR_FUNCTION_NOT_SUPPORTED,
    }
}

unsafe extern "C" fn C_GetInterfaceList(interfaces: CK_INTERFACE_PTR, count: CK_ULONG_PTR) -> CK_RV {
    let all: Vec<CK_INTERFACE> = FAKE.interfaces().into_iter().map(|version| *interface(version)).collect();
    // SAFETY: the application promises room for as many as it says.
    FAKE.call("C_GetInterfaceList", None, |_| unsafe { write(&all, interfaces, count) })
}

unsafe extern "C" fn C_SessionCancel(session: CK_SESSION_HANDLE, flags: CK_FLAGS) -> CK_RV {
    FAKE.call("C_SessionCancel", Some(session), |model| code(model.cancel(session, flags)))
}

unsafe extern "C" fn C_LoginUser(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: CK_UTF8CHAR_PTR,
    size: CK_ULONG,
    name: CK_UTF8CHAR_PTR,
    name_size: CK_ULONG,
) -> CK_RV {
    FAKE.call("C_LoginUser", Some(session), |model| {
        // SAFETY: the application promises so many bytes.
        let (pin, name) = unsafe { ((!pin.is_null()).then(|| bytes(pin, size)), bytes(name, name_size)) };
        code(model.log_in_as(session, user, pin, name))
    })
}

/// The bytes at a pointer, which may be NULL.
///
/// # Safety
/// There are so many, as the application promises.
unsafe fn bytes<'a>(pointer: *const CK_BYTE, size: CK_ULONG) -> &'a [u8] {
    if pointer.is_null() {
        return &[];
    }
    // SAFETY: not NULL; the rest is the caller's promise.
    unsafe { slice::from_raw_parts(pointer, size as usize) }
}

/// Writes to where the application wants it, unless that is NULL: then it only wants the count. The count says how much room there is.
///
/// # Safety
/// `count` is valid, and `room` NULL or has room for as many.
unsafe fn write<T: Copy>(items: &[T], room: *mut T, count: *mut CK_ULONG) -> CK_RV {
    // SAFETY: valid, by the caller's promise.
    let given = unsafe { ptr::replace(count, items.len() as CK_ULONG) };
    if room.is_null() {
        return CKR_OK;
    }
    if given < items.len() as CK_ULONG {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: there is room for `given`, by the caller's promise.
    unsafe { ptr::copy_nonoverlapping(items.as_ptr(), room, items.len()) };
    CKR_OK
}

/// Writes one thing.
///
/// # Safety
/// `room` is valid.
unsafe fn put<T>(result: Result<T, CK_RV>, room: *mut T) -> CK_RV {
    match result {
        Ok(value) => {
            // SAFETY: valid, by the caller's promise.
            unsafe { room.write(value) };
            CKR_OK
        }
        Err(code) => code,
    }
}

unsafe extern "C" fn C_Initialize(_arguments: CK_VOID_PTR) -> CK_RV {
    FAKE.call("C_Initialize", None, |model| model.initialize())
}

unsafe extern "C" fn C_Finalize(_reserved: CK_VOID_PTR) -> CK_RV {
    FAKE.call("C_Finalize", None, |model| {
        model.finalize();
        CKR_OK
    })
}

unsafe extern "C" fn C_GetInfo(info: CK_INFO_PTR) -> CK_RV {
    // SAFETY: the application promises room for it.
    FAKE.call("C_GetInfo", None, |_| unsafe { put(Ok(CK_INFO::default()), info) })
}

unsafe extern "C" fn C_GetSlotList(with_token: CK_BBOOL, slots: CK_SLOT_ID_PTR, count: CK_ULONG_PTR) -> CK_RV {
    // SAFETY: the application promises room for as many as it says.
    FAKE.call("C_GetSlotList", None, |model| unsafe { write(&model.slots(with_token != 0), slots, count) })
}

unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: CK_SLOT_INFO_PTR) -> CK_RV {
    FAKE.call("C_GetSlotInfo", None, |model| {
        let flags = |is_present| if is_present { CKF_TOKEN_PRESENT } else { 0 };
        let slot = model.is_present(slot).map(|is_present| CK_SLOT_INFO { flags: flags(is_present), ..CK_SLOT_INFO::default() });
        // SAFETY: the application promises room for it.
        unsafe { put(slot, info) }
    })
}

unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: CK_TOKEN_INFO_PTR) -> CK_RV {
    // SAFETY: the application promises room for it.
    FAKE.call("C_GetTokenInfo", None, |model| unsafe { put(model.token_info(slot), info) })
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: CK_VOID_PTR,
    _notify: CK_NOTIFY,
    session: CK_SESSION_HANDLE_PTR,
) -> CK_RV {
    // SAFETY: the application promises room for it.
    FAKE.call("C_OpenSession", None, |model| unsafe { put(model.open(slot, flags), session) })
}

unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    FAKE.call("C_CloseSession", Some(session), |model| {
        let known = model.session(session).map(drop);
        model.close(session);
        code(known)
    })
}

unsafe extern "C" fn C_GetSessionInfo(session: CK_SESSION_HANDLE, info: CK_SESSION_INFO_PTR) -> CK_RV {
    // SAFETY: the application promises room for it.
    FAKE.call("C_GetSessionInfo", Some(session), |model| unsafe { put(model.session_info(session), info) })
}

unsafe extern "C" fn C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: CK_UTF8CHAR_PTR, size: CK_ULONG) -> CK_RV {
    FAKE.call("C_Login", Some(session), |model| {
        // SAFETY: the application promises so many bytes.
        let pin = (!pin.is_null()).then(|| unsafe { bytes(pin, size) });
        code(model.log_in(session, user, pin))
    })
}

unsafe extern "C" fn C_Logout(session: CK_SESSION_HANDLE) -> CK_RV {
    FAKE.call("C_Logout", Some(session), |model| code(model.log_out(session)))
}

/// A template's attributes.
///
/// # Safety
/// It has so many, as the application promises.
unsafe fn attributes(template: CK_ATTRIBUTE_PTR, count: CK_ULONG) -> Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)> {
    if template.is_null() {
        return Vec::new();
    }
    // SAFETY: so many, by the caller's promise.
    let template = unsafe { slice::from_raw_parts(template, count as usize) };
    // SAFETY: each value has so many bytes, by the caller's promise.
    template.iter().map(|one| (one.type_, unsafe { bytes(one.pValue.cast(), one.ulValueLen) }.to_vec())).collect()
}

unsafe extern "C" fn C_FindObjectsInit(session: CK_SESSION_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG) -> CK_RV {
    FAKE.call("C_FindObjectsInit", Some(session), |model| {
        // SAFETY: the application promises so many attributes.
        let template = unsafe { attributes(template, count) };
        code(model.begin_search(session, &template))
    })
}

unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: CK_OBJECT_HANDLE_PTR,
    most: CK_ULONG,
    count: CK_ULONG_PTR,
) -> CK_RV {
    FAKE.call("C_FindObjects", Some(session), |model| match model.next_found(session, most as usize) {
        Ok(found) => {
            // SAFETY: the application promises room for `most`, and for their count.
            unsafe {
                count.write(most);
                write(&found, objects, count)
            }
        }
        Err(code) => code,
    })
}

unsafe extern "C" fn C_FindObjectsFinal(session: CK_SESSION_HANDLE) -> CK_RV {
    FAKE.call("C_FindObjectsFinal", Some(session), |model| code(model.end_search(session)))
}

unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
) -> CK_RV {
    FAKE.call("C_GetAttributeValue", Some(session), |model| {
        // SAFETY: the application promises so many attributes.
        let template = unsafe { slice::from_raw_parts_mut(template, count as usize) };
        let mut result = CKR_OK;
        for attribute in template {
            match model.attribute(session, object, attribute.type_) {
                Ok(Some(value)) => {
                    // SAFETY: the application promises as much room as it says, or NULL.
                    let written = unsafe { write(&value, attribute.pValue.cast(), &raw mut attribute.ulValueLen) };
                    result = if written == CKR_OK { result } else { written };
                }
                Ok(None) => {
                    attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
                    result = CKR_ATTRIBUTE_TYPE_INVALID;
                }
                Err(code) => return code,
            }
        }
        result
    })
}

unsafe extern "C" fn C_SignInit(session: CK_SESSION_HANDLE, _mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE) -> CK_RV {
    FAKE.call("C_SignInit", Some(session), |model| code(model.begin_operation(session, key)))
}

unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    size: CK_ULONG,
    signature: CK_BYTE_PTR,
    signature_size: CK_ULONG_PTR,
) -> CK_RV {
    // SAFETY: the application promises so many bytes.
    FAKE.call("C_Sign", Some(session), |model| match model.finish_operation(session, unsafe { bytes(data, size) }) {
        // SAFETY: the application promises as much room as it says.
        Ok(bytes) => unsafe { write(&bytes, signature, signature_size) },
        Err(code) => code,
    })
}

unsafe extern "C" fn C_VerifyInit(session: CK_SESSION_HANDLE, _mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE) -> CK_RV {
    FAKE.call("C_VerifyInit", Some(session), |model| code(model.begin_operation(session, key)))
}

unsafe extern "C" fn C_Verify(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    size: CK_ULONG,
    signature: CK_BYTE_PTR,
    signature_size: CK_ULONG,
) -> CK_RV {
    // SAFETY: the application promises so many bytes.
    FAKE.call("C_Verify", Some(session), |model| match model.finish_operation(session, unsafe { bytes(data, size) }) {
        // SAFETY: as above.
        Ok(own) if own == unsafe { bytes(signature, signature_size) } => CKR_OK,
        Ok(_) => CKR_SIGNATURE_INVALID,
        Err(code) => code,
    })
}

unsafe extern "C" fn C_GenerateRandom(session: CK_SESSION_HANDLE, random: CK_BYTE_PTR, size: CK_ULONG) -> CK_RV {
    FAKE.call("C_GenerateRandom", Some(session), |model| {
        let known = model.session(session).map(drop);
        if known.is_ok() {
            // SAFETY: the application promises room for so many bytes. Nobody wants them to be random.
            unsafe { ptr::write_bytes(random, 0x5a, size as usize) };
        }
        code(known)
    })
}

unsafe extern "C" fn C_GenerateKey(
    session: CK_SESSION_HANDLE,
    _mechanism: CK_MECHANISM_PTR,
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
    key: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    FAKE.call("C_GenerateKey", Some(session), |model| {
        // SAFETY: the application promises so many attributes.
        let label = unsafe { label(template, count) };
        // SAFETY: and room for a handle.
        unsafe { put(model.generate(session, label), key) }
    })
}

unsafe extern "C" fn C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> CK_RV {
    FAKE.call("C_DestroyObject", Some(session), |model| code(model.destroy(session, object)))
}

unsafe extern "C" fn C_EncapsulateKey(
    session: CK_SESSION_HANDLE,
    _mechanism: CK_MECHANISM_PTR,
    public_key: CK_OBJECT_HANDLE,
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
    ciphertext: CK_BYTE_PTR,
    size: CK_ULONG_PTR,
    key: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    FAKE.call("C_EncapsulateKey", Some(session), |model| {
        // SAFETY: the application promises so many attributes.
        let label = unsafe { label(template, count) };
        // SAFETY: and as much room as it says.
        let written = unsafe { write(&ciphertext_for(&label), ciphertext, size) };
        if written != CKR_OK || ciphertext.is_null() {
            return written;
        }
        // SAFETY: and room for a handle.
        let made = unsafe { put(model.encapsulate(session, public_key, label), key) };
        if let Some(claim) = model.ciphertext_claim {
            // SAFETY: valid, by the application's promise.
            unsafe { size.write(claim) };
        }
        made
    })
}

unsafe extern "C" fn C_DecapsulateKey(
    session: CK_SESSION_HANDLE,
    _mechanism: CK_MECHANISM_PTR,
    private_key: CK_OBJECT_HANDLE,
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
    ciphertext: CK_BYTE_PTR,
    size: CK_ULONG,
    key: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    FAKE.call("C_DecapsulateKey", Some(session), |model| {
        // SAFETY: the application promises so many attributes.
        let label = unsafe { label(template, count) };
        // SAFETY: and so many bytes.
        if unsafe { bytes(ciphertext, size) } != ciphertext_for(&label) {
            return CKR_ENCRYPTED_DATA_INVALID;
        }
        // SAFETY: and room for a handle.
        unsafe { put(model.encapsulate(session, private_key, label), key) }
    })
}

/// The label that a template gives.
///
/// # Safety
/// It has so many attributes, as the application promises.
unsafe fn label(template: CK_ATTRIBUTE_PTR, count: CK_ULONG) -> Vec<u8> {
    // SAFETY: so many, by the caller's promise.
    let label = unsafe { attributes(template, count) }.into_iter().find(|(kind, _)| *kind == CKA_LABEL);
    label.unwrap_or_default().1
}

/// Begins an operation by messages.
///
/// # Safety
/// `mechanism` is one, as the application promises.
unsafe fn begin_messages(
    function: &'static str,
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
    flags: CK_FLAGS,
) -> CK_RV {
    FAKE.call(function, Some(session), |model| {
        // SAFETY: the caller's promise.
        let mechanism = unsafe { mechanism.read_unaligned() }.mechanism;
        code(model.begin_messages(session, mechanism, key, flags))
    })
}

unsafe extern "C" fn C_MessageEncryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the application's promise.
    unsafe { begin_messages("C_MessageEncryptInit", session, mechanism, key, CKF_MESSAGE_ENCRYPT) }
}

unsafe extern "C" fn C_MessageDecryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the application's promise.
    unsafe { begin_messages("C_MessageDecryptInit", session, mechanism, key, CKF_MESSAGE_DECRYPT) }
}

/// Where the parameters of a message have its IV and its tag.
struct Places {
    iv: CK_BYTE_PTR,
    iv_size: usize,
    is_iv_given: bool,
    tag: CK_BYTE_PTR,
    tag_size: usize,
}

/// # Safety
/// They are those of the mechanism, as the application promises.
unsafe fn places(mechanism: CK_MECHANISM_TYPE, params: CK_VOID_PTR, size: CK_ULONG) -> Result<Places, CK_RV> {
    fn is<P>(size: CK_ULONG) -> Result<(), CK_RV> {
        if size as usize == size_of::<P>() { Ok(()) } else { Err(CKR_MECHANISM_PARAM_INVALID) }
    }
    // SAFETY: the caller's promise.
    unsafe {
        Ok(match mechanism {
            CKM_AES_CCM => {
                is::<CK_CCM_MESSAGE_PARAMS>(size)?;
                let params = params.cast::<CK_CCM_MESSAGE_PARAMS>().read_unaligned();
                Places {
                    iv: params.pNonce,
                    iv_size: params.ulNonceLen as usize,
                    is_iv_given: params.nonceGenerator == CKG_NO_GENERATE,
                    tag: params.pMAC,
                    tag_size: params.ulMACLen as usize,
                }
            }
            CKM_CHACHA20_POLY1305 => {
                is::<CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS>(size)?;
                let params = params.cast::<CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS>().read_unaligned();
                let (iv, iv_size) = (params.pNonce, params.ulNonceLen as usize);
                Places { iv, iv_size, is_iv_given: true, tag: params.pTag, tag_size: 16 }
            }
            _ => {
                is::<CK_GCM_MESSAGE_PARAMS>(size)?;
                let params = params.cast::<CK_GCM_MESSAGE_PARAMS>().read_unaligned();
                Places {
                    iv: params.pIv,
                    iv_size: params.ulIvLen as usize,
                    is_iv_given: params.ivGenerator == CKG_NO_GENERATE,
                    tag: params.pTag,
                    tag_size: (params.ulTagBits / 8) as usize,
                }
            }
        })
    }
}

unsafe extern "C" fn C_EncryptMessage(
    session: CK_SESSION_HANDLE,
    params: CK_VOID_PTR,
    params_size: CK_ULONG,
    aad: CK_BYTE_PTR,
    aad_size: CK_ULONG,
    data: CK_BYTE_PTR,
    size: CK_ULONG,
    ciphertext: CK_BYTE_PTR,
    ciphertext_size: CK_ULONG_PTR,
) -> CK_RV {
    FAKE.call("C_EncryptMessage", Some(session), |model| {
        let is_silent = model.makes_no_iv;
        let encrypted = model.next_message(session, CKF_MESSAGE_ENCRYPT).and_then(|(mechanism, number, label)| {
            // SAFETY: the application promises all these bytes, and such a structure.
            unsafe {
                let places = places(mechanism, params, params_size)?;
                let given = (places.is_iv_given || is_silent).then(|| bytes(places.iv, places.iv_size as CK_ULONG));
                let message = Model::encrypt_message(number, &label, given, bytes(aad, aad_size), bytes(data, size));
                Ok((places, message))
            }
        });
        match encrypted {
            Ok((places, Message { iv, bytes, tag })) => {
                // SAFETY: and as much room as it says.
                unsafe {
                    ptr::copy_nonoverlapping(iv.as_ptr(), places.iv, iv.len().min(places.iv_size));
                    ptr::copy_nonoverlapping(tag.as_ptr(), places.tag, tag.len().min(places.tag_size));
                    write(&bytes, ciphertext, ciphertext_size)
                }
            }
            Err(code) => code,
        }
    })
}

unsafe extern "C" fn C_DecryptMessage(
    session: CK_SESSION_HANDLE,
    params: CK_VOID_PTR,
    params_size: CK_ULONG,
    aad: CK_BYTE_PTR,
    aad_size: CK_ULONG,
    ciphertext: CK_BYTE_PTR,
    ciphertext_size: CK_ULONG,
    data: CK_BYTE_PTR,
    size: CK_ULONG_PTR,
) -> CK_RV {
    FAKE.call("C_DecryptMessage", Some(session), |model| {
        let decrypted = model.next_message(session, CKF_MESSAGE_DECRYPT).and_then(|(mechanism, _, label)| {
            // SAFETY: the application promises all these bytes, and such a structure.
            unsafe {
                let places = places(mechanism, params, params_size)?;
                let (iv, tag) = (bytes(places.iv, places.iv_size as CK_ULONG), bytes(places.tag, places.tag_size as CK_ULONG));
                Model::decrypt_message(&label, iv, bytes(aad, aad_size), bytes(ciphertext, ciphertext_size), tag)
            }
        });
        match decrypted {
            // SAFETY: and as much room as it says.
            Ok(plain) => unsafe { write(&plain, data, size) },
            Err(code) => code,
        }
    })
}

unsafe extern "C" fn C_MessageEncryptFinal(session: CK_SESSION_HANDLE) -> CK_RV {
    FAKE.call("C_MessageEncryptFinal", Some(session), |model| code(model.end_messages(session, CKF_MESSAGE_ENCRYPT)))
}

unsafe extern "C" fn C_MessageDecryptFinal(session: CK_SESSION_HANDLE) -> CK_RV {
    FAKE.call("C_MessageDecryptFinal", Some(session), |model| code(model.end_messages(session, CKF_MESSAGE_DECRYPT)))
}

unsafe extern "C" fn C_GetMechanismInfo(slot: CK_SLOT_ID, _mechanism: CK_MECHANISM_TYPE, info: CK_MECHANISM_INFO_PTR) -> CK_RV {
    FAKE.call("C_GetMechanismInfo", None, |model| {
        let flags = model.mechanism_flags;
        let found = model.token_info(slot).map(|_| CK_MECHANISM_INFO { ulMinKeySize: 16, ulMaxKeySize: 32, flags });
        // SAFETY: the application promises room for it.
        unsafe { put(found, info) }
    })
}
