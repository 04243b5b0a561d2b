//! Calls that hang: quarantined where their thread can be left behind, and reported in any case.

use session_pool::Abandoned;
use token::host::Posting;
use token::{Cost, Notice};

use crate::login::warm_up;
use crate::support::module::Module;
use crate::support::poll;
use crate::support::pool::{TestPool, options, sign, signature};

fn costs(pool: &TestPool) -> Vec<Cost> {
    let cost = |notice| if let Notice::SessionHung { cost, .. } = notice { Some(cost) } else { None };
    pool.notices().into_iter().filter_map(cost).collect()
}

#[test]
fn a_hung_call_on_a_thread_is_quarantined_and_session_and_runner_are_replaced() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    warm_up(&module, &pool, 1);
    let hung_session = module.open_sessions()[0];
    module.hold("C_Sign");
    let hangs = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    module.hold_no_more("C_Sign");
    assert!(matches!(hangs.give_up(), Abandoned::WhileRunning { .. }));
    // On another session, by another thread, while the call still hangs.
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    module.await_inside("C_Sign", 1);
    assert_eq!((pool.status().hung, pool.runner_threads()), (1, 2));
    poll("it is reported", || costs(&pool) == [Cost::Replaced]);
    module.release("C_Sign");
    pool.await_notice("its return is told", |notice| matches!(notice, Notice::HungReturned { operation: "sign", .. }));
    poll("its session is closed", || !module.open_sessions().contains(&hung_session));
    poll("its thread has ended", || pool.runner_threads() == 1);
    poll("nothing hangs", || pool.status().hung == 0);
    assert!(!hangs.is_answered());
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
}

#[test]
fn a_hung_call_on_a_scheduler_is_reported_and_its_session_comes_back_when_it_returns() {
    let module = Module::new();
    let pool = TestPool::start(options(&module), false).unwrap();
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let hangs = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    let _ = hangs.give_up();
    pool.await_notice("it is reported", |notice| matches!(notice, Notice::SessionHung { .. }));
    assert_eq!(costs(&pool), [Cost::Scheduler]);
    let next = pool.ask(sign(b"two"));
    assert_eq!((pool.status().hung, pool.runner_threads()), (1, 1));
    assert!(!next.is_answered());
    module.release("C_Sign");
    assert_eq!(next.bytes(), signature(b"two"));
    poll("nothing hangs", || pool.status().hung == 0);
}

#[test]
fn as_many_hung_calls_are_replaced_as_the_pool_has_sessions_and_then_no_more() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    module.hold("C_Sign");
    for hung in 1..=4 {
        let hangs = pool.ask(sign(b"one"));
        module.await_inside("C_Sign", hung);
        let _ = hangs.give_up();
        poll("it is reported", || costs(&pool).len() == hung);
    }
    assert_eq!(costs(&pool), [Cost::Replaced, Cost::Replaced, Cost::Session, Cost::Session]);
    assert_eq!(pool.runner_threads(), 4);
    module.release("C_Sign");
    poll("all have returned", || pool.status().hung == 0);
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    poll("there are as many threads as there should be", || pool.runner_threads() == 2);
}

#[test]
fn a_call_that_hangs_without_a_caller_is_found_when_its_time_is_over() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| options.operation_timeout = Some(1));
    warm_up(&module, &pool, 1);
    module.hold("C_Sign");
    let hangs = pool.ask(sign(b"one"));
    module.await_inside("C_Sign", 1);
    module.hold_no_more("C_Sign");
    hangs.caller_dies();
    poll("the look finds it", || {
        pool.tick(&crate::support::host::Direct);
        costs(&pool) == [Cost::Replaced]
    });
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    module.release("C_Sign");
}

#[test]
fn a_login_that_hangs_is_reported_as_everybodys_and_goes_on_when_it_returns() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| options.operation_timeout = Some(1));
    module.hold("C_Login");
    let waits = pool.ask(sign(b"one"));
    module.await_inside("C_Login", 1);
    poll("the look finds it", || {
        pool.tick(&Posting);
        costs(&pool) == [Cost::Login]
    });
    assert!(!waits.is_answered());
    module.release("C_Login");
    assert_eq!(waits.bytes(), signature(b"one"));
    assert_eq!(module.count("C_Login"), 1);
}

#[test]
fn a_close_that_hangs_holds_up_no_caller() {
    let module = Module::new();
    let pool = TestPool::of(&module, 2);
    warm_up(&module, &pool, 2);
    module.hold("C_CloseSession");
    module.fail_next("C_SignInit", &[cryptoki_sys::CKR_SESSION_HANDLE_INVALID]);
    assert_eq!(pool.ask(sign(b"one")).bytes(), signature(b"one"));
    module.await_inside("C_CloseSession", 1);
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
    module.release("C_CloseSession");
    poll("it is closed", || pool.status().sessions.closing == 0);
}
