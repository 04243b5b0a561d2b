//! The token goes and comes back, the module forgets that it was initialized, and is reloaded.

use cryptoki_sys::*;
use token::{Error, Notice, Policy};

use crate::login::warm_up;
use crate::support::module::Module;
use crate::support::poll;
use crate::support::pool::{TestPool, sign, signature};

#[test]
fn while_the_token_is_away_callers_are_refused_and_when_it_is_back_calls_go_on() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    let epoch = pool.status().epoch;
    module.remove_token(0);
    // Whoever notices is told so, and whoever comes later need not ask the token.
    for _ in 0..3 {
        let failure = pool.ask(sign(b"data")).failure();
        assert!(matches!(failure.error, Error::TokenUnavailable(_)), "{failure:?}");
    }
    let signed = module.count("C_SignInit");
    assert_eq!(pool.ask(sign(b"data")).reason(), "token_unavailable");
    assert_eq!(module.count("C_SignInit"), signed);
    module.insert_token(0);
    pool.await_notice("the token is there", |notice| *notice == Notice::Up { was_there: true });
    assert_eq!(pool.ask(sign(b"data")).bytes(), signature(b"data"));
    assert!(pool.status().epoch > epoch);
}

#[test]
fn those_who_wait_when_the_token_goes_are_answered_though_a_call_does_not_return() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    warm_up(&module, &pool, 1);
    warm_up(&module, &other, 1);
    module.hold("C_SignInit");
    let running = pool.ask(sign(b"data"));
    module.await_inside("C_SignInit", 1);
    let waiting: Vec<_> = (0..5).map(|_| pool.ask(sign(b"data"))).collect();
    module.hold_no_more("C_SignInit");
    module.remove_token(0);
    // The other pool notices, for both.
    assert_eq!(other.ask(sign(b"data")).reason(), "token_unavailable");
    for caller in &waiting {
        assert_eq!(caller.reason(), "token_unavailable");
    }
    assert!(!running.is_answered());
    module.release("C_SignInit");
    assert_eq!(running.reason(), "token_unavailable");
}

#[test]
fn a_token_that_is_not_there_at_the_start_is_found_when_it_comes() {
    let module = Module::new();
    module.remove_token(0);
    let pool = TestPool::new(&module);
    assert_eq!(pool.ask(sign(b"data")).reason(), "slot_not_found");
    module.insert_token(0);
    pool.await_notice("the token is there", |notice| *notice == Notice::Up { was_there: false });
    assert_eq!(pool.ask(sign(b"data")).bytes(), signature(b"data"));
}

#[test]
fn a_token_that_comes_back_in_another_slot_is_the_same_and_another_in_its_slot_is_not() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| options.selector = token::Selector::Label("fake-0".into()));
    pool.ask(sign(b"one")).done();
    module.remove_token(0);
    assert_eq!(pool.ask(sign(b"two")).reason(), "token_unavailable");
    // Another one in its slot; itself elsewhere.
    module.token(7, |token| (token.label, token.serial) = ("fake-0".into(), "0000".into()));
    module.token(0, |token| (token.label, token.serial) = ("another".into(), "9999".into()));
    module.insert_token(0);
    pool.await_notice("the token is there", |notice| *notice == Notice::Up { was_there: true });
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
    assert!(matches!(pool.ask(token::Request::TokenInfo).done(), token::Answer::TokenInfo(info) if info.serial == "0000"));
}

#[test]
fn another_token_in_the_slot_is_not_taken_for_the_one_that_was_there() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| options.selector = token::Selector::Label("fake-0".into()));
    pool.ask(sign(b"one")).done();
    // Taken out, and another put in, before anybody looks.
    module.forget_sessions(0);
    module.token(0, |token| (token.label, token.serial) = ("another".into(), "9999".into()));
    let (signed, logged_in) = (module.count("C_SignInit"), module.count("C_Login"));
    assert_eq!(pool.ask(sign(b"two")).reason(), "token_unavailable");
    // The session of before has told so; the other token was given neither an operation nor a PIN.
    assert_eq!((module.count("C_SignInit"), module.count("C_Login")), (signed + 1, logged_in));
    module.token(0, |token| (token.label, token.serial) = ("fake-0".into(), "0000".into()));
    pool.await_notice("the token is there", |notice| *notice == Notice::Up { was_there: true });
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
}

#[test]
fn a_module_that_has_forgotten_its_initialization_is_initialized_once_for_all_and_no_caller_notices() {
    let module = Module::new();
    let (pool, other) = (TestPool::of(&module, 4), TestPool::of(&module, 2));
    warm_up(&module, &pool, 4);
    warm_up(&module, &other, 2);
    module.forget_initialization();
    let callers: Vec<_> = (0..20).map(|number| if number % 2 == 0 { &pool } else { &other }.ask(sign(b"data"))).collect();
    for caller in &callers {
        assert_eq!(caller.bytes(), signature(b"data"));
    }
    assert_eq!((module.count("C_Initialize"), module.count("C_Finalize"), module.count("C_Login")), (2, 1, 2));
    let told = |pool: &TestPool| pool.notices().iter().filter(|notice| matches!(notice, Notice::Reinitialized { .. })).count();
    assert_eq!(told(&pool) + told(&other), 1);
}

#[test]
fn of_two_pools_that_find_the_module_uninitialized_one_initializes_it() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    warm_up(&module, &pool, 1);
    warm_up(&module, &other, 1);
    module.hold("C_SignInit");
    let callers = [pool.ask(sign(b"data")), other.ask(sign(b"data"))];
    module.await_inside("C_SignInit", 2);
    module.hold("C_Finalize");
    module.forget_initialization();
    module.release("C_SignInit");
    module.await_inside("C_Finalize", 1);
    poll("both know", || pool.status().ailment.is_some() && other.status().ailment.is_some());
    module.release("C_Finalize");
    for caller in &callers {
        assert_eq!(caller.bytes(), signature(b"data"));
    }
    assert_eq!((module.count("C_Initialize"), module.count("C_Finalize")), (2, 1));
}

#[test]
fn what_may_not_run_twice_is_not_tried_again_by_a_module_that_was_initialized_again() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"data")).done();
    module.fail_next("C_GenerateKey", &[CKR_CRYPTOKI_NOT_INITIALIZED]);
    assert_eq!(pool.ask(crate::support::pool::generate_key(b"new")).reason(), "cryptoki_not_initialized");
    assert_eq!(pool.ask(sign(b"data")).bytes(), signature(b"data"));
    assert_eq!((module.count("C_GenerateKey"), module.count("C_Initialize")), (1, 2));
}

#[test]
fn a_module_that_cannot_be_initialized_again_is_tried_until_it_can() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"data")).done();
    module.fail_always("C_Initialize", CKR_DEVICE_ERROR);
    module.forget_initialization();
    poll("the pool is down", || pool.ask(sign(b"data")).reason() == "token_unavailable");
    module.await_calls("C_Initialize", 4);
    module.fail_no_more("C_Initialize");
    pool.await_notice("the token is there", |notice| *notice == Notice::Up { was_there: true });
    assert_eq!(pool.ask(sign(b"data")).bytes(), signature(b"data"));
}

#[test]
fn a_token_that_forgets_its_sessions_but_stays_fails_nobody() {
    let module = Module::new();
    let pool = TestPool::of(&module, 3);
    warm_up(&module, &pool, 3);
    let old = module.open_sessions();
    module.forget_sessions(0);
    let callers: Vec<_> = (0..10).map(|_| pool.ask(sign(b"data"))).collect();
    for caller in &callers {
        assert_eq!(caller.bytes(), signature(b"data"));
    }
    assert!(!module.open_sessions().iter().any(|session| old.contains(session)));
    assert_eq!(module.count("C_Login"), 2);
}

#[test]
fn a_reload_waits_for_what_runs_and_what_comes_waits_for_the_reload() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let reload = pool.ask_reload();
    let next = pool.ask(sign(b"two"));
    module.release("C_Sign");
    assert_eq!(running.bytes(), signature(b"one"));
    reload.done();
    // Its handles are those of the module as it is now.
    assert_eq!(next.bytes(), signature(b"two"));
    assert_eq!((module.count("C_Initialize"), module.count("C_Finalize")), (2, 1));
    pool.await_notice("the reload is told", |notice| *notice == Notice::Reinitialized { cause: "reload" });
}

#[test]
fn a_reload_that_a_call_does_not_leave_the_module_for_changes_nothing_when_it_is_given_up() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let reload = pool.ask_reload();
    let _ = reload.give_up();
    module.release("C_Sign");
    assert_eq!(running.bytes(), signature(b"one"));
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert!(!reload.is_answered());
    assert_eq!((module.count("C_Initialize"), module.count("C_Finalize")), (1, 0));
}

#[test]
fn all_who_ask_for_a_reload_before_it_begins_get_one() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let reloads = [pool.ask_reload(), pool.ask_reload(), pool.ask_reload()];
    module.release("C_Sign");
    running.done();
    for reload in &reloads {
        reload.done();
    }
    assert_eq!(module.count("C_Finalize"), 1);
    // One that is asked for behind it is another.
    pool.ask_reload().done();
    assert_eq!(module.count("C_Finalize"), 2);
}

#[test]
fn a_code_that_the_caller_has_given_a_class_is_treated_as_of_that_class() {
    let module = Module::new();
    let vendor = CKR_VENDOR_DEFINED + 7;
    let pool = TestPool::with(&module, |options| {
        options.policy = Policy { overrides: [(vendor, token::p11::Class::DeadSession)].into(), trouble: None };
    });
    pool.ask(sign(b"one")).done();
    module.fail_next("C_SignInit", &[vendor]);
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_eq!(module.count("C_SignInit"), 3);
}
