//! A call on its way: tried again or not, given up, refused, and answered once in any case.

use cryptoki_sys::*;
use session_pool::Abandoned;
use token::{Error, Executed, Notice, now};

use crate::login::warm_up;
use crate::support::module::Module;
use crate::support::poll;
use crate::support::pool::{TestPool, generate_key, sign, signature};

fn retries(pool: &TestPool) -> usize {
    pool.notices().iter().filter(|notice| matches!(notice, Notice::Retried(_))).count()
}

#[test]
fn a_dead_session_is_replaced_and_the_call_tried_once_more() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    let dead = module.open_sessions();
    module.kill_session(dead[0]);
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_ne!(module.open_sessions(), dead);
    assert_eq!(retries(&pool), 1);
}

#[test]
fn a_call_whose_second_session_is_dead_too_is_not_tried_a_third_time() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    module.fail_always("C_SignInit", CKR_SESSION_HANDLE_INVALID);
    let failure = pool.ask(sign(b"two")).failure();
    assert_eq!(failure.error.code(), Some(CKR_SESSION_HANDLE_INVALID));
    assert_eq!(module.count("C_SignInit"), 3);
    module.fail_no_more("C_SignInit");
    poll("the pool recovers", || pool.ask(sign(b"three")).outcome().is_ok());
}

#[test]
fn a_call_that_may_not_run_twice_is_not_tried_again_when_it_may_have_run() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"data")).done();
    for code in [CKR_DEVICE_ERROR, CKR_SESSION_HANDLE_INVALID, CKR_GENERAL_ERROR] {
        let before = module.count("C_GenerateKey");
        module.fail_next("C_GenerateKey", &[code]);
        let failure = pool.ask(generate_key(b"new")).failure();
        assert_eq!((failure.error.code(), failure.executed), (Some(code), Executed::Unknown));
        assert_eq!(module.count("C_GenerateKey"), before + 1);
    }
    pool.ask(generate_key(b"new")).done();
}

#[test]
fn a_call_that_changes_nothing_is_tried_again_after_a_device_error_and_its_answer_is_its_own() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    module.fail_next("C_Sign", &[CKR_DEVICE_ERROR]);
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    assert_eq!((module.count("C_Sign"), retries(&pool)), (3, 1));
}

#[test]
fn what_the_module_finds_wrong_with_a_call_is_its_callers_and_not_tried_again() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    module.fail_next("C_Sign", &[CKR_DATA_LEN_RANGE]);
    let failure = pool.ask(sign(b"two")).failure();
    assert_eq!((failure.error.reason(), failure.executed), ("data_len_range", Executed::Yes));
    assert_eq!((module.count("C_Sign"), retries(&pool)), (2, 0));
}

#[test]
fn a_key_whose_handle_is_stale_is_found_anew() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    pool.ask(sign(b"two")).done();
    assert_eq!(module.count("C_FindObjectsInit"), 1);
    module.fail_next("C_SignInit", &[CKR_KEY_HANDLE_INVALID]);
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
    assert_eq!(module.count("C_FindObjectsInit"), 2);
}

#[test]
fn a_session_that_an_operation_was_left_on_is_not_used_again() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    pool.ask(sign(b"one")).done();
    let before = module.open_sessions();
    // Without a look at the operation, which goes on.
    module.fail_next("C_Sign", &[CKR_ARGUMENTS_BAD]);
    assert_eq!(pool.ask(sign(b"two")).reason(), "arguments_bad");
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
    poll("it is closed", || !module.open_sessions().contains(&before[0]));
    assert!(!module.log().iter().any(|call| call.code == Some(CKR_OPERATION_ACTIVE)));
}

#[test]
fn the_module_is_not_called_for_a_caller_who_is_gone_before_his_call_starts() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let (dies, gives_up, waits) = (pool.ask(sign(b"two")), pool.ask(sign(b"three")), pool.ask(sign(b"four")));
    dies.caller_dies();
    assert_eq!(gives_up.give_up(), Abandoned::BeforeStart);
    module.release("C_Sign");
    assert_eq!(running.bytes(), signature(b"one"));
    assert_eq!(waits.bytes(), signature(b"four"));
    assert_eq!(module.count("C_Sign"), 3);
    assert!(!dies.is_answered() && !gives_up.is_answered());
}

#[test]
fn a_call_that_has_waited_too_long_is_refused_and_the_module_not_called() {
    let module = Module::new();
    let pool = TestPool::new(&module);
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let waits = pool.ask_within(sign(b"two"), Some(1));
    let submitted = now();
    poll("its time is over", || now() > submitted + 1);
    module.release("C_Sign");
    running.done();
    let failure = waits.failure();
    assert_eq!((failure.error, failure.executed), (Error::QueueTimeout, Executed::No));
    assert_eq!(module.count("C_Sign"), 2);
}

#[test]
fn more_calls_than_may_wait_are_refused_at_once_and_no_other_suffers() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| options.sessions.max_waiting = 2);
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let waiting = [pool.ask(sign(b"two")), pool.ask(sign(b"two"))];
    assert_eq!(pool.ask(sign(b"three")).reason(), "overloaded");
    module.release("C_Sign");
    running.done();
    for caller in &waiting {
        assert_eq!(caller.bytes(), signature(b"two"));
    }
}

#[test]
fn a_call_that_was_given_up_while_it_ran_is_not_answered_and_its_session_goes_on() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    assert!(matches!(running.give_up(), Abandoned::WhileRunning { .. }));
    let next = pool.ask(sign(b"two"));
    module.release("C_Sign");
    assert_eq!(next.bytes(), signature(b"two"));
    assert!(!running.is_answered());
}

#[test]
fn a_runner_that_dies_with_a_call_in_its_hands_hands_it_on() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    module.hold("C_Sign");
    let running = [pool.ask(sign(b"one")), pool.ask(sign(b"one"))];
    module.await_inside("C_Sign", 2);
    let waiting: Vec<_> = (0..5).map(|_| pool.ask(sign(b"two"))).collect();
    // Their calls return only when the module is done with them.
    pool.kill_runners();
    module.release("C_Sign");
    for caller in &running {
        assert_eq!(caller.bytes(), signature(b"one"));
    }
    for caller in &waiting {
        assert_eq!(caller.bytes(), signature(b"two"));
    }
    assert_eq!(module.count("C_Sign"), 2 + 2 + 5);
    poll("others have taken their places", || pool.status().runners == 2);
}
