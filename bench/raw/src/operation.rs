//! The operations: the Init, and the final call into a buffer that is large enough.

use std::ptr;
use std::str::FromStr;

use cryptoki_sys::*;

use crate::module::{Failed, Module, call};

/// What is measured. The names are those of the benchmark's own list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Rsa,
    Ec,
    Hmac,
    AesGcm,
    Random,
    VerifyRsa,
    VerifyEc,
}

/// How many bytes `Operation::Random` asks for.
const RANDOM_BYTES: usize = 32;
/// The nonce is the same each time: no matter here, where nothing is kept secret.
const IV: [u8; 12] = [7; 12];
const TAG_BITS: CK_ULONG = 128;

/// Large enough for every output.
pub fn buffer() -> Vec<u8> {
    vec![0; 4096]
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(name: &str) -> Result<Operation, String> {
        Ok(match name {
            "rsa" => Operation::Rsa,
            "ec" => Operation::Ec,
            "hmac" => Operation::Hmac,
            "aes_gcm" => Operation::AesGcm,
            "random" => Operation::Random,
            "verify_rsa" => Operation::VerifyRsa,
            "verify_ec" => Operation::VerifyEc,
            _ => return Err(format!("unknown operation {name}")),
        })
    }
}

impl Operation {
    /// The class of the key that it takes.
    pub fn key_class(self) -> Option<CK_OBJECT_CLASS> {
        match self {
            Operation::Rsa | Operation::Ec => Some(CKO_PRIVATE_KEY),
            Operation::VerifyRsa | Operation::VerifyEc => Some(CKO_PUBLIC_KEY),
            Operation::Hmac | Operation::AesGcm => Some(CKO_SECRET_KEY),
            Operation::Random => None,
        }
    }

    fn mechanism(self) -> CK_MECHANISM_TYPE {
        match self {
            Operation::Rsa | Operation::VerifyRsa => CKM_SHA256_RSA_PKCS,
            Operation::Ec | Operation::VerifyEc => CKM_ECDSA,
            Operation::Hmac | Operation::Random => CKM_SHA256_HMAC,
            Operation::AesGcm => CKM_AES_GCM,
        }
    }
}

/// An operation with its key and input.
pub struct Task<'a> {
    pub module: &'a Module,
    pub key: CK_OBJECT_HANDLE,
    pub operation: Operation,
    pub data: Vec<u8>,
    pub signature: Vec<u8>,
}

impl Task<'_> {
    /// Runs it once: the length of the output.
    pub fn run(&self, session: CK_SESSION_HANDLE, buffer: &mut [u8]) -> Result<usize, Failed> {
        let Task { module, key, operation, ref data, ref signature } = *self;
        let mut iv = IV;
        let mut gcm = CK_GCM_PARAMS {
            pIv: iv.as_mut_ptr(),
            ulIvLen: iv.len() as CK_ULONG,
            ulIvBits: 8 * iv.len() as CK_ULONG,
            pAAD: ptr::null_mut(),
            ulAADLen: 0,
            ulTagBits: TAG_BITS,
        };
        let mut mechanism = CK_MECHANISM { mechanism: operation.mechanism(), pParameter: ptr::null_mut(), ulParameterLen: 0 };
        if operation == Operation::AesGcm {
            mechanism.pParameter = (&raw mut gcm).cast();
            mechanism.ulParameterLen = size_of_val(&gcm) as CK_ULONG;
        }
        let (input, length) = (data.as_ptr().cast_mut(), data.len() as CK_ULONG);
        let mut size = buffer.len() as CK_ULONG;
        let output = buffer.as_mut_ptr();
        // SAFETY: inputs are only read, `output` has room for `size` bytes, and the mechanism lives through both calls.
        unsafe {
            match operation {
                Operation::Rsa | Operation::Ec | Operation::Hmac => {
                    call!(module, C_SignInit(session, &mut mechanism, key))?;
                    call!(module, C_Sign(session, input, length, output, &mut size))?;
                }
                Operation::VerifyRsa | Operation::VerifyEc => {
                    call!(module, C_VerifyInit(session, &mut mechanism, key))?;
                    let (expected, expected_length) = (signature.as_ptr().cast_mut(), signature.len() as CK_ULONG);
                    call!(module, C_Verify(session, input, length, expected, expected_length))?;
                    size = 0;
                }
                Operation::AesGcm => {
                    call!(module, C_EncryptInit(session, &mut mechanism, key))?;
                    call!(module, C_Encrypt(session, input, length, output, &mut size))?;
                }
                Operation::Random => {
                    call!(module, C_GenerateRandom(session, output, RANDOM_BYTES as CK_ULONG))?;
                    size = RANDOM_BYTES as CK_ULONG;
                }
            }
        }
        Ok(size as usize)
    }
}
