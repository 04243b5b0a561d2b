use std::sync::atomic::AtomicUsize;

use cryptoki_sys::{CKU_SO, CKU_USER};

use super::*;

struct Count(AtomicUsize);

impl Listener for Count {
    fn gate_changed(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn listener() -> (Arc<Count>, Weak<dyn Listener>) {
    let listener = Arc::new(Count(AtomicUsize::new(0)));
    let weak: Weak<dyn Listener> = Arc::downgrade(&(listener.clone() as Arc<dyn Listener>));
    (listener, weak)
}

fn refused() -> Error {
    Error::Poisoned { code: cryptoki_sys::CKR_PIN_INCORRECT, function: "C_Login" }
}

fn conflict() -> Error {
    Error::LoginConflict { call: None }
}

/// A pool whose PIN nobody knows yet.
fn pool(pool: u64) -> Who {
    Who { pool, user: CKU_USER, name: None, protected: false, mark: None }
}

fn with(gate: &Gate, who: Who, pin: &[u8]) -> Who {
    Who { mark: Some(gate.mark(None, pin)), ..who }
}

fn begin(gate: &Arc<Gate>, who: Who, now: Millis) -> LoginAttempt {
    match gate.check(who, now, now) {
        Verdict::Begin(attempt) => attempt,
        other => panic!("{other:?}"),
    }
}

fn is_known_bad(attempt: &LoginAttempt, pin: &[u8]) -> bool {
    attempt.known_refusal(attempt.gate.mark(None, pin)).is_some()
}

fn logged_in(pin: &[u8]) -> (Arc<Gate>, u64) {
    let gate = Arc::new(Gate::default());
    let word = begin(&gate, pool(1), 0).succeed(Some(gate.mark(None, pin)), true, 0);
    (gate, word)
}

#[test]
fn one_attempt_serves_all_who_wait() {
    let gate = Arc::new(Gate::default());
    let before = gate.epoch();
    let attempt = begin(&gate, pool(1), 0);
    assert_eq!(gate.check(pool(1), 0, 0), Verdict::Wait);
    assert_eq!(gate.check(pool(2), 0, 0), Verdict::Wait);
    let (count, weak) = listener();
    assert!(gate.listen(Awaited::Attempt, weak.clone()));
    assert!(gate.listen(Awaited::Attempt, weak.clone()));
    let mark = Some(gate.mark(None, b"1234"));
    let word = attempt.succeed(mark, true, 0);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(gate.check(Who { mark, ..pool(1) }, 0, 0), Verdict::Pass(word));
    assert_eq!(gate.word(), word);
    assert!(!gate.listen(Awaited::Attempt, weak));
    assert!(gate.epoch() > before);
}

#[test]
fn a_failed_attempt_answers_those_who_waited_and_lets_the_next_try() {
    let gate = Arc::new(Gate::default());
    begin(&gate, pool(1), 5).fail(Error::Draining, false, 9);
    assert_eq!(gate.check(pool(1), 5, 10), Verdict::Refuse(Error::Draining));
    assert_eq!(gate.check(pool(2), 9, 10), Verdict::Refuse(Error::Draining));
    assert!(matches!(gate.check(pool(2), 10, 10), Verdict::Begin(_)));
}

#[test]
fn a_source_that_fails_is_its_own_pools_affair() {
    let gate = Arc::new(Gate::default());
    begin(&gate, pool(1), 5).fail(Error::PinSourceFailed { cause: "timeout".into(), word: None }, true, 9);
    assert!(matches!(gate.check(pool(1), 5, 10), Verdict::Refuse(Error::PinSourceFailed { .. })));
    assert!(matches!(gate.check(pool(2), 5, 10), Verdict::Begin(_)));
}

#[test]
fn after_an_attempt_that_is_dropped_the_next_begins_anew() {
    let gate = Arc::new(Gate::default());
    drop(begin(&gate, pool(1), 0));
    assert_eq!(begin(&gate, pool(1), 0).number(), 2);
}

#[test]
fn a_refused_credential_is_asked_for_again_after_the_interval_only_and_the_same_pin_is_known_bad() {
    let gate = Arc::new(Gate::default());
    let mark = gate.mark(None, b"1111");
    begin(&gate, pool(1), 0).poison(refused(), Some(mark), 0);
    assert_eq!(gate.state_name(CKU_USER), "poisoned");
    assert_eq!(gate.check(pool(2), 1, SOURCE_INTERVAL - 1), Verdict::Refuse(refused()));
    let attempt = begin(&gate, pool(1), SOURCE_INTERVAL);
    assert_eq!(gate.check(pool(1), SOURCE_INTERVAL, SOURCE_INTERVAL), Verdict::Refuse(refused()));
    assert!(is_known_bad(&attempt, b"1111"));
    assert!(!is_known_bad(&attempt, b"2222"));
    let refusal = attempt.known_refusal(gate.mark(None, b"1111")).unwrap();
    attempt.poison(refusal, None, SOURCE_INTERVAL);
    assert_eq!(gate.check(pool(1), SOURCE_INTERVAL + 1, SOURCE_INTERVAL + 1), Verdict::Refuse(refused()));
    // One that fails for another reason does not open the way either.
    begin(&gate, pool(1), 2 * SOURCE_INTERVAL).fail(Error::Draining, false, 2 * SOURCE_INTERVAL * 1_000_000);
    assert_eq!(gate.check(pool(1), 0, 2 * SOURCE_INTERVAL + 1), Verdict::Refuse(refused()));
}

#[test]
fn a_credential_that_was_not_tried_is_not_known_bad() {
    let gate = Arc::new(Gate::default());
    begin(&gate, pool(1), 0).poison(Error::FinalTry, None, 0);
    assert_eq!(gate.check(pool(1), 1, 1), Verdict::Refuse(Error::FinalTry));
    assert!(!is_known_bad(&begin(&gate, pool(1), SOURCE_INTERVAL), b"1111"));
}

#[test]
fn another_users_credential_is_not_poisoned_with_it() {
    let gate = Arc::new(Gate::default());
    begin(&gate, pool(1), 0).poison(refused(), Some(gate.mark(None, b"1111")), 0);
    let officer = Who { user: CKU_SO, ..pool(2) };
    let attempt = begin(&gate, officer, 1);
    assert!(!is_known_bad(&attempt, b"1111"));
}

#[test]
fn a_refused_pin_stays_known_after_another_has_logged_in() {
    let gate = Arc::new(Gate::default());
    begin(&gate, pool(1), 0).poison(refused(), Some(gate.mark(None, b"old")), 0);
    let who = with(&gate, pool(1), b"new");
    let Explicit::Begin(attempt) = gate.begin_explicit(who) else { panic!() };
    attempt.succeed(who.mark, true, 0);
    gate.note_login_lost(gate.epoch());
    // What logged in may do so again, the other may not.
    let attempt = begin(&gate, who, 1);
    assert!(is_known_bad(&attempt, b"old"));
    assert!(!is_known_bad(&attempt, b"new"));
    let refusal = attempt.known_refusal(gate.mark(None, b"old")).unwrap();
    attempt.poison(refusal, None, 1);
    assert_eq!(gate.check(pool(2), 2, 2), Verdict::Refuse(refused()));
}

#[test]
fn an_explicit_login_may_try_what_was_refused_and_a_success_clears_it() {
    let gate = Arc::new(Gate::default());
    let who = with(&gate, pool(1), b"1234");
    begin(&gate, pool(1), 0).poison(refused(), who.mark, 0);
    let Explicit::Begin(attempt) = gate.begin_explicit(who) else { panic!() };
    assert!(matches!(gate.begin_explicit(who), Explicit::Wait));
    attempt.succeed(who.mark, true, 0);
    gate.note_login_lost(gate.epoch());
    assert!(!is_known_bad(&begin(&gate, pool(2), 1), b"1234"));
}

#[test]
fn an_explicit_login_that_fails_leaves_the_poison() {
    let gate = Arc::new(Gate::default());
    begin(&gate, pool(1), 0).poison(refused(), Some(gate.mark(None, b"1111")), 0);
    let Explicit::Begin(attempt) = gate.begin_explicit(with(&gate, pool(1), b"2222")) else { panic!() };
    drop(attempt);
    assert_eq!(gate.check(pool(1), 1, 1), Verdict::Refuse(refused()));
}

#[test]
fn pools_with_the_same_credential_share_the_login_and_others_are_in_conflict() {
    let (gate, word) = logged_in(b"1234");
    assert_eq!(gate.check(pool(2), 0, 0), Verdict::Compare(word));
    assert_eq!(gate.check(with(&gate, pool(2), b"1234"), 0, 0), Verdict::Pass(word));
    assert_eq!(gate.check(with(&gate, pool(3), b"9999"), 0, 0), Verdict::Compare(word));
    assert_eq!(gate.check(Who { user: CKU_SO, ..with(&gate, pool(4), b"1234") }, 0, 0), Verdict::Refuse(conflict()));
    assert_eq!(gate.check(Who { protected: true, ..pool(5) }, 0, 0), Verdict::Refuse(conflict()));
    assert!(matches!(gate.begin_explicit(with(&gate, pool(3), b"1234")), Explicit::Already(_)));
    assert!(matches!(gate.begin_explicit(with(&gate, pool(3), b"9999")), Explicit::Refuse(_)));
    assert_eq!(gate.word(), word);
}

#[test]
fn pin_pads_share_a_login_that_has_no_pin() {
    let gate = Arc::new(Gate::default());
    let pad = |number| Who { protected: true, ..pool(number) };
    let word = begin(&gate, pad(1), 0).succeed(None, true, 0);
    assert_eq!(gate.check(pad(2), 0, 0), Verdict::Pass(word));
    assert_eq!(gate.check(with(&gate, pool(3), b"1234"), 0, 0), Verdict::Refuse(conflict()));
}

#[test]
fn the_last_pool_that_shares_a_login_ends_it_whoever_else_has_sessions() {
    let (gate, _) = logged_in(b"1234");
    gate.session_opened(0);
    assert!(matches!(gate.check(with(&gate, pool(2), b"1234"), 0, 0), Verdict::Pass(_)));
    assert!(matches!(gate.check(with(&gate, pool(3), b"9999"), 0, 0), Verdict::Compare(_)));
    assert!(!gate.leave(1));
    assert!(gate.is_logged_in());
    assert!(gate.leave(2));
    assert!(!gate.is_logged_in());
    assert!(!gate.leave(2));
}

#[test]
fn a_login_that_was_not_ours_is_not_ours_to_end() {
    let gate = Arc::new(Gate::default());
    gate.session_opened(0);
    begin(&gate, pool(1), 0).succeed(Some(gate.mark(None, b"1234")), false, 0);
    assert!(!gate.leave(1));
    begin(&gate, pool(1), 0).succeed(Some(gate.mark(None, b"1234")), false, 0);
    assert!(!gate.session_closing(0));
    assert!(!gate.is_logged_in());
}

#[test]
fn a_logout_holds_everybody_back_and_voids_the_handles() {
    let (gate, word) = logged_in(b"1234");
    let who = with(&gate, pool(1), b"1234");
    assert!(matches!(gate.begin_logout(pool(2), false), Leave::Refuse(_)));
    let Leave::Begin(attempt) = gate.begin_logout(who, false) else { panic!() };
    assert!(gate.epoch() > word >> 1);
    assert!(!gate.is_logged_in());
    assert_eq!(gate.check(who, 0, 0), Verdict::Wait);
    assert!(matches!(gate.begin_logout(who, false), Leave::Wait));
    let (count, weak) = listener();
    assert!(gate.listen(Awaited::Attempt, weak));
    drop(attempt);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(matches!(gate.begin_logout(who, true), Leave::Nothing));
    assert!(matches!(gate.check(who, 0, 0), Verdict::Begin(_)));
}

#[test]
fn a_lost_login_is_noticed_once_and_voids_the_handles() {
    let gate = Arc::new(Gate::default());
    gate.session_opened(0);
    begin(&gate, pool(1), 0).succeed(None, true, 0);
    let epoch = gate.epoch();
    gate.note_login_lost(epoch);
    assert!(gate.epoch() > epoch);
    let again = gate.epoch();
    gate.note_login_lost(epoch);
    assert_eq!(gate.epoch(), again);
    begin(&gate, pool(1), 1).succeed(None, true, 0);
    assert!(gate.session_closing(0));
    assert!(!gate.is_logged_in());
}

#[test]
fn a_token_that_was_away_is_logged_out_and_has_no_sessions_but_knows_what_was_refused() {
    let (gate, word) = logged_in(b"1234");
    gate.session_opened(0);
    gate.session_opened(0);
    gate.note_refused_pin(CKU_SO, gate.mark(None, b"1111"), refused(), 0);
    assert!(gate.reset(0));
    assert!(!gate.reset(0), "it was said twice");
    assert_eq!((gate.generation(), gate.is_logged_in(), gate.sessions()), (1, false, 0));
    assert!(gate.epoch() > word >> 1);
    assert!(matches!(gate.check(Who { user: CKU_SO, ..pool(2) }, 1, 1), Verdict::Refuse(_)));
    // What is left of the sessions of before does not count.
    begin(&gate, pool(1), 1).succeed(Some(gate.mark(None, b"1234")), true, 1);
    gate.session_opened(1);
    gate.session_opened(0);
    assert!(!gate.session_closing(0));
    assert_eq!((gate.is_logged_in(), gate.sessions()), (true, 1));
}

#[test]
fn a_login_behind_which_the_token_went_away_is_none() {
    let gate = Arc::new(Gate::default());
    let attempt = begin(&gate, pool(1), 0);
    assert!(gate.reset(0));
    assert_eq!(gate.check(pool(1), 0, 0), Verdict::Wait, "the attempt goes on");
    let word = attempt.succeed(Some(gate.mark(None, b"1234")), true, 0);
    assert_eq!(word & 1, 0);
    assert!(matches!(gate.check(pool(1), 0, 0), Verdict::Begin(_)));
}

#[test]
fn handles_are_void_once_when_sessions_of_nobodys_login_died() {
    let gate = Gate::default();
    let epoch = gate.epoch();
    gate.outdate(epoch);
    gate.outdate(epoch);
    assert_eq!(gate.epoch(), epoch + 1);
    let (gate, word) = logged_in(b"1234");
    gate.outdate(word >> 1);
    assert_eq!(gate.word(), word, "whether the login is still there tells");
}

#[test]
fn context_specific_logins_take_turns_so_that_a_wrong_pin_is_tried_once() {
    let gate = Arc::new(Gate::default());
    let mark = Some(gate.mark(None, b"1111"));
    let proof = gate.begin_context_login(CKU_USER, mark, 0).unwrap().unwrap();
    assert!(gate.begin_context_login(CKU_USER, mark, 0).unwrap().is_none());
    let (count, weak) = listener();
    assert!(!gate.listen(Awaited::Attempt, weak.clone()), "nobody logs in: who waits for that would wait for something else");
    assert!(gate.listen(Awaited::ContextLogin, weak));
    proof.poison(refused(), true, 0);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(gate.begin_context_login(CKU_USER, mark, 1).err(), Some(refused()));
    assert_eq!(gate.may_ask_for_key_pin(CKU_USER, SOURCE_INTERVAL), Err(refused()));
    assert_eq!(gate.may_ask_for_key_pin(CKU_USER, 1 + SOURCE_INTERVAL), Ok(()));
    assert_eq!(gate.may_ask_for_key_pin(CKU_USER, 2 + SOURCE_INTERVAL), Err(refused()));
    drop(gate.begin_context_login(CKU_USER, Some(gate.mark(None, b"1234")), 0).unwrap().unwrap());
    gate.begin_context_login(CKU_USER, Some(gate.mark(None, b"1234")), 0).unwrap().unwrap().succeed();
    assert_eq!(gate.may_ask_for_key_pin(CKU_USER, 3 + SOURCE_INTERVAL), Ok(()));
}

#[test]
fn a_new_pin_pardons_all_that_was_refused() {
    let gate = Arc::new(Gate::default());
    gate.note_refused_pin(CKU_USER, gate.mark(None, b"1111"), refused(), 0);
    assert_eq!(gate.check(pool(1), 1, 1), Verdict::Refuse(refused()));
    gate.forget_refusals(CKU_USER);
    assert!(!is_known_bad(&begin(&gate, pool(1), 1), b"1111"));
}

#[test]
fn a_mark_shows_nothing_and_differs_from_gate_to_gate() {
    let (one, other) = (Gate::default(), Gate::default());
    assert_eq!(one.mark(None, b"1234"), one.mark(None, b"1234"));
    assert_ne!(one.mark(None, b"1234"), other.mark(None, b"1234"));
    assert_eq!(format!("{:?}", one.mark(None, b"1234")), "Mark");
}

#[test]
fn another_user_name_is_another_credential_whatever_its_pin() {
    let gate = Arc::new(Gate::default());
    let mark = |name, pin: &[u8]| gate.mark(name, pin);
    assert_eq!(mark(Some("alice"), b"1234"), mark(Some("alice"), b"1234"));
    assert_ne!(mark(Some("alice"), b"1234"), mark(Some("bob"), b"1234"));
    assert_ne!(mark(Some("alice"), b"1234"), mark(None, b"1234"));
    assert_ne!(mark(Some("alice"), b"1234"), mark(Some("alice1"), b"234"));
    assert_ne!(mark(Some(""), b"1234"), mark(None, b"1234"));
}

#[test]
fn pools_of_other_user_names_are_in_conflict_even_where_no_pin_tells_them_apart() {
    let gate = Arc::new(Gate::default());
    let protected = |number, name: Option<&str>| Who { protected: true, name: name.map(NameMark::of), ..pool(number) };
    begin(&gate, protected(1, Some("alice")), 0).succeed(None, true, 0);
    assert!(matches!(gate.check(protected(2, Some("alice")), 0, 0), Verdict::Pass(_)));
    for other in [Some("bob"), None] {
        assert_eq!(gate.check(protected(3, other), 0, 0), Verdict::Refuse(conflict()));
    }
}
