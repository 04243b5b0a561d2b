//! Who waits for an answer.

use rustler::{Env, LocalPid, Term};

use crate::tag::Tag;

/// The process that waits for an answer, and the reference that it waits for.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) pid: LocalPid,
    tag: Tag,
}

impl Caller {
    pub(crate) fn new(pid: LocalPid, tag: Term<'_>) -> Self {
        Self { pid, tag: Tag::new(tag) }
    }

    /// The reference, copied.
    pub(crate) fn tag<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.tag.copy(env)
    }
}
