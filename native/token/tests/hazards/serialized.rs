//! Modules that serve one thread at a time.

use cryptoki_sys::CKR_CANT_LOCK;
use session_pool::Abandoned;

use crate::login::warm_up;
use crate::support::module::Module;
use crate::support::pool::{TestPool, sign, signature};

#[test]
fn in_a_module_that_cannot_lock_is_one_thread_at_a_time() {
    let module = Module::new();
    module.fail_next("C_Initialize", &[CKR_CANT_LOCK]);
    let pool = TestPool::of(&module, 3);
    assert!(pool.status().serialized);
    module.hold("C_Sign");
    let callers: Vec<_> = (0..6).map(|_| pool.ask(sign(b"data"))).collect();
    module.await_inside("C_Sign", 1);
    module.release("C_Sign");
    for caller in &callers {
        assert_eq!(caller.bytes(), signature(b"data"));
    }
    assert_eq!(module.most_inside(), 1);
}

#[test]
fn a_caller_who_gives_up_while_he_waits_for_his_turn_in_the_module_does_not_get_it() {
    let module = Module::new();
    let pool = TestPool::with(&module, |options| {
        options.sessions.max_sessions = 2;
        options.module_config.serialize = true;
    });
    pool.ask(sign(b"one")).done();
    let lease = pool.lease();
    module.hold("C_Sign");
    let running = pool.ask(sign(b"two"));
    module.await_inside("C_Sign", 1);
    // It has a session, and a runner that waits at the module's door.
    let waits = pool.ask_on(&lease, sign(b"three"));
    waits.await_running();
    assert!(matches!(waits.give_up(), Abandoned::WhileRunning { .. }));
    module.release("C_Sign");
    assert_eq!(running.bytes(), signature(b"two"));
    pool.holder_is_done(&lease);
    assert_eq!(pool.ask(sign(b"four")).bytes(), signature(b"four"));
    assert_eq!(module.count("C_Sign"), 3);
    assert!(!waits.is_answered());
}

#[test]
fn a_module_that_can_lock_is_used_by_several_threads_at_a_time() {
    let module = Module::new();
    let pool = TestPool::of(&module, 3);
    warm_up(&module, &pool, 3);
    assert!(!pool.status().serialized);
    assert!(module.most_inside() >= 3);
}
