//! What is to happen to a function's calls, and to which of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use cryptoki_sys::CK_RV;

/// What a rule does to a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Answers with a return code; `run`: after the real call, whose answer is thrown away, else instead of it.
    Fail { code: CK_RV, run: bool },
    /// Holds the call until it is released.
    Hang,
    /// Aborts the process.
    Crash,
}

/// An action, and the calls that it applies to.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub action: Action,
    /// Calls that pass before the rule begins to apply.
    pub skip: u64,
    /// How many calls it still applies to; `None`: to all.
    pub count: Option<u64>,
    /// Of the calls that it would apply to, the share that it does.
    pub probability: f64,
}

/// What the rules say about one call.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Verdict {
    pub crash: bool,
    pub hang: bool,
    /// The code, and whether the real call comes first.
    pub fail: Option<(CK_RV, bool)>,
}

impl Rule {
    /// Whether this call is one of the rule's.
    fn applies(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.probability < 1.0 && random_unit() >= self.probability {
            return false;
        }
        match &mut self.count {
            Some(0) => false,
            Some(count) => {
                *count -= 1;
                true
            }
            None => true,
        }
    }

    fn is_spent(&self) -> bool {
        self.count == Some(0)
    }
}

/// Shows a call to all rules, and drops those that are spent. Of several return codes the oldest rule's counts.
pub fn judge(rules: &mut Vec<Rule>) -> Verdict {
    let mut verdict = Verdict::default();
    for rule in rules.iter_mut() {
        let waits = matches!(rule.action, Action::Fail { .. }) && verdict.fail.is_some();
        if waits || !rule.applies() {
            continue;
        }
        match rule.action {
            Action::Fail { code, run } => verdict.fail = Some((code, run)),
            Action::Hang => verdict.hang = true,
            Action::Crash => verdict.crash = true,
        }
    }
    rules.retain(|rule| !rule.is_spent());
    verdict
}

static RANDOM: AtomicU64 = AtomicU64::new(0);

/// Makes what follows by chance repeatable.
pub fn seed(value: u64) {
    // Zero means: not seeded yet.
    RANDOM.store(value.wrapping_mul(2) | 1, Ordering::Relaxed);
}

/// A random number: splitmix64 over a counter, so that threads need no lock.
pub fn random() -> u64 {
    if RANDOM.load(Ordering::Relaxed) == 0 {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
        seed(clock);
    }
    let mut bits = RANDOM.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// From 0, inclusive, to 1, exclusive.
fn random_unit() -> f64 {
    (random() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(code: CK_RV, skip: u64, count: Option<u64>, probability: f64) -> Rule {
        Rule { action: Action::Fail { code, run: false }, skip, count, probability }
    }

    fn codes(rules: &mut Vec<Rule>, calls: usize) -> Vec<CK_RV> {
        (0..calls).map(|_| judge(rules).fail.map_or(0, |(code, _)| code)).collect()
    }

    #[test]
    fn a_rule_applies_from_the_nth_call_so_many_times() {
        let mut rules = vec![fail(5, 2, Some(2), 1.0)];
        assert_eq!(codes(&mut rules, 6), [0, 0, 5, 5, 0, 0]);
        assert_eq!(rules, []);
        assert_eq!(codes(&mut vec![fail(5, 0, None, 1.0)], 3), [5, 5, 5]);
    }

    #[test]
    fn the_oldest_rule_answers_and_the_next_waits_for_its_turn() {
        let mut rules = vec![fail(5, 0, Some(1), 1.0), fail(6, 0, Some(1), 1.0)];
        assert_eq!(codes(&mut rules, 3), [5, 6, 0]);
    }

    #[test]
    fn a_hang_and_a_return_code_go_together() {
        let hang = Rule { action: Action::Hang, skip: 0, count: Some(1), probability: 1.0 };
        let mut rules = vec![hang, fail(5, 0, Some(1), 1.0)];
        assert_eq!(judge(&mut rules), Verdict { crash: false, hang: true, fail: Some((5, false)) });
    }

    #[test]
    fn probability_is_a_share() {
        let hits = codes(&mut vec![fail(5, 0, None, 0.25)], 10_000).iter().filter(|code| **code == 5).count();
        assert!((2_000..3_000).contains(&hits), "{hits}");
        assert_eq!(codes(&mut vec![fail(5, 0, None, 0.0)], 100), [0; 100]);
    }
}
