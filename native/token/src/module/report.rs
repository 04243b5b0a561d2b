//! What a module says of itself, its slots and tokens, without a pool and without a PIN. A thread of its own asks, since a module may hang; the caller
//! waits for it no longer than its timeout.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use cryptoki_sys::{CK_SLOT_ID, CKF_TOKEN_PRESENT, CKR_TOKEN_NOT_PRESENT};
use parking_lot::Mutex;

use super::config::ModuleConfig;
use super::door::StuckCall;
use super::loaded::Module;
use crate::error::Error;
use crate::p11::slots::{Version, interfaces, library_info, slot_info, slots, token_info};
use crate::p11::{Interface, LibraryInfo, SlotInfo, TokenInfo};

/// What a module says.
#[derive(Debug)]
pub struct ModuleReport {
    /// Of itself; `None`: nothing.
    pub library: Option<LibraryInfo>,
    /// Its interfaces; `None`: they could not be read.
    pub interfaces: Option<Vec<Interface>>,
    /// The version whose functions are called.
    pub functions: Version,
    /// Of all its slots, also those without a token.
    pub slots: Vec<SlotReport>,
}

/// What it says of a slot. `None` is what could not be read.
#[derive(Debug)]
pub struct SlotReport {
    /// The slot's number.
    pub id: CK_SLOT_ID,
    /// The slot.
    pub slot: Option<SlotInfo>,
    /// The token in it, `Some(None)` if there is none.
    pub token: Option<Option<TokenInfo>>,
    /// Why the first of those could not be read.
    pub error: Option<Error>,
}

/// Loads and initializes a module where that has not been done, and reads what it says; where nobody else uses it, it has been finalized by the time
/// of the answer. `None`: not within `timeout`. Then the thread is left behind: when its call returns, it ends, and with it the module's use.
pub fn report(path: String, config: ModuleConfig, timeout: Duration) -> Option<Result<ModuleReport, Error>> {
    let stage = Arc::new(Mutex::new(Stage::Loading));
    let (sender, answer) = sync_channel(1);
    let thread = std::thread::Builder::new().name("pkcs11-info".into());
    let own = stage.clone();
    let spawned = thread.spawn(move || {
        // Nobody may be there any more to be told.
        let _ = sender.send(make_report(&path, &config, &own));
    });
    if spawned.is_err() {
        return Some(Err(Error::Interrupted { cause: "the system refuses a thread" }));
    }
    match answer.recv_timeout(timeout) {
        Ok(result) => Some(result),
        Err(RecvTimeoutError::Disconnected) => {
            Some(Err(Error::Interrupted { cause: "the thread that asked the module has ended" }))
        }
        Err(RecvTimeoutError::Timeout) => {
            give_up(&stage);
            None
        }
    }
}

/// Where the thread is.
enum Stage {
    Loading,
    Using(Arc<Module>),
    /// Nobody waits for it: it counts as hung until it is over.
    GivenUp {
        _stuck: Option<StuckCall>,
    },
    Over,
}

fn give_up(stage: &Mutex<Stage>) {
    let mut stage = stage.lock();
    let stuck = match &*stage {
        Stage::Using(module) => Some(module.count_stuck_call()),
        Stage::Loading | Stage::GivenUp { .. } => None,
        Stage::Over => return,
    };
    *stage = Stage::GivenUp { _stuck: stuck };
}

fn make_report(path: &str, config: &ModuleConfig, stage: &Mutex<Stage>) -> Result<ModuleReport, Error> {
    let result = acquire_and_read(path, config, stage);
    // Dropped when the lock is free.
    let before = std::mem::replace(&mut *stage.lock(), Stage::Over);
    drop(before);
    result
}

fn acquire_and_read(path: &str, config: &ModuleConfig, stage: &Mutex<Stage>) -> Result<ModuleReport, Error> {
    let is_given_up = || matches!(*stage.lock(), Stage::GivenUp { .. });
    let using = Module::acquire_and_tell(path, config, |module| {
        let mut stage = stage.lock();
        match *stage {
            Stage::Loading => *stage = Stage::Using(module.clone()),
            Stage::GivenUp { .. } => *stage = Stage::GivenUp { _stuck: Some(module.count_stuck_call()) },
            Stage::Using(_) | Stage::Over => (),
        }
    })?;
    let module = using.module().clone();
    let result = read_module(&module, is_given_up);
    drop(using);
    // At once, rather than later on the closing thread: whoever comes next may want other variables, or see what has changed since.
    module.finalize_if_unused();
    result
}

fn read_module(module: &Arc<Module>, is_given_up: impl Fn() -> bool) -> Result<ModuleReport, Error> {
    let given_up = || Error::Interrupted { cause: "nobody waits for it" };
    if is_given_up() {
        return Err(given_up());
    }
    let functions = module.functions();
    let (library, interfaces, ids) = {
        let _inside = module.enter_unless_stuck()?;
        (library_info(functions).ok(), interfaces(functions).ok(), slots(functions, false)?)
    };
    let mut reports = Vec::with_capacity(ids.len());
    for id in ids {
        if is_given_up() {
            return Err(given_up());
        }
        // Each by itself: in a serialized module others get their turns.
        reports.push(read_slot(module, id));
    }
    Ok(ModuleReport { library, interfaces, functions: functions.version(), slots: reports })
}

fn read_slot(module: &Module, id: CK_SLOT_ID) -> SlotReport {
    let _inside = match module.enter_unless_stuck() {
        Ok(inside) => inside,
        Err(error) => return SlotReport { id, slot: None, token: None, error: Some(error) },
    };
    let functions = module.functions();
    let mut error = None;
    let slot = slot_info(functions, id).map_err(|failed| error = Some(failed.into())).ok();
    let is_empty = slot.as_ref().is_some_and(|slot| slot.flags & CKF_TOKEN_PRESENT == 0);
    let token = match if is_empty { Ok(None) } else { token_info(functions, id).map(Some) } {
        Ok(token) => Some(token),
        // It has been taken out meanwhile.
        Err(failed) if failed.code == CKR_TOKEN_NOT_PRESENT => Some(None),
        Err(failed) => {
            error.get_or_insert(failed.into());
            None
        }
    };
    SlotReport { id, slot, token, error }
}
