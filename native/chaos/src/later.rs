//! The functions of PKCS#11 3.0 and 3.2, which are handed on, and the lists of them.

use std::ffi::c_void;

use cryptoki_sys::*;

use crate::call::on_session;
use crate::careless;
use crate::forward::{LIST, on_session_functions};
use crate::function::Function;
use crate::login::C_LoginUser;
use crate::real::real;
use crate::state::CHAOS;
use crate::{C_GetInterface, C_GetInterfaceList};

/// The list in which the functions of this file are.
fn functions(_: &CK_FUNCTION_LIST) -> &'static CK_FUNCTION_LIST_3_2 {
    CHAOS.later()
}

on_session_functions! {
    C_SessionCancel(flags: CK_FLAGS);
    C_MessageEncryptInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) takes(key: CKR_KEY_HANDLE_INVALID);
    C_EncryptMessage(params: *mut c_void, params_size: CK_ULONG, aad: *mut CK_BYTE, aad_size: CK_ULONG, data: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG)
        asks(output, output_size);
    C_EncryptMessageBegin(params: *mut c_void, params_size: CK_ULONG, aad: *mut CK_BYTE, aad_size: CK_ULONG);
    C_EncryptMessageNext(params: *mut c_void, params_size: CK_ULONG, part: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG, flags: CK_FLAGS)
        asks(output, output_size);
    C_MessageEncryptFinal();
    C_MessageDecryptInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) takes(key: CKR_KEY_HANDLE_INVALID);
    C_DecryptMessage(params: *mut c_void, params_size: CK_ULONG, aad: *mut CK_BYTE, aad_size: CK_ULONG, data: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG)
        asks(output, output_size);
    C_DecryptMessageBegin(params: *mut c_void, params_size: CK_ULONG, aad: *mut CK_BYTE, aad_size: CK_ULONG);
    C_DecryptMessageNext(params: *mut c_void, params_size: CK_ULONG, part: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG, flags: CK_FLAGS)
        asks(output, output_size);
    C_MessageDecryptFinal();
    C_MessageSignInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) takes(key: CKR_KEY_HANDLE_INVALID);
    C_SignMessage(params: *mut c_void, params_size: CK_ULONG, data: *mut CK_BYTE, size: CK_ULONG, signature: *mut CK_BYTE, signature_size: *mut CK_ULONG)
        asks(signature, signature_size);
    C_SignMessageBegin(params: *mut c_void, params_size: CK_ULONG);
    C_SignMessageNext(params: *mut c_void, params_size: CK_ULONG, part: *mut CK_BYTE, size: CK_ULONG, signature: *mut CK_BYTE, signature_size: *mut CK_ULONG);
    C_MessageSignFinal();
    C_MessageVerifyInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) takes(key: CKR_KEY_HANDLE_INVALID);
    C_VerifyMessage(params: *mut c_void, params_size: CK_ULONG, data: *mut CK_BYTE, size: CK_ULONG, signature: *mut CK_BYTE, signature_size: CK_ULONG);
    C_VerifyMessageBegin(params: *mut c_void, params_size: CK_ULONG);
    C_VerifyMessageNext(params: *mut c_void, params_size: CK_ULONG, part: *mut CK_BYTE, size: CK_ULONG, signature: *mut CK_BYTE, signature_size: CK_ULONG);
    C_MessageVerifyFinal();
    C_EncapsulateKey(mechanism: *mut CK_MECHANISM, public_key: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, ciphertext: *mut CK_BYTE, ciphertext_size: *mut CK_ULONG, key: *mut CK_OBJECT_HANDLE)
        takes(public_key: CKR_KEY_HANDLE_INVALID) asks(ciphertext, ciphertext_size) gives(key);
    C_DecapsulateKey(mechanism: *mut CK_MECHANISM, private_key: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, ciphertext: *mut CK_BYTE, ciphertext_size: CK_ULONG, key: *mut CK_OBJECT_HANDLE)
        takes(private_key: CKR_KEY_HANDLE_INVALID) gives(key);
    C_VerifySignatureInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE, signature: *mut CK_BYTE, signature_size: CK_ULONG)
        takes(key: CKR_KEY_HANDLE_INVALID);
    C_VerifySignature(data: *mut CK_BYTE, size: CK_ULONG);
    C_VerifySignatureUpdate(part: *mut CK_BYTE, size: CK_ULONG);
    C_VerifySignatureFinal();
    C_GetSessionValidationFlags(kind: CK_SESSION_VALIDATION_FLAGS_TYPE, flags: *mut CK_FLAGS);
    C_AsyncComplete(function: *mut CK_UTF8CHAR, result: *mut CK_ASYNC_DATA);
    C_AsyncGetID(function: *mut CK_UTF8CHAR, id: *mut CK_ULONG);
    C_AsyncJoin(function: *mut CK_UTF8CHAR, id: CK_ULONG, data: *mut CK_BYTE, size: CK_ULONG);
    C_WrapKeyAuthenticated(mechanism: *mut CK_MECHANISM, wrapping_key: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE, aad: *mut CK_BYTE, aad_size: CK_ULONG, wrapped: *mut CK_BYTE, wrapped_size: *mut CK_ULONG)
        takes(wrapping_key: CKR_WRAPPING_KEY_HANDLE_INVALID, key: CKR_KEY_HANDLE_INVALID) asks(wrapped, wrapped_size);
    C_UnwrapKeyAuthenticated(mechanism: *mut CK_MECHANISM, unwrapping_key: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE, size: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG, aad: *mut CK_BYTE, aad_size: CK_ULONG, key: *mut CK_OBJECT_HANDLE)
        takes(unwrapping_key: CKR_UNWRAPPING_KEY_HANDLE_INVALID) gives(key);
}

/// The list that the application gets for a list of the real module: what is NULL there, is NULL here, but for the functions of 2.40.
macro_rules! list {
    ($version:expr, $real:expr; earlier: $($earlier:ident)*; later: $($later:ident)*) => {
        CK_FUNCTION_LIST_3_2 {
            version: $version,
            C_GetInterfaceList: Some(C_GetInterfaceList),
            C_GetInterface: Some(C_GetInterface),
            $($earlier: LIST.$earlier,)*
            $($later: $real.$later.and(Some($later)),)*
        }
    };
}

/// The same for the real module's functions that there are in a list of this version.
pub fn list_of(version: CK_VERSION, real: &CK_FUNCTION_LIST_3_2) -> CK_FUNCTION_LIST_3_2 {
    list! {
        version, real;
        earlier: C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo
            C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession
            C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout C_CreateObject
            C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit
            C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit
            C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal
            C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify
            C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate
            C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey
            C_UnwrapKey C_DeriveKey C_SeedRandom C_GenerateRandom C_GetFunctionStatus C_CancelFunction
            C_WaitForSlotEvent;
        later: C_LoginUser C_SessionCancel C_MessageEncryptInit C_EncryptMessage C_EncryptMessageBegin
            C_EncryptMessageNext C_MessageEncryptFinal C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin
            C_DecryptMessageNext C_MessageDecryptFinal C_MessageSignInit C_SignMessage C_SignMessageBegin
            C_SignMessageNext C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage C_VerifyMessageBegin
            C_VerifyMessageNext C_MessageVerifyFinal C_EncapsulateKey C_DecapsulateKey C_VerifySignatureInit
            C_VerifySignature C_VerifySignatureUpdate C_VerifySignatureFinal C_GetSessionValidationFlags
            C_AsyncComplete C_AsyncGetID C_AsyncJoin C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated
    }
}
