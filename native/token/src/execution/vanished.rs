//! Keys that were there and are not found any more. Somebody may have destroyed them; or the module has lost sight of its token, and has to be
//! initialized again. A session that never saw the token, and the other keys that were known, tell the one from the other.

use cryptoki_sys::CK_SESSION_HANDLE;

use crate::error::{Error, Executed, Failure};
use crate::execution::attempt::Attempt;
use crate::execution::step::{Step, Vanished};
use crate::operation::Operation;
use crate::operation::host::Host;
use crate::operation::key_ref::KeyRef;
use crate::p11::Template;
use crate::p11::objects::find_objects;

/// Where an object is that one session does not find.
enum Whereabouts {
    /// Another session finds it.
    Here,
    /// It is gone; others are there.
    Nowhere,
    /// No session finds anything that was known: it, and these others.
    Lost(Vec<Template>),
}

impl Attempt<'_> {
    /// A key, or another object, was not found. Called inside of the module.
    pub(crate) fn judge_missing<H: Host>(&self, error: Error, executed: Executed, operation: &mut Operation<H>) -> Step {
        let token = self.resolver.token;
        let answer = Step::Answer(Err(Failure { error, executed }));
        // On a lease nothing is done behind the holder's back.
        if executed != Executed::No || operation.place.is_leased() {
            return answer;
        }
        let Some(limits) = self.options.policy.trouble else { return answer };
        let Some(key) = operation.request.keys_mut().nth(self.resolver.found.place()) else { return answer };
        let template = key.template();
        let is_object = matches!(key.named(), KeyRef::Object { .. });
        if !token.known.has_vanished(&template, is_object, self.resolver.now, limits.apart) {
            return answer;
        }
        match self.locate(&template) {
            Whereabouts::Here if operation.may_retry(executed) => {
                operation.count_retry();
                Step::RetryElsewhere("stale_handle")
            }
            Whereabouts::Here => answer,
            Whereabouts::Nowhere => {
                token.known.note_gone([template]);
                answer
            }
            Whereabouts::Lost(others) => {
                let templates: Vec<_> = others.into_iter().chain([template]).collect();
                // Unless they are found again, they are not looked into again.
                token.known.note_gone(templates.iter().cloned());
                Step::AwaitReload(Vanished { templates, restarts: token.module.restarts() })
            }
        }
    }

    /// Looks for it on a session that has never seen the token; where none can be opened, it stays as it was.
    fn locate(&self, template: &Template) -> Whereabouts {
        let locate = |session| self.locate_on(session, template);
        self.resolver.token.with_temporary_session(true, locate).unwrap_or(Whereabouts::Nowhere)
    }

    /// The same on this session.
    fn locate_on(&self, session: CK_SESSION_HANDLE, template: &Template) -> Whereabouts {
        // What fails says nothing.
        let is_there = |template: &Template| !matches!(find_objects(self.resolver.functions, session, template, Some(1)), Ok(found) if found.is_empty());
        if is_there(template) {
            return Whereabouts::Here;
        }
        let others = self.resolver.token.known.others(template);
        let is_any_there = if others.is_empty() { is_there(&Vec::new()) } else { others.iter().any(is_there) };
        if is_any_there { Whereabouts::Nowhere } else { Whereabouts::Lost(others) }
    }
}
