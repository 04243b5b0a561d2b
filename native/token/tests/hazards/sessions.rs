//! Sessions: how many the token gives, which handles it gives, and how long they live.

use cryptoki_sys::CKR_SESSION_COUNT;
use token::host::Posting;
use token::{LoginMode, Notice, Request};

use crate::login::warm_up;
use crate::support::host::Direct;
use crate::support::module::Module;
use crate::support::poll;
use crate::support::pool::{TestPool, in_slot, sign, signature};

#[test]
fn callers_wait_for_the_sessions_that_there_are_when_the_token_gives_no_more() {
    let module = Module::new();
    module.token(0, |token| token.max_sessions = 2);
    let pool = TestPool::of(&module, 4);
    module.hold("C_Sign");
    let callers: Vec<_> = (0..8).map(|_| pool.ask(sign(b"data"))).collect();
    module.await_inside("C_Sign", 2);
    poll("the token has refused one", || module.log().iter().any(|call| call.code == Some(CKR_SESSION_COUNT)));
    poll("the pool knows", || pool.status().sessions.ceiling == 2);
    module.release("C_Sign");
    for caller in &callers {
        assert_eq!(caller.bytes(), signature(b"data"));
    }
}

#[test]
fn a_token_that_gives_no_session_at_all_is_as_good_as_away_until_it_gives_one() {
    let module = Module::new();
    module.token(0, |token| token.max_sessions = 0);
    let pool = TestPool::of(&module, 2);
    let failure = pool.ask(sign(b"one")).failure();
    assert_eq!((failure.error.reason(), failure.error.code()), ("token_unavailable", Some(CKR_SESSION_COUNT)));
    module.token(0, |token| token.max_sessions = 1);
    pool.await_notice("the token is there", |notice| matches!(notice, Notice::Up { .. }));
    assert_eq!(pool.ask(sign(b"two")).bytes(), signature(b"two"));
}

#[test]
fn a_handle_that_the_module_gives_out_twice_is_used_by_one_at_a_time() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| {
        options.login = LoginMode::None;
        options.sessions.max_sessions = 2;
    });
    let random = || Request::GenerateRandom { length: 1 };
    pool.ask(random()).done();
    let [handle] = module.open_sessions()[..] else { panic!("more than one session") };
    module.hold("C_GenerateRandom");
    let first = pool.ask(random());
    module.await_inside("C_GenerateRandom", 1);
    module.hold_no_more("C_GenerateRandom");
    // The session in use is lost, and its handle another's: that is left alone, and a third one opened.
    module.give_handles(&[handle]);
    pool.ask(random()).done();
    assert_eq!(module.count("C_OpenSession"), 3);
    let before = module.log().len();
    module.release("C_GenerateRandom");
    // What was answered on the handle counts for nothing: it is asked for again, on a session that is there.
    first.done();
    poll("nobody keeps the handle", || !module.open_sessions().contains(&handle));
    let log = module.log();
    let (on_it, elsewhere): (Vec<_>, Vec<_>) = log[before..].iter().partition(|call| call.session == Some(handle));
    assert_eq!(on_it.iter().map(|call| call.function).collect::<Vec<_>>(), ["C_CloseSession"]);
    assert!(elsewhere.iter().any(|call| call.function == "C_GenerateRandom"));
}

#[test]
fn the_last_session_under_a_login_is_not_closed_before_another_is_open() {
    let module = Module::new();
    let pool = TestPool::of(&module, 1);
    pool.ask(sign(b"one")).done();
    let before = module.log().len();
    module.fail_next("C_Sign", &[cryptoki_sys::CKR_ARGUMENTS_BAD]);
    assert_eq!(pool.ask(sign(b"two")).reason(), "arguments_bad");
    module.await_calls("C_CloseSession", 1);
    let log: Vec<_> = module.log()[before..].iter().map(|call| call.function).collect();
    let place = |function| log.iter().position(|other| *other == function);
    assert!(place("C_OpenSession").is_some() && place("C_OpenSession") < place("C_CloseSession"), "{log:?}");
    assert_eq!(pool.ask(sign(b"three")).bytes(), signature(b"three"));
    assert_eq!(module.count("C_Login"), 1);
}

#[test]
fn idle_sessions_are_kept_alive_one_at_a_time_and_callers_go_first() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| {
        options.sessions.max_sessions = 3;
        options.keepalive = Some(1);
    });
    warm_up(&module, &pool, 3);
    module.hold("C_GenerateRandom");
    poll("one is kept alive", || {
        pool.tick(&Direct);
        module.count("C_GenerateRandom") > 0
    });
    for _ in 0..20 {
        pool.tick(&Direct);
    }
    // The two others are free for callers.
    assert_eq!(pool.ask(sign(b"one")).bytes(), signature(b"one"));
    module.await_inside("C_GenerateRandom", 1);
    module.release("C_GenerateRandom");
    poll("all are kept alive", || {
        pool.tick(&Direct);
        module.count("C_GenerateRandom") >= 4
    });
}

#[test]
fn a_session_that_turns_out_dead_while_it_is_kept_alive_is_replaced_before_a_caller_gets_it() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| {
        options.login = LoginMode::None;
        options.keepalive = Some(1);
    });
    pool.ask(Request::Ping).done();
    let dead = module.open_sessions()[0];
    module.kill_session(dead);
    poll("it is found", || {
        pool.tick(&Direct);
        pool.notices().iter().any(|notice| matches!(notice, Notice::SessionClosed { reason: "dead_session", .. }))
    });
    pool.ask(Request::GenerateRandom { length: 1 }).done();
    assert!(!pool.notices().iter().any(|notice| matches!(notice, Notice::Retried(_))));
}

#[test]
fn a_pool_that_shrinks_fails_no_call_and_closes_what_comes_free() {
    let module = Module::new();
    let pool = TestPool::of(&module, 3);
    warm_up(&module, &pool, 3);
    module.hold("C_Sign");
    let callers: Vec<_> = (0..6).map(|_| pool.ask(sign(b"data"))).collect();
    module.await_inside("C_Sign", 3);
    pool.resize(1, &mut Direct);
    module.release("C_Sign");
    for caller in &callers {
        assert_eq!(caller.bytes(), signature(b"data"));
    }
    poll("one session is left", || module.open_sessions().len() == 1);
    poll("one runner is left", || {
        pool.tick(&Posting);
        pool.runner_threads() == 1
    });
    assert_eq!((module.count("C_Login"), module.count("C_Sign")), (1, 9));
}

#[test]
fn the_tokens_of_a_module_fail_and_log_in_apart() {
    let module = Module::new();
    module.token(1, |_| ());
    let (pool, other) = (TestPool::new(&module), TestPool::with(&module, in_slot(1)));
    pool.ask(sign(b"one")).done();
    other.ask(sign(b"two")).done();
    assert_eq!(module.count("C_Login"), 2);
    module.remove_token(0);
    assert_eq!(pool.ask(sign(b"three")).reason(), "token_unavailable");
    assert_eq!(other.ask(sign(b"four")).bytes(), signature(b"four"));
    assert_eq!((module.count("C_Login"), module.count("C_Finalize")), (2, 0));
}
