//! Slot ids, and tokens that are away. A token that comes back may do so on another slot id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cryptoki_sys::*;
use parking_lot::Mutex;

/// A token, or all of them, gone.
#[derive(Clone, Copy)]
struct Away {
    /// The real slot; `None`: every slot.
    slot: Option<CK_SLOT_ID>,
    /// What its sessions answer.
    code: CK_RV,
}

struct State {
    away: Option<Away>,
    /// From the application's slot id to the real one, where they differ.
    aliases: BTreeMap<CK_SLOT_ID, CK_SLOT_ID>,
    last_used: Option<CK_SLOT_ID>,
    /// Real slots with a token that has gone or come, as nobody has been told yet.
    events: BTreeSet<CK_SLOT_ID>,
}

pub struct Slots {
    /// Whether there is anything in the state that calls must look at.
    changed: AtomicBool,
    removals: AtomicU64,
    state: Mutex<State>,
}

impl Slots {
    pub const fn new() -> Self {
        Self {
            changed: AtomicBool::new(false),
            removals: AtomicU64::new(0),
            state: Mutex::new(State { away: None, aliases: BTreeMap::new(), last_used: None, events: BTreeSet::new() }),
        }
    }

    /// Nothing was ever removed: slot ids are the real ones.
    pub fn pristine(&self) -> bool {
        !self.changed.load(Ordering::SeqCst)
    }

    /// The real slot of the application's.
    pub fn real(&self, slot: CK_SLOT_ID) -> Result<CK_SLOT_ID, CK_RV> {
        if self.pristine() {
            return Ok(slot);
        }
        let state = self.state.lock();
        match state.aliases.get(&slot) {
            Some(real) => Ok(*real),
            // Its token is on another one now.
            None if state.aliases.values().any(|real| *real == slot) => Err(CKR_SLOT_ID_INVALID),
            None => Ok(slot),
        }
    }

    /// The application's slot of the real one.
    pub fn shown(&self, real: CK_SLOT_ID) -> CK_SLOT_ID {
        if self.pristine() {
            return real;
        }
        let state = self.state.lock();
        state.aliases.iter().find(|(_, aliased)| **aliased == real).map_or(real, |(shown, _)| *shown)
    }

    /// The code of the sessions of a real slot while its token is away.
    pub fn away(&self, real: CK_SLOT_ID) -> Option<CK_RV> {
        if self.pristine() {
            return None;
        }
        self.state.lock().away.filter(|away| away.slot.is_none_or(|slot| slot == real)).map(|away| away.code)
    }

    /// The same for a session of which nobody knows the slot.
    pub fn all_away(&self) -> Option<CK_RV> {
        if self.pristine() {
            return None;
        }
        self.state.lock().away.filter(|away| away.slot.is_none()).map(|away| away.code)
    }

    /// `CKR_TOKEN_NOT_PRESENT` while the token of a real slot is away.
    pub fn check_present(&self, real: CK_SLOT_ID) -> Result<(), CK_RV> {
        if self.away(real).is_some() { Err(CKR_TOKEN_NOT_PRESENT) } else { Ok(()) }
    }

    /// Remembers where a session was opened last.
    pub fn used(&self, real: CK_SLOT_ID) {
        self.state.lock().last_used = Some(real);
    }

    /// Changes whenever a token is removed.
    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::SeqCst)
    }

    /// Takes away the token in the application's slot, or every token. Gives the real slot.
    pub fn remove(&self, slot: Option<CK_SLOT_ID>, code: CK_RV) -> Result<Option<CK_SLOT_ID>, String> {
        let real = match slot {
            Some(slot) => Some(self.real(slot).map_err(|_| format!("there is no slot {slot}"))?),
            None => None,
        };
        let mut state = self.state.lock();
        if state.away.is_some() {
            return Err("a token is away already".into());
        }
        state.away = Some(Away { slot: real, code });
        let last_used = state.last_used;
        state.events.extend(real.or(last_used));
        self.changed.store(true, Ordering::SeqCst);
        self.removals.fetch_add(1, Ordering::SeqCst);
        Ok(real)
    }

    /// Brings back what was taken away; `slot`: the token's new slot id. `from` is the slot id that it had, if that
    /// cannot be known from the removal or the last session.
    pub fn restore(&self, slot: Option<CK_SLOT_ID>, from: Option<CK_SLOT_ID>) -> Result<(), String> {
        let from = match from {
            Some(from) => Some(self.real(from).map_err(|_| format!("there is no slot {from}"))?),
            None => None,
        };
        let mut state = self.state.lock();
        let Some(away) = state.away else { return Err("no token is away".into()) };
        if let Some(slot) = slot {
            let Some(real) = from.or(away.slot).or(state.last_used) else {
                return Err(
                    "several tokens are away, and none was in use: say the old slot id of the one that gets the new".into()
                );
            };
            if state.aliases.get(&slot).is_some_and(|other| *other != real) {
                return Err(format!("slot {slot} holds another token"));
            }
            state.aliases.retain(|_, aliased| *aliased != real);
            if slot != real {
                state.aliases.insert(slot, real);
            }
        }
        state.away = None;
        let last_used = state.last_used;
        state.events.extend(away.slot.or(last_used));
        Ok(())
    }

    /// What is in one of the application's slots comes into the other.
    pub fn swap(&self, one: CK_SLOT_ID, other: CK_SLOT_ID) -> Result<(), String> {
        let real = |slot| self.real(slot).map_err(|_| format!("there is no slot {slot}"));
        let (first, second) = (real(one)?, real(other)?);
        let mut state = self.state.lock();
        state.aliases.extend([(one, second), (other, first)]);
        state.aliases.retain(|shown, real| shown != real);
        self.changed.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// The application's slot of a token that has gone or come; each is told once.
    pub fn next_event(&self) -> Option<CK_SLOT_ID> {
        let real = self.state.lock().events.pop_first()?;
        Some(self.shown(real))
    }

    /// Whether a token is away.
    pub fn is_away(&self) -> bool {
        !self.pristine() && self.state.lock().away.is_some()
    }

    pub fn reset(&self) {
        let mut state = self.state.lock();
        state.away = None;
        state.aliases.clear();
        state.events.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_on_another_slot() {
        let slots = Slots::new();
        assert_eq!(slots.remove(Some(3), CKR_DEVICE_REMOVED), Ok(Some(3)));
        assert_eq!((slots.away(3), slots.away(4)), (Some(CKR_DEVICE_REMOVED), None));
        assert!(slots.remove(None, CKR_DEVICE_REMOVED).is_err());
        assert_eq!(slots.restore(Some(77), None), Ok(()));
        assert_eq!((slots.real(77), slots.real(3), slots.shown(3)), (Ok(3), Err(CKR_SLOT_ID_INVALID), 77));
        assert_eq!(slots.check_present(3), Ok(()));
        // And once more, by its new slot.
        assert_eq!(slots.remove(Some(77), CKR_DEVICE_REMOVED), Ok(Some(3)));
        assert_eq!(slots.restore(Some(3), None), Ok(()));
        assert_eq!((slots.real(3), slots.shown(3), slots.real(77)), (Ok(3), 3, Ok(77)));
    }

    #[test]
    fn a_token_that_goes_or_comes_is_an_event_of_its_slot() {
        let slots = Slots::new();
        assert_eq!(slots.next_event(), None);
        slots.remove(Some(3), CKR_DEVICE_REMOVED).unwrap();
        assert_eq!((slots.next_event(), slots.next_event()), (Some(3), None));
        slots.restore(Some(77), None).unwrap();
        assert_eq!((slots.next_event(), slots.next_event()), (Some(77), None));
    }

    #[test]
    fn two_tokens_change_places_and_back() {
        let slots = Slots::new();
        assert_eq!(slots.swap(3, 4), Ok(()));
        assert_eq!((slots.real(3), slots.real(4), slots.shown(3)), (Ok(4), Ok(3), 4));
        assert_eq!(slots.swap(3, 4), Ok(()));
        assert_eq!((slots.real(3), slots.real(4), slots.real(5)), (Ok(3), Ok(4), Ok(5)));
    }

    #[test]
    fn which_of_several_tokens_gets_the_new_slot_must_be_known() {
        let slots = Slots::new();
        assert!(slots.restore(None, None).is_err());
        assert_eq!(slots.remove(None, CKR_DEVICE_REMOVED), Ok(None));
        assert!(slots.restore(Some(77), None).is_err());
        assert_eq!(slots.restore(Some(77), Some(5)), Ok(()));
        assert_eq!(slots.real(77), Ok(5));
        slots.remove(None, CKR_DEVICE_REMOVED).unwrap();
        slots.used(6);
        assert!(slots.restore(Some(77), None).is_err(), "another token's");
        assert_eq!(slots.restore(Some(78), None), Ok(()));
        assert_eq!((slots.real(77), slots.real(78)), (Ok(5), Ok(6)));
    }
}
