//! A reload: `C_Finalize` and `C_Initialize` on request, for modules that read their keys then. A thread of its own makes it, so that neither its
//! caller nor a scheduler is in the module. The module's door is closed meanwhile: calls that come to it wait in their places, and go on when it
//! opens. Whatever becomes of the caller, the thread goes on until the door is open again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use session_pool::Started;

use crate::error::{Error, Failure};
use crate::module::{Module, ModuleUse};
use crate::operation::answer::Answer;
use crate::operation::asker::Asker;
use crate::operation::header::Header;
use crate::operation::host::{Host, PoolServer};
use crate::operation::notice::Notice;
use crate::pool::TokenPool;
use crate::pool::availability::Readiness;
use crate::support::clock::now;

impl<H: Host> TokenPool<H> {
    /// Finalizes and initializes the pool's module again. The calls that are inside may take until the header's `start_by`. The answer comes by
    /// the header, when this pool has found its token again.
    pub fn reload(&self, header: Arc<Header<H>>) {
        let asker = Asker(header.clone());
        let Some(me) = self.me.upgrade() else { return };
        // What has begun since the request is as good.
        let begun = self.availability.bound_token().map(|token| token.module.restarts());
        let run = move || {
            let reload = AssertUnwindSafe(|| me.reload_now(&header, begun));
            let panicked = Error::Interrupted { cause: "the reload panicked" };
            let result = catch_unwind(reload).unwrap_or(Err(panicked));
            asker.answer(result.map(|()| Answer::Done).map_err(Failure::not_executed));
        };
        // Refused, it is dropped, and its asker with it.
        let _ = std::thread::Builder::new().name("pkcs11-reload".into()).spawn(run);
    }

    fn reload_now(&self, header: &Header<H>, begun: Option<u64>) -> Result<(), Error> {
        if self.is_draining() {
            return Err(Error::Draining);
        }
        // It is not finalized by the last pool behind this thread's back.
        let share = self.share_module()?;
        let module = share.module();
        let left = |start_by: u64| Duration::from_millis(start_by.saturating_sub(now()));
        let until = header.start_by.map(|start_by| Instant::now() + left(start_by));
        let is_wanted = || !header.is_over() && !self.is_draining();
        let begins = || {
            header.note_start();
            matches!(header.progress.start(now()), Started::Run)
        };
        let begun = begun.unwrap_or_else(|| module.restarts());
        let reloaded = module.reload(begun, until, is_wanted, begins)?;
        if reloaded {
            self.server.post(Notice::Reinitialized { cause: "reload" });
        } else {
            // From here on its time to run counts.
            header.note_start();
            let _ = header.progress.start(now());
        }
        self.await_token(module, is_wanted)
    }

    pub(crate) fn share_module(&self) -> Result<ModuleUse, Error> {
        match self.availability.share_module() {
            Some(share) => Ok(share),
            None => Module::acquire(&self.options.module, &self.options.module_config),
        }
    }

    /// Waits until this pool has its token. One that was down looks at once.
    fn await_token(&self, module: &Arc<Module>, is_wanted: impl Fn() -> bool) -> Result<(), Error> {
        if let Readiness::Refused(_) = self.availability.await_readiness(&is_wanted) {
            self.find(module)?;
            self.availability.hurry();
        }
        while is_wanted() {
            match self.availability.await_readiness(&is_wanted) {
                Readiness::Refused(_) if !self.is_draining() => self.availability.await_change(),
                Readiness::Refused(error) => return Err(error),
                Readiness::Ready | Readiness::Held => return Ok(()),
            }
        }
        if self.is_draining() { Err(Error::Draining) } else { Ok(()) }
    }
}
