//! Parameters of mechanisms that make a key of another one, or of a password.

use std::ptr;

use cryptoki_sys::*;

use super::buffer::{length, optional};
use crate::support::wiped::Wiped;

/// What a key is made with. Its `Debug` shows lengths in place of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Derivation {
    /// `CK_OBJECT_HANDLE`: another key.
    Key(CK_OBJECT_HANDLE),
    /// `CK_KEY_DERIVATION_STRING_DATA`: data.
    Data(Wiped),
    /// `CK_AES_CBC_ENCRYPT_DATA_PARAMS`, which those of other ciphers with blocks of 16 bytes are like: data that is encrypted with the base key.
    Cbc16 {
        /// The initialization vector.
        iv: [u8; 16],
        /// What is encrypted.
        data: Wiped,
    },
    /// `CK_DES_CBC_ENCRYPT_DATA_PARAMS`: the same of ciphers with blocks of 8 bytes.
    Cbc8 {
        /// The initialization vector.
        iv: [u8; 8],
        /// What is encrypted.
        data: Wiped,
    },
    /// `CK_HKDF_PARAMS`.
    Hkdf {
        /// Whether the base key is made to a key of the hash's length first.
        extract: bool,
        /// Whether that is made to a key of any length.
        expand: bool,
        /// `CKM_*` of the hash.
        hash: CK_MECHANISM_TYPE,
        /// What it is extracted with.
        salt: Salt,
        /// What it is expanded with; may be empty.
        info: Wiped,
    },
    /// `CK_PKCS5_PBKD2_PARAMS2`, the salt being `CKZ_SALT_SPECIFIED`.
    Pbkdf2 {
        /// `CKP_PKCS5_PBKD2_*` of the pseudo-random function.
        prf: CK_ULONG,
        /// How often it is applied.
        iterations: CK_ULONG,
        /// The salt.
        salt: Wiped,
        /// The password.
        password: Wiped,
        /// The structure is `CK_PKCS5_PBKD2_PARAMS`, of before PKCS#11 2.40: it has a pointer in place of the password's length.
        has_length_pointer: bool,
    },
    /// `CK_SP800_108_KDF_PARAMS`, or `CK_SP800_108_FEEDBACK_KDF_PARAMS` where there is an IV. No other keys are made beside the one.
    Sp800108 {
        /// `CKM_*` of the pseudorandom function.
        prf: CK_MECHANISM_TYPE,
        /// What goes before the first block, in the feedback mode; may be empty.
        iv: Option<Wiped>,
        /// What goes into the function for each block, in its order.
        data: Vec<PrfData>,
    },
}

/// A part of what goes into the pseudorandom function of SP 800-108.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PrfData {
    /// Bytes; not empty.
    Bytes(Wiped),
    /// A number that differs from block to block, or what the block before was.
    Variable {
        /// `CK_SP800_108_ITERATION_VARIABLE` or `CK_SP800_108_COUNTER`.
        kind: CK_PRF_DATA_TYPE,
        /// As what the number is written; `None`: it is what the block before was.
        number: Option<Number>,
    },
    /// How many bits are derived.
    Length(Number),
}

impl PrfData {
    /// A number of this type, in so many bits; none: what the block before was.
    pub fn number(kind: CK_PRF_DATA_TYPE, bits: CK_ULONG, is_little_endian: bool) -> Self {
        let number = Number { bits, is_little_endian };
        match kind {
            CK_SP800_108_DKM_LENGTH => Self::Length(number),
            _ => Self::Variable { kind, number: (bits > 0).then_some(number) },
        }
    }
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Number {
    /// How many bits it has.
    pub bits: CK_ULONG,
    /// Whether its first byte is the lowest one.
    pub is_little_endian: bool,
}

/// The salt of HKDF.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Salt {
    /// As many zeros as the hash is long.
    None,
    /// Bytes; not empty.
    Data(Wiped),
    /// A key's value.
    Key(CK_OBJECT_HANDLE),
}

impl Derivation {
    /// Where the handle of the other key belongs, if there is one.
    pub(super) fn key_mut(&mut self) -> Option<&mut CK_OBJECT_HANDLE> {
        match self {
            Self::Key(key) | Self::Hkdf { salt: Salt::Key(key), .. } => Some(key),
            _ => None,
        }
    }
}

/// The C structure, which points to the bytes of the [`Derivation`].
pub(super) enum Parts {
    Key(CK_OBJECT_HANDLE),
    Data(CK_KEY_DERIVATION_STRING_DATA),
    Cbc16(CK_AES_CBC_ENCRYPT_DATA_PARAMS),
    Cbc8(CK_DES_CBC_ENCRYPT_DATA_PARAMS),
    Hkdf(CK_HKDF_PARAMS),
    Pbkdf2(CK_PKCS5_PBKD2_PARAMS2),
    OldPbkdf2(CK_PKCS5_PBKD2_PARAMS, CK_ULONG),
    Kdf(CK_SP800_108_KDF_PARAMS, KdfData),
    FeedbackKdf(CK_SP800_108_FEEDBACK_KDF_PARAMS, KdfData),
}

/// What the structures of SP 800-108 point to.
pub(super) struct KdfData {
    params: Vec<CK_PRF_DATA_PARAM>,
    /// To which those point.
    _formats: Vec<Format>,
}

enum Format {
    Counter(CK_SP800_108_COUNTER_FORMAT),
    Length(CK_SP800_108_DKM_LENGTH_FORMAT),
}

impl KdfData {
    fn of(data: &[PrfData]) -> Self {
        let format = |part: &PrfData| match part {
            PrfData::Bytes(_) | PrfData::Variable { number: None, .. } => None,
            PrfData::Variable { number: Some(number), .. } => Some(Format::Counter(CK_SP800_108_COUNTER_FORMAT {
                bLittleEndian: bool(number.is_little_endian),
                ulWidthInBits: number.bits,
            })),
            PrfData::Length(number) => Some(Format::Length(CK_SP800_108_DKM_LENGTH_FORMAT {
                dkmLengthMethod: CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS,
                bLittleEndian: bool(number.is_little_endian),
                ulWidthInBits: number.bits,
            })),
        };
        // All of them before any is pointed to.
        let mut formats: Vec<Format> = data.iter().filter_map(format).collect();
        let mut pointers = formats.iter_mut().map(|format| match format {
            Format::Counter(format) => ((&raw mut *format).cast(), size_of::<CK_SP800_108_COUNTER_FORMAT>() as CK_ULONG),
            Format::Length(format) => ((&raw mut *format).cast(), size_of::<CK_SP800_108_DKM_LENGTH_FORMAT>() as CK_ULONG),
        });
        let none = (ptr::null_mut(), 0);
        let param = |part: &PrfData| {
            let (kind, (value, size)) = match part {
                PrfData::Bytes(bytes) => (CK_SP800_108_BYTE_ARRAY, (optional(bytes).cast(), length(bytes))),
                PrfData::Variable { kind, number: None } => (*kind, none),
                PrfData::Variable { kind, number: Some(_) } => (*kind, pointers.next().unwrap_or(none)),
                PrfData::Length(_) => (CK_SP800_108_DKM_LENGTH, pointers.next().unwrap_or(none)),
            };
            CK_PRF_DATA_PARAM { type_: kind, pValue: value, ulValueLen: size }
        };
        let params = data.iter().map(param).collect();
        Self { params, _formats: formats }
    }
}

fn bool(value: bool) -> CK_BBOOL {
    if value { CK_TRUE } else { CK_FALSE }
}

impl Parts {
    pub(super) fn of(derivation: &Derivation) -> Self {
        match derivation {
            Derivation::Key(key) => Self::Key(*key),
            Derivation::Data(data) => Self::Data(CK_KEY_DERIVATION_STRING_DATA { pData: optional(data), ulLen: length(data) }),
            Derivation::Cbc16 { iv, data } => {
                Self::Cbc16(CK_AES_CBC_ENCRYPT_DATA_PARAMS { iv: *iv, pData: optional(data), length: length(data) })
            }
            Derivation::Cbc8 { iv, data } => {
                Self::Cbc8(CK_DES_CBC_ENCRYPT_DATA_PARAMS { iv: *iv, pData: optional(data), length: length(data) })
            }
            Derivation::Hkdf { extract, expand, hash, salt, info } => {
                let (kind, data, key): (_, &[u8], _) = match salt {
                    Salt::None => (CKF_HKDF_SALT_NULL, &[], CK_INVALID_HANDLE),
                    Salt::Data(data) => (CKF_HKDF_SALT_DATA, data, CK_INVALID_HANDLE),
                    Salt::Key(key) => (CKF_HKDF_SALT_KEY, &[], *key),
                };
                Self::Hkdf(CK_HKDF_PARAMS {
                    bExtract: bool(*extract),
                    bExpand: bool(*expand),
                    prfHashMechanism: *hash,
                    ulSaltType: kind,
                    pSalt: optional(data),
                    ulSaltLen: length(data),
                    hSaltKey: key,
                    pInfo: optional(info),
                    ulInfoLen: length(info),
                })
            }
            Derivation::Pbkdf2 { prf, iterations, salt, password, has_length_pointer: false } => {
                Self::Pbkdf2(CK_PKCS5_PBKD2_PARAMS2 {
                    saltSource: CKZ_SALT_SPECIFIED,
                    pSaltSourceData: optional(salt).cast(),
                    ulSaltSourceDataLen: length(salt),
                    iterations: *iterations,
                    prf: *prf,
                    pPrfData: ptr::null_mut(),
                    ulPrfDataLen: 0,
                    pPassword: optional(password),
                    ulPasswordLen: length(password),
                })
            }
            Derivation::Pbkdf2 { prf, iterations, salt, password, has_length_pointer: true } => {
                let params = CK_PKCS5_PBKD2_PARAMS {
                    saltSource: CKZ_SALT_SPECIFIED,
                    pSaltSourceData: optional(salt).cast(),
                    ulSaltSourceDataLen: length(salt),
                    iterations: *iterations,
                    prf: *prf,
                    pPrfData: ptr::null_mut(),
                    ulPrfDataLen: 0,
                    pPassword: optional(password),
                    ulPasswordLen: ptr::null_mut(),
                };
                Self::OldPbkdf2(params, length(password))
            }
            Derivation::Sp800108 { prf, iv: None, data } => {
                let data = KdfData::of(data);
                let params = CK_SP800_108_KDF_PARAMS {
                    prfType: *prf,
                    ulNumberOfDataParams: data.params.len() as CK_ULONG,
                    pDataParams: ptr::null_mut(),
                    ulAdditionalDerivedKeys: 0,
                    pAdditionalDerivedKeys: ptr::null_mut(),
                };
                Self::Kdf(params, data)
            }
            Derivation::Sp800108 { prf, iv: Some(iv), data } => {
                let data = KdfData::of(data);
                let params = CK_SP800_108_FEEDBACK_KDF_PARAMS {
                    prfType: *prf,
                    ulNumberOfDataParams: data.params.len() as CK_ULONG,
                    pDataParams: ptr::null_mut(),
                    ulIVLen: length(iv),
                    pIV: optional(iv),
                    ulAdditionalDerivedKeys: 0,
                    pAdditionalDerivedKeys: ptr::null_mut(),
                };
                Self::FeedbackKdf(params, data)
            }
        }
    }

    /// The address and the size of the structure: good as long as it stays where it is.
    pub(super) fn parameter(&mut self) -> (CK_VOID_PTR, usize) {
        fn of<P>(params: &mut P) -> (CK_VOID_PTR, usize) {
            ((&raw mut *params).cast(), size_of::<P>())
        }
        match self {
            Self::Key(key) => of(key),
            Self::Data(params) => of(params),
            Self::Cbc16(params) => of(params),
            Self::Cbc8(params) => of(params),
            Self::Hkdf(params) => of(params),
            Self::Pbkdf2(params) => of(params),
            Self::Kdf(params, data) => {
                params.pDataParams = data.params.as_mut_ptr();
                of(params)
            }
            Self::FeedbackKdf(params, data) => {
                params.pDataParams = data.params.as_mut_ptr();
                of(params)
            }
            Self::OldPbkdf2(params, length) => {
                params.ulPasswordLen = length;
                of(params)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p11::{Mechanism, Params};

    fn wiped(bytes: &[u8]) -> Wiped {
        bytes.into()
    }

    fn with<P: Copy, R>(derivation: Derivation, look: impl FnOnce(P) -> R) -> R {
        let mechanism = Mechanism { code: CKM_VENDOR_DEFINED, params: Params::Derivation(Box::new(derivation)) };
        mechanism.with_ck(|ck| {
            assert_eq!({ ck.ulParameterLen } as usize, size_of::<P>());
            // SAFETY: the parameter is such a structure, as its size says.
            look(unsafe { ck.pParameter.cast::<P>().read_unaligned() })
        })
    }

    fn bytes<'a>(pointer: CK_BYTE_PTR, size: CK_ULONG) -> &'a [u8] {
        // SAFETY: the structure points to so many bytes, which live as long as it.
        unsafe { std::slice::from_raw_parts(pointer, size as usize) }
    }

    #[test]
    fn another_key_is_its_handle() {
        with(Derivation::Key(7), |key: CK_OBJECT_HANDLE| assert_eq!(key, 7));
        let mut mechanism =
            Mechanism { code: CKM_CONCATENATE_BASE_AND_KEY, params: Params::Derivation(Box::new(Derivation::Key(0))) };
        mechanism.set_key(9);
        assert_eq!(mechanism.params, Params::Derivation(Box::new(Derivation::Key(9))));
    }

    #[test]
    fn data_is_pointed_to() {
        with(Derivation::Data(wiped(b"data")), |params: CK_KEY_DERIVATION_STRING_DATA| {
            assert_eq!(bytes(params.pData, params.ulLen), b"data");
        });
        with(Derivation::Cbc8 { iv: [3; 8], data: wiped(b"data") }, |params: CK_DES_CBC_ENCRYPT_DATA_PARAMS| {
            assert_eq!((params.iv, bytes(params.pData, params.length)), ([3; 8], &b"data"[..]));
        });
        with(Derivation::Cbc16 { iv: [4; 16], data: wiped(b"data") }, |params: CK_AES_CBC_ENCRYPT_DATA_PARAMS| {
            assert_eq!((params.iv, bytes(params.pData, params.length)), ([4; 16], &b"data"[..]));
        });
    }

    #[test]
    fn the_salt_of_hkdf_is_none_or_bytes_or_a_key() {
        let hkdf = |salt| Derivation::Hkdf { extract: true, expand: false, hash: CKM_SHA256, salt, info: wiped(b"info") };
        with(hkdf(Salt::None), |params: CK_HKDF_PARAMS| {
            assert_eq!((params.bExtract, params.bExpand, params.prfHashMechanism), (CK_TRUE, CK_FALSE, CKM_SHA256));
            assert_eq!((params.ulSaltType, params.ulSaltLen), (CKF_HKDF_SALT_NULL, 0));
            assert!(params.pSalt.is_null());
            assert_eq!(bytes(params.pInfo, params.ulInfoLen), b"info");
        });
        with(hkdf(Salt::Data(wiped(b"salt"))), |params: CK_HKDF_PARAMS| {
            assert_eq!((params.ulSaltType, bytes(params.pSalt, params.ulSaltLen)), (CKF_HKDF_SALT_DATA, &b"salt"[..]));
        });
        with(hkdf(Salt::Key(5)), |params: CK_HKDF_PARAMS| {
            assert_eq!((params.ulSaltType, params.hSaltKey, params.ulSaltLen), (CKF_HKDF_SALT_KEY, 5, 0));
        });
    }

    #[test]
    fn the_length_of_a_password_is_a_number_or_for_old_modules_pointed_to() {
        let pbkdf2 = |has_length_pointer| Derivation::Pbkdf2 {
            prf: CKP_PKCS5_PBKD2_HMAC_SHA256,
            iterations: 1000,
            salt: wiped(b"salt"),
            password: wiped(b"password"),
            has_length_pointer,
        };
        with(pbkdf2(false), |params: CK_PKCS5_PBKD2_PARAMS2| {
            assert_eq!(bytes(params.pPassword, params.ulPasswordLen), b"password");
            assert_eq!(bytes(params.pSaltSourceData.cast(), params.ulSaltSourceDataLen), b"salt");
            assert_eq!((params.iterations, params.prf), (1000, CKP_PKCS5_PBKD2_HMAC_SHA256));
        });
        with(pbkdf2(true), |params: CK_PKCS5_PBKD2_PARAMS| {
            // SAFETY: it points to a number that lives as long as the structure.
            let size = unsafe { *params.ulPasswordLen };
            assert_eq!(bytes(params.pPassword, size), b"password");
        });
    }

    #[test]
    fn the_parts_of_sp800_108_are_in_their_order_and_each_says_how_its_number_is_written() {
        let number = |bits, is_little_endian| Number { bits, is_little_endian };
        let data = || {
            vec![
                PrfData::Variable { kind: CK_SP800_108_ITERATION_VARIABLE, number: None },
                PrfData::Bytes(wiped(b"label")),
                PrfData::Variable { kind: CK_SP800_108_COUNTER, number: Some(number(16, true)) },
                PrfData::Length(number(32, false)),
            ]
        };
        let look = |params: *mut CK_PRF_DATA_PARAM, count: CK_ULONG| {
            // SAFETY: so many there are, which live as long as the structure, and point to what their types say.
            unsafe {
                let parts = std::slice::from_raw_parts(params, count as usize);
                let kinds: Vec<_> = parts.iter().map(|part| part.type_).collect();
                let expected =
                    [CK_SP800_108_ITERATION_VARIABLE, CK_SP800_108_BYTE_ARRAY, CK_SP800_108_COUNTER, CK_SP800_108_DKM_LENGTH];
                assert_eq!(kinds, expected);
                assert!(parts[0].pValue.is_null() && parts[0].ulValueLen == 0);
                assert_eq!(bytes(parts[1].pValue.cast(), parts[1].ulValueLen), b"label");
                assert_eq!(parts[2].ulValueLen as usize, size_of::<CK_SP800_108_COUNTER_FORMAT>());
                let counter = parts[2].pValue.cast::<CK_SP800_108_COUNTER_FORMAT>().read();
                assert_eq!((counter.bLittleEndian, counter.ulWidthInBits), (CK_TRUE, 16));
                assert_eq!(parts[3].ulValueLen as usize, size_of::<CK_SP800_108_DKM_LENGTH_FORMAT>());
                let length = parts[3].pValue.cast::<CK_SP800_108_DKM_LENGTH_FORMAT>().read();
                assert_eq!((length.bLittleEndian, length.ulWidthInBits), (CK_FALSE, 32));
                assert_eq!(length.dkmLengthMethod, CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS);
            }
        };
        with(Derivation::Sp800108 { prf: CKM_AES_CMAC, iv: None, data: data() }, |params: CK_SP800_108_KDF_PARAMS| {
            assert_eq!((params.prfType, params.ulAdditionalDerivedKeys), (CKM_AES_CMAC, 0));
            look(params.pDataParams, params.ulNumberOfDataParams);
        });
        let feedback = |iv| Derivation::Sp800108 { prf: CKM_SHA256_HMAC, iv: Some(wiped(iv)), data: data() };
        with(feedback(b"iv"), |params: CK_SP800_108_FEEDBACK_KDF_PARAMS| {
            assert_eq!((params.prfType, bytes(params.pIV, params.ulIVLen)), (CKM_SHA256_HMAC, &b"iv"[..]));
            look(params.pDataParams, params.ulNumberOfDataParams);
        });
        with(feedback(b""), |params: CK_SP800_108_FEEDBACK_KDF_PARAMS| assert!(params.pIV.is_null() && params.ulIVLen == 0));
    }

    #[test]
    fn debug_shows_no_bytes() {
        let hkdf = Derivation::Hkdf {
            extract: true,
            expand: true,
            hash: CKM_SHA256,
            salt: Salt::Data(wiped(b"secret")),
            info: wiped(b"secret"),
        };
        assert!(!format!("{hkdf:?}").contains("115"));
        assert!(format!("{hkdf:?}").contains("[6 bytes]"));
    }
}
