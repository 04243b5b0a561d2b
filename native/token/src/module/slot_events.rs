//! What a module tells of tokens that come and go (`C_WaitForSlotEvent`). A pool whose token was taken out of its reader so notices at once that it is
//! back, rather than at its next look for it, which may be 15 s away.
//!
//! Only the form that does not block is called: a thread that waits inside of the module forbids `C_Finalize`. And it is called only where it was
//! made for, on readers whose tokens may be taken out: a module that blocks all the same then does so until a token comes. An event
//! is told once, to one of those who ask; so all pools of the module count together, and other libraries of the process, whose module we have
//! adopted, are left theirs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cryptoki_sys::{CK_ULONG, CKF_REMOVABLE_DEVICE, CKR_FUNCTION_NOT_SUPPORTED};

use crate::module::Module;
use crate::p11::slots::slot_event;
use crate::token::{Selector, Token};

/// How often a pool that looks for its token asks for events.
pub(crate) const INTERVAL: Duration = Duration::from_millis(250);

/// How long a token is looked for after an event: it may take a moment until it answers.
const ALERT: Duration = Duration::from_secs(2);

/// How many events are taken at a time.
const MOST: usize = 64;

/// The events of a module.
#[derive(Default)]
pub(crate) struct SlotEvents {
    count: AtomicU64,
    /// It has said that it does not tell of any.
    is_silent: AtomicBool,
}

impl Module {
    /// How many events it has told of until now. Asks it.
    fn count_events(&self) -> u64 {
        let events = &self.events;
        if let Ok(_inside) = self.enter() {
            for _ in 0..MOST {
                match slot_event(self.functions()) {
                    Ok(Some(_slot)) => drop(events.count.fetch_add(1, Ordering::SeqCst)),
                    Ok(None) => break,
                    Err(error) => {
                        let is_silent = error.code == CKR_FUNCTION_NOT_SUPPORTED;
                        events.is_silent.fetch_or(is_silent, Ordering::SeqCst);
                        break;
                    }
                }
            }
        }
        events.count.load(Ordering::SeqCst)
    }
}

impl Token {
    /// Whether its module may tell when it is back. In one that serves one thread at a time, nobody is to wait behind a question that may block.
    pub(crate) fn has_events(&self) -> bool {
        let is_removable = self.slot_flags() & CKF_REMOVABLE_DEVICE != 0;
        let module = &self.module;
        is_removable && !module.events.is_silent.load(Ordering::SeqCst) && !module.is_serialized() && module.is_ours()
    }

    fn slot_flags(&self) -> CK_ULONG {
        self.slot_info().map_or(0, |slot| slot.flags)
    }
}

/// What a pool that looks for its token has heard.
#[derive(Default)]
pub(crate) struct Ear {
    heard: u64,
    alert_until: Option<Instant>,
}

impl Ear {
    /// Whether the token seems to be back.
    pub(crate) fn hears(&mut self, token: &Token, selector: &Selector) -> bool {
        let count = token.module.count_events();
        if count != self.heard {
            self.heard = count;
            self.alert_until = Some(Instant::now() + ALERT);
        }
        // Of another token's events, nothing else comes than this question.
        self.alert_until.is_some_and(|until| Instant::now() < until) && Token::find(&token.module, selector).is_ok()
    }
}
