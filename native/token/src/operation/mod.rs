//! What is asked of a token, and by whom: requests, keys, answers, and the ports by which answers leave. Data only: it knows neither how an
//! operation is executed nor the pool.

pub(crate) mod answer;
pub(crate) mod asker;
pub(crate) mod batch;
pub(crate) mod header;
pub mod host;
pub(crate) mod key_ref;
pub(crate) mod lease;
pub(crate) mod notice;
pub(crate) mod request;
pub(crate) mod stream;
pub(crate) mod task;

use std::sync::Arc;

use session_pool::State;

use crate::error::{Error, Executed, Failure};
use crate::operation::answer::{Outcome, unanswerable};
use crate::operation::header::Header;
use crate::operation::host::{Delivery, Host, Outlet, Reply};
use crate::operation::lease::Lease;
use crate::operation::notice::Retry;
use crate::operation::request::Request;
use crate::p11::{CallError, Class};
use crate::support::panics::survive;
use crate::support::pin::Pin;

/// A caller's operation on its way through the pool. It is answered exactly once, however it ends.
pub struct Operation<H: Host> {
    /// What its caller, the queue and the runner share of it.
    pub header: Arc<Header<H>>,
    /// What is asked for.
    pub request: Request,
    /// Where it runs.
    pub place: Place<H>,
    /// The PIN for the login that its key wants for each use.
    pub context: ContextPin,
    /// Whether an earlier try of it may have run.
    pub(crate) executed: Executed,
    /// How often it has been tried again.
    pub(crate) retries: u8,
    /// What its last try failed with.
    pub(crate) last_failure: Option<LastFailure>,
    /// Why it is tried again, until the pool server has been told.
    pub(crate) untold_retry: Option<Retry>,
}

/// What the last try of an operation failed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastFailure {
    pub(crate) class: Class,
    /// The number of the first session that was opened after it.
    pub(crate) next_session: u64,
}

/// How far an operation is with the login that its key wants for each use (`CKA_ALWAYS_AUTHENTICATE`).
pub enum ContextPin {
    /// No key has wanted it yet.
    None,
    /// The PIN (`None`: NULL, for a protected authentication path), which has not been tried.
    Given(Option<Pin>),
    /// It was tried: the operation is never tried again.
    Used,
}

/// A lease on which operations run.
pub type OperationLease<H> = Lease<Box<Operation<H>>>;

/// Where an operation runs.
pub enum Place<H: Host> {
    /// On any session of the pool.
    Pool,
    /// On any session, which becomes this lease's.
    Takes(Arc<OperationLease<H>>),
    /// On this lease's session.
    Within(Arc<OperationLease<H>>),
}

impl<H: Host> Place<H> {
    /// The lease whose session it is.
    pub(crate) fn lease(&self) -> Option<&Arc<OperationLease<H>>> {
        match self {
            Self::Within(lease) => Some(lease),
            Self::Pool | Self::Takes(_) => None,
        }
    }

    /// Whether it is a lease's session, on which nothing is done behind its holder's back. On one that is to become a lease's, nothing of the holder's has
    /// run yet.
    pub(crate) fn is_leased(&self) -> bool {
        self.lease().is_some()
    }
}

impl<H: Host> Operation<H> {
    /// A new operation.
    pub fn new(header: Arc<Header<H>>, request: Request, place: Place<H>) -> Box<Self> {
        Box::new(Self {
            header,
            request,
            place,
            context: ContextPin::None,
            executed: Executed::No,
            retries: 0,
            last_failure: None,
            untold_retry: None,
        })
    }

    /// It is to be tried again, after this call. `next_session`: the number that the next session to be opened will have.
    pub(crate) fn prepare_retry(&mut self, class: Class, call: CallError, executed: Executed, next_session: u64) {
        self.retries += 1;
        self.last_failure = Some(LastFailure { class, next_session });
        self.untold_retry = Some(Retry { class, call });
        if executed != Executed::No {
            self.executed = Executed::Unknown;
        }
    }

    /// It is to be tried again, for a reason that nobody is told.
    pub(crate) fn count_retry(&mut self) {
        self.retries += 1;
    }

    /// What it is answered if it fails now, without another try.
    pub(crate) fn failure(&self, error: impl Into<Error>) -> Failure {
        Failure { error: error.into(), executed: self.executed }
    }

    /// What its caller gets of an outcome. Once.
    pub(crate) fn outcome_for_caller(&mut self, outcome: Outcome) -> Outcome {
        survive(|| self.request.outcome_for_caller(outcome)).unwrap_or_else(|| Err(unanswerable()))
    }

    /// Answers it; where the outlet fails to, by the sender thread.
    pub fn answer(self, outlet: &mut impl Outlet<H>, outcome: Outcome) -> Delivery {
        if !self.header.claim_answer(&outcome) {
            return Delivery::Done;
        }
        let reply = &self.header.reply;
        survive(|| outlet.answer(reply, outcome)).unwrap_or_else(|| {
            reply.post(Err(unanswerable()));
            Delivery::Done
        })
    }

    /// Answers it by the sender thread.
    pub fn post(mut self, error: Error) {
        let failure = self.failure(error);
        let outcome = self.outcome_for_caller(Err(failure));
        self.header.post(outcome);
    }

    /// Whether it may be tried again on a session of the pool. Once; not when nobody waits for it; never under a lease, whose holder may have state
    /// on the session, nor with a PIN that was used; and what may have been executed only if it may be executed twice.
    pub(crate) fn may_retry(&self, executed: Executed) -> bool {
        self.may_try_another_opening()
            && !self.place.is_leased()
            && !matches!(self.context, ContextPin::Used)
            && (executed == Executed::No || self.request.is_idempotent())
    }

    /// Whether another session may be opened for it where one could not be: also for a lease that is to begin, as nothing has been executed.
    pub(crate) fn may_try_another_opening(&self) -> bool {
        self.retries == 0 && !self.header.is_over()
    }
}

impl<H: Host> Drop for Operation<H> {
    fn drop(&mut self) {
        let executed = match self.header.progress.state() {
            State::Running { .. } => Executed::Unknown,
            State::Queued => Executed::No,
            _ => return,
        };
        let error = Error::Interrupted { cause: "the operation was dropped" };
        let outcome = self.outcome_for_caller(Err(Failure { error, executed }));
        self.header.post(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cryptoki_sys::CKR_DEVICE_ERROR;

    use super::*;
    use crate::operation::host::{PoolServer, Wake};
    use crate::operation::key_ref::KeyRef;
    use crate::operation::notice::Notice;
    use crate::p11::Phase;

    /// A host that nobody listens to.
    struct Deaf;

    #[derive(Clone)]
    struct Nobody;

    impl Host for Deaf {
        type Reply = Nobody;
        type Runner = Nobody;
        type Server = Nobody;

        fn later(_delay: Duration, _run: Box<dyn FnOnce() + Send>) {}
    }

    impl Reply for Nobody {
        fn post(&self, _outcome: Outcome) {}
    }

    impl Wake for Nobody {
        fn post(&self) {}

        fn unpark(&self) {}

        fn is_expendable(&self) -> bool {
            false
        }
    }

    impl PoolServer for Nobody {
        fn post(&self, _notice: Notice) {}
    }

    fn operation(request: Request, place: Place<Deaf>) -> Box<Operation<Deaf>> {
        Operation::new(Header::new(Nobody, None), request, place)
    }

    fn changing() -> Request {
        Request::DestroyObject { object: KeyRef::Find(Vec::new(), None) }
    }

    #[test]
    fn what_may_have_run_is_tried_again_only_if_it_may_run_twice() {
        let reading = operation(Request::TokenInfo, Place::Pool);
        let changing = operation(changing(), Place::Pool);
        assert!(reading.may_retry(Executed::No) && changing.may_retry(Executed::No));
        for executed in [Executed::Unknown, Executed::Yes] {
            assert!(reading.may_retry(executed));
            assert!(!changing.may_retry(executed));
        }
    }

    #[test]
    fn it_is_tried_again_once_and_says_why() {
        let mut operation = operation(Request::TokenInfo, Place::Pool);
        let call = CallError::new("C_GetTokenInfo", CKR_DEVICE_ERROR, Phase::Single);
        operation.prepare_retry(Class::DeviceTrouble, call, Executed::Unknown, 7);
        assert_eq!(operation.untold_retry, Some(Retry { class: Class::DeviceTrouble, call }));
        assert_eq!(operation.last_failure, Some(LastFailure { class: Class::DeviceTrouble, next_session: 7 }));
        assert_eq!(operation.failure(Error::Draining).executed, Executed::Unknown);
        assert!(!operation.may_retry(Executed::No));
        assert!(!operation.may_try_another_opening());
    }

    #[test]
    fn it_is_not_tried_again_on_a_lease_nor_with_a_pin_that_was_used_nor_for_nobody() {
        let on_lease = |place: fn(Arc<OperationLease<Deaf>>) -> Place<Deaf>| operation(Request::TokenInfo, place(Arc::default()));
        assert!(!on_lease(Place::Within).may_retry(Executed::No));
        // Nothing of the holder's has run yet.
        assert!(on_lease(Place::Takes).may_retry(Executed::No));
        assert!(on_lease(Place::Takes).may_try_another_opening());
        let mut with_pin = operation(Request::TokenInfo, Place::Pool);
        with_pin.context = ContextPin::Used;
        assert!(!with_pin.may_retry(Executed::No));
        let abandoned = operation(Request::TokenInfo, Place::Pool);
        let _ = abandoned.header.progress.abandon();
        assert!(!abandoned.may_retry(Executed::No) && !abandoned.may_try_another_opening());
    }
}
