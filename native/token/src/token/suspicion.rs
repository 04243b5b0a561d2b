//! Whether a device is in trouble that lasts. A library may go on telling what it knows by itself (`C_GetSessionInfo`) while every call to the
//! device fails; but so does a call with bad input. What tells them apart is time, and a question that no caller's input decides:
//!
//! * Failures that no success contradicts for so long are suspicious: the device is asked, on a session that has not failed yet. Its answer
//!   counts as a success. Its failure is that of a second session: something is to be done.
//! * Logins and openings of sessions have no caller's input. Two that fail in that time need no question.
//! * Where there is no session to ask on but the one that failed, that one is replaced, and asked again: the second failure counts.
//!
//! What is done takes its time and costs every session, so that it is done once in an interval, however it ends. The count is the token's, of all its
//! pools. No clock of its own: time is an argument.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use session_pool::Millis;

/// Whose call has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A caller's operation.
    Operation,
    /// The pool's own: a login, the opening of a session, a keepalive.
    Own,
}

/// A pool's patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For how long nothing but failures come before the device is suspected.
    pub after: Millis,
    /// How much time lies between two times that something is done.
    pub apart: Millis,
}

/// What a failure is to lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Nothing.
    Bear,
    /// The device is to be asked.
    Ask,
    /// It is in trouble.
    Act,
}

/// What is known against a token.
#[derive(Default)]
pub(crate) struct Suspicion {
    /// The time of the first failure since the last success, plus one; 0: there is none. All that a success looks at.
    since: AtomicU64,
    case: Mutex<Case>,
}

#[derive(Default)]
struct Case {
    failures: u32,
    /// When the first login or opening failed.
    own_since: Option<Millis>,
    /// The session that failed when it was asked for want of another.
    blamed: Option<u64>,
    asked_at: Option<Millis>,
    acted_at: Option<Millis>,
}

impl Suspicion {
    /// The device has done something: nothing is known against it.
    #[inline]
    pub(crate) fn succeeded(&self) {
        if self.since.load(Ordering::Relaxed) != 0 {
            self.since.store(0, Ordering::Relaxed);
        }
    }

    /// A login has been made, which says nothing of operations.
    pub(crate) fn logged_in(&self) {
        self.case.lock().own_since = None;
    }

    /// Something has failed as it would on a device in trouble.
    pub(crate) fn failed(&self, origin: Origin, now: Millis, limits: Limits) -> Reaction {
        let mut case = self.case.lock();
        let since = match self.since.load(Ordering::Relaxed) {
            0 => {
                *case = Case { asked_at: case.asked_at, acted_at: case.acted_at, ..Case::default() };
                self.since.store(now + 1, Ordering::Relaxed);
                now
            }
            since => since - 1,
        };
        case.failures = case.failures.saturating_add(1);
        let lasts = |since: Millis| now.saturating_sub(since) >= limits.after;
        let own_since = case.own_since;
        if origin == Origin::Own {
            case.own_since.get_or_insert(now);
        }
        if case.failures < 2 || !lasts(since) || !case.may_act(now, limits) {
            return Reaction::Bear;
        }
        if origin == Origin::Own && own_since.is_some_and(lasts) {
            return self.act_on(&mut case, now);
        }
        // Nobody asks while another does, nor what was answered just now.
        if case.asked_at.is_some_and(|asked_at| !lasts(asked_at)) {
            return Reaction::Bear;
        }
        case.asked_at = Some(now);
        Reaction::Ask
    }

    /// The device has failed the question. On a session of its own, or (`on`) on this one, for want of another.
    pub(crate) fn confirmed(&self, on: Option<u64>, now: Millis, limits: Limits) -> Reaction {
        let mut case = self.case.lock();
        let is_second = on.is_none_or(|session| case.blamed.replace(session).is_some_and(|before| before != session));
        if !is_second {
            // The next session is to be asked at once.
            case.asked_at = None;
            return Reaction::Ask;
        }
        if case.may_act(now, limits) { self.act_on(&mut case, now) } else { Reaction::Bear }
    }

    fn act_on(&self, case: &mut Case, now: Millis) -> Reaction {
        case.acted_at = Some(now);
        self.since.store(0, Ordering::Relaxed);
        Reaction::Act
    }
}

impl Case {
    fn may_act(&self, now: Millis, limits: Limits) -> bool {
        self.acted_at.is_none_or(|acted_at| now.saturating_sub(acted_at) >= limits.apart)
    }
}

#[cfg(test)]
mod tests {
    use super::Origin::{Operation, Own};
    use super::Reaction::{Act, Ask, Bear};
    use super::*;

    const LIMITS: Limits = Limits { after: 100, apart: 1_000 };

    fn suspicion() -> Suspicion {
        Suspicion::default()
    }

    impl Suspicion {
        fn fails(&self, origin: Origin, now: Millis) -> Reaction {
            self.failed(origin, now, LIMITS)
        }
    }

    #[test]
    fn failures_are_borne_until_they_have_lasted() {
        let one = suspicion();
        let reactions = [0, 1, 50, 99].map(|now| one.fails(Operation, now));
        assert_eq!(reactions, [Bear; 4]);
        assert_eq!(one.fails(Operation, 100), Ask);
        assert_eq!(one.confirmed(None, 101, LIMITS), Act);
    }

    #[test]
    fn one_failure_is_none_however_long_ago() {
        let one = suspicion();
        assert_eq!(one.fails(Operation, 10_000), Bear);
        assert_eq!(one.fails(Operation, 90_000), Ask);
    }

    #[test]
    fn a_success_begins_the_count_again() {
        let one = suspicion();
        for round in 0..1_000 {
            let now = round * 90;
            assert_eq!(one.fails(Operation, now), Bear);
            assert_eq!(one.fails(Operation, now + 80), Bear);
            one.succeeded();
        }
        assert_eq!(one.fails(Operation, 200_000), Bear);
        assert_eq!(one.fails(Operation, 200_099), Bear);
        assert_eq!(one.fails(Operation, 200_100), Ask);
    }

    #[test]
    fn a_device_that_answers_is_asked_once_in_a_while() {
        let one = suspicion();
        let mut asked = 0;
        for now in 0..10_000 {
            match one.fails(Operation, now) {
                Ask => {
                    asked += 1;
                    one.succeeded();
                }
                Bear => (),
                Act => panic!("at {now}"),
            }
        }
        assert!((90..=100).contains(&asked), "{asked}");
    }

    #[test]
    fn one_asks_for_all() {
        let one = suspicion();
        one.fails(Operation, 0);
        let reactions = [200, 200, 201, 299, 300].map(|now| one.fails(Operation, now));
        // Who has asked may have been given up.
        assert_eq!(reactions, [Ask, Bear, Bear, Bear, Ask]);
    }

    #[test]
    fn logins_that_fail_need_no_question() {
        let one = suspicion();
        assert_eq!(one.fails(Own, 0), Bear);
        assert_eq!(one.fails(Own, 1), Bear);
        assert_eq!(one.fails(Own, 100), Act);
    }

    #[test]
    fn a_login_that_succeeds_says_nothing_of_operations() {
        let one = suspicion();
        one.fails(Own, 0);
        one.fails(Operation, 10);
        one.logged_in();
        assert_eq!(one.fails(Own, 100), Ask);
        assert_eq!(one.fails(Own, 150), Bear);
        assert_eq!(one.fails(Own, 200), Act);
    }

    #[test]
    fn a_login_that_fails_at_the_end_of_bad_input_is_asked_about() {
        let one = suspicion();
        one.fails(Operation, 0);
        one.fails(Operation, 150);
        one.succeeded();
        one.fails(Operation, 200);
        one.fails(Operation, 250);
        assert_eq!(one.fails(Own, 310), Ask);
        assert_eq!(one.fails(Own, 320), Bear);
        assert_eq!(one.fails(Own, 410), Act);
    }

    #[test]
    fn something_is_done_once_in_an_interval() {
        let one = suspicion();
        let mut acts = Vec::new();
        for now in 0..5_000 {
            if one.fails(Operation, now) == Ask && one.confirmed(None, now, LIMITS) == Act {
                acts.push(now);
            }
            if one.fails(Own, now) == Act {
                acts.push(now);
            }
        }
        assert!(acts.windows(2).all(|pair| pair[1] - pair[0] >= LIMITS.apart), "{acts:?}");
        assert_eq!(acts.len(), 5, "{acts:?}");
    }

    #[test]
    fn of_two_who_have_asked_one_acts() {
        let one = suspicion();
        one.fails(Operation, 0);
        assert_eq!(one.fails(Operation, 100), Ask);
        assert_eq!(one.fails(Operation, 200), Ask);
        assert_eq!(one.confirmed(None, 210, LIMITS), Act);
        assert_eq!(one.confirmed(None, 211, LIMITS), Bear);
    }

    #[test]
    fn a_session_that_fails_alone_is_replaced_and_the_next_one_asked() {
        let one = suspicion();
        one.fails(Operation, 0);
        assert_eq!(one.fails(Operation, 100), Ask);
        assert_eq!(one.confirmed(Some(7), 100, LIMITS), Ask);
        assert_eq!(one.fails(Operation, 101), Ask);
        // The same one again proves nothing more.
        assert_eq!(one.confirmed(Some(7), 101, LIMITS), Ask);
        assert_eq!(one.fails(Operation, 102), Ask);
        assert_eq!(one.confirmed(Some(8), 102, LIMITS), Act);
    }

    #[test]
    fn a_success_clears_a_session_that_was_blamed() {
        let one = suspicion();
        one.fails(Operation, 0);
        one.fails(Operation, 100);
        assert_eq!(one.confirmed(Some(7), 100, LIMITS), Ask);
        one.succeeded();
        one.fails(Operation, 200);
        assert_eq!(one.fails(Operation, 300), Ask);
        assert_eq!(one.confirmed(Some(8), 300, LIMITS), Ask);
    }
}
