//! The module seems to have lost sight of its token: it is initialized again for an operation whose key is not found.
//!
//! The operation waits outside of the queue while a thread of its own reloads the module, and then looks once more. If its caller gives up or dies
//! meanwhile, the reload goes on all the same; if the thread is refused, the operation is answered as dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use session_pool::{Held, Ticket};

use crate::error::Error;
use crate::execution::step::Vanished;
use crate::module::reinitialize::LEAVE_TIMEOUT;
use crate::operation::host::{Host, PoolServer};
use crate::operation::notice::Notice;
use crate::operation::{Operation, Place};
use crate::pool::TokenPool;
use crate::pool::grant::{Grant, Parked};
use crate::token::session::Session;

impl<H: Host> TokenPool<H> {
    /// The operation waits until the module has been reloaded.
    pub(crate) fn handle_vanished(
        &self,
        held: Held<Session>,
        operation: Box<Operation<H>>,
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
                    token.known.note_still_known(&templates);
                }
            }
        }
    }
}
