//! One function's counters and rules: the point where chaos enters.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use cryptoki_sys::{CK_RV, CK_ULONG};
use parking_lot::{Condvar, Mutex};

use crate::rule::{self, Rule, Verdict};

/// A latency: fixed, or random between two bounds. Microseconds, both bounds in one word, so that it is read in one go.
pub struct Latency(AtomicU64);

impl Latency {
    pub const fn none() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn set(&self, min: u32, max: u32) {
        self.0.store(u64::from(min) << 32 | u64::from(max.max(min)), Ordering::Relaxed);
    }

    pub fn sleep(&self) {
        let bounds = self.0.load(Ordering::Relaxed);
        if bounds == 0 {
            return;
        }
        let (min, max) = (bounds >> 32, bounds & u64::from(u32::MAX));
        let micros = if min == max { min } else { min + rule::random() % (max - min + 1) };
        thread::sleep(Duration::from_micros(micros));
    }
}

/// Who was let go, and with which answer.
struct Gate {
    releases: u64,
    code: Option<CK_RV>,
}

/// One function. On cache lines of its own: threads in different functions do not disturb each other.
#[repr(align(128))]
pub struct Point {
    pub calls: AtomicU64,
    pub size_queries: AtomicU64,
    pub inside: AtomicUsize,
    pub hanging: AtomicUsize,
    pub latency: Latency,
    /// What it says of how long its output is, see `careless`.
    pub told_size: AtomicU8,
    /// The count that it answers, whatever the real one is; 0: the real one.
    pub count: AtomicU64,
    armed: AtomicBool,
    rules: Mutex<Vec<Rule>>,
    gate: Mutex<Gate>,
    released: Condvar,
}

impl Point {
    pub const fn new() -> Self {
        Self {
            calls: AtomicU64::new(0),
            size_queries: AtomicU64::new(0),
            inside: AtomicUsize::new(0),
            hanging: AtomicUsize::new(0),
            latency: Latency::none(),
            told_size: AtomicU8::new(0),
            count: AtomicU64::new(0),
            armed: AtomicBool::new(false),
            rules: Mutex::new(Vec::new()),
            gate: Mutex::new(Gate { releases: 0, code: None }),
            released: Condvar::new(),
        }
    }

    /// Puts the count in that it answers, if it is to be another than the real one.
    ///
    /// # Safety
    /// `count` is NULL or may be written to.
    pub unsafe fn tell_count(&self, count: *mut CK_ULONG) {
        let told = self.count.load(Ordering::SeqCst);
        if told != 0 && !count.is_null() {
            // SAFETY: not NULL, and the caller's promise.
            unsafe { *count = told as CK_ULONG };
        }
    }

    /// What the rules say about a call that comes now.
    pub fn judge(&self) -> Verdict {
        if !self.armed.load(Ordering::Acquire) {
            return Verdict::default();
        }
        let mut rules = self.rules.lock();
        let verdict = rule::judge(&mut rules);
        self.armed.store(!rules.is_empty(), Ordering::Release);
        verdict
    }

    pub fn add(&self, rule: Rule) {
        let mut rules = self.rules.lock();
        rules.push(rule);
        self.armed.store(true, Ordering::Release);
    }

    /// Keeps the rules that `keep` likes.
    pub fn retain(&self, keep: impl FnMut(&Rule) -> bool) {
        let mut rules = self.rules.lock();
        rules.retain(keep);
        self.armed.store(!rules.is_empty(), Ordering::Release);
    }

    /// Holds the calling thread until the next release; the code with which that one answers the call.
    pub fn hang(&self) -> Option<CK_RV> {
        let mut gate = self.gate.lock();
        let before = gate.releases;
        self.hanging.fetch_add(1, Ordering::SeqCst);
        while gate.releases == before {
            self.released.wait(&mut gate);
        }
        self.hanging.fetch_sub(1, Ordering::SeqCst);
        gate.code
    }

    /// Lets every thread go that hangs here.
    pub fn release(&self, code: Option<CK_RV>) {
        let mut gate = self.gate.lock();
        gate.releases += 1;
        gate.code = code;
        self.released.notify_all();
    }
}
