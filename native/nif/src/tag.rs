//! The references that callers wait for, kept until they are answered: many in one environment of the VM's, since an environment of its own
//! for each costs more than the operation's whole way through the queue.

use std::cell::RefCell;
use std::sync::Arc;

use rustler::sys::ErlNifTerm;
use rustler::{Env, OwnedEnv, Term};

/// How many references a page holds: so many fit into the block with which an environment begins.
const MOST: usize = 100;

/// An environment that lives as long as one of its references is wanted.
struct Page(OwnedEnv);

// SAFETY: only the thread whose page it is writes to the environment, adding terms; no term that was added is ever moved or changed, and whoever
// else has a `Tag` only reads that one, which it got by way of a lock or channel from the thread that had added it.
unsafe impl Sync for Page {}

/// A reference.
#[derive(Clone)]
pub(crate) struct Tag {
    page: Arc<Page>,
    term: ErlNifTerm,
}

thread_local! {
    /// The page that this thread writes to, and how many references more it may.
    static PAGE: RefCell<(Arc<Page>, usize)> = RefCell::new((Arc::new(Page(OwnedEnv::new())), MOST));
}

impl Tag {
    pub(crate) fn new(term: Term<'_>) -> Self {
        PAGE.with_borrow_mut(|(page, left)| {
            if *left == 0 {
                *page = Arc::new(Page(OwnedEnv::new()));
                *left = MOST;
            }
            *left -= 1;
            Self { page: page.clone(), term: page.0.run(|own| term.in_env(own).as_c_arg()) }
        })
    }

    /// The reference, copied.
    pub(crate) fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the term is one of this environment's, which has not been cleared.
        self.page.0.run(|own| unsafe { Term::new(own, self.term) }.in_env(env))
    }
}
