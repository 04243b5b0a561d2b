//! All that this copy of the library knows.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use cryptoki_sys::{CK_FLAGS, CK_FUNCTION_LIST, CK_FUNCTION_LIST_3_2};
use parking_lot::Mutex;

use crate::function::Function;
use crate::objects::Objects;
use crate::pins::Pins;
use crate::point::{Latency, Point};
use crate::real::{Interfaces, Real};
use crate::sessions::Sessions;
use crate::slots::Slots;
use crate::trouble::Trouble;

/// How many violations are kept in words; they are all counted.
const KEPT_VIOLATIONS: usize = 100;

/// Whether the application may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Before `C_Initialize`, or after `C_Finalize`.
    Down,
    /// Initialized.
    Up,
    /// As after a failover: the application has to initialize again.
    Lost,
    /// A thread is in `C_Finalize`.
    Finalizing,
}

/// The state.
pub struct Chaos {
    real: OnceLock<Real>,
    mode: AtomicU8,
    /// Held around the real `C_Initialize` and `C_Finalize`, and around the control's own calls, so that it does not
    /// call what is being finalized.
    pub lifecycle: Mutex<()>,
    points: [Point; Function::COUNT],
    /// What a call costs extra that only asks how long the answer will be.
    pub size_query: Latency,
    pub sessions: Sessions,
    pub objects: Objects,
    pub slots: Slots,
    pub pins: Pins,
    pub trouble: Trouble,
    /// The most sessions.
    pub session_limit: AtomicUsize,
    /// For how many microseconds a session lives on which the device is not called.
    pub session_idle_limit: AtomicU64,
    /// Flags that every token shows, and flags that none does.
    pub flags_set: AtomicU64,
    pub flags_cleared: AtomicU64,
    /// `CKR_CANT_LOCK` for an application with threads.
    pub cant_lock: AtomicBool,
    /// What `C_Verify` takes a signature to be long, whatever it is told; 0: what it is told.
    pub signature_size: AtomicUsize,
    /// The fewest and the most bytes that `C_GenerateRandom` gives in one call.
    pub random_min: AtomicUsize,
    pub random_max: AtomicUsize,
    /// The token makes IVs by itself.
    pub makes_iv: AtomicBool,
    /// The token offers authenticating ciphers by messages only.
    pub messages_only: AtomicBool,
    /// Where the real module gathers what it decrypts, this one gives out as much at once.
    pub early_plaintext: AtomicBool,
    /// Slots are readers of cards, which tell when one comes and goes.
    pub slot_events: AtomicBool,
    /// What slots and tokens say of themselves is malformed.
    pub malformed_info: AtomicBool,
    /// Nothing is found until the next `C_Initialize`.
    pub hides_objects: AtomicBool,
    /// A second Init ends the operation that is active.
    pub replaces_operations: AtomicBool,
    /// What objects say of their unique ids.
    pub unique_ids: AtomicU8,
    /// A search never ends.
    pub endless_search: AtomicBool,
    /// The application promised to call from one thread at a time.
    pub single_threaded: AtomicBool,
    violations: AtomicU64,
    violation_texts: Mutex<Vec<String>>,
    /// Commands that were executed and must not be again.
    pub seen: Mutex<BTreeSet<String>>,
}

/// This copy's state.
pub static CHAOS: Chaos = Chaos {
    real: OnceLock::new(),
    mode: AtomicU8::new(Mode::Down as u8),
    lifecycle: Mutex::new(()),
    points: [const { Point::new() }; Function::COUNT],
    size_query: Latency::none(),
    sessions: Sessions::new(),
    objects: Objects::new(),
    slots: Slots::new(),
    pins: Pins::new(),
    trouble: Trouble::new(),
    session_limit: AtomicUsize::new(usize::MAX),
    session_idle_limit: AtomicU64::new(u64::MAX),
    flags_set: AtomicU64::new(0),
    flags_cleared: AtomicU64::new(0),
    cant_lock: AtomicBool::new(false),
    signature_size: AtomicUsize::new(0),
    random_min: AtomicUsize::new(0),
    random_max: AtomicUsize::new(usize::MAX),
    makes_iv: AtomicBool::new(false),
    messages_only: AtomicBool::new(false),
    early_plaintext: AtomicBool::new(false),
    slot_events: AtomicBool::new(false),
    malformed_info: AtomicBool::new(false),
    hides_objects: AtomicBool::new(false),
    replaces_operations: AtomicBool::new(false),
    unique_ids: AtomicU8::new(0),
    endless_search: AtomicBool::new(false),
    single_threaded: AtomicBool::new(false),
    violations: AtomicU64::new(0),
    violation_texts: Mutex::new(Vec::new()),
    seen: Mutex::new(BTreeSet::new()),
};

impl Chaos {
    /// The real module, if it could be loaded.
    pub fn real(&self) -> Option<&'static CK_FUNCTION_LIST> {
        self.real.get().map(|real| real.list)
    }

    /// What tells its interfaces, if it has any.
    pub fn interfaces(&self) -> Option<Interfaces> {
        self.real.get().and_then(|real| real.interfaces)
    }

    /// Its functions of PKCS#11 3.0 and later; NULL are those that it has not.
    pub fn later(&'static self) -> &'static CK_FUNCTION_LIST_3_2 {
        static NONE: OnceLock<CK_FUNCTION_LIST_3_2> = OnceLock::new();
        match self.real.get() {
            Some(real) => &real.later,
            None => NONE.get_or_init(CK_FUNCTION_LIST_3_2::default),
        }
    }

    /// Sets it, once.
    pub fn set_real(&self, real: Real) {
        let _first_one_stays = self.real.set(real);
    }

    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::SeqCst) {
            0 => Mode::Down,
            1 => Mode::Up,
            2 => Mode::Lost,
            _ => Mode::Finalizing,
        }
    }

    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// `false`: the mode was not `from`.
    pub fn change_mode(&self, from: Mode, to: Mode) -> bool {
        self.mode.compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub fn point(&self, function: Function) -> &Point {
        &self.points[function as usize]
    }

    /// Functions with their counts, without those that have none.
    pub fn counts(&self, count: impl Fn(&Point) -> u64) -> Vec<(Function, u64)> {
        let all = Function::ALL.iter().map(|function| (*function, count(self.point(*function))));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// The function in which another thread is, when the caller is in `own`. `C_WaitForSlotEvent` may be waiting.
    pub fn other_inside(&self, own: Function) -> Option<Function> {
        Function::ALL.iter().copied().find(|function| {
            let inside = self.point(*function).inside.load(Ordering::SeqCst);
            *function != Function::C_WaitForSlotEvent && inside > usize::from(*function == own)
        })
    }

    /// The flags that a token with these ones shows.
    pub fn token_flags(&self, flags: CK_FLAGS) -> CK_FLAGS {
        let (set, cleared) = (self.flags_set.load(Ordering::Relaxed), self.flags_cleared.load(Ordering::Relaxed));
        flags & !(cleared as CK_FLAGS) | set as CK_FLAGS
    }

    /// Counts something that PKCS#11 does not allow and on which a real module may crash.
    pub fn violation(&self, text: String) {
        self.violations.fetch_add(1, Ordering::SeqCst);
        let mut texts = self.violation_texts.lock();
        if texts.len() < KEPT_VIOLATIONS {
            texts.push(text);
        }
    }

    /// How many violations there were, and the first ones in words.
    pub fn violations(&self) -> (u64, Vec<String>) {
        (self.violations.load(Ordering::SeqCst), self.violation_texts.lock().clone())
    }

    pub fn reset_counts(&self) {
        for function in Function::ALL {
            let point = self.point(*function);
            point.calls.store(0, Ordering::SeqCst);
            point.size_queries.store(0, Ordering::SeqCst);
        }
        self.violation_texts.lock().clear();
        self.violations.store(0, Ordering::SeqCst);
        self.sessions.reset_counts();
        self.objects.reset_counts();
    }

    /// As if no command had ever come. What was lost through one (sessions, handles, the login) stays lost.
    pub fn reset(&self) {
        for function in Function::ALL {
            let point = self.point(*function);
            point.retain(|_| false);
            point.latency.set(0, 0);
            point.count.store(0, Ordering::SeqCst);
            point.told_size.store(0, Ordering::SeqCst);
            point.release(None);
        }
        self.size_query.set(0, 0);
        self.session_limit.store(usize::MAX, Ordering::SeqCst);
        self.session_idle_limit.store(u64::MAX, Ordering::SeqCst);
        self.flags_set.store(0, Ordering::SeqCst);
        self.flags_cleared.store(0, Ordering::SeqCst);
        self.cant_lock.store(false, Ordering::SeqCst);
        self.signature_size.store(0, Ordering::SeqCst);
        self.random_min.store(0, Ordering::SeqCst);
        self.random_max.store(usize::MAX, Ordering::SeqCst);
        self.makes_iv.store(false, Ordering::SeqCst);
        self.messages_only.store(false, Ordering::SeqCst);
        self.early_plaintext.store(false, Ordering::SeqCst);
        self.slot_events.store(false, Ordering::SeqCst);
        self.malformed_info.store(false, Ordering::SeqCst);
        self.hides_objects.store(false, Ordering::SeqCst);
        self.unique_ids.store(0, Ordering::SeqCst);
        self.endless_search.store(false, Ordering::SeqCst);
        self.replaces_operations.store(false, Ordering::SeqCst);
        self.sessions.reuses.store(false, Ordering::SeqCst);
        self.objects.reuses.store(false, Ordering::SeqCst);
        self.objects.refuse_nothing();
        self.slots.reset();
        self.pins.reset();
        self.trouble.end();
        self.change_mode(Mode::Lost, Mode::Up);
        self.reset_counts();
    }
}
