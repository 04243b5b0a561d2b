//! A session that one caller has for himself.

use token::{Notice, Request};

use crate::login::warm_up;
use crate::support::module::Module;
use crate::support::poll;
use crate::support::pool::{TestPool, sign, signature};

#[test]
fn operations_on_a_lease_run_in_their_order_on_its_one_session() {
    let module = Module::new();
    let pool = TestPool::of(&module, 3);
    warm_up(&module, &pool, 3);
    let lease = pool.lease();
    module.hold("C_Sign");
    let first = pool.ask_on(&lease, sign(b"one"));
    module.await_inside("C_Sign", 1);
    let before = module.log().len();
    let random = pool.ask_on(&lease, Request::GenerateRandom { length: 4 });
    let last = pool.ask_on(&lease, sign(b"two"));
    assert!(!random.is_answered() && !last.is_answered());
    module.release("C_Sign");
    assert_eq!(first.bytes(), signature(b"one"));
    assert_eq!(random.bytes(), [0x5a; 4]);
    assert_eq!(last.bytes(), signature(b"two"));
    let log = module.log();
    let session = log[before - 1].session;
    let functions: Vec<_> = log[before..].iter().map(|call| (call.function, call.session)).collect();
    assert_eq!(functions, [("C_GenerateRandom", session), ("C_SignInit", session), ("C_Sign", session)]);
    pool.holder_is_done(&lease);
}

#[test]
fn a_session_that_is_leased_serves_nobody_else() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    let lease = pool.lease();
    let waits = pool.ask(sign(b"one"));
    assert_eq!(pool.ask_on(&lease, sign(b"two")).bytes(), signature(b"two"));
    assert!(!waits.is_answered());
    assert_eq!(module.count("C_Sign"), 1);
    pool.holder_is_done(&lease);
    assert_eq!(waits.bytes(), signature(b"one"));
    assert_eq!(module.count("C_OpenSession"), 1);
}

#[test]
fn a_holder_who_is_gone_costs_the_pool_a_session_and_the_login_nothing() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    let lease = pool.lease();
    pool.ask_on(&lease, sign(b"one")).done();
    let held = module.open_sessions();
    assert!(pool.holder_dies(&lease));
    poll("its session is closed", || !module.open_sessions().contains(&held[0]));
    pool.await_notice("that is told", |notice| matches!(notice, Notice::SessionClosed { reason: "holder_died", .. }));
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_eq!(module.count("C_Login"), 1);
}

#[test]
fn the_session_of_a_holder_who_is_gone_in_the_midst_of_a_call_is_closed_behind_it() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    let lease = pool.lease();
    module.hold("C_Sign");
    let running = pool.ask_on(&lease, sign(b"one"));
    let waiting = pool.ask_on(&lease, sign(b"two"));
    module.await_inside("C_Sign", 1);
    assert!(pool.holder_dies(&lease));
    assert_eq!(module.count("C_CloseSession"), 0);
    module.release("C_Sign");
    assert_eq!(running.bytes(), signature(b"one"));
    assert_eq!(waiting.reason(), "lease_ended");
    module.await_calls("C_CloseSession", 1);
}

#[test]
fn a_lease_that_has_ended_takes_nothing_and_ends_once() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    let lease = pool.lease();
    assert!(pool.holder_is_done(&lease));
    assert!(!pool.holder_is_done(&lease));
    assert_eq!(pool.ask_on(&lease, sign(b"one")).reason(), "lease_ended");
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
}

#[test]
fn a_lease_that_ends_before_it_has_a_session_takes_none() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let (asked, lease) = pool.ask_lease();
    pool.holder_dies(&lease);
    module.release("C_Sign");
    running.done();
    assert_eq!(asked.reason(), "lease_ended");
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_eq!(pool.status().sessions.leased, 0);
}

#[test]
fn a_lease_whose_session_dies_ends_and_its_call_is_not_tried_on_another_session() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    let lease = pool.lease();
    module.fail_next("C_SignInit", &[cryptoki_sys::CKR_SESSION_HANDLE_INVALID]);
    let signed = module.count("C_SignInit");
    assert_eq!(pool.ask_on(&lease, sign(b"one")).reason(), "session_handle_invalid");
    assert_eq!(module.count("C_SignInit"), signed + 1);
    assert_eq!(pool.ask_on(&lease, sign(b"two")).reason(), "lease_ended");
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
}

#[test]
fn a_lease_whose_call_hangs_ends_and_what_waits_behind_it_is_answered() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    let lease = pool.lease();
    module.hold("C_Sign");
    let hangs = pool.ask_on(&lease, sign(b"one"));
    module.await_inside("C_Sign", 1);
    let waiting = pool.ask_on(&lease, sign(b"two"));
    module.hold_no_more("C_Sign");
    let _ = hangs.give_up();
    assert_eq!(waiting.reason(), "lease_ended");
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
    module.release("C_Sign");
}
