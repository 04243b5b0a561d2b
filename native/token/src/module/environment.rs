//! The variables that a module reads, in libc's own environment, which the VM's `System.put_env` does not reach.
//!
//! C knows no lock for `setenv` against `getenv`: a thread that reads while another sets may crash. Hence a variable that has its value already is
//! not set, and none is set while a module of ours is loaded or initialized, which is when modules read. Other native code of the VM that reads its
//! environment cannot be kept from it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::config::ModuleConfig;

/// A load or `C_Initialize` that takes longer than this hangs, or waits for its token: it has read its variables long ago.
const GRACE: Duration = Duration::from_secs(5);

/// How often a thread that waits looks whether another has taken that long.
const RECHECK: Duration = Duration::from_millis(50);

type Variables = BTreeMap<String, String>;

static ENVIRONMENT: Environment = Environment::new(GRACE, set_variable);

/// Runs `load`, in which a module is loaded or initialized, with the module's variables. `None`: they could not be set until `until`, since another
/// module that is being loaded or initialized may read its own.
pub(super) fn with_variables<T>(config: &ModuleConfig, until: Instant, load: impl FnOnce() -> T) -> Option<T> {
    let _loading = ENVIRONMENT.begin(&config.env, until)?;
    Some(load())
}

fn set_variable(name: &str, value: &str) {
    // SAFETY: no module of ours is being loaded or initialized, and Rust's own readers and setters are excluded by its lock. Native code of others
    // may read at the same time; that cannot be excluded, and the documentation says how to do without.
    unsafe { std::env::set_var(name, value) };
}

struct Environment {
    loads: Mutex<Loads>,
    ended: Condvar,
    grace: Duration,
    set: fn(&str, &str),
}

struct Loads {
    next: u64,
    in_progress: Vec<Load>,
}

struct Load {
    number: u64,
    since: Instant,
    /// The names of its variables: they keep their values until it is done.
    names: Vec<String>,
}

/// A load in progress.
struct Loading<'a> {
    environment: &'a Environment,
    number: u64,
}

impl Environment {
    const fn new(grace: Duration, set: fn(&str, &str)) -> Self {
        let loads = Loads { next: 0, in_progress: Vec::new() };
        Self { loads: Mutex::new(loads), ended: Condvar::new(), grace, set }
    }

    /// Begins a load: its variables have their values until it ends. One that sets none waits for nobody. One that does waits for those in
    /// progress; not for one that hangs, unless that has a variable of its with another value. `None`: it would have to wait for longer.
    fn begin(&self, variables: &Variables, until: Instant) -> Option<Loading<'_>> {
        let mut loads = self.loads.lock();
        loop {
            let is_set = |name: &str, value: &str| std::env::var_os(name).is_some_and(|is| is == value);
            let missing: Vec<_> = variables.iter().filter(|(name, value)| !is_set(name, value)).collect();
            let is_in_the_way = |load: &Load| {
                let has_one_of_them = missing.iter().any(|(name, _)| load.names.contains(name));
                has_one_of_them || load.since.elapsed() < self.grace
            };
            if missing.is_empty() || !loads.in_progress.iter().any(is_in_the_way) {
                missing.into_iter().for_each(|(name, value)| (self.set)(name, value));
                let number = loads.next;
                loads.next += 1;
                let names = variables.keys().cloned().collect();
                loads.in_progress.push(Load { number, since: Instant::now(), names });
                return Some(Loading { environment: self, number });
            }
            let now = Instant::now();
            if now >= until {
                return None;
            }
            self.ended.wait_until(&mut loads, until.min(now + RECHECK));
        }
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.environment.loads.lock().in_progress.retain(|load| load.number != self.number);
        self.environment.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn long() -> Instant {
        Instant::now() + LONG
    }

    #[test]
    fn a_variable_that_has_its_value_is_not_set_again() {
        static SET: AtomicUsize = AtomicUsize::new(0);
        let environment = Environment::new(LONG, |name, value| {
            SET.fetch_add(1, Ordering::SeqCst);
            set_variable(name, value);
        });
        let wanted = variables(&[("PKCS11_POOL_TEST_SET_ONCE", "value")]);
        for _ in 0..3 {
            drop(environment.begin(&wanted, long()).unwrap());
            assert_eq!(SET.load(Ordering::SeqCst), 1);
        }
        drop(environment.begin(&variables(&[("PKCS11_POOL_TEST_SET_ONCE", "other")]), long()).unwrap());
        assert_eq!(SET.load(Ordering::SeqCst), 2);
        // One that the VM was started with is not set at all.
        let path = std::env::var("PATH").unwrap();
        drop(environment.begin(&variables(&[("PATH", &path)]), long()).unwrap());
        assert_eq!(SET.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn nothing_is_set_while_a_module_is_loaded_or_initialized() {
        static SET: AtomicUsize = AtomicUsize::new(0);
        static ENVIRONMENT: Environment = Environment::new(LONG, |_, _| {
            SET.fetch_add(1, Ordering::SeqCst);
        });
        // Of a module without variables of its own, too.
        let loading = ENVIRONMENT.begin(&Variables::new(), long()).unwrap();
        let wanted = || variables(&[("PKCS11_POOL_TEST_WAITS", "value")]);
        assert!(ENVIRONMENT.begin(&wanted(), Instant::now()).is_none());
        let other = std::thread::spawn(move || drop(ENVIRONMENT.begin(&wanted(), long()).unwrap()));
        // Whoever sets nothing does not wait.
        drop(ENVIRONMENT.begin(&Variables::new(), Instant::now()).unwrap());
        assert_eq!(SET.load(Ordering::SeqCst), 0);
        drop(loading);
        other.join().unwrap();
        assert_eq!(SET.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn one_that_hangs_holds_up_only_those_who_want_its_variables_changed() {
        let environment = Environment::new(Duration::ZERO, set_variable);
        let hung = environment.begin(&variables(&[("PKCS11_POOL_TEST_HUNG", "one")]), long()).unwrap();
        drop(environment.begin(&variables(&[("PKCS11_POOL_TEST_FREE", "value")]), Instant::now()).unwrap());
        drop(environment.begin(&variables(&[("PKCS11_POOL_TEST_HUNG", "one")]), Instant::now()).unwrap());
        assert!(environment.begin(&variables(&[("PKCS11_POOL_TEST_HUNG", "two")]), Instant::now()).is_none());
        drop(hung);
        assert!(environment.begin(&variables(&[("PKCS11_POOL_TEST_HUNG", "two")]), Instant::now()).is_some());
    }
}
