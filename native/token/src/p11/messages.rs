//! Encryption and decryption by messages (PKCS#11 3.0, 5.9 and 5.11). One Init call serves any number of messages, each with parameters of its own, where the
//! tag is apart from the ciphertext. The token may make the IV, and tells it by a structure that is made for that, other than `C_Encrypt`, where modules write
//! over the IV that they were given.

use cryptoki_sys::*;

use super::buffer::{input, length, output, zeroed};
use super::crypto::{CIPHER_MARGIN, Encrypted};
use super::error::{CallError, Phase, check};
use super::functions::{Functions, call_later};
use super::mechanism::Mechanism;
use super::params::Params;
use crate::support::wiped::Wiped;

/// What is done with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// They are encrypted.
    Encrypt,
    /// They are decrypted.
    Decrypt,
}

/// An operation by messages that has begun on a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Messages {
    direction: Direction,
    key: CK_OBJECT_HANDLE,
    code: CK_MECHANISM_TYPE,
}

/// Bytes of the tag of a mechanism that PKCS#11 has by messages; `None`: it has it not.
fn tag_size(mechanism: &Mechanism) -> Option<usize> {
    match (mechanism.code, &mechanism.params) {
        (CKM_AES_GCM, Params::Gcm { tag_bits, .. }) => usize::try_from(tag_bits.div_ceil(8)).ok(),
        (CKM_AES_CCM, Params::Ccm { mac_length, .. }) => usize::try_from(*mac_length).ok(),
        (CKM_CHACHA20_POLY1305 | CKM_SALSA20_POLY1305, Params::Poly1305 { .. }) => Some(16),
        _ => None,
    }
}

/// Whether PKCS#11 has the mechanism by messages.
pub fn are_defined(mechanism: &Mechanism) -> bool {
    tag_size(mechanism).is_some()
}

/// `C_MessageEncryptInit` or `C_MessageDecryptInit`: what is encrypted or decrypted then needs [`Messages::end`].
pub fn begin(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    code: CK_MECHANISM_TYPE,
    direction: Direction,
) -> Result<Messages, CallError> {
    let mut mechanism = CK_MECHANISM { mechanism: code, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
    let (function, answer) = match direction {
        Direction::Encrypt => {
            // SAFETY: the mechanism, which has no parameters, lives through the call.
            let answer = unsafe { call_later!(functions, v3_0, C_MessageEncryptInit(session, &mut mechanism, key)) };
            ("C_MessageEncryptInit", answer)
        }
        Direction::Decrypt => {
            // SAFETY: as above.
            let answer = unsafe { call_later!(functions, v3_0, C_MessageDecryptInit(session, &mut mechanism, key)) };
            ("C_MessageDecryptInit", answer)
        }
    };
    check(function, Phase::Init, answer)?;
    Ok(Messages { direction, key, code })
}

impl Messages {
    /// Whether it was begun with this key and mechanism, for this.
    pub fn serves(&self, key: CK_OBJECT_HANDLE, code: CK_MECHANISM_TYPE, direction: Direction) -> bool {
        *self == Messages { direction, key, code }
    }

    /// What it does.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// `C_EncryptMessage`, with the tag put at the end of the ciphertext. A random IV is asked for where the token is to make it: one by another generator is unique
    /// in its operation only (kryoptic 1.5.4 begins to count anew in each), and the operations of a pool share their keys.
    pub fn encrypt(
        &self,
        functions: &Functions,
        session: CK_SESSION_HANDLE,
        mechanism: &Mechanism,
        data: &[u8],
    ) -> Result<Encrypted, CallError> {
        const FUNCTION: &str = "C_EncryptMessage";
        let tag = zeroed(tag_size(mechanism).unwrap_or_default(), FUNCTION, Phase::Final)?;
        let mut message = Message::of(mechanism, data.len(), tag, FUNCTION)?;
        let (parameter, parameter_size) = message.parameter();
        let aad = aad(mechanism);
        let guess = data.len().saturating_add(CIPHER_MARGIN);
        let mut bytes = output(FUNCTION, Phase::Final, guess, data.len(), |buffer, size| {
            // SAFETY: the parameters and the IV and the tag, to which they point, live through the call, and have as much room as they say; `aad` and `data` are only
            // read; `buffer` has room for `size` bytes.
            unsafe {
                call_later!(
                    functions,
                    v3_0,
                    C_EncryptMessage(
                        session,
                        parameter,
                        parameter_size,
                        input(aad),
                        length(aad),
                        input(data),
                        length(data),
                        buffer,
                        size
                    )
                )
            }
        })?;
        if !bytes.append(&message.tag) {
            // It is longer than any that could be.
            return Err(CallError { active: false, ..CallError::new(FUNCTION, CKR_OK, Phase::Final) });
        }
        Ok(Encrypted { bytes, iv: message.replaced_iv(mechanism) })
    }

    /// `C_DecryptMessage`, of a ciphertext with the tag at its end. What has no room for that is `CKR_ENCRYPTED_DATA_LEN_RANGE`.
    pub fn decrypt(
        &self,
        functions: &Functions,
        session: CK_SESSION_HANDLE,
        mechanism: &Mechanism,
        data: &[u8],
    ) -> Result<Wiped, CallError> {
        const FUNCTION: &str = "C_DecryptMessage";
        let size = data.len().checked_sub(tag_size(mechanism).unwrap_or_default());
        let size = size.ok_or_else(|| CallError::new(FUNCTION, CKR_ENCRYPTED_DATA_LEN_RANGE, Phase::Final))?;
        let (data, tag) = data.split_at(size);
        let mut message = Message::of(mechanism, data.len(), Wiped::from(tag), FUNCTION)?;
        let (parameter, parameter_size) = message.parameter();
        let aad = aad(mechanism);
        output(FUNCTION, Phase::Final, data.len().saturating_add(CIPHER_MARGIN), data.len(), |buffer, size| {
            // SAFETY: as in `encrypt`.
            unsafe {
                call_later!(
                    functions,
                    v3_0,
                    C_DecryptMessage(
                        session,
                        parameter,
                        parameter_size,
                        input(aad),
                        length(aad),
                        input(data),
                        length(data),
                        buffer,
                        size
                    )
                )
            }
        })
    }

    /// `C_MessageEncryptFinal` or `C_MessageDecryptFinal`. That there is no operation any more is none of its errors: a message that fails may have ended it.
    pub fn end(self, functions: &Functions, session: CK_SESSION_HANDLE) -> Result<(), CallError> {
        let (function, code) = match self.direction {
            Direction::Encrypt => {
                // SAFETY: takes a handle only.
                let code = unsafe { call_later!(functions, v3_0, C_MessageEncryptFinal(session)) };
                ("C_MessageEncryptFinal", code)
            }
            Direction::Decrypt => {
                // SAFETY: takes a handle only.
                let code = unsafe { call_later!(functions, v3_0, C_MessageDecryptFinal(session)) };
                ("C_MessageDecryptFinal", code)
            }
        };
        if code == CKR_OPERATION_NOT_INITIALIZED { Ok(()) } else { check(function, Phase::Final, code) }
    }
}

/// The additional data, which is an argument of its own.
fn aad(mechanism: &Mechanism) -> &[u8] {
    match &mechanism.params {
        Params::Gcm { aad, .. } | Params::Ccm { aad, .. } | Params::Poly1305 { aad, .. } => aad,
        _ => &[],
    }
}

/// The C structure of a message's parameters. It points to the bytes that the module may write.
struct Message {
    iv: Wiped,
    tag: Wiped,
    parameter: Parameter,
}

enum Parameter {
    Gcm(CK_GCM_MESSAGE_PARAMS),
    Ccm(CK_CCM_MESSAGE_PARAMS),
    Poly1305(CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS),
}

impl Message {
    /// Those of a message with so many bytes of plaintext.
    fn of(mechanism: &Mechanism, size: usize, mut tag: Wiped, function: &'static str) -> Result<Self, CallError> {
        let generator = if mechanism.has_token_iv() { CKG_GENERATE_RANDOM } else { CKG_NO_GENERATE };
        let mut iv = match &mechanism.params {
            Params::Gcm { iv, .. } | Params::Ccm { nonce: iv, .. } => Wiped::from(iv.buffer()),
            Params::Poly1305 { nonce, .. } => Wiped::from(&nonce[..]),
            _ => Wiped::default(),
        };
        let (iv_size, tag_pointer) = (length(&iv), tag.as_mut_ptr());
        let parameter = match &mechanism.params {
            Params::Gcm { tag_bits, .. } => Parameter::Gcm(CK_GCM_MESSAGE_PARAMS {
                pIv: iv.as_mut_ptr(),
                ulIvLen: iv_size,
                ulIvFixedBits: 0,
                ivGenerator: generator,
                pTag: tag_pointer,
                ulTagBits: *tag_bits,
            }),
            Params::Ccm { mac_length, data_length, .. } => Parameter::Ccm(CK_CCM_MESSAGE_PARAMS {
                ulDataLen: data_length.unwrap_or(size as CK_ULONG),
                pNonce: iv.as_mut_ptr(),
                ulNonceLen: iv_size,
                ulNonceFixedBits: 0,
                nonceGenerator: generator,
                pMAC: tag_pointer,
                ulMACLen: *mac_length,
            }),
            Params::Poly1305 { .. } => Parameter::Poly1305(CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS {
                pNonce: iv.as_mut_ptr(),
                // In bytes, as in the parameters of `C_EncryptInit`.
                ulNonceLen: iv_size,
                pTag: tag_pointer,
            }),
            _ => return Err(CallError::new(function, CKR_MECHANISM_PARAM_INVALID, Phase::Init)),
        };
        Ok(Self { iv, tag, parameter })
    }

    /// What points to it: good as long as it stays where it is.
    fn parameter(&mut self) -> (CK_VOID_PTR, CK_ULONG) {
        fn of<P>(params: &mut P) -> (CK_VOID_PTR, CK_ULONG) {
            ((&raw mut *params).cast(), size_of::<P>() as CK_ULONG)
        }
        match &mut self.parameter {
            Parameter::Gcm(params) => of(params),
            Parameter::Ccm(params) => of(params),
            Parameter::Poly1305(params) => of(params),
        }
    }

    /// What the module has written in place of the IV that it was given.
    fn replaced_iv(&self, mechanism: &Mechanism) -> Option<Vec<u8>> {
        let is_replaced = match &mechanism.params {
            Params::Gcm { iv, .. } | Params::Ccm { nonce: iv, .. } => iv.is_replaced_by(&self.iv),
            Params::Poly1305 { nonce, .. } => self.iv != *nonce,
            _ => false,
        };
        is_replaced.then(|| self.iv.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::super::params::Iv;
    use super::*;

    fn message(code: CK_MECHANISM_TYPE, params: Params) -> Message {
        Message::of(&Mechanism { code, params }, 5, Wiped::from(vec![8; 16]), "C_EncryptMessage").expect("has messages")
    }

    /// The structure that the module is given.
    fn read<P>(mut message: Message) -> (P, Message) {
        let (parameter, size) = message.parameter();
        assert_eq!(size as usize, size_of::<P>());
        // SAFETY: it points to such a structure.
        (unsafe { parameter.cast::<P>().read_unaligned() }, message)
    }

    /// # Safety
    /// There are so many bytes.
    unsafe fn bytes<'a>(pointer: CK_BYTE_PTR, size: usize) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(pointer, size) }
    }

    #[test]
    fn gcm() {
        for (iv, own, generator) in
            [(Iv::Given(vec![7; 16]), vec![7; 16], CKG_NO_GENERATE), (Iv::Token, vec![0; 12], CKG_GENERATE_RANDOM)]
        {
            let message = message(CKM_AES_GCM, Params::Gcm { iv, aad: vec![1], tag_bits: 128 });
            let (params, _message) = read::<CK_GCM_MESSAGE_PARAMS>(message);
            assert_eq!(({ params.ulIvFixedBits }, { params.ivGenerator }, { params.ulTagBits }), (0, generator, 128));
            // SAFETY: the message has them.
            unsafe {
                assert_eq!(bytes(params.pIv, { params.ulIvLen } as usize), own);
                assert_eq!(bytes(params.pTag, 16), [8; 16]);
            }
        }
    }

    #[test]
    fn ccm() {
        for (nonce, own, generator) in
            [(Iv::Given(vec![7; 13]), vec![7; 13], CKG_NO_GENERATE), (Iv::Token, vec![0; 12], CKG_GENERATE_RANDOM)]
        {
            let message = message(CKM_AES_CCM, Params::Ccm { nonce, aad: vec![1], mac_length: 16, data_length: None });
            let (params, _message) = read::<CK_CCM_MESSAGE_PARAMS>(message);
            assert_eq!(({ params.ulNonceFixedBits }, { params.nonceGenerator }), (0, generator));
            assert_eq!(({ params.ulDataLen }, { params.ulMACLen }), (5, 16));
            // SAFETY: the message has them.
            unsafe {
                assert_eq!(bytes(params.pNonce, { params.ulNonceLen } as usize), own);
                assert_eq!(bytes(params.pMAC, 16), [8; 16]);
            }
        }
    }

    #[test]
    fn poly1305() {
        for (code, size) in [(CKM_CHACHA20_POLY1305, 12), (CKM_SALSA20_POLY1305, 24)] {
            let message = message(code, Params::Poly1305 { nonce: vec![7; size], aad: vec![1] });
            let (params, _message) = read::<CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS>(message);
            assert_eq!({ params.ulNonceLen } as usize, size);
            // SAFETY: the message has them.
            unsafe {
                assert_eq!(bytes(params.pNonce, size), vec![7; size]);
                assert_eq!(bytes(params.pTag, 16), [8; 16]);
            }
        }
    }

    #[test]
    fn others_have_no_messages() {
        let iv = || Iv::Given(vec![7; 12]);
        for (code, params) in [
            (CKM_AES_CBC_PAD, Params::Bytes(vec![7; 16])),
            (CKM_AES_GCM, Params::Bytes(vec![7; 16])),
            (CKM_VENDOR_DEFINED + 1, Params::Gcm { iv: iv(), aad: vec![], tag_bits: 128 }),
        ] {
            assert!(!are_defined(&Mechanism { code, params }), "{code:#x}");
        }
        assert!(are_defined(&Mechanism { code: CKM_AES_GCM, params: Params::Gcm { iv: iv(), aad: vec![], tag_bits: 128 } }));
    }
}
