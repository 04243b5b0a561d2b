//! All tokens that were ever found: one `Token` for each module and identity, kept for ever, so that a PIN that was refused is remembered for as
//! long as the VM runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cryptoki_sys::CK_SLOT_ID;
use parking_lot::Mutex;

use crate::error::Error;
use crate::module::Module;
use crate::module::tenant::Tenant;
use crate::p11::slots::{library_info, slot_info, slots, token_info};
use crate::token::Token;
use crate::token::selector::{Described, Selector, identity};

static TOKENS: Mutex<Vec<Arc<Token>>> = Mutex::new(Vec::new());

impl Token {
    /// Finds the token that the selector names.
    pub fn find(module: &Arc<Module>, selector: &Selector) -> Result<Arc<Self>, Error> {
        let _inside = module.enter_unless_stuck()?;
        let functions = module.functions();
        let library = library_info(functions).ok();
        let mut matching = Vec::new();
        let mut available = Vec::new();
        let mut unreadable = None;
        for slot in slots(functions, true)? {
            let token = match token_info(functions, slot) {
                Ok(token) => token,
                Err(error) => {
                    unreadable = Some(error);
                    continue;
                }
            };
            available.push((token.label.clone(), token.serial.clone(), slot));
            let described = Described { token, slot: slot_info(functions, slot).ok(), library: library.clone() };
            if selector.matches(slot, &described) {
                matching.push((slot, described));
            }
        }
        let wanted = || selector.to_string();
        if matching.len() > 1 {
            let name = |(slot, Described { token, .. }): (CK_SLOT_ID, Described)| (token.label, token.serial, slot);
            return Err(Error::AmbiguousSlot { wanted: wanted(), matching: matching.into_iter().map(name).collect() });
        }
        let Some((slot, described)) = matching.pop() else {
            // It may be the one that cannot be read.
            return Err(unreadable.map_or_else(|| Error::SlotNotFound { wanted: wanted(), available }, Error::Call));
        };
        let token = find_or_add(module, slot, described);
        // It may have come back in another slot.
        token.slot.store(slot, Ordering::Relaxed);
        Ok(token)
    }
}

/// The token of this module that is so described. One that is found for the first time is made, and becomes a tenant of its module.
fn find_or_add(module: &Arc<Module>, slot: CK_SLOT_ID, described: Described) -> Arc<Token> {
    let identity = identity(&described.token);
    let mut tokens = TOKENS.lock();
    if let Some(token) = tokens.iter().find(|token| Arc::ptr_eq(&token.module, module) && token.identity == identity) {
        return token.clone();
    }
    let token = Arc::new(Token::new(module.clone(), slot, described));
    tokens.push(token.clone());
    // Under the lock, so that nobody opens a session on a token of which the module does not know.
    module.add_tenant(token.clone());
    token
}

impl Tenant for Token {
    fn open_sessions(&self) -> usize {
        self.gate.sessions()
    }

    fn all_is_lost(&self) {
        self.renew(self.generation());
    }

    fn module_restarts(&self) {
        self.each_watcher(|watcher| watcher.module_restarts());
    }
}
