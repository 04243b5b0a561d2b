//! The counter of wrong PINs that every token with hardware has, and software tokens lack.

use std::collections::BTreeMap;

use cryptoki_sys::*;
use parking_lot::{Mutex, MutexGuard};

const DEFAULT_LIMIT: u32 = 3;

/// Whose PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    User,
    SecurityOfficer,
}

pub struct Counters {
    /// The wrong PIN that locks; `None`: none does.
    limit: Option<u32>,
    /// Wrong ones since the last right one.
    wrong: BTreeMap<(CK_SLOT_ID, Owner), u32>,
}

pub struct Pins {
    counters: Mutex<Counters>,
    /// Held while the real module looks at a PIN: else several wrong ones at once would all be let through.
    trial: Mutex<()>,
}

impl Pins {
    pub const fn new() -> Self {
        let counters = Counters { limit: Some(DEFAULT_LIMIT), wrong: BTreeMap::new() };
        Self { counters: Mutex::new(counters), trial: Mutex::new(()) }
    }

    /// Lets the real module look at a PIN, unless it is locked, and counts what it says.
    pub fn attempt(&self, slot: CK_SLOT_ID, owner: Owner, ask: impl FnOnce() -> CK_RV) -> CK_RV {
        let _one_at_a_time = self.trial.lock();
        if self.counters.lock().is_locked(slot, owner) {
            return CKR_PIN_LOCKED;
        }
        let code = ask();
        self.counters.lock().record(slot, owner, code);
        code
    }

    /// The PIN was set anew by somebody who may.
    pub fn forgive(&self, slot: CK_SLOT_ID, owner: Owner) {
        self.counters.lock().wrong.remove(&(slot, owner));
    }

    /// The flags of a token with these ones.
    pub fn flags(&self, slot: CK_SLOT_ID, flags: CK_FLAGS) -> CK_FLAGS {
        self.counters.lock().flags(slot, flags)
    }

    /// The fewest tries that are left on any token; `None`: there is no limit.
    pub fn left(&self, owner: Owner) -> Option<u32> {
        let counters = self.counters.lock();
        let most = counters.wrong.iter().filter(|((_, whose), _)| *whose == owner).map(|(_, wrong)| *wrong).max();
        counters.limit.map(|limit| limit.saturating_sub(most.unwrap_or(0)))
    }

    pub fn set_limit(&self, limit: Option<u32>) {
        self.counters.lock().limit = limit;
    }

    pub fn reset(&self) {
        let mut counters: MutexGuard<'_, Counters> = self.counters.lock();
        counters.limit = Some(DEFAULT_LIMIT);
        counters.wrong.clear();
    }
}

impl Counters {
    fn wrong(&self, slot: CK_SLOT_ID, owner: Owner) -> u32 {
        self.wrong.get(&(slot, owner)).copied().unwrap_or(0)
    }

    fn is_locked(&self, slot: CK_SLOT_ID, owner: Owner) -> bool {
        self.limit.is_some_and(|limit| self.wrong(slot, owner) >= limit)
    }

    fn record(&mut self, slot: CK_SLOT_ID, owner: Owner, code: CK_RV) {
        match code {
            CKR_OK => {
                self.wrong.remove(&(slot, owner));
            }
            CKR_PIN_INCORRECT => *self.wrong.entry((slot, owner)).or_default() += 1,
            _ => {}
        }
    }

    fn flags(&self, slot: CK_SLOT_ID, flags: CK_FLAGS) -> CK_FLAGS {
        let Some(limit) = self.limit else { return flags };
        let of = |owner, low, last, locked| match self.wrong(slot, owner) {
            0 if limit > 1 => 0,
            wrong if wrong >= limit => locked,
            wrong if wrong + 1 == limit => low | last,
            _ => low,
        };
        let user = of(Owner::User, CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED);
        let officer = of(Owner::SecurityOfficer, CKF_SO_PIN_COUNT_LOW, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED);
        flags | user | officer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_wrong_pin_locks_and_a_right_one_starts_again() {
        let pins = Pins::new();
        let attempt = |code| pins.attempt(1, Owner::User, || code);
        assert_eq!(pins.flags(1, CKF_LOGIN_REQUIRED), CKF_LOGIN_REQUIRED);
        attempt(CKR_PIN_INCORRECT);
        assert_eq!(pins.flags(1, 0), CKF_USER_PIN_COUNT_LOW);
        attempt(CKR_PIN_INCORRECT);
        assert_eq!(pins.flags(1, 0), CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY);
        assert_eq!(attempt(CKR_OK), CKR_OK);
        assert_eq!((pins.flags(1, 0), pins.left(Owner::User)), (0, Some(3)));
        // What is no judgement of the PIN does not count.
        attempt(CKR_DEVICE_ERROR);
        assert_eq!(pins.left(Owner::User), Some(3));
        for _ in 0..3 {
            attempt(CKR_PIN_INCORRECT);
        }
        assert_eq!((pins.flags(1, 0), pins.left(Owner::User)), (CKF_USER_PIN_LOCKED, Some(0)));
        assert_eq!(pins.attempt(1, Owner::User, || panic!("a locked PIN is not asked")), CKR_PIN_LOCKED);
        // Another token's, and the officer's, are their own.
        assert_eq!((pins.flags(2, 0), pins.left(Owner::SecurityOfficer)), (0, Some(3)));
        pins.set_limit(None);
        assert_eq!((attempt(CKR_PIN_INCORRECT), pins.flags(1, 0)), (CKR_PIN_INCORRECT, 0));
    }
}
