//! A secret that is shared with the holder of a private key: the key that is made of it here is of use to nobody without its ciphertext.

use cryptoki_sys::*;
use fake_module::ciphertext_for;
use token::p11::{Attribute, Mechanism};
use token::{Answer, Data, Executed, Request, Wiped};

use crate::support::module::Module;
use crate::support::poll;
use crate::support::pool::{TestPool, generate_key, key, sign, signature};

/// Any key may be what it takes.
const MECHANISM: CK_MECHANISM_TYPE = CKM_VENDOR_DEFINED + 1;

fn module() -> Module {
    let module = Module::new();
    module.offer_interfaces(&[(2, 40), (3, 0), (3, 2)]);
    module
}

fn template(label: &[u8]) -> Vec<Attribute> {
    vec![Attribute::bytes(CKA_LABEL, label)]
}

fn encapsulate(label: &[u8]) -> Request {
    Request::EncapsulateKey { key: key(), mechanism: Mechanism::new(MECHANISM), template: template(label) }
}

fn decapsulate(ciphertext: &[u8], label: &[u8]) -> Request {
    let ciphertext = Data::Owned(Wiped::from(ciphertext));
    Request::DecapsulateKey { key: key(), mechanism: Mechanism::new(MECHANISM), ciphertext, template: template(label) }
}

/// How many keys have this label.
fn keys(pool: &TestPool, label: &[u8]) -> usize {
    match pool.ask(Request::FindObjects { template: template(label), limit: 10, cut: false }).done() {
        Answer::Objects(objects) => objects.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_key_comes_with_its_ciphertext_of_which_the_other_side_makes_the_same() {
    let module = module();
    let pool = TestPool::new(&module);
    let Answer::Encapsulated { ciphertext, key } = pool.ask(encapsulate(b"one")).done() else { panic!() };
    assert_eq!((&ciphertext[..], &key.info.label[..]), (&ciphertext_for(b"one")[..], &b"one"[..]));
    let Answer::Object(same) = pool.ask(decapsulate(&ciphertext, b"one")).done() else { panic!() };
    assert_eq!(same.info.label, b"one");
    assert_ne!(same.info.handle, key.info.handle);
    assert_eq!(keys(&pool, b"one"), 2);
    assert_eq!(pool.ask(decapsulate(b"another", b"one")).reason(), "encrypted_data_invalid");
    assert_eq!(module.count("C_DestroyObject"), 0);
}

#[test]
fn a_caller_who_is_gone_when_the_key_is_made_leaves_none_behind() {
    let module = module();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    for (round, gives_up) in [(1, false), (2, true)] {
        module.hold("C_EncapsulateKey");
        let caller = pool.ask(encapsulate(b"lost"));
        module.await_inside("C_EncapsulateKey", 1);
        if gives_up {
            let _ = caller.give_up();
        } else {
            caller.caller_dies();
        }
        module.release("C_EncapsulateKey");
        module.await_calls("C_DestroyObject", round);
        assert_eq!(keys(&pool, b"lost"), 0);
    }
    // Nothing else was wrong with the session.
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_eq!(module.count("C_OpenSession"), 1);
}

#[test]
fn a_holder_who_dies_in_his_lease_leaves_no_key_behind_either() {
    let module = module();
    let pool = TestPool::new(&module);
    let lease = pool.lease();
    module.hold("C_EncapsulateKey");
    let caller = pool.ask_on(&lease, encapsulate(b"lost"));
    module.await_inside("C_EncapsulateKey", 1);
    caller.caller_dies();
    pool.holder_dies(&lease);
    module.release("C_EncapsulateKey");
    module.await_calls("C_DestroyObject", 1);
    assert_eq!(keys(&pool, b"lost"), 0);
}

#[test]
fn a_key_that_somebody_may_still_use_stays_whoever_has_gone() {
    // It is found by its label.
    let module = module();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    let requests: [(_, &dyn Fn() -> Request); 2] =
        [("C_GenerateKey", &|| generate_key(b"kept")), ("C_DecapsulateKey", &|| decapsulate(&ciphertext_for(b"kept"), b"kept"))];
    for (count, (function, request)) in requests.into_iter().enumerate() {
        module.hold(function);
        let caller = pool.ask(request());
        module.await_inside(function, 1);
        caller.caller_dies();
        module.release(function);
        poll("the key is there", || keys(&pool, b"kept") == count + 1);
    }
    assert_eq!(module.count("C_DestroyObject"), 0);
}

#[test]
fn a_ciphertext_whose_length_cannot_be_is_not_given_away_and_its_key_destroyed() {
    let module = module();
    let pool = TestPool::new(&module);
    module.claim_ciphertext_length(Some(1 << 30));
    let failure = pool.ask(encapsulate(b"odd")).failure();
    assert_eq!((failure.error.reason(), failure.executed), ("output_length_invalid", Executed::Yes));
    assert_eq!(failure.error.function(), Some("C_EncapsulateKey"));
    module.claim_ciphertext_length(None);
    assert_eq!(keys(&pool, b"odd"), 0);
    assert_eq!(module.count("C_DestroyObject"), 1);
    pool.ask(encapsulate(b"even")).done();
}

#[test]
fn neither_is_tried_again_where_it_may_have_run() {
    let module = module();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    let requests: [(_, &dyn Fn() -> Request); 2] =
        [("C_EncapsulateKey", &|| encapsulate(b"new")), ("C_DecapsulateKey", &|| decapsulate(&ciphertext_for(b"new"), b"new"))];
    for (function, request) in requests {
        module.fail_next(function, &[CKR_DEVICE_ERROR]);
        let failure = pool.ask(request()).failure();
        assert_eq!((failure.error.reason(), failure.executed), ("device_error", Executed::Unknown));
        assert_eq!(module.count(function), 1);
        // A handle is refused before anything is done with it.
        module.fail_next(function, &[CKR_KEY_HANDLE_INVALID]);
        pool.ask(request()).done();
        assert_eq!(module.count(function), 3);
    }
}

#[test]
fn a_module_without_it_says_so() {
    let hidden = module();
    hidden.hide("C_EncapsulateKey");
    hidden.hide("C_DecapsulateKey");
    let old = Module::new();
    old.offer_interfaces(&[(2, 40), (3, 0)]);
    for module in [hidden, old, Module::new()] {
        let pool = TestPool::new(&module);
        for (function, request) in [("C_EncapsulateKey", encapsulate(b"one")), ("C_DecapsulateKey", decapsulate(b"", b"one"))] {
            let failure = pool.ask(request).failure();
            assert_eq!((failure.error.reason(), failure.executed), ("function_not_supported", Executed::No));
            assert_eq!(failure.error.function(), Some(function));
        }
        assert_eq!(pool.ask(sign(b"one")).bytes(), signature(b"one"));
        assert_eq!(module.count("C_OpenSession"), 1);
    }
}
