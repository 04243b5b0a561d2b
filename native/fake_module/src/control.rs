//! How a test steers the module: a script for each function, a log of all calls, and what befalls its tokens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use crate::calls::NAMES;
use crate::model::{Model, Token};

/// How long a test waits for what is sure to come.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A call that the module has had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The C function.
    pub function: &'static str,
    /// The session that it was given, if it takes one.
    pub session: Option<CK_SESSION_HANDLE>,
    /// What it returned; `None`: it has not.
    pub code: Option<CK_RV>,
}

/// One copy of the module.
pub struct FakeModule {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    model: Model,
    scripts: BTreeMap<&'static str, Script>,
    log: Vec<Call>,
    /// Sessions that a thread is calling with.
    busy: Vec<CK_SESSION_HANDLE>,
    inside: usize,
    most_inside: usize,
    misuse: Vec<String>,
    /// Functions that the lists of its interfaces do not have.
    hidden: Vec<String>,
}

/// What a function does instead of what the standard says.
#[derive(Default)]
struct Script {
    /// The codes of the next calls; `CKR_OK`: that one does what it should.
    next: VecDeque<CK_RV>,
    always: Option<CK_RV>,
    /// Calls that come wait, before they do anything.
    holds: bool,
    /// How often those that wait were let go.
    releases: usize,
    inside: usize,
}

impl Script {
    fn release(&mut self) {
        self.holds = false;
        self.releases += 1;
    }
}

impl FakeModule {
    pub(crate) const fn new() -> Self {
        let state = State {
            model: Model::new(),
            scripts: BTreeMap::new(),
            log: Vec::new(),
            busy: Vec::new(),
            inside: 0,
            most_inside: 0,
            misuse: Vec::new(),
            hidden: Vec::new(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half-done by a test that fails.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_all();
        changed
    }

    fn await_state(&self, what: impl Fn(&State) -> String, is_so: impl Fn(&State) -> bool) {
        let (mut state, until) = (self.lock(), Instant::now() + TIMEOUT);
        while !is_so(&state) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{}", what(&state));
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// One call of one function: counted, held back, answered by its script, or done.
    pub(crate) fn call(
        &self,
        function: &'static str,
        session: Option<CK_SESSION_HANDLE>,
        run: impl FnOnce(&mut Model) -> CK_RV,
    ) -> CK_RV {
        let mut state = self.lock();
        let number = state.log.len();
        state.log.push(Call { function, session, code: None });
        if let Some(session) = session {
            if state.busy.contains(&session) {
                state.misuse.push(format!("{function} with session {session}, with which another thread is calling"));
            }
            state.busy.push(session);
        }
        let inside = state.inside;
        if matches!(function, "C_Initialize" | "C_Finalize") && inside > 0 {
            state.misuse.push(format!("{function} while {inside} calls are inside"));
        }
        state.inside += 1;
        state.most_inside = state.most_inside.max(state.inside);
        let script = state.script(function);
        script.inside += 1;
        let held_at = script.holds.then_some(script.releases);
        self.changed.notify_all();
        while held_at.is_some_and(|releases| state.script(function).releases == releases) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let script = state.script(function);
        script.inside -= 1;
        let scripted = script.next.pop_front().or(script.always).filter(|code| *code != CKR_OK);
        let code = match scripted {
            _ if !state.model.is_initialized && function != "C_Initialize" => CKR_CRYPTOKI_NOT_INITIALIZED,
            Some(code) => code,
            None => run(&mut state.model),
        };
        state.inside -= 1;
        state.log[number].code = Some(code);
        if let Some(session) = session
            && let Some(index) = state.busy.iter().position(|other| *other == session)
        {
            state.busy.remove(index);
        }
        self.changed.notify_all();
        code
    }
}

impl State {
    fn script(&mut self, function: &str) -> &mut Script {
        let name = NAMES.iter().find(|name| **name == function).unwrap_or_else(|| panic!("the fake module has no {function}"));
        self.scripts.entry(name).or_default()
    }
}

/// Scripts.
impl FakeModule {
    /// The next calls of a function return these codes, and do nothing; where it is `CKR_OK`, that call does what it should.
    pub fn fail_next(&self, function: &str, codes: &[CK_RV]) {
        self.change(|state| state.script(function).next.extend(codes));
    }

    /// All calls of a function return this code, and do nothing.
    pub fn fail_always(&self, function: &str, code: CK_RV) {
        self.change(|state| state.script(function).always = Some(code));
    }

    /// All calls of a function do what they should, again.
    pub fn fail_no_more(&self, function: &str) {
        self.change(|state| {
            let script = state.script(function);
            script.always = None;
            script.next.clear();
        });
    }

    /// Calls of a function that come from now on do not return until they are released.
    pub fn hold(&self, function: &str) {
        self.change(|state| state.script(function).holds = true);
    }

    /// Those that come from now on do; those that are inside stay there.
    pub fn hold_no_more(&self, function: &str) {
        self.change(|state| state.script(function).holds = false);
    }

    /// All calls of a function go on.
    pub fn release(&self, function: &str) {
        self.change(|state| state.script(function).release());
    }

    /// All calls go on.
    pub fn release_all(&self) {
        self.change(|state| state.scripts.values_mut().for_each(Script::release));
    }

    /// Waits until so many calls of a function are inside.
    pub fn await_inside(&self, function: &str, calls: usize) {
        let inside = |state: &State| state.scripts.get(function).map_or(0, |script| script.inside);
        self.await_state(
            |state| format!("{} calls of {function} are inside, not {calls}", inside(state)),
            |state| inside(state) == calls,
        );
    }

    /// Waits until a function has been called so often, and has returned.
    pub fn await_calls(&self, function: &str, calls: usize) {
        let returned = |state: &State| state.log.iter().filter(|call| call.function == function && call.code.is_some()).count();
        self.await_state(
            |state| format!("{} calls of {function}, not {calls}", returned(state)),
            |state| returned(state) >= calls,
        );
    }
}

/// Interfaces. What is said here counts for pools that load the module afterwards.
impl FakeModule {
    /// It offers these versions of the standard's interface, the newest last, rather than none.
    pub fn offer_interfaces(&self, versions: &[(u8, u8)]) {
        self.change(|state| state.model.interfaces = versions.to_vec());
    }

    /// The pointer to this function is NULL in the lists of its interfaces.
    pub fn hide(&self, function: &str) {
        assert!(NAMES.contains(&function), "the fake module has no {function}");
        self.change(|state| state.hidden.push(function.to_owned()));
    }

    pub(crate) fn interfaces(&self) -> Vec<(u8, u8)> {
        self.lock().model.interfaces.clone()
    }

    pub(crate) fn hides(&self, function: &str) -> bool {
        self.lock().hidden.iter().any(|hidden| hidden == function)
    }
}

/// What there has been.
impl FakeModule {
    /// How often a function was called.
    pub fn count(&self, function: &str) -> usize {
        assert!(NAMES.contains(&function), "the fake module has no {function}");
        self.lock().log.iter().filter(|call| call.function == function).count()
    }

    /// All calls, in their order.
    pub fn log(&self) -> Vec<Call> {
        self.lock().log.clone()
    }

    /// The PINs that `C_Login` was given and looked at, in their order; empty: NULL.
    pub fn tried_pins(&self) -> Vec<Vec<u8>> {
        self.lock().model.tried_pins.clone()
    }

    /// Whether `C_EncryptMessage` makes an IV from now on, as it should.
    pub fn make_ivs(&self, makes: bool) {
        self.lock().model.makes_no_iv = !makes;
    }

    /// Whether `C_EncryptMessage` and `C_DecryptMessage` end their operation from now on, as they should not.
    pub fn end_messages(&self, ends: bool) {
        self.lock().model.ends_messages = ends;
    }

    /// What `C_GetMechanismInfo` says from now on that each mechanism can do: at first encryption and decryption, by messages and otherwise.
    pub fn mechanism_flags(&self, flags: CK_FLAGS) {
        self.lock().model.mechanism_flags = flags;
    }

    /// What `C_EncapsulateKey` says of the length of its ciphertext from now on; `None`: the truth.
    pub fn claim_ciphertext_length(&self, bytes: Option<usize>) {
        self.lock().model.ciphertext_claim = bytes.map(|bytes| bytes as CK_ULONG);
    }

    /// The flags that `C_SessionCancel` was given and looked at, in their order.
    pub fn cancelled(&self) -> Vec<CK_FLAGS> {
        self.lock().model.cancelled.clone()
    }

    /// The user names that `C_LoginUser` was given and looked at, in their order.
    pub fn tried_names(&self) -> Vec<Vec<u8>> {
        self.lock().model.tried_names.clone()
    }

    /// Calls that a real module need not survive: two threads on one session, `C_Finalize` beside another call.
    pub fn misuse(&self) -> Vec<String> {
        self.lock().misuse.clone()
    }

    /// How many calls were inside at the same time.
    pub fn most_inside(&self) -> usize {
        self.lock().most_inside
    }

    /// The sessions that are open.
    pub fn open_sessions(&self) -> Vec<CK_SESSION_HANDLE> {
        self.lock().model.sessions.keys().copied().collect()
    }

    /// Whether it is initialized.
    pub fn is_initialized(&self) -> bool {
        self.lock().model.is_initialized
    }
}

/// What befalls it.
impl FakeModule {
    /// Changes a slot's token. Slot 0 has one from the start; others are made here.
    pub fn token(&self, slot: CK_SLOT_ID, change: impl FnOnce(&mut Token)) {
        self.change(|state| change(state.model.token_in(slot)));
    }

    /// The token leaves its slot: its sessions and its login are gone.
    pub fn remove_token(&self, slot: CK_SLOT_ID) {
        self.change(|state| {
            state.model.token_in(slot).is_present = false;
            state.model.forget_sessions(slot);
        });
    }

    /// It is back.
    pub fn insert_token(&self, slot: CK_SLOT_ID) {
        self.change(|state| state.model.token_in(slot).is_present = true);
    }

    /// The token forgets its sessions and its login, but stays.
    pub fn forget_sessions(&self, slot: CK_SLOT_ID) {
        self.change(|state| state.model.forget_sessions(slot));
    }

    /// One session is dead.
    pub fn kill_session(&self, session: CK_SESSION_HANDLE) {
        self.change(|state| state.model.close(session));
    }

    /// The token forgets its login only.
    pub fn forget_login(&self, slot: CK_SLOT_ID) {
        self.change(|state| state.model.token_in(slot).user = None);
    }

    /// It forgets that it was initialized, as after a failover.
    pub fn forget_initialization(&self) {
        self.change(|state| state.model.finalize());
    }

    /// The next sessions to be opened get these handles, whether there are sessions that have them or not: those are lost.
    pub fn give_handles(&self, handles: &[CK_SESSION_HANDLE]) {
        self.change(|state| state.model.given_handles.extend(handles));
    }
}
