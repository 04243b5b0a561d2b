//! The layer over the raw function list, against a real SoftHSM token and openssl.

mod operations;
mod support;
mod wycheproof;

use std::path::Path;
use std::time::Duration;

use cryptoki_sys::*;
use support::*;
use token::p11::{Attribute, AttributeRead, Functions, LoadError, Mechanism, Params, Phase, crypto, objects, session, slots};
use token::{Module, ModuleConfig, Selector, Token};

fn pss() -> Mechanism {
    Mechanism {
        code: CKM_SHA256_RSA_PKCS_PSS,
        params: Params::RsaPss { hash: CKM_SHA256, mgf: CKG_MGF1_SHA256, salt_length: 32 },
    }
}

fn sha256(data: &[u8]) -> Vec<u8> {
    let data = file(data);
    openssl(&["dgst", "-sha256", "-binary", data.to_str().unwrap()]).unwrap()
}

#[test]
fn a_module_that_another_initialized_is_adopted_and_never_finalized() {
    let fixture = fixture();
    let module = Module::acquire(fixture.module.to_str().unwrap(), &ModuleConfig::default()).unwrap();
    let token = Token::find(module.module(), &Selector::Id(fixture.slot)).unwrap();
    drop(module);
    assert_eq!(token.slot(), fixture.slot);
    // The closing thread, which finalizes modules of ours at once, leaves this one alone.
    for _ in 0..50 {
        assert!(slots::library_info(&fixture.functions).is_ok());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn loading_says_what_is_wrong() {
    let text = file(b"no library");
    let error = Functions::load(&text).unwrap_err();
    assert!(
        matches!(&error, LoadError::NotLoadable { message, .. } if message.contains("too short")
        || message.contains("invalid ELF")),
        "{error}"
    );
    let error = Functions::load(Path::new("libm.so.6")).unwrap_err();
    assert!(matches!(&error, LoadError::NotPkcs11 { .. }), "{error}");
    let again = Functions::load(&fixture().module).unwrap();
    assert_eq!(again, fixture().functions);
    let error = again.initialize(None).unwrap_err();
    assert_eq!(error.code, CKR_CRYPTOKI_ALREADY_INITIALIZED);
    // An unknown pReserved is turned down by SoftHSM, which shows that it arrives.
    let error = again.initialize(Some(c"arguments")).unwrap_err();
    assert!(matches!(error.code, CKR_ARGUMENTS_BAD | CKR_CRYPTOKI_ALREADY_INITIALIZED), "{error}");
}

#[test]
fn library_slots_token_and_mechanisms() {
    let fixture = fixture();
    let library = slots::library_info(&fixture.functions).unwrap();
    assert_eq!(library.manufacturer, "SoftHSM");
    assert_eq!(library.cryptoki_version.0, 2);
    // SoftHSM always has one slot more, with an uninitialized token in it.
    assert!(slots::slots(&fixture.functions, true).unwrap().len() >= 2);
    assert!(slots::slots(&fixture.functions, false).unwrap().contains(&fixture.slot));
    let slot = slots::slot_info(&fixture.functions, fixture.slot).unwrap();
    assert!(slot.description.starts_with("SoftHSM slot ID"), "{slot:?}");
    assert_ne!(slot.flags & CKF_TOKEN_PRESENT, 0);
    let token = slots::token_info(&fixture.functions, fixture.slot).unwrap();
    assert_eq!((token.label.as_str(), token.model.as_str()), ("p11-main", "SoftHSM v2"));
    assert_eq!(token.serial.len(), 16);
    assert_ne!(token.flags & CKF_LOGIN_REQUIRED, 0);
    assert_eq!(token.max_session_count, slots::Count::Infinite);
    let mechanisms = slots::mechanisms(&fixture.functions, fixture.slot).unwrap();
    let rsa = mechanisms.iter().find(|info| info.code == CKM_RSA_PKCS).unwrap();
    assert_ne!(rsa.flags & CKF_SIGN, 0);
    assert!(rsa.min <= 2048 && rsa.max >= 2048);
    let error = slots::token_info(&fixture.functions, 0xdead).unwrap_err();
    assert_eq!((error.function, error.code), ("C_GetTokenInfo", CKR_SLOT_ID_INVALID));
}

#[test]
fn rsa_signatures_verify_on_the_token_and_outside() {
    let (f, session, (public, private)) = (&fixture().functions, open(), fixture().rsa);
    let key = rsa_public_der(&session);
    let pkcs = Mechanism::new(CKM_SHA256_RSA_PKCS);
    let salt = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"];
    for data in [&b""[..], b"a payment", &[7; 100_000]] {
        for (mechanism, options) in [(&pkcs, &[][..]), (&pss(), &salt[..])] {
            let signature = crypto::sign(f, session.0, private, mechanism, data, crypto::SIGNATURE_HINT).unwrap();
            assert_eq!(signature.len(), 256);
            crypto::verify(f, session.0, public, mechanism, data, &signature).unwrap();
            assert!(openssl_verifies(&key, options, data, &signature));
            assert!(!openssl_verifies(&key, options, b"other", &signature));
            let error = crypto::verify(f, session.0, public, mechanism, b"other", &signature).unwrap_err();
            assert_eq!((error.function, error.code), ("C_Verify", CKR_SIGNATURE_INVALID));
        }
    }
}

#[test]
fn ec_signatures_verify_on_the_token_and_outside() {
    let (f, session, (public, private)) = (&fixture().functions, open(), fixture().ec);
    let key = ec_public_der(&session);
    let ecdsa = Mechanism::new(CKM_ECDSA);
    for data in [&b""[..], b"a payment"] {
        let hash = sha256(data);
        let signature = crypto::sign(f, session.0, private, &ecdsa, &hash, crypto::SIGNATURE_HINT).unwrap();
        assert_eq!(signature.len(), 64);
        crypto::verify(f, session.0, public, &ecdsa, &hash, &signature).unwrap();
        assert!(openssl_verifies(&key, &[], data, &der::ecdsa_signature(&signature)));
    }
}

#[test]
fn a_signature_made_outside_verifies_on_the_token() {
    let (f, session) = (&fixture().functions, open());
    let private = file(b"");
    let private = private.to_str().unwrap();
    openssl(&["genpkey", "-algorithm", "RSA", "-out", private]).unwrap();
    let modulus = openssl(&["rsa", "-in", private, "-noout", "-modulus"]).unwrap();
    let modulus = std::str::from_utf8(&modulus).unwrap().trim().strip_prefix("Modulus=").unwrap();
    let modulus: Vec<u8> =
        (0..modulus.len() / 2).map(|index| u8::from_str_radix(&modulus[2 * index..][..2], 16).unwrap()).collect();
    let data = file(b"from outside");
    let signature = openssl(&["dgst", "-sha256", "-sign", private, data.to_str().unwrap()]).unwrap();
    let public = objects::create_object(
        f,
        session.0,
        &[
            Attribute::ulong(CKA_CLASS, CKO_PUBLIC_KEY),
            Attribute::ulong(CKA_KEY_TYPE, CKK_RSA),
            Attribute::bool(CKA_VERIFY, true),
            Attribute::bytes(CKA_MODULUS, modulus),
            Attribute::bytes(CKA_PUBLIC_EXPONENT, [1, 0, 1]),
        ],
    )
    .unwrap();
    let mechanism = Mechanism::new(CKM_SHA256_RSA_PKCS);
    crypto::verify(f, session.0, public, &mechanism, b"from outside", &signature).unwrap();
}

#[test]
fn digests_and_random() {
    let (f, session) = (&fixture().functions, open());
    let mechanism = Mechanism::new(CKM_SHA256);
    for data in [&b"abc"[..], b"", &[1; 1 << 20]] {
        assert_eq!(crypto::digest(f, session.0, &mechanism, data).unwrap(), sha256(data));
    }
    let abc = crypto::digest(f, session.0, &mechanism, b"abc").unwrap();
    assert_eq!(abc[..4], [0xba, 0x78, 0x16, 0xbf]);

    let one = crypto::generate_random(f, session.0, 32, 32).unwrap();
    let two = crypto::generate_random(f, session.0, 32, 32).unwrap();
    assert!(one.len() == 32 && one != two && one[..] != [0; 32]);
    assert_eq!(crypto::generate_random(f, session.0, 0, 32), Ok(vec![].into()));
    let error = crypto::generate_random(f, session.0, usize::MAX, 32).unwrap_err();
    assert_eq!(error.code, CKR_HOST_MEMORY);
}

#[test]
fn oaep_decrypts_what_openssl_encrypted() {
    let (f, session) = (&fixture().functions, open());
    let (public, data) = (file(&rsa_public_der(&session)), file(b"to the token"));
    let encrypted = openssl(&[
        "pkeyutl",
        "-encrypt",
        "-pubin",
        "-keyform",
        "DER",
        "-inkey",
        public.to_str().unwrap(),
        "-in",
        data.to_str().unwrap(),
        "-pkeyopt",
        "rsa_padding_mode:oaep",
    ])
    .unwrap();
    let oaep =
        Mechanism { code: CKM_RSA_PKCS_OAEP, params: Params::RsaOaep { hash: CKM_SHA_1, mgf: CKG_MGF1_SHA1, source: vec![] } };
    let decrypted = crypto::decrypt(f, session.0, fixture().rsa.1, &oaep, &encrypted);
    assert_eq!(decrypted, Ok(b"to the token".to_vec().into()));
}

#[test]
fn login_and_logout() {
    let fixture = fixture();
    let f = &fixture.functions;
    let session = Session(session::open_session(f, fixture.login_slot, false).unwrap());
    let state = || session::session_info(f, session.0).unwrap();
    assert_eq!((state().state, state().slot), (CKS_RO_PUBLIC_SESSION, fixture.login_slot));

    let error = session::login(f, session.0, CKU_USER, None, Some(b"0000")).unwrap_err();
    assert_eq!((error.function, error.code, error.phase), ("C_Login", CKR_PIN_INCORRECT, Phase::Single));
    assert!(!format!("{error:?} {error}").contains("0000"));
    let error = session::login(f, session.0, CKU_USER, None, None).unwrap_err();
    assert_eq!(error.code, CKR_ARGUMENTS_BAD);
    assert!(!state().is_user());

    session::login(f, session.0, CKU_USER, None, Some(PIN)).unwrap();
    assert!(state().is_user());
    let error = session::login(f, session.0, CKU_USER, None, Some(PIN)).unwrap_err();
    assert_eq!(error.code, CKR_USER_ALREADY_LOGGED_IN);
    session::logout(f, session.0).unwrap();
    assert!(!state().is_user());

    session::close_session(f, session.0).unwrap();
    let error = session::session_info(f, session.0).unwrap_err();
    assert_eq!(error.code, CKR_SESSION_HANDLE_INVALID);
}

#[test]
fn finds_more_than_a_batch() {
    let (f, session) = (&fixture().functions, open());
    let template = [Attribute::ulong(CKA_CLASS, CKO_DATA), Attribute::bytes(CKA_LABEL, "batch")];
    let mut made: Vec<_> = (0..150).map(|_| objects::create_object(f, session.0, &template).unwrap()).collect();
    let find = |limit| objects::find_objects(f, session.0, &template, limit).unwrap();
    let mut found = find(None);
    made.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, made);
    for limit in [0, 1, 63, 64, 65, 128, 149, 150, 151] {
        assert_eq!(find(Some(limit)).len(), limit.min(150));
    }
    let none = [Attribute::bytes(CKA_LABEL, "no such object")];
    assert_eq!(objects::find_objects(f, session.0, &none, None), Ok(vec![]));
    let empty = [Attribute::bytes(CKA_LABEL, "batch"), Attribute::bytes(CKA_APPLICATION, "")];
    assert_eq!(objects::find_objects(f, session.0, &empty, None).map(|found| found.len()), Ok(150));
}

#[test]
fn attributes_values_sensitive_unknown() {
    let (f, session, (public, private)) = (&fixture().functions, open(), fixture().rsa);
    let kinds = [
        CKA_LABEL,
        CKA_PRIVATE_EXPONENT,
        CKA_MODULUS,
        CKA_EC_POINT,
        CKA_KEY_TYPE,
        CKA_SIGN,
        CKA_WRAP_TEMPLATE,
        CKA_PRIME_1,
        0x8000_1234,
        CKA_ID,
    ];
    let read = objects::get_attributes(f, session.0, private, &kinds).unwrap();
    let (asked, read): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    assert_eq!(asked, kinds);
    assert_eq!(read[0].bytes(), Some(&b"rsa"[..]));
    assert_eq!(read[1], AttributeRead::Sensitive);
    assert_eq!(read[2].bytes().map(<[u8]>::len), Some(256));
    assert_eq!(read[3], AttributeRead::Unknown);
    assert_eq!(read[4].ulong(), Some(CKK_RSA));
    assert_eq!(read[5].bool(), Some(true));
    assert_eq!(read[6], AttributeRead::Unknown);
    assert_eq!(read[7], AttributeRead::Sensitive);
    assert_eq!(read[8], AttributeRead::Unknown);
    assert_eq!(read[9].bytes(), Some(&[0xa1][..]));
    assert_eq!(objects::get_attributes(f, session.0, private, &[]), Ok(vec![]));

    let info = objects::describe(f, session.0, private).unwrap();
    assert_eq!((info.class, info.key_type), (Some(CKO_PRIVATE_KEY), Some(CKK_RSA)));
    assert_eq!((info.id.as_slice(), info.label_text().as_str()), (&[0xa1][..], "rsa"));
    assert_eq!(objects::describe(f, session.0, public).unwrap().id, b"");
    let error = objects::describe(f, session.0, 0xdead).unwrap_err();
    assert_eq!((error.function, error.code), ("C_GetAttributeValue", CKR_OBJECT_HANDLE_INVALID));
}

#[test]
fn objects_are_made_read_copied_changed_and_destroyed() {
    let (f, session) = (&fixture().functions, open());
    for size in [0, 1, 511, 512, 513, 5000] {
        let object = objects::create_object(
            f,
            session.0,
            &[Attribute::ulong(CKA_CLASS, CKO_DATA), Attribute::bytes(CKA_VALUE, vec![9; size])],
        )
        .unwrap();
        // With an attribute that fails beside it, so that lengths are looked at twice.
        let read = objects::get_attributes(f, session.0, object, &[CKA_VALUE, CKA_EC_POINT]).unwrap();
        assert_eq!(read[0].1, AttributeRead::Value(vec![9; size].into()));
        assert_eq!(read[1].1, AttributeRead::Unknown);

        let renamed = [Attribute::bytes(CKA_LABEL, "copy")];
        let copy = objects::copy_object(f, session.0, object, &renamed).unwrap();
        assert_eq!(objects::describe(f, session.0, copy).unwrap().label, b"copy");
        objects::set_attributes(f, session.0, copy, &[Attribute::bytes(CKA_LABEL, "set")]).unwrap();
        assert_eq!(objects::describe(f, session.0, copy).unwrap().label, b"set");
        objects::destroy_object(f, session.0, copy).unwrap();
        let error = objects::destroy_object(f, session.0, copy).unwrap_err();
        assert_eq!((error.function, error.code), ("C_DestroyObject", CKR_OBJECT_HANDLE_INVALID));
    }
}
