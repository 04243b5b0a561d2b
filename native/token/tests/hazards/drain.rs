//! How a pool ends: what runs goes on, what waits is answered, what is open is closed, and the module is let go.

use token::{Executed, Notice};

use crate::login::warm_up;
use crate::support::module::Module;
use crate::support::poll;
use crate::support::pool::{TestPool, sign, signature};

fn is_drained(pool: &TestPool) -> bool {
    pool.notices().contains(&Notice::Drained)
}

#[test]
fn a_drain_lets_what_runs_go_on_refuses_what_waits_and_leaves_leases_their_sessions() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    let lease = pool.lease();
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let waiting = pool.ask(sign(b"two"));
    pool.drain();
    let failure = waiting.failure();
    assert_eq!((failure.error.reason(), failure.executed), ("draining", Executed::No));
    assert_eq!(pool.ask(sign(b"three")).reason(), "draining");
    module.release("C_Sign");
    assert_eq!(running.bytes(), signature(b"one"));
    // The holder goes on until he has done.
    assert_eq!(pool.ask_on(&lease, sign(b"four")).bytes(), signature(b"four"));
    assert!(!is_drained(&pool));
    assert_eq!(module.count("C_Logout"), 0);
    pool.holder_is_done(&lease);
    poll("it is drained", || is_drained(&pool));
    assert_eq!(module.open_sessions(), []);
    assert_eq!(module.count("C_Logout"), 1);
}

#[test]
fn a_drain_of_an_idle_pool_closes_its_sessions_logs_out_once_and_finalizes() {
    let module = Module::new();
    let pool = TestPool::of(&module, 3);
    warm_up(&module, &pool, 3);
    pool.drain_to_its_end();
    poll("the module is finalized", || module.count("C_Finalize") == 1);
    let count = |function| module.count(function);
    assert_eq!((count("C_OpenSession"), count("C_CloseSession"), count("C_Logout")), (3, 3, 1));
    // Behind the last close.
    assert_eq!(module.log().last().map(|call| call.function), Some("C_Finalize"));
}

#[test]
fn a_drain_answers_those_who_wait_for_a_pin_that_will_not_come() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    pool.source_waits();
    let callers = [pool.ask(sign(b"one")), pool.ask(sign(b"two")), pool.ask(sign(b"three"))];
    let attempt = pool.pin_request();
    pool.drain();
    for caller in &callers {
        assert_eq!(caller.reason(), "draining");
    }
    pool.provide_pin(attempt, Ok(fake_module::PIN.to_vec().into()));
    poll("it is drained", || is_drained(&pool));
    assert_eq!(module.count("C_Login"), 0);
}

#[test]
fn a_pool_that_drains_in_the_midst_of_a_login_leaves_the_login_to_others() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    module.hold("C_Login");
    let first = pool.ask(sign(b"one"));
    module.await_inside("C_Login", 1);
    let second = other.ask(sign(b"two"));
    pool.drain();
    assert_eq!(first.reason(), "draining");
    module.release("C_Login");
    assert_eq!(second.bytes(), signature(b"two"));
    poll("it is drained", || is_drained(&pool));
    assert_eq!(other.ask(sign(b"three")).bytes(), signature(b"three"));
}

#[test]
fn a_pool_that_drains_while_its_pin_source_is_asked_lets_another_pool_log_in() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    pool.source_waits();
    let first = pool.ask(sign(b"one"));
    let _never_answered = pool.pin_request();
    let second = other.ask(sign(b"two"));
    pool.drain();
    assert_eq!(first.reason(), "draining");
    assert_eq!(second.bytes(), signature(b"two"));
}

#[test]
fn a_pool_drains_while_its_token_is_away() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    module.remove_token(0);
    assert_eq!(pool.ask(sign(b"one")).reason(), "token_unavailable");
    pool.drain_to_its_end();
}

#[test]
fn when_a_drain_has_lasted_long_enough_callers_are_answered_though_their_calls_hang() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let hangs = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    pool.drain();
    assert!(!hangs.is_answered());
    pool.give_up();
    let failure = hangs.failure();
    assert_eq!((failure.error.reason(), failure.executed), ("draining", Executed::Unknown));
    module.release("C_Sign");
    poll("it is drained", || is_drained(&pool));
    assert!(!hangs.is_answered());
}

#[test]
fn a_module_that_another_pool_uses_is_not_finalized_though_no_session_is_open() {
    let module = Module::new();
    let (pool, other) = (TestPool::new(&module), TestPool::new(&module));
    pool.ask(sign(b"one")).done();
    drop(pool);
    assert_eq!(other.ask(sign(b"two")).bytes(), signature(b"two"));
    // What was to be done behind the end of the first pool is done: things end one after the other.
    let lease = other.lease();
    other.holder_dies(&lease);
    module.await_calls("C_CloseSession", 2);
    assert_eq!((module.count("C_Initialize"), module.count("C_Finalize")), (1, 0));
}

#[test]
fn a_pool_that_is_started_while_another_drains_gets_the_module_initialized() {
    let module = Module::new();
    for round in 1..=5 {
        let pool = TestPool::of(&module, 2);
        assert_eq!(pool.ask(sign(b"one")).bytes(), signature(b"one"));
        pool.drain();
        let next = TestPool::of(&module, 2);
        assert_eq!(next.ask(sign(b"two")).bytes(), signature(b"two"), "in round {round}");
    }
}
