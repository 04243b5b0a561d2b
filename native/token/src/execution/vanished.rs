//! Keys that were there and are not found any more. Somebody may have destroyed them; or the module has lost sight of its token, and has to be
//! initialized again. A session that never saw the token, and the other keys that were known, tell the one from the other.
//!
//! The operation waits outside of the queue while a thread of its own reloads the module, and then looks once more. If its caller gives up or dies
//! meanwhile, the reload goes on all the same; if the thread is refused, the operation is answered as dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use cryptoki_sys::CK_SESSION_HANDLE;
use session_pool::{Held, Ticket};

use crate::error::{Error, Executed, Failure};
use crate::execution::{Attempt, Step};
use crate::module::reinitialize::LEAVE_TIMEOUT;
use crate::operation::host::{Host, PoolServer};
use crate::operation::key_ref::KeyRef;
use crate::operation::notice::Notice;
use crate::operation::{Operation, Place};
use crate::p11::Template;
use crate::p11::objects::find_objects;
use crate::pool::TokenPool;
use crate::pool::grant::Grant;
use crate::pool::grant::Parked;
use crate::token::session::Session;

/// The module seems to have lost sight of its token.
pub(crate) struct Vanished {
    /// What is not found.
    templates: Vec<Template>,
    /// How often the module had begun to be initialized again.
    restarts: u64,
}

/// Where a key is.
enum Whereabouts {
    Here,
    Nowhere,
    /// Nor is anything else.
    Lost(Vec<Template>),
}

impl Attempt<'_> {
    /// A key, or another object, was not found. Called inside of the module.
    pub(crate) fn missing<H: Host>(&self, error: Error, executed: Executed, operation: &mut Operation<H>) -> Step {
        let token = self.resolver.token;
        let answer = Step::Keep(Err(Failure { error, executed }));
        // On a lease nothing is done behind the holder's back.
        if executed != Executed::No || !matches!(operation.place, Place::Pool) {
            return answer;
        }
        let Some(limits) = self.options.policy.trouble else { return answer };
        let Some(key) = operation.request.key_mut() else { return answer };
        let template = key.template();
        let is_object = matches!(key, KeyRef::Object { .. });
        if !token.known.has_vanished(&template, is_object, self.resolver.now, limits.apart) {
            return answer;
        }
        match self.look_for(&template) {
            Whereabouts::Here if operation.retries == 0 => {
                operation.retries += 1;
                Step::Elsewhere("stale_handle")
            }
            Whereabouts::Here => answer,
            Whereabouts::Nowhere => {
                token.known.is_gone([template]);
                answer
            }
            Whereabouts::Lost(others) => {
                let templates: Vec<_> = others.into_iter().chain([template]).collect();
                // Unless they are found again, they are not looked into again.
                token.known.is_gone(templates.iter().cloned());
                Step::Reload(Vanished { templates, restarts: token.module.restarts() })
            }
        }
    }

    /// Looks for it on a session that has never seen the token; where none can be opened, it stays as it was.
    fn look_for(&self, template: &Template) -> Whereabouts {
        let look = |session| self.look_on(session, template);
        self.resolver.token.with_temporary_session(true, look).unwrap_or(Whereabouts::Nowhere)
    }

    fn look_on(&self, session: CK_SESSION_HANDLE, template: &Template) -> Whereabouts {
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

impl<H: Host> TokenPool<H> {
    /// The operation waits until the module has been reloaded.
    pub(crate) fn handle_vanished(
        &self,
        held: Held<Session>,
        operation: Operation<H>,
        ticket: Ticket,
        vanished: Vanished,
    ) -> Option<Grant<H>> {
        let next = self.free(held, &Place::Pool);
        if let Some(me) = self.me.upgrade() {
            let run = move || {
                // A panic of ours leaves the module as it is.
                let _ = catch_unwind(AssertUnwindSafe(|| me.reload_for(vanished)));
                me.resume(Parked { operation, ticket, held: None });
            };
            let _ = std::thread::Builder::new().name("pkcs11-reload".into()).spawn(run);
        }
        next
    }

    fn reload_for(&self, Vanished { templates, restarts }: Vanished) {
        let Ok(share) = self.share_module() else { return };
        match share.module().reload(restarts, Some(Instant::now() + LEAVE_TIMEOUT), || !self.is_draining(), || true) {
            Ok(true) => self.server.post(Notice::Reinitialized { cause: "keys_vanished" }),
            // That is for the library that has initialized it.
            Ok(false) | Err(Error::ModuleAdopted { .. }) => (),
            Err(_) => {
                if let Some(token) = self.availability.bound_token() {
                    token.known.is_not_known_to_be_gone(&templates);
                }
            }
        }
    }
}
