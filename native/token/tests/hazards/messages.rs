//! Encryption and decryption by messages: with an IV that the token makes, or on a token that offers nothing else. The operation does not outlive the attempt.

use std::sync::Arc;

use cryptoki_sys::*;
use fake_module::PIN;
use token::p11::{Class, Iv, Mechanism, Params};
use token::{Answer, Batch, Data, Executed, Outcome, Request, Task, Wiped};

use crate::support::module::Module;
use crate::support::pool::{TestPool, key, options};

const INIT_MESSAGE_FINAL: [&str; 3] = ["C_MessageEncryptInit", "C_EncryptMessage", "C_MessageEncryptFinal"];
const DECRYPTION: [&str; 3] = ["C_MessageDecryptInit", "C_DecryptMessage", "C_MessageDecryptFinal"];

/// One whose keys are what AES-GCM takes, and which offers messages.
fn module() -> Module {
    let module = Module::new();
    module.offer_interfaces(&[(2, 40), (3, 0)]);
    module.token(0, |token| token.key_type = CKK_AES);
    module
}

/// The same, which says that it offers messages only.
fn message_only() -> Module {
    let module = module();
    module.mechanism_flags(CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT);
    module
}

fn gcm(iv: Iv) -> Mechanism {
    Mechanism { code: CKM_AES_GCM, params: Params::Gcm { iv, aad: b"aad".to_vec(), tag_bits: 128 } }
}

fn given() -> Iv {
    Iv::Given(vec![7; 12])
}

fn apply(mechanism: Mechanism, task: fn(Data) -> Task, data: &[u8]) -> Request {
    Request::Apply { key: key(), mechanism, task: task(Data::Owned(Wiped::from(data))) }
}

fn encrypt_with(iv: Iv, data: &[u8]) -> Request {
    apply(gcm(iv), Task::Encrypt, data)
}

fn encrypt(data: &[u8]) -> Request {
    encrypt_with(Iv::Token, data)
}

fn decrypt(data: &[u8]) -> Request {
    apply(gcm(given()), Task::Decrypt, data)
}

/// What the module makes of a message.
fn sealed(iv: &[u8], data: &[u8]) -> Vec<u8> {
    let reversed: Vec<u8> = data.iter().rev().copied().collect();
    [&reversed[..], &fake_module::tag(fake_module::KEY_LABEL, iv, b"aad", data)[..16]].concat()
}

/// A list is asked for slice by slice, as often as it takes. Gives the answers, and how many slices there were.
fn ask_all(pool: &TestPool, mechanism: &Mechanism, task: fn(Data) -> Task, list: &[Vec<u8>]) -> (Vec<Outcome>, usize) {
    let mechanism = Arc::new(mechanism.clone());
    let (mut answers, mut slices): (Vec<Outcome>, usize) = (Vec::new(), 0);
    while answers.len() < list.len() {
        let rest = list[answers.len()..].iter();
        let tasks = rest.map(|data| (mechanism.clone(), task(Data::Owned(Wiped::from(&data[..]))))).collect();
        let Answer::Many(some) = pool.ask(Request::Batch(Batch::new(key(), tasks))).done() else { panic!() };
        answers.extend(some);
        slices += 1;
    }
    (answers, slices)
}

/// Bytes, or the reason why there are none.
fn bytes_of(outcome: &Outcome) -> Result<Vec<u8>, &'static str> {
    match outcome {
        Ok(Answer::Bytes(bytes) | Answer::Sealed { bytes, .. }) => Ok(bytes.to_vec()),
        Ok(other) => panic!("{other:?}"),
        Err(failure) => Err(failure.error.reason()),
    }
}

#[test]
fn a_ciphertext_comes_with_the_iv_that_the_token_made_and_its_tag_at_the_end() {
    let module = module();
    let pool = TestPool::new(&module);
    for data in [&b"one"[..], b""] {
        let Answer::Sealed { iv, bytes } = pool.ask(encrypt(data)).done() else { panic!() };
        assert_eq!(iv, [1; 12]);
        assert_eq!(bytes[..], sealed(&iv, data));
    }
    assert_eq!(INIT_MESSAGE_FINAL.map(|name| module.count(name)), [2; 3]);
    assert_eq!(module.count("C_OpenSession"), 1);
}

#[test]
fn an_iv_that_the_caller_gives_goes_the_old_way() {
    let module = module();
    let pool = TestPool::new(&module);
    let error = pool.ask(encrypt_with(Iv::Given(vec![7; 12]), b"one")).failure().error;
    // Which this module has not.
    assert_eq!((error.reason(), error.function()), ("function_not_supported", Some("C_EncryptInit")));
    assert_eq!(module.count("C_MessageEncryptInit"), 0);
}

#[test]
fn so_does_all_where_the_module_has_no_messages_or_not_for_this_mechanism() {
    let hidden = module();
    hidden.hide("C_MessageEncryptInit");
    for (refusing, code) in [(module(), CKR_MECHANISM_INVALID), (module(), CKR_FUNCTION_NOT_SUPPORTED), (hidden, CKR_OK)] {
        if code != CKR_OK {
            refusing.fail_always("C_MessageEncryptInit", code);
        }
        let pool = TestPool::new(&refusing);
        assert_eq!(pool.ask(encrypt(b"one")).failure().error.function(), Some("C_EncryptInit"));
        assert_eq!(refusing.count("C_EncryptMessage"), 0);
    }
}

#[test]
fn a_key_that_may_not_encrypt_is_not_tried_another_way() {
    let module = module();
    let pool = TestPool::new(&module);
    module.fail_next("C_MessageEncryptInit", &[CKR_KEY_FUNCTION_NOT_PERMITTED]);
    let failure = pool.ask(encrypt(b"one")).failure();
    assert_eq!((failure.error.function(), failure.executed), (Some("C_MessageEncryptInit"), Executed::No));
}

#[test]
fn a_message_that_is_refused_leaves_nothing_active() {
    let module = module();
    let pool = TestPool::new(&module);
    module.fail_next("C_EncryptMessage", &[CKR_DATA_LEN_RANGE]);
    assert_eq!(pool.ask(encrypt(b"one")).reason(), "data_len_range");
    assert_eq!(module.count("C_MessageEncryptFinal"), 1);
    pool.ask(encrypt(b"two")).done();
    assert_eq!((module.count("C_OpenSession"), module.cancelled().len()), (1, 0));
}

#[test]
fn nor_does_one_with_which_the_device_fails_and_it_is_not_tried_again() {
    let module = module();
    let pool = TestPool::new(&module);
    module.fail_next("C_EncryptMessage", &[CKR_DEVICE_ERROR]);
    let failure = pool.ask(encrypt(b"one")).failure();
    assert_eq!((failure.error.function(), failure.executed), (Some("C_EncryptMessage"), Executed::Unknown));
    assert_eq!((module.cancelled(), module.count("C_EncryptMessage")), (vec![CKF_MESSAGE_ENCRYPT], 1));
    pool.ask(encrypt(b"two")).done();
    assert_eq!(module.count("C_OpenSession"), 1);
}

#[test]
fn a_message_that_was_encrypted_is_given_though_its_operation_cannot_be_ended_as_it_should() {
    let (module, unable) = (module(), self::module());
    unable.hide("C_SessionCancel");
    for (module, sessions) in [(module, 1), (unable, 2)] {
        let pool = TestPool::new(&module);
        module.fail_next("C_MessageEncryptFinal", &[CKR_DEVICE_ERROR]);
        for _ in 0..2 {
            let Answer::Sealed { iv, bytes } = pool.ask(encrypt(b"one")).done() else { panic!() };
            assert_eq!(bytes[..], sealed(&iv, b"one"));
        }
        // It is cancelled, or its session closed.
        assert_eq!((module.cancelled().len(), module.count("C_OpenSession")), (2 - sessions, sessions));
    }
}

#[test]
fn a_module_that_cannot_cancel_loses_the_session() {
    let module = module();
    module.hide("C_SessionCancel");
    let pool = TestPool::new(&module);
    module.fail_next("C_EncryptMessage", &[CKR_DEVICE_ERROR]);
    pool.ask(encrypt(b"one")).failure();
    pool.ask(encrypt(b"two")).done();
    assert_eq!(module.count("C_OpenSession"), 2);
}

#[test]
fn a_ciphertext_whose_iv_the_token_did_not_make_is_not_given_away() {
    let module = module();
    let pool = TestPool::new(&module);
    module.make_ivs(false);
    let error = pool.ask(encrypt(b"one")).failure().error;
    assert_eq!((error.reason(), error.function()), ("iv_not_made", Some("C_EncryptMessage")));
    module.make_ivs(true);
    pool.ask(encrypt(b"two")).done();
    assert_eq!(module.count("C_OpenSession"), 1);
}

#[test]
fn a_token_that_offers_nothing_else_is_asked_by_messages() {
    let nonce = || Iv::Given(vec![7; 13]);
    let mechanisms = [
        (CKK_AES, gcm(given()), 16),
        (
            CKK_AES,
            Mechanism {
                code: CKM_AES_CCM,
                params: Params::Ccm { nonce: nonce(), aad: b"aad".to_vec(), mac_length: 8, data_length: None },
            },
            8,
        ),
        (
            CKK_CHACHA20,
            Mechanism { code: CKM_CHACHA20_POLY1305, params: Params::Poly1305 { nonce: vec![7; 12], aad: b"aad".to_vec() } },
            16,
        ),
    ];
    for (key_type, mechanism, tag) in mechanisms {
        let module = message_only();
        module.token(0, |token| token.key_type = key_type);
        let pool = TestPool::new(&module);
        for data in [&b"one"[..], b""] {
            let ciphertext = pool.ask(apply(mechanism.clone(), Task::Encrypt, data)).bytes();
            assert_eq!(ciphertext.len(), data.len() + tag);
            assert_eq!(pool.ask(apply(mechanism.clone(), Task::Decrypt, &ciphertext)).bytes(), data);
            // A bit of the tag, and one of the ciphertext or, where that is empty, another of the tag.
            for place in [0, ciphertext.len() - 1] {
                let mut forged = ciphertext.clone();
                forged[place] ^= 1;
                let error = pool.ask(apply(mechanism.clone(), Task::Decrypt, &forged)).failure().error;
                assert_eq!((error.reason(), error.function()), ("decryption_failed", Some("C_DecryptMessage")));
            }
            let cut = &ciphertext[..tag - 1];
            assert_eq!(pool.ask(apply(mechanism.clone(), Task::Decrypt, cut)).reason(), "decryption_failed");
        }
        assert_eq!(INIT_MESSAGE_FINAL.map(|name| module.count(name)), [2; 3]);
        assert_eq!(DECRYPTION.map(|name| module.count(name)), [8, 6, 8]);
        // What it offers is asked once, and the plain functions, which it has not, never.
        assert_eq!((module.count("C_GetMechanismInfo"), module.count("C_OpenSession")), (1, 1));
    }
}

#[test]
fn one_that_offers_both_is_asked_the_old_way() {
    let module = module();
    let pool = TestPool::new(&module);
    for request in [encrypt_with(given(), b"one"), decrypt(b"the one and its long tag")] {
        assert_eq!(pool.ask(request).reason(), "function_not_supported");
    }
    assert_eq!((module.count("C_MessageEncryptInit"), module.count("C_MessageDecryptInit")), (0, 0));
    assert_eq!(module.count("C_GetMechanismInfo"), 1);
}

#[test]
fn one_that_does_not_say_that_it_offers_messages_is_asked_by_them_all_the_same() {
    let (none, silent) = (module(), module());
    none.mechanism_flags(0);
    silent.fail_always("C_GetMechanismInfo", CKR_MECHANISM_INVALID);
    for module in [none, silent] {
        let pool = TestPool::new(&module);
        let ciphertext = sealed(&[7; 12], b"one");
        assert_eq!(pool.ask(encrypt_with(given(), b"one")).bytes(), ciphertext);
        assert_eq!(pool.ask(decrypt(&ciphertext)).bytes(), b"one");
        assert_eq!(module.count("C_GetMechanismInfo"), 1);
    }
}

#[test]
fn one_that_offers_neither_refuses_as_any_other() {
    for code in [CKR_MECHANISM_INVALID, CKR_FUNCTION_NOT_SUPPORTED] {
        let module = module();
        module.mechanism_flags(0);
        let pool = TestPool::new(&module);
        let requests = [
            (encrypt_with(given(), b"one"), "C_MessageEncryptInit", "C_EncryptInit"),
            (decrypt(b"the one and its long tag"), "C_MessageDecryptInit", "C_DecryptInit"),
        ];
        for (request, by_messages, whole) in requests {
            module.fail_always(by_messages, code);
            assert_eq!(pool.ask(request).failure().error.function(), Some(whole));
        }
        assert_eq!((module.count("C_MessageEncryptFinal"), module.count("C_MessageDecryptFinal")), (0, 0));
    }
}

#[test]
fn what_the_token_offers_is_asked_again_where_it_could_not_say() {
    let module = message_only();
    let pool = TestPool::new(&module);
    module.fail_next("C_GetMechanismInfo", &[CKR_DEVICE_ERROR]);
    assert_eq!(pool.ask(encrypt_with(given(), b"one")).reason(), "function_not_supported");
    assert_eq!(pool.ask(encrypt_with(given(), b"one")).bytes(), sealed(&[7; 12], b"one"));
}

#[test]
fn one_init_call_serves_all_messages_of_a_slice() {
    let module = message_only();
    let pool = TestPool::new(&module);
    let plain: Vec<Vec<u8>> = (0..50).map(|number| vec![number; usize::from(number)]).collect();
    let (answers, slices) = ask_all(&pool, &gcm(given()), Task::Encrypt, &plain);
    let ciphertexts: Vec<_> = answers.iter().map(|answer| bytes_of(answer).unwrap()).collect();
    assert_eq!(ciphertexts, plain.iter().map(|data| sealed(&[7; 12], data)).collect::<Vec<_>>());
    assert_eq!(INIT_MESSAGE_FINAL.map(|name| module.count(name)), [slices, 50, slices]);
    let (answers, slices) = ask_all(&pool, &gcm(given()), Task::Decrypt, &ciphertexts);
    assert_eq!(answers.iter().map(|answer| bytes_of(answer).unwrap()).collect::<Vec<_>>(), plain);
    assert_eq!(DECRYPTION.map(|name| module.count(name)), [slices, 50, slices]);
    assert_eq!(module.count("C_OpenSession"), 1);
}

#[test]
fn each_message_of_a_list_has_an_iv_of_its_own() {
    let module = module();
    let pool = TestPool::new(&module);
    let (answers, slices) = ask_all(&pool, &gcm(Iv::Token), Task::Encrypt, &vec![b"one".to_vec(); 20]);
    for answer in answers {
        let Ok(Answer::Sealed { iv, bytes }) = answer else { panic!() };
        assert_eq!(bytes[..], sealed(&iv, b"one"));
    }
    assert_eq!(INIT_MESSAGE_FINAL.map(|name| module.count(name)), [slices, 20, slices]);
}

#[test]
fn a_message_that_fails_spoils_no_other_of_its_list() {
    let module = message_only();
    let pool = TestPool::new(&module);
    let good = sealed(&[7; 12], b"good");
    let mut forged = good.clone();
    forged[0] ^= 1;
    let list = [good.clone(), forged, good.clone(), b"short".to_vec(), good.clone()];
    let (answers, _) = ask_all(&pool, &gcm(given()), Task::Decrypt, &list);
    let answers: Vec<_> = answers.iter().map(bytes_of).collect();
    let (good, bad) = (Ok(b"good".to_vec()), Err("decryption_failed"));
    assert_eq!(answers, [good.clone(), bad.clone(), good.clone(), bad, good]);
    assert_eq!(module.count("C_MessageDecryptInit"), module.count("C_MessageDecryptFinal"));
    assert_eq!((module.count("C_OpenSession"), module.cancelled().len()), (1, 0));
}

#[test]
fn nor_does_the_end_of_its_operation() {
    let (module, unable) = (message_only(), message_only());
    unable.hide("C_SessionCancel");
    for module in [module, unable] {
        let pool = TestPool::new(&module);
        module.fail_always("C_MessageDecryptFinal", CKR_DEVICE_ERROR);
        let good = sealed(&[7; 12], b"good");
        let list = [good.clone(), b"short".to_vec(), good.clone()];
        let (answers, _) = ask_all(&pool, &gcm(given()), Task::Decrypt, &list);
        let answers: Vec<_> = answers.iter().map(bytes_of).collect();
        assert_eq!(answers, [Ok(b"good".to_vec()), Err("decryption_failed"), Ok(b"good".to_vec())]);
        let is_cancelled = module.cancelled().iter().all(|flags| *flags == CKF_MESSAGE_DECRYPT) && !module.cancelled().is_empty();
        assert_eq!(is_cancelled, module.count("C_OpenSession") == 1);
    }
}

#[test]
fn a_wrong_tag_is_one_whatever_the_module_says_of_it() {
    for code in [CKR_ENCRYPTED_DATA_INVALID, CKR_GENERAL_ERROR, CKR_DEVICE_ERROR] {
        let module = message_only();
        let pool = TestPool::new(&module);
        module.fail_next("C_DecryptMessage", &[code]);
        assert_eq!(pool.ask(decrypt(&sealed(&[7; 12], b"one"))).reason(), "decryption_failed");
        assert_eq!(pool.ask(decrypt(&sealed(&[7; 12], b"one"))).bytes(), b"one");
        assert_eq!((module.count("C_MessageDecryptFinal"), module.count("C_OpenSession")), (2, 1));
    }
}

#[test]
fn a_session_that_dies_under_a_message_is_replaced() {
    let module = message_only();
    let pool = TestPool::new(&module);
    module.fail_next("C_DecryptMessage", &[CKR_SESSION_HANDLE_INVALID]);
    assert_eq!(pool.ask(decrypt(&sealed(&[7; 12], b"one"))).bytes(), b"one");
    assert_eq!((module.count("C_DecryptMessage"), module.count("C_OpenSession")), (2, 2));
}

#[test]
fn a_key_that_wants_a_login_for_each_use_gets_one_for_each_message() {
    let module = message_only();
    module.token(0, |token| token.always_authenticate = true);
    let pool = TestPool::new(&module);
    let ciphertext = sealed(&[7; 12], b"one");
    assert_eq!(pool.ask(decrypt(&ciphertext)).bytes(), b"one");
    let (answers, slices) = ask_all(&pool, &gcm(given()), Task::Decrypt, &vec![ciphertext; 3]);
    assert!(answers.iter().all(|answer| bytes_of(answer) == Ok(b"one".to_vec())));
    assert_eq!((slices, module.tried_pins()), (3, vec![PIN.to_vec(); 5]));
    assert_eq!((DECRYPTION.map(|name| module.count(name)), module.count("C_OpenSession")), ([4; 3], 1));
}

#[test]
fn a_wrong_pin_for_a_message_leaves_nothing_active() {
    let module = message_only();
    module.token(0, |token| token.always_authenticate = true);
    let pool = TestPool::new(&module);
    pool.source_gives(b"9999");
    pool.log_in(PIN).done();
    assert_eq!(pool.ask(decrypt(&sealed(&[7; 12], b"one"))).reason(), "pin_incorrect");
    assert_eq!(DECRYPTION.map(|name| module.count(name)), [1, 0, 1]);
    assert_eq!(pool.ask(encrypt_with(given(), b"one")).bytes(), sealed(&[7; 12], b"one"));
    assert_eq!(module.count("C_OpenSession"), 1);
}

#[test]
fn a_module_whose_operations_end_with_a_message_gets_one_for_each() {
    let module = message_only();
    module.end_messages(true);
    let pool = TestPool::new(&module);
    let ciphertext = sealed(&[7; 12], b"one");
    let (answers, _) = ask_all(&pool, &gcm(given()), Task::Encrypt, &vec![b"one".to_vec(); 5]);
    assert!(answers.iter().all(|answer| bytes_of(answer) == Ok(ciphertext.clone())));
    let (answers, _) = ask_all(&pool, &gcm(given()), Task::Decrypt, &vec![ciphertext; 5]);
    assert!(answers.iter().all(|answer| bytes_of(answer) == Ok(b"one".to_vec())));
    assert_eq!((module.count("C_MessageEncryptInit"), module.count("C_MessageDecryptInit")), (5, 5));
    assert_eq!((module.count("C_OpenSession"), module.cancelled().len()), (1, 0));
}

#[test]
fn a_code_that_the_policy_has_for_a_wrong_tag_is_one() {
    let module = message_only();
    let code = CKR_VENDOR_DEFINED + 1;
    let mut options = options(&module);
    options.policy.overrides.insert(code, Class::Caller);
    let pool = TestPool::start(options, false).unwrap();
    module.fail_next("C_DecryptMessage", &[code]);
    let failure = pool.ask(decrypt(&sealed(&[7; 12], b"one"))).failure();
    assert_eq!(failure.error.function(), Some("C_DecryptMessage"));
    assert_eq!((module.count("C_MessageDecryptFinal"), module.cancelled().len()), (1, 0));
    assert_eq!(pool.ask(decrypt(&sealed(&[7; 12], b"one"))).bytes(), b"one");
}
