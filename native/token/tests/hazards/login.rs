//! Logging in and out: what a PIN is spent on, and who waits for whom.

use cryptoki_sys::CKR_USER_NOT_LOGGED_IN;
use token::Error;

use crate::support::module::Module;
use crate::support::poll;
use crate::support::pool::{TestPool, options, sign, signature};

const WRONG: &[u8] = b"wrong";

fn right() -> Vec<u8> {
    fake_module::PIN.to_vec()
}

#[test]
fn an_operation_logs_in_first_and_gets_the_answer_of_its_own_data() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    assert_eq!(pool.ask(sign(b"one")).bytes(), signature(b"one"));
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_eq!(module.tried_pins(), [right()]);
}

#[test]
fn a_wrong_pin_is_tried_once_whatever_number_of_callers_wait() {
    let module = Module::new();
    let pool = TestPool::of(&module, 4);
    pool.source_gives(WRONG);
    module.hold("C_Login");
    let callers: Vec<_> = (0..20).map(|_| pool.ask(sign(b"data"))).collect();
    module.await_inside("C_Login", 1);
    module.release("C_Login");
    for caller in &callers {
        assert_eq!(caller.reason(), "pin_incorrect");
    }
    assert_eq!(pool.ask(sign(b"data")).reason(), "pin_incorrect");
    assert_eq!(module.tried_pins(), [WRONG]);
}

#[test]
fn a_pin_that_was_wrong_for_one_pool_is_not_tried_by_another_of_the_token() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    pool.source_gives(WRONG);
    other.source_gives(WRONG);
    assert_eq!(pool.ask(sign(b"data")).reason(), "pin_incorrect");
    assert_eq!(other.ask(sign(b"data")).reason(), "pin_incorrect");
    assert_eq!(module.tried_pins(), [WRONG]);
}

#[test]
fn a_right_pin_given_explicitly_ends_the_poison_of_a_wrong_one() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.source_gives(WRONG);
    assert_eq!(pool.ask(sign(b"data")).reason(), "pin_incorrect");
    pool.log_in(&right()).done();
    assert_eq!(pool.ask(sign(b"data")).bytes(), signature(b"data"));
    // The next login needs no explicit one: the source is asked at once.
    pool.source_gives(&right());
    module.forget_login(0);
    assert_eq!(pool.ask(sign(b"data")).bytes(), signature(b"data"));
    assert_eq!(module.tried_pins(), [WRONG.to_vec(), right(), right()]);
}

#[test]
fn a_pin_that_the_token_says_is_locked_is_not_tried() {
    let module = Module::new();
    module.token(0, |token| token.tries_left = 0);
    let pool = TestPool::new(&module);
    assert_eq!(pool.ask(sign(b"data")).reason(), "pin_locked");
    assert_eq!(module.count("C_Login"), 0);
}

#[test]
fn the_last_try_of_a_pin_is_left_to_somebody_who_knows_what_he_does() {
    let module = Module::new();
    module.token(0, |token| token.tries_left = 1);
    let pool = TestPool::new(&module);
    assert_eq!(pool.ask(sign(b"data")).reason(), "pin_final_try");
    assert_eq!(pool.log_in(WRONG).reason(), "pin_final_try");
    assert_eq!(module.count("C_Login"), 0);
    pool.log_in_by_force(&right()).done();
    assert_eq!(pool.ask(sign(b"data")).bytes(), signature(b"data"));
}

#[test]
fn the_pin_source_is_asked_once_for_all_who_wait() {
    let module = Module::new();
    let pool = TestPool::of(&module, 3);
    pool.source_waits();
    let callers: Vec<_> = (0..10).map(|_| pool.ask(sign(b"data"))).collect();
    let attempt = pool.pin_request();
    assert!(!callers.iter().any(|caller| caller.is_answered()));
    pool.provide_pin(attempt, Ok(right().into()));
    for caller in &callers {
        assert_eq!(caller.bytes(), signature(b"data"));
    }
    assert!(!pool.has_pin_request());
    assert_eq!(module.tried_pins(), [right()]);
}

#[test]
fn a_pin_source_that_fails_fails_those_who_waited_and_is_asked_again_by_the_next() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.source_waits();
    let callers = [pool.ask(sign(b"data")), pool.ask(sign(b"data"))];
    pool.provide_pin(pool.pin_request(), Err(Error::PinSourceFailed { cause: "there is none".into(), word: None }));
    for caller in &callers {
        assert_eq!(caller.reason(), "pin_source_failed");
    }
    let next = pool.ask(sign(b"data"));
    pool.provide_pin(pool.pin_request(), Ok(right().into()));
    assert_eq!(next.bytes(), signature(b"data"));
}

#[test]
fn two_pools_of_one_token_share_a_login() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    assert_eq!(pool.ask(sign(b"one")).bytes(), signature(b"one"));
    assert_eq!(other.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_eq!(module.tried_pins(), [right()]);
}

#[test]
fn the_end_of_one_pool_does_not_log_out_the_other() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    pool.ask(sign(b"one")).done();
    other.ask(sign(b"two")).done();
    drop(pool);
    assert_eq!(other.ask(sign(b"three")).bytes(), signature(b"three"));
    assert_eq!((module.count("C_Login"), module.count("C_Logout")), (1, 0));
    drop(other);
    assert_eq!(module.count("C_Logout"), 1);
}

#[test]
fn a_pool_with_another_pin_than_the_logins_is_refused_and_its_pin_is_not_tried() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    pool.ask(sign(b"data")).done();
    other.source_gives(WRONG);
    assert_eq!(other.ask(sign(b"data")).reason(), "login_conflict");
    assert_eq!(other.log_in(WRONG).reason(), "login_conflict");
    assert_eq!(pool.ask(sign(b"data")).bytes(), signature(b"data"));
    assert_eq!(module.tried_pins(), [right()]);
}

#[test]
fn a_login_that_the_token_has_lost_is_made_again_and_no_caller_notices() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    pool.ask(sign(b"data")).done();
    module.forget_login(0);
    let callers: Vec<_> = (0..10).map(|_| pool.ask(sign(b"data"))).collect();
    for caller in &callers {
        assert_eq!(caller.bytes(), signature(b"data"));
    }
    assert_eq!(module.tried_pins(), [right(), right()]);
}

#[test]
fn a_logout_waits_for_what_runs_and_holds_back_what_comes() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let logout = pool.log_out(false);
    // Though a session lies idle.
    assert_eq!(pool.status().sessions.waiting, 1);
    let next = pool.ask(sign(b"two"));
    assert!(!logout.is_answered() && !next.is_answered());
    assert_eq!(module.count("C_Logout"), 0);
    module.release("C_Sign");
    assert_eq!(running.bytes(), signature(b"one"));
    logout.done();
    assert_eq!(next.bytes(), signature(b"two"));
    // The token has not said of any of them that nobody is logged in.
    assert!(!module.log().iter().any(|call| call.code == Some(CKR_USER_NOT_LOGGED_IN)));
    assert_eq!((module.count("C_Logout"), module.count("C_Login")), (1, 2));
}

#[test]
fn a_logout_that_others_would_suffer_from_is_refused_unless_it_is_forced() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    pool.ask(sign(b"data")).done();
    other.ask(sign(b"data")).done();
    assert_eq!(pool.log_out(false).reason(), "login_shared");
    assert_eq!(module.count("C_Logout"), 0);
    pool.log_out(true).done();
    assert_eq!(module.count("C_Logout"), 1);
}

#[test]
fn after_a_logout_a_pool_that_wants_an_explicit_login_makes_none_by_itself() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| options.explicit_login = true);
    pool.ask(sign(b"data")).done();
    pool.log_out(false).done();
    assert_eq!(pool.ask(sign(b"data")).reason(), "reauthentication_required");
    assert_eq!(module.count("C_Login"), 1);
    pool.log_in(&right()).done();
    assert_eq!(pool.ask(sign(b"data")).bytes(), signature(b"data"));
}

#[test]
fn a_key_that_wants_a_login_for_each_use_gets_one_for_each() {
    let module = Module::new();
    module.token(0, |token| token.always_authenticate = true);
    let pool = TestPool::new(&module);
    assert_eq!(pool.ask(sign(b"one")).bytes(), signature(b"one"));
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_eq!(module.tried_pins(), [right(), right(), right()]);
}

#[test]
fn a_wrong_pin_for_one_use_of_a_key_is_tried_once_whatever_number_of_callers_wait() {
    let module = Module::new();
    module.token(0, |token| token.always_authenticate = true);
    let pool = TestPool::of(&module, 3);
    pool.source_gives(WRONG);
    pool.log_in(&right()).done();
    let callers: Vec<_> = (0..10).map(|_| pool.ask(sign(b"data"))).collect();
    for caller in &callers {
        assert_eq!(caller.reason(), "pin_incorrect");
    }
    assert_eq!(module.tried_pins(), [right(), WRONG.to_vec()]);
}

#[test]
fn a_caller_who_gives_up_while_the_pin_source_is_asked_costs_no_one_else_the_login() {
    let module = Module::new();
    let pool = TestPool::start(options(&module), false).unwrap();
    pool.source_waits();
    let (first, second) = (pool.ask(sign(b"one")), pool.ask(sign(b"two")));
    let attempt = pool.pin_request();
    let _ = first.give_up();
    pool.provide_pin(attempt, Ok(right().into()));
    assert_eq!(second.bytes(), signature(b"two"));
    assert!(!first.is_answered());
    assert_eq!(module.count("C_Sign"), 1);
}

/// So many sessions lie idle, and are logged in.
pub fn warm_up(module: &Module, pool: &TestPool, sessions: usize) {
    module.hold("C_Sign");
    let callers: Vec<_> = (0..sessions).map(|_| pool.ask(sign(b"warm"))).collect();
    module.await_inside("C_Sign", sessions);
    module.release("C_Sign");
    for caller in &callers {
        assert_eq!(caller.bytes(), signature(b"warm"));
    }
    poll("all lie idle", || pool.status().sessions.idle == sessions);
}
