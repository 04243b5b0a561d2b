//! Modules of PKCS#11 3.0 and later: which functions are called, and what is cancelled rather than closed.

use std::time::Duration;

use cryptoki_sys::*;
use token::p11::Attribute;
use token::{ModuleConfig, PoolOptions, Request, report};

use crate::support::module::Module;
use crate::support::pool::{TestPool, options, sign, signature};

/// A module that offers these versions of the standard's interface.
fn module(versions: &[Version]) -> Module {
    let module = Module::new();
    module.offer_interfaces(versions);
    module
}

type Version = (u8, u8);

/// The version whose functions are called, and those of all its interfaces.
fn versions(module: &Module) -> (Version, Vec<Version>) {
    let path = module.path.to_string_lossy().into_owned();
    let report = report(path, ModuleConfig::default(), Duration::from_secs(60)).unwrap().unwrap();
    (report.functions, report.interfaces.unwrap().iter().map(|interface| interface.version.unwrap()).collect())
}

#[test]
fn the_functions_of_the_newest_interface_are_called() {
    let all = [(2, 40), (3, 0), (3, 1), (3, 2)];
    for count in 2..=all.len() {
        assert_eq!(versions(&module(&all[..count])), (all[count - 1], all[..count].to_vec()));
    }
}

#[test]
fn a_module_without_interfaces_or_with_a_newer_one_than_we_know_is_used_with_what_it_has() {
    assert_eq!(versions(&module(&[])), ((2, 40), vec![]));
    assert_eq!(versions(&module(&[(2, 40)])), ((2, 40), vec![]));
    assert_eq!(versions(&module(&[(4, 0)])), ((2, 40), vec![]));
}

/// A module that offers C_SessionCancel.
fn cancelling() -> Module {
    module(&[(2, 40), (3, 0)])
}

/// Signs, with a C_Sign that fails with this code, and signs again. Gives how many sessions were opened for that.
fn sessions_of_failed_signature(module: &Module, code: CK_RV) -> usize {
    let pool = TestPool::new(module);
    pool.ask(sign(b"one")).done();
    module.fail_next("C_Sign", &[code]);
    assert_eq!(pool.ask(sign(b"two")).failure().error.code(), Some(code));
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
    module.count("C_OpenSession")
}

#[test]
fn an_operation_that_failed_in_its_midst_is_cancelled_and_its_session_serves_the_next() {
    let module = cancelling();
    assert_eq!(sessions_of_failed_signature(&module, CKR_ARGUMENTS_BAD), 1);
    assert_eq!(module.cancelled(), [CKF_SIGN]);
}

#[test]
fn where_it_cannot_be_cancelled_its_session_is_closed() {
    let module = module(&[]);
    assert_eq!(sessions_of_failed_signature(&module, CKR_ARGUMENTS_BAD), 2);
    let module = cancelling();
    module.hide("C_SessionCancel");
    assert_eq!(sessions_of_failed_signature(&module, CKR_ARGUMENTS_BAD), 2);
    assert_eq!(module.count("C_SessionCancel"), 0);
    for code in [CKR_OPERATION_CANCEL_FAILED, CKR_FUNCTION_NOT_SUPPORTED, CKR_DEVICE_ERROR] {
        let module = cancelling();
        module.fail_always("C_SessionCancel", code);
        assert_eq!(sessions_of_failed_signature(&module, CKR_ARGUMENTS_BAD), 2);
    }
}

#[test]
fn what_an_earlier_operation_has_left_active_is_cancelled_by_the_next_one_that_is_refused_for_it() {
    let module = cancelling();
    // It says nothing of whether it has ended the operation, and it has not.
    assert_eq!(sessions_of_failed_signature(&module, CKR_GENERAL_ERROR), 1);
    assert_eq!(module.count("C_SessionCancel"), 1);
    assert_eq!(module.cancelled()[0] & CKF_SIGN, CKF_SIGN);
}

#[test]
fn a_module_that_cancels_and_goes_on_to_refuse_is_not_asked_for_ever() {
    let module = cancelling();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    module.fail_always("C_SignInit", CKR_OPERATION_ACTIVE);
    assert_eq!(pool.ask(sign(b"two")).reason(), "operation_active");
    assert_eq!(module.count("C_SessionCancel"), 2);
    module.fail_no_more("C_SignInit");
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
}

#[test]
fn a_wrong_pin_for_one_use_of_a_key_costs_no_session() {
    let module = cancelling();
    module.token(0, |token| token.always_authenticate = true);
    let pool = TestPool::new(&module);
    pool.log_in(fake_module::PIN).done();
    pool.source_gives(b"wrong");
    assert_eq!(pool.ask(sign(b"one")).reason(), "pin_incorrect");
    assert_eq!(module.cancelled(), [CKF_SIGN]);
    module.token(0, |token| token.always_authenticate = false);
    pool.log_in(fake_module::PIN).done();
    assert_eq!(pool.ask(Request::GenerateRandom { length: 8 }).bytes().len(), 8);
    assert_eq!(module.count("C_OpenSession"), 1);
}

#[test]
fn a_login_that_is_lost_in_the_midst_of_an_operation_costs_no_session() {
    let module = cancelling();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    module.hold("C_Sign");
    let caller = pool.ask(sign(b"two"));
    module.await_inside("C_Sign", 1);
    module.forget_login(0);
    module.release("C_Sign");
    assert_eq!(caller.bytes(), signature(b"two"));
    assert_eq!((module.count("C_Login"), module.count("C_OpenSession")), (2, 1));
}

#[test]
fn a_search_that_cannot_be_ended_is_cancelled() {
    let module = cancelling();
    let pool = TestPool::new(&module);
    pool.ask(Request::Ping).done();
    module.fail_next("C_FindObjectsFinal", &[CKR_ARGUMENTS_BAD]);
    let template = vec![Attribute::bytes(CKA_LABEL, fake_module::KEY_LABEL)];
    let search = || Request::FindObjects { template: template.clone(), limit: 10, cut: false };
    assert_eq!(pool.ask(search()).failure().error.code(), Some(CKR_ARGUMENTS_BAD));
    assert_eq!(module.cancelled(), [CKF_FIND_OBJECTS]);
    pool.ask(search()).done();
    assert_eq!(module.count("C_OpenSession"), 1);
}

#[test]
fn a_lease_goes_on_when_an_operation_of_its_has_been_cancelled() {
    let module = cancelling();
    let pool = TestPool::new(&module);
    let lease = pool.lease();
    module.fail_next("C_Sign", &[CKR_ARGUMENTS_BAD]);
    assert_eq!(pool.ask_on(&lease, sign(b"one")).reason(), "arguments_bad");
    assert_eq!(pool.ask_on(&lease, sign(b"two")).bytes(), signature(b"two"));
    assert!(pool.holder_is_done(&lease));
    assert_eq!(module.count("C_OpenSession"), 1);
}

fn as_user(name: &str) -> impl FnOnce(&mut PoolOptions) {
    let name = name.to_owned();
    |options| options.user_name = Some(name)
}

#[test]
fn a_pool_with_a_user_name_logs_in_with_it() {
    let module = cancelling();
    module.token(0, |token| token.user_name = b"alice".to_vec());
    let pool = TestPool::with(&module, as_user("alice"));
    assert_eq!(pool.ask(sign(b"one")).bytes(), signature(b"one"));
    assert_eq!(module.tried_names(), [b"alice"]);
    assert_eq!(module.count("C_Login"), 0);
    // So it does for one use of a key.
    module.token(0, |token| token.always_authenticate = true);
    module.forget_login(0);
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_eq!(module.tried_names(), [b"alice"; 3]);
    assert_eq!(module.count("C_Login"), 0);
}

#[test]
fn a_wrong_pin_of_a_user_with_a_name_is_tried_once_and_says_by_which_function() {
    let module = cancelling();
    module.token(0, |token| token.user_name = b"alice".to_vec());
    let pool = TestPool::with(&module, as_user("bob"));
    for _ in 0..3 {
        let error = pool.ask(sign(b"one")).failure().error;
        assert_eq!((error.reason(), error.function()), ("pin_incorrect", Some("C_LoginUser")));
    }
    assert_eq!(module.count("C_LoginUser"), 1);
    // The same PIN is another credential with another name.
    drop(pool);
    let pool = TestPool::with(&module, as_user("alice"));
    pool.log_in(fake_module::PIN).done();
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
}

#[test]
fn pools_with_other_user_names_are_in_conflict() {
    let module = cancelling();
    let (alice, bob) = (TestPool::with(&module, as_user("alice")), TestPool::with(&module, as_user("bob")));
    alice.ask(sign(b"one")).done();
    assert_eq!(bob.ask(sign(b"two")).reason(), "login_conflict");
    assert_eq!(module.count("C_LoginUser"), 1);
}

#[test]
fn a_pool_with_a_user_name_does_not_start_where_the_module_cannot_log_in_with_one() {
    let hidden = cancelling();
    hidden.hide("C_LoginUser");
    for module in [module(&[]), hidden] {
        let options = PoolOptions { user_name: Some("alice".into()), ..options(&module) };
        let error = TestPool::start(options, true).err().unwrap();
        assert_eq!((error.reason(), error.function()), ("function_not_supported", Some("C_LoginUser")));
        assert_eq!(module.count("C_OpenSession"), 0);
    }
}
