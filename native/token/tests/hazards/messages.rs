//! Encryption by messages: the IV is the token's, and the operation does not outlive the message.

use cryptoki_sys::*;
use token::p11::{Iv, Mechanism, Params};
use token::{Answer, Data, Executed, Request, Task, Wiped};

use crate::support::module::Module;
use crate::support::pool::{TestPool, key, signature};

/// One whose keys are what AES-GCM takes, and which offers messages.
fn module() -> Module {
    let module = Module::new();
    module.offer_interfaces(&[(2, 40), (3, 0)]);
    module.token(0, |token| token.key_type = CKK_AES);
    module
}

fn encrypt_with(iv: Iv, data: &[u8]) -> Request {
    let params = Params::Gcm { iv, aad: b"aad".to_vec(), tag_bits: 128 };
    let task = Task::Encrypt(Data::Owned(Wiped::from(data)));
    Request::Apply { key: key(), mechanism: Mechanism { code: CKM_AES_GCM, params }, task }
}

fn encrypt(data: &[u8]) -> Request {
    encrypt_with(Iv::Token, data)
}

#[test]
fn a_ciphertext_comes_with_the_iv_that_the_token_made_and_its_tag_at_the_end() {
    let module = module();
    let pool = TestPool::new(&module);
    for data in [&b"one"[..], b""] {
        let Answer::Sealed { iv, bytes } = pool.ask(encrypt(data)).done() else { panic!() };
        assert_eq!(iv, [1; 12]);
        let reversed: Vec<u8> = data.iter().rev().copied().collect();
        assert_eq!(bytes[..], [&reversed[..], &signature(data)[..16]].concat());
    }
    assert_eq!(["C_MessageEncryptInit", "C_EncryptMessage", "C_MessageEncryptFinal"].map(|name| module.count(name)), [2; 3]);
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
    for (count, function) in ["C_EncryptMessage", "C_MessageEncryptFinal"].into_iter().enumerate() {
        module.fail_next(function, &[CKR_DEVICE_ERROR]);
        let failure = pool.ask(encrypt(b"one")).failure();
        assert_eq!((failure.error.function(), failure.executed), (Some(function), Executed::Unknown));
        assert_eq!(module.cancelled(), vec![CKF_MESSAGE_ENCRYPT; count + 1]);
        assert_eq!(module.count("C_EncryptMessage"), 2 * count + 1);
        pool.ask(encrypt(b"two")).done();
    }
    assert_eq!(module.count("C_OpenSession"), 1);
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
