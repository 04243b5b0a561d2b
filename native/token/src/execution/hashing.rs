//! Signatures of a message on a token that has no mechanism which hashes it: the message is hashed here, and its digest signed.
//!
//! Whether the token has one is asked of `C_SignInit` and `C_VerifyInit` themselves: a mechanism that they refuse has done nothing. Its list of
//! mechanisms would say less, as it does not know what the key may be used for (`CKA_ALLOWED_MECHANISMS`) and what a mode such as FIPS 140 has switched
//! off. The refusal is remembered with the key's handle, so that one call more is made for each key.

use cryptoki_sys::*;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};

use crate::execution::attempt::Attempt;
use crate::p11::{CallError, Mechanism, Params, Phase};
use crate::token::key_facts::KeyFacts;

/// The two ways to sign a message.
#[derive(Clone)]
pub(crate) struct Hashing {
    /// The mechanism that hashes on the token.
    pub(crate) on_token: Mechanism,
    /// The mechanism that takes a digest.
    pub(crate) raw: Mechanism,
    hash: &'static Hash,
}

/// The hash of a message that comes in parts.
pub(crate) type Hasher = Box<dyn DynDigest + Send>;

/// A hash, and the mechanisms of its name.
struct Hash {
    code: CK_MECHANISM_TYPE,
    digest: fn(&[u8]) -> Vec<u8>,
    hasher: fn() -> Hasher,
    ecdsa: CK_MECHANISM_TYPE,
    rsa_pkcs: CK_MECHANISM_TYPE,
    rsa_pkcs_pss: CK_MECHANISM_TYPE,
    /// A `DigestInfo` (RFC 8017, 9.2) up to the digest.
    prefix: &'static [u8],
}

macro_rules! hash {
    ($code:ident $digest:ident $ecdsa:ident $rsa_pkcs:ident $rsa_pkcs_pss:ident $prefix:literal) => {
        Hash {
            code: $code,
            digest: |message| $digest::digest(message).to_vec(),
            hasher: || Box::new($digest::default()),
            ecdsa: $ecdsa,
            rsa_pkcs: $rsa_pkcs,
            rsa_pkcs_pss: $rsa_pkcs_pss,
            prefix: $prefix,
        }
    };
}

#[rustfmt::skip]
static HASHES: [Hash; 9] = [
    hash!(CKM_SHA_1 Sha1 CKM_ECDSA_SHA1 CKM_SHA1_RSA_PKCS CKM_SHA1_RSA_PKCS_PSS
        b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14"),
    hash!(CKM_SHA224 Sha224 CKM_ECDSA_SHA224 CKM_SHA224_RSA_PKCS CKM_SHA224_RSA_PKCS_PSS
        b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c"),
    hash!(CKM_SHA256 Sha256 CKM_ECDSA_SHA256 CKM_SHA256_RSA_PKCS CKM_SHA256_RSA_PKCS_PSS
        b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"),
    hash!(CKM_SHA384 Sha384 CKM_ECDSA_SHA384 CKM_SHA384_RSA_PKCS CKM_SHA384_RSA_PKCS_PSS
        b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30"),
    hash!(CKM_SHA512 Sha512 CKM_ECDSA_SHA512 CKM_SHA512_RSA_PKCS CKM_SHA512_RSA_PKCS_PSS
        b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40"),
    hash!(CKM_SHA3_224 Sha3_224 CKM_ECDSA_SHA3_224 CKM_SHA3_224_RSA_PKCS CKM_SHA3_224_RSA_PKCS_PSS
        b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x07\x05\x00\x04\x1c"),
    hash!(CKM_SHA3_256 Sha3_256 CKM_ECDSA_SHA3_256 CKM_SHA3_256_RSA_PKCS CKM_SHA3_256_RSA_PKCS_PSS
        b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x08\x05\x00\x04\x20"),
    hash!(CKM_SHA3_384 Sha3_384 CKM_ECDSA_SHA3_384 CKM_SHA3_384_RSA_PKCS CKM_SHA3_384_RSA_PKCS_PSS
        b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x09\x05\x00\x04\x30"),
    hash!(CKM_SHA3_512 Sha3_512 CKM_ECDSA_SHA3_512 CKM_SHA3_512_RSA_PKCS CKM_SHA3_512_RSA_PKCS_PSS
        b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x0a\x05\x00\x04\x40"),
];

impl Hashing {
    /// `None`: the mechanism takes what it is given, or its hash is not known here.
    pub(crate) fn of(mechanism: &Mechanism) -> Option<Self> {
        let raw = |code, params| Mechanism { code, params };
        match (mechanism.code, &mechanism.params) {
            (code @ (CKM_ECDSA | CKM_RSA_PKCS), Params::Hashed { hash, .. }) => {
                let hash = HASHES.iter().find(|known| known.code == *hash)?;
                let on_token = Mechanism::new(if code == CKM_ECDSA { hash.ecdsa } else { hash.rsa_pkcs });
                Some(Self { on_token, raw: raw(code, Params::None), hash })
            }
            (code, params @ Params::RsaPss { .. }) => {
                let hash = HASHES.iter().find(|known| known.rsa_pkcs_pss == code)?;
                Some(Self { on_token: mechanism.clone(), raw: raw(CKM_RSA_PKCS_PSS, params.clone()), hash })
            }
            _ => None,
        }
    }

    /// What the raw mechanism is given of a message. ECDSA takes as much of a digest as the order of its curve is long (FIPS 186-5, 6.4): not every
    /// module cuts it by itself. Of how many bits of the last byte count, each must know.
    pub(crate) fn input(&self, message: &[u8], order_size: Option<usize>) -> Vec<u8> {
        self.input_of_digest((self.hash.digest)(message), order_size)
    }

    /// What hashes a message that comes in parts.
    pub(crate) fn hasher(&self) -> Hasher {
        (self.hash.hasher)()
    }

    /// What the raw mechanism is given of a message with this digest.
    pub(crate) fn input_of_digest(&self, mut digest: Vec<u8>, order_size: Option<usize>) -> Vec<u8> {
        match self.raw.code {
            CKM_RSA_PKCS => [self.hash.prefix, &digest].concat(),
            CKM_ECDSA => {
                digest.truncate(order_size.unwrap_or(usize::MAX));
                digest
            }
            _ => digest,
        }
    }
}

impl Attempt<'_> {
    /// Runs a signature or a verification, with the mechanism that hashes on the token or with the raw one.
    pub(crate) fn run_hashed<T>(
        &self,
        key: CK_OBJECT_HANDLE,
        facts: &KeyFacts,
        mechanism: &Mechanism,
        data: &[u8],
        mut run: impl FnMut(&Mechanism, &[u8]) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        self.choose_hashing(key, mechanism, |mechanism, hashing| match hashing {
            Some(hashing) => run(mechanism, &hashing.input(data, facts.order_size())),
            None => run(mechanism, data),
        })
    }

    /// Runs something with the mechanism that hashes on the token, or, where the token refuses that, with the raw one: then what is signed is hashed
    /// here.
    pub(crate) fn choose_hashing<T>(
        &self,
        key: CK_OBJECT_HANDLE,
        mechanism: &Mechanism,
        mut run: impl FnMut(&Mechanism, Option<&Hashing>) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let Some(hashing) = Hashing::of(mechanism) else {
            // Never the message itself in place of its digest.
            return match mechanism.params {
                Params::Hashed { .. } => Err(CallError::new("C_SignInit", CKR_MECHANISM_PARAM_INVALID, Phase::Init)),
                _ => run(mechanism, None),
            };
        };
        let (keys, epoch) = (&self.resolver.token.keys, self.resolver.epoch);
        let code = hashing.on_token.code;
        if !keys.is_refused(key, code, epoch) {
            match run(&hashing.on_token, None) {
                Err(error) if lacks_mechanism(&error) => keys.put_refused(key, code, epoch),
                done => return done,
            }
        }
        run(&hashing.raw, Some(&hashing))
    }
}

/// Whether the token does not have the mechanism, or not for this key: nothing was done.
pub(crate) fn lacks_mechanism(error: &CallError) -> bool {
    error.code == CKR_MECHANISM_INVALID && error.phase == Phase::Init
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(code: CK_MECHANISM_TYPE, hash: CK_MECHANISM_TYPE) -> Hashing {
        Hashing::of(&Mechanism { code, params: Params::Hashed { hash, curve: None } }).expect("known")
    }

    #[test]
    fn a_digest_info_says_its_own_length() {
        for hash in &HASHES {
            let digest = (hash.digest)(b"");
            assert_eq!(usize::from(hash.prefix[1]) + 2, hash.prefix.len() + digest.len());
            assert_eq!(hash.prefix.last().copied().map(usize::from), Some(digest.len()));
        }
    }

    #[test]
    fn ecdsa_takes_the_beginning_of_a_digest() {
        let hashing = hashed(CKM_ECDSA, CKM_SHA512);
        let whole = Sha512::digest(b"message").to_vec();
        assert_eq!(hashing.on_token, Mechanism::new(CKM_ECDSA_SHA512));
        assert_eq!(hashing.input(b"message", Some(32)), whole[..32]);
        assert_eq!(hashing.input(b"message", Some(66)), whole);
        assert_eq!(hashing.input(b"message", None), whole);
    }

    #[test]
    fn what_hashes_nothing_is_none() {
        assert!(Hashing::of(&Mechanism::new(CKM_ECDSA)).is_none());
        assert!(Hashing::of(&Mechanism::new(CKM_ECDSA_SHA256)).is_none());
        let params = Params::RsaPss { hash: CKM_SHA256, mgf: CKG_MGF1_SHA256, salt_length: 32 };
        assert!(Hashing::of(&Mechanism { code: CKM_RSA_PKCS_PSS, params: params.clone() }).is_none());
        let hashing = Hashing::of(&Mechanism { code: CKM_SHA256_RSA_PKCS_PSS, params: params.clone() }).expect("known");
        assert_eq!(hashing.raw, Mechanism { code: CKM_RSA_PKCS_PSS, params });
    }
}
