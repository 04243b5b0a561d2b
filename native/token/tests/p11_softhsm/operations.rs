//! How operations begin and end: the number of C calls, buffers, and that no failure leaves one active. Against a
//! real SoftHSM token, in part through function lists in which single functions are replaced.

use std::cell::RefCell;

use crate::support::*;
use cryptoki_sys::*;
use token::p11::crypto::Encrypted;
use token::p11::{Attribute, CallError, Functions, Iv, Mechanism, Params, Phase, crypto, objects};

thread_local! {
    /// The replaced functions that this test's thread called, in order.
    static CALLS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

fn note(name: &'static str) {
    CALLS.with_borrow_mut(|calls| calls.push(name));
}

fn calls() -> Vec<&'static str> {
    CALLS.take()
}

fn real() -> CK_FUNCTION_LIST {
    // SAFETY: SoftHSM's list, mapped as long as the process lives.
    unsafe { *fixture().functions.as_ptr() }
}

fn replaced(list: CK_FUNCTION_LIST) -> Functions {
    // SAFETY: all its pointers are SoftHSM's own, NULL, or functions below of the same type.
    unsafe { Functions::from_list(Box::leak(Box::new(list))) }
}

unsafe extern "C" fn sign_init(s: CK_SESSION_HANDLE, m: *mut CK_MECHANISM, k: CK_OBJECT_HANDLE) -> CK_RV {
    note("C_SignInit");
    // SAFETY: hands its arguments on.
    unsafe { real().C_SignInit.unwrap()(s, m, k) }
}

unsafe extern "C" fn sign(
    s: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    size: CK_ULONG,
    out: *mut CK_BYTE,
    out_size: *mut CK_ULONG,
) -> CK_RV {
    note("C_Sign");
    // SAFETY: hands its arguments on.
    unsafe { real().C_Sign.unwrap()(s, data, size, out, out_size) }
}

unsafe extern "C" fn failing_find(_: CK_SESSION_HANDLE, _: *mut CK_OBJECT_HANDLE, _: CK_ULONG, _: *mut CK_ULONG) -> CK_RV {
    note("C_FindObjects");
    CKR_DEVICE_ERROR
}

unsafe extern "C" fn find_final(s: CK_SESSION_HANDLE) -> CK_RV {
    note("C_FindObjectsFinal");
    // SAFETY: hands its argument on.
    unsafe { real().C_FindObjectsFinal.unwrap()(s) }
}

unsafe extern "C" fn failing_final(_: CK_SESSION_HANDLE) -> CK_RV {
    note("C_FindObjectsFinal");
    CKR_DEVICE_ERROR
}

unsafe extern "C" fn read_attributes(
    s: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    size: CK_ULONG,
) -> CK_RV {
    note("C_GetAttributeValue");
    // SAFETY: hands its arguments on.
    unsafe { real().C_GetAttributeValue.unwrap()(s, object, attributes, size) }
}

/// A module that gives up at the first attribute that it cannot read.
unsafe extern "C" fn read_until_failure(
    s: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    size: CK_ULONG,
) -> CK_RV {
    for index in 0..size as usize {
        // SAFETY: within the array; hands its arguments on.
        let code = unsafe { real().C_GetAttributeValue.unwrap()(s, object, attributes.add(index), 1) };
        if code != CKR_OK {
            return code;
        }
    }
    CKR_OK
}

#[test]
fn a_signature_is_two_calls() {
    let session = open();
    // Whatever else were called would be CKR_FUNCTION_NOT_SUPPORTED.
    let two = replaced(CK_FUNCTION_LIST { C_SignInit: Some(sign_init), C_Sign: Some(sign), ..Default::default() });
    let mechanism = Mechanism::new(CKM_SHA256_RSA_PKCS);
    let key = fixture().rsa.1;
    let run = |hint| crypto::sign(&two, session.0, key, &mechanism, b"data", hint).unwrap();
    let signature = run(crypto::SIGNATURE_HINT);
    assert_eq!(calls(), ["C_SignInit", "C_Sign"]);
    for hint in [256, usize::MAX] {
        assert_eq!(run(hint), signature);
        assert_eq!(calls(), ["C_SignInit", "C_Sign"]);
    }
    // Too small: the operation goes on with a buffer of the length that the module names.
    for hint in [0, 1, 255] {
        assert_eq!(run(hint), signature);
        assert_eq!(calls(), ["C_SignInit", "C_Sign", "C_Sign"]);
    }
}

#[test]
fn a_function_that_is_missing_after_the_init_leaves_the_operation() {
    let session = open();
    let half = replaced(CK_FUNCTION_LIST { C_Sign: None, ..real() });
    let mechanism = Mechanism::new(CKM_SHA256_RSA_PKCS);
    let key = fixture().rsa.1;
    let error = crypto::sign(&half, session.0, key, &mechanism, b"data", 1024).unwrap_err();
    let expected = CallError { function: "C_Sign", code: CKR_FUNCTION_NOT_SUPPORTED, phase: Phase::Final, active: true };
    assert_eq!(error, expected);
    let error = crypto::sign(&fixture().functions, session.0, key, &mechanism, b"data", 1024).unwrap_err();
    let expected = CallError { function: "C_SignInit", code: CKR_OPERATION_ACTIVE, phase: Phase::Init, active: true };
    assert_eq!(error, expected);
}

#[test]
fn a_search_is_ended_whatever_happens() {
    let session = open();
    let everything: [Attribute; 0] = [];
    let failing =
        replaced(CK_FUNCTION_LIST { C_FindObjects: Some(failing_find), C_FindObjectsFinal: Some(find_final), ..real() });
    let error = objects::find_objects(&failing, session.0, &everything, None).unwrap_err();
    assert_eq!(calls(), ["C_FindObjects", "C_FindObjectsFinal"]);
    let expected = CallError { function: "C_FindObjects", code: CKR_DEVICE_ERROR, phase: Phase::Final, active: false };
    assert_eq!(error, expected);
    let found = objects::find_objects(&fixture().functions, session.0, &everything, Some(1));
    assert_eq!(found.map(|found| found.len()), Ok(1));

    let stuck = replaced(CK_FUNCTION_LIST { C_FindObjectsFinal: Some(failing_final), ..real() });
    let error = objects::find_objects(&stuck, session.0, &everything, None).unwrap_err();
    let expected = CallError { function: "C_FindObjectsFinal", code: CKR_DEVICE_ERROR, phase: Phase::Final, active: true };
    assert_eq!(error, expected);
    let error = objects::find_objects(&fixture().functions, session.0, &everything, None).unwrap_err();
    assert_eq!((error.code, error.phase), (CKR_OPERATION_ACTIVE, Phase::Init));
}

#[test]
fn attributes_take_one_call_when_all_can_be_read() {
    let session = open();
    let counting = replaced(CK_FUNCTION_LIST { C_GetAttributeValue: Some(read_attributes), ..Default::default() });
    objects::describe(&counting, session.0, fixture().rsa.1).unwrap();
    assert_eq!(calls(), ["C_GetAttributeValue"]);

    let lazy = replaced(CK_FUNCTION_LIST { C_GetAttributeValue: Some(read_until_failure), ..Default::default() });
    let kinds = [CKA_CLASS, CKA_EC_POINT, CKA_LABEL, CKA_PRIVATE_EXPONENT, CKA_ID];
    let read = |functions| objects::get_attributes(functions, session.0, fixture().rsa.1, &kinds).unwrap();
    assert_eq!(read(&lazy), read(&fixture().functions));
}

/// An AES key of this session.
fn aes(session: &Session) -> CK_OBJECT_HANDLE {
    let mut template = vec![Attribute::ulong(CKA_VALUE_LEN, 32), Attribute::bool(CKA_SENSITIVE, false)];
    for usage in [CKA_ENCRYPT, CKA_DECRYPT, CKA_WRAP, CKA_UNWRAP, CKA_EXTRACTABLE] {
        template.push(Attribute::bool(usage, true));
    }
    let mechanism = Mechanism::new(CKM_AES_KEY_GEN);
    objects::generate_key(&fixture().functions, session.0, &mechanism, &template).unwrap()
}

fn cbc(code: CK_MECHANISM_TYPE) -> Mechanism {
    Mechanism { code, params: Params::Bytes(vec![3; 16]) }
}

fn gcm(aad: &[u8]) -> Mechanism {
    Mechanism { code: CKM_AES_GCM, params: Params::Gcm { iv: Iv::Given(vec![5; 12]), aad: aad.to_vec(), tag_bits: 128 } }
}

#[test]
fn encrypts_and_decrypts() {
    let (f, session) = (&fixture().functions, open());
    let key = aes(&session);
    for mechanism in [cbc(CKM_AES_CBC_PAD), gcm(b""), gcm(b"header")] {
        for size in [0, 1, 16, 4096, 1 << 20] {
            let data = vec![1; size];
            let Encrypted { bytes: encrypted, iv: None } = crypto::encrypt(f, session.0, key, &mechanism, &data).unwrap() else {
                panic!("SoftHSM has written into the IV")
            };
            assert!(encrypted.len() > size && encrypted.len() <= size + 16);
            let decrypted = crypto::decrypt(f, session.0, key, &mechanism, &encrypted).unwrap();
            assert!(decrypted == data, "{mechanism:?} {size}");
        }
    }
}

#[test]
fn wraps_unwraps_and_derives() {
    let (f, session) = (&fixture().functions, open());
    let (wrapping, key) = (aes(&session), aes(&session));
    let mechanism = Mechanism::new(CKM_AES_KEY_WRAP);
    let wrapped = objects::wrap_key(f, session.0, &mechanism, wrapping, key).unwrap().bytes;
    assert_eq!(wrapped.len(), 40);
    let template = [
        Attribute::ulong(CKA_CLASS, CKO_SECRET_KEY),
        Attribute::ulong(CKA_KEY_TYPE, CKK_AES),
        Attribute::bool(CKA_SENSITIVE, false),
        Attribute::bool(CKA_EXTRACTABLE, true),
    ];
    let unwrapped = objects::unwrap_key(f, session.0, &mechanism, wrapping, &wrapped, &template).unwrap();
    assert_eq!(attribute(&session, unwrapped, CKA_VALUE), attribute(&session, key, CKA_VALUE));

    // With its own public point: that it works is all there is to see here, and that it is always the same.
    let (public, private) = fixture().ec;
    let ecdh = Mechanism {
        code: CKM_ECDH1_DERIVE,
        params: Params::Ecdh1 {
            kdf: CKD_NULL,
            shared_data: vec![],
            public_data: attribute(&session, public, CKA_EC_POINT)[2..].to_vec(),
        },
    };
    let derive = || {
        let mut template = template.to_vec();
        template[1] = Attribute::ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET);
        template.push(Attribute::ulong(CKA_VALUE_LEN, 32));
        let key = objects::derive_key(f, session.0, &ecdh, private, &template).unwrap();
        attribute(&session, key, CKA_VALUE)
    };
    assert_eq!(derive(), derive());
}

#[test]
fn raw_rsa_with_too_much_data_is_turned_down() {
    // Were it to reach SoftHSM, the process would exit with status 5 here.
    let (f, session, (public, private)) = (&fixture().functions, open(), fixture().rsa);
    let raw = Mechanism::new(CKM_RSA_X_509);
    let sign = |size| crypto::sign(f, session.0, private, &raw, &vec![1; size], 1024);
    let signature = sign(256).unwrap();
    assert!(sign(255).is_ok());
    let refused = |function| Err(CallError::new(function, CKR_DATA_LEN_RANGE, Phase::Init));
    for data in [&[1; 257][..], &[1; 5000]] {
        assert_eq!(sign(data.len()), refused("C_Sign").map(|()| vec![].into()));
        let verified = crypto::verify(f, session.0, public, &raw, data, &signature);
        assert_eq!(verified, refused("C_Verify"));
        let encrypted = crypto::encrypt(f, session.0, public, &raw, data);
        assert_eq!(encrypted.map(drop), refused("C_Encrypt"));
    }
    crypto::verify(f, session.0, public, &raw, &[1; 256], &signature).unwrap();
}

#[test]
fn no_failure_leaves_an_operation_active() {
    let (f, session) = (&fixture().functions, open());
    let ((public, private), aes) = (fixture().rsa, aes(&session));
    let pkcs = Mechanism::new(CKM_SHA256_RSA_PKCS);
    let oaep =
        Mechanism { code: CKM_RSA_PKCS_OAEP, params: Params::RsaOaep { hash: CKM_SHA_1, mgf: CKG_MGF1_SHA1, source: vec![] } };
    let s = session.0;
    let sign = |key, mechanism: &Mechanism, data: &[u8]| crypto::sign(f, s, key, mechanism, data, 1024).map(drop);
    let verify = |signature: &[u8]| crypto::verify(f, s, public, &pkcs, b"data", signature);
    let decrypt = |key, mechanism: &Mechanism, data: &[u8]| crypto::decrypt(f, s, key, mechanism, data).map(drop);
    let encrypt = |key, mechanism: &Mechanism, data: &[u8]| crypto::encrypt(f, s, key, mechanism, data).map(drop);
    let good = crypto::encrypt(f, s, aes, &gcm(b"one"), b"data").unwrap().bytes;

    let check = |name: &str, phase, result: Result<(), CallError>| {
        let error = result.expect_err(name);
        println!("{name}: {error:?}");
        assert_eq!((error.phase, error.active), (phase, false), "{name}: {error}");
        sign(private, &pkcs, b"data").unwrap_or_else(|error| panic!("after {name}: {error}"));
        encrypt(aes, &gcm(b""), b"data").unwrap_or_else(|error| panic!("after {name}: {error}"));
    };
    let des = Mechanism::new(CKM_DES_ECB);
    check("mechanism", Phase::Init, sign(private, &des, b"data"));
    check("no such key", Phase::Init, sign(0xdead, &pkcs, b"data"));
    check("wrong kind of key", Phase::Init, sign(public, &pkcs, b"data"));
    let raw = Mechanism::new(CKM_RSA_PKCS);
    check("data too long", Phase::Final, sign(private, &raw, &[1; 300]));
    check("forged", Phase::Final, verify(&[1; 256]));
    check("short signature", Phase::Final, verify(&[1; 9]));
    check("no signature", Phase::Final, verify(b""));
    check("bad OAEP", Phase::Final, decrypt(private, &oaep, &[1; 256]));
    check("short OAEP", Phase::Final, decrypt(private, &oaep, &[1; 9]));
    check("empty OAEP", Phase::Final, decrypt(private, &oaep, b""));
    check("long OAEP", Phase::Final, encrypt(public, &oaep, &[1; 256]));
    let (bare, padded) = (cbc(CKM_AES_CBC), cbc(CKM_AES_CBC_PAD));
    check("no whole block", Phase::Final, encrypt(aes, &bare, &[1; 9]));
    // Whatever the key, it ends in a byte of 0, which no padding does.
    let unpadded = crypto::encrypt(f, s, aes, &bare, &[0; 32]).unwrap().bytes;
    check("bad padding", Phase::Final, decrypt(aes, &padded, &unpadded));
    check("no whole block", Phase::Final, decrypt(aes, &padded, &[1; 9]));
    check("bad tag", Phase::Final, decrypt(aes, &gcm(b"two"), &good));
    let digest = crypto::digest(f, s, &pkcs, b"data").map(drop);
    check("not a digest", Phase::Init, digest);
}
