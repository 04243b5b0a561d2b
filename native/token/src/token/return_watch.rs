//! Notices that a token which was taken out of its reader is back, by what its module tells (`C_WaitForSlotEvent`). A pool so finds it at once, rather
//! than at its next look for it, which may be 15 s away.
//!
//! The module is asked only where it may be, and of readers whose tokens may be taken out: one that blocks on the question, though it must not, then does
//! so until a token comes.

use std::time::{Duration, Instant};

use cryptoki_sys::CKF_REMOVABLE_DEVICE;

use crate::token::Token;
use crate::token::selector::Selector;

/// How often a pool whose token is away asks for events.
pub(crate) const INTERVAL: Duration = Duration::from_millis(250);

/// For how long a token is looked for after an event: it may take a moment until it answers.
const ALERT: Duration = Duration::from_secs(2);

impl Token {
    /// Whether its module may tell when it is back.
    pub(crate) fn has_return_events(&self) -> bool {
        let is_removable = self.slot_info().is_some_and(|slot| slot.flags & CKF_REMOVABLE_DEVICE != 0);
        is_removable && self.module.may_tell_slot_events()
    }
}

/// What a pool whose token is away has been told.
#[derive(Default)]
pub(crate) struct ReturnWatch {
    /// How many events it knows of.
    seen: u64,
    alert_until: Option<Instant>,
}

impl ReturnWatch {
    /// Whether the token seems to be back. Asks the module.
    pub(crate) fn sees(&mut self, token: &Token, selector: &Selector) -> bool {
        let count = token.module.count_slot_events();
        if count != self.seen {
            self.seen = count;
            self.alert_until = Some(Instant::now() + ALERT);
        }
        // The event may be another token's: then nothing else comes of it than this question.
        self.alert_until.is_some_and(|until| Instant::now() < until) && Token::find(&token.module, selector).is_ok()
    }
}
