//! Calls that their callers run themselves.

use token::{Answer, Direct};

use crate::login::warm_up;
use crate::support::module::Module;
use crate::support::pool::{TestPool, sign, signature};

#[test]
fn a_caller_who_finds_a_session_idle_runs_his_call_himself() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    let (asked, direct) = pool.run_here(sign(b"one"));
    assert!(matches!(direct, Direct::Done(Ok(Answer::Bytes(bytes))) if *bytes == signature(b"one")));
    // It has its answer: there is no other.
    assert!(!asked.is_answered());
    assert_eq!(pool.status().sessions.idle, 2);
}

#[test]
fn a_call_that_finds_no_session_idle_waits_behind_those_who_came_before() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let running = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let waiting = pool.ask(sign(b"two"));
    let (asked, direct) = pool.run_here(sign(b"three"));
    assert!(matches!(direct, Direct::Later(_)));
    module.release("C_Sign");
    for (caller, data) in [(&running, b"one".as_slice()), (&waiting, b"two"), (&asked, b"three")] {
        assert_eq!(caller.bytes(), signature(data));
    }
}

#[test]
fn a_callers_own_call_that_has_to_log_in_first_is_answered_by_a_runner() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    warm_up(&module, &pool, 1);
    module.forget_login(0);
    let (asked, direct) = pool.run_here(sign(b"one"));
    assert!(matches!(direct, Direct::Later(_)));
    assert_eq!(asked.bytes(), signature(b"one"));
    assert_eq!(module.count("C_Login"), 2);
}
