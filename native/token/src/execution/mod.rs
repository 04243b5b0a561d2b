//! One operation on one session: the C calls, and what their return code asks for.

pub(crate) mod batch;
pub(crate) mod context_login;
pub(crate) mod executed;
pub(crate) mod hashing;
pub(crate) mod objects;
pub(crate) mod task;
pub(crate) mod vanished;
pub(crate) mod void;

use std::cell::Cell;
use std::time::Instant;

use session_pool::Millis;

use crate::error::{Error, Executed, Failure};
use crate::execution::batch::SLICE;
use crate::execution::task::checked;
use crate::execution::vanished::Vanished;
use crate::module::handle::HandleUse;
use crate::operation::answer::Answer;
use crate::operation::answer::Outcome;
use crate::operation::host::Host;
use crate::operation::key_ref::KeyRef;
use crate::operation::request::Request;
use crate::operation::{ContextPin, Operation, Place};
use crate::options::{LoginMode, PoolOptions};
use crate::p11::crypto;
use crate::p11::keys::{generate_key, generate_key_pair};
use crate::p11::objects::destroy_object;
use crate::p11::session::session_info;
use crate::p11::slots::mechanisms;
use crate::p11::{CallError, Class, Phase, lengths};
use crate::pool::key_pins::Lacks;
use crate::pool::login::passage::Wait;
use crate::support::clock::now;
use crate::token::diagnosis::{Diagnosis, PROBE_BYTES, Reply, Trouble, ask_device, diagnose, is_suspicious, is_trouble};
use crate::token::keys::Resolver;
use crate::token::session::{Session, next_number};
use crate::token::suspicion::{Failed, Verdict};

/// What becomes of the session, and of the operation.
pub(crate) enum Step {
    /// Answer; the session may serve the next.
    Keep(Outcome),
    /// Answer; close the session.
    Discard(Outcome, &'static str),
    /// Try again on another session; close this one.
    Elsewhere(&'static str),
    /// Try again after a while; the session is good, or closed for a reason.
    Pause(Option<&'static str>),
    /// See to the token or the module, then try again, or answer; close this session.
    Recover(Recover),
    /// The session died with what the token was before; on another one, the operation has not been tried.
    Exchange,
    /// The module is being initialized again.
    Return,
    /// Log in, then try again; the session is good.
    LogIn,
    /// Wait at the gate.
    Wait(Wait),
    /// Wait for what the login that the key wants lacks.
    Park(Lacks),
    /// Wait until the module has been initialized again.
    Reload(Vanished),
}

/// What an operation has run into, and what it is answered if it is not tried again.
pub(crate) struct Recover {
    pub(crate) trouble: Trouble,
    pub(crate) call: CallError,
    pub(crate) class: Class,
    pub(crate) failure: Failure,
    pub(crate) retry: bool,
}

/// An error, and whether the operation itself may have run; `None`: its call and class tell.
pub(crate) struct Fault {
    pub(crate) error: Error,
    pub(crate) executed: Option<Executed>,
    /// What it asks for, if the error does not say.
    pub(crate) then: Option<Then>,
}

/// What a failure makes one suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suspected {
    Nothing,
    /// Perhaps the device: on another session that is to be seen.
    Session,
    Device,
}

/// What a fault asks for that its error does not say.
pub(crate) enum Then {
    Park(Lacks),
    Discard(&'static str),
}

impl Fault {
    /// The operation waits for its turn, or for a PIN.
    pub(crate) fn park(lacks: Lacks) -> Self {
        let error = Error::Interrupted { cause: "the operation waits" };
        Self { error, executed: Some(Executed::No), then: Some(Then::Park(lacks)) }
    }

    /// The operation has run.
    pub(crate) fn ran(error: impl Into<Error>) -> Self {
        Self { error: error.into(), executed: Some(Executed::Yes), then: None }
    }
}

impl From<Error> for Fault {
    /// Nothing of the operation itself has run.
    fn from(error: Error) -> Self {
        Self { error, executed: Some(Executed::No), then: None }
    }
}

impl From<CallError> for Fault {
    fn from(call: CallError) -> Self {
        if call.is_of_output() {
            // It has run, and we do not know what came of it.
            let then = call.active.then_some(Then::Discard("output_length"));
            return Self { then, ..Self::ran(call) };
        }
        Self { error: call.into(), executed: None, then: None }
    }
}

/// Whether an operation may be tried again: never one that may have run and must not twice.
pub(crate) fn may_retry<H: Host>(operation: &Operation<H>, executed: Executed) -> bool {
    operation.may_be_tried_again() && (executed == Executed::No || operation.request.is_idempotent())
}

/// The answer, when a call was refused before anything was done. In the midst of an operation, nobody knows what it has left behind.
fn ended(call: &CallError, class: Class, failure: Failure) -> Step {
    if call.phase == Phase::Final { Step::Discard(Err(failure), class.name()) } else { Step::Keep(Err(failure)) }
}

/// The means of one attempt.
pub(crate) struct Attempt<'a> {
    pub(crate) options: &'a PoolOptions,
    pub(crate) resolver: Resolver<'a>,
    /// When a slice of a batch is to end.
    pub(crate) until: Instant,
    pub(crate) session: &'a Session,
    pub(crate) used: &'a HandleUse<'a>,
    /// Whether it is the first one on its session.
    fresh: bool,
    /// Whether nobody waits for a search any more, which may take long.
    is_over: &'a dyn Fn() -> bool,
}

/// Runs an operation, and says what to do next. `epoch` is the one in which the session was found logged in. Called inside of the module.
pub(crate) fn execute<H: Host>(
    options: &PoolOptions,
    session: &Session,
    used: &HandleUse<'_>,
    operation: &mut Operation<H>,
    epoch: u64,
    is_over: &dyn Fn() -> bool,
) -> Step {
    let token = session.token();
    let functions = token.module.functions();
    let now = now();
    let ttl: Option<Millis> = options.key_cache_ttl;
    let resolver = Resolver { token, functions, session: used.handle(), epoch, now, ttl, found: Cell::new(None) };
    let (until, fresh) = (Instant::now() + SLICE, session.begin_use());
    let attempt = Attempt { options, resolver, until, session, used, fresh, is_over };
    let lay_idle = session.index() < operation.opened_since;
    if operation.retried_as == Some(Class::DeadSession) && lay_idle && !attempt.is_alive() {
        // Where one has died, those that lay idle beside it mostly have, too: the other try is for one that lives.
        token.doubt(epoch);
        return Step::Exchange;
    }
    let before = operation.request.answered();
    let step = attempt.run(operation);
    attempt.checked(step, operation, before)
}

impl Attempt<'_> {
    fn run<H: Host>(&self, operation: &mut Operation<H>) -> Step {
        loop {
            let fault = match self.perform(&mut operation.request, &mut operation.context) {
                Ok(answer) => {
                    // Nothing is asked of the module for a ping.
                    if self.fresh && !matches!(operation.request, Request::Ping) {
                        self.resolver.token.escalation.reset();
                    }
                    if operation.request.reaches_device() {
                        self.resolver.token.suspicion.succeeded();
                    }
                    return Step::Keep(Ok(answer));
                }
                Err(fault) => fault,
            };
            if let Some(step) = self.judge(fault, operation)
                && let Some(step) = self.absorb(step, operation)
            {
                return step;
            }
        }
    }

    fn perform(&self, request: &mut Request, context: &mut ContextPin) -> Result<Answer, Fault> {
        let Resolver { token, functions, session, .. } = self.resolver;
        Ok(match request {
            Request::Ping => Answer::Done,
            Request::Probe => Answer::Bytes(crypto::generate_random(functions, session, PROBE_BYTES, PROBE_BYTES)?),
            Request::Apply { key, mechanism, task } => {
                let key = self.resolver.resolve(key)?.handle;
                self.apply(key, mechanism, task, context)?
            }
            Request::Batch(batch) => {
                self.go_on(batch, context)?;
                Answer::Done
            }
            Request::Digest { mechanism, data } => {
                let digest = crypto::digest(functions, session, mechanism, data)?;
                Answer::Bytes(checked("C_Digest", digest, lengths::of_digest(mechanism))?)
            }
            Request::GenerateRandom { length } => {
                Answer::Bytes(crypto::generate_random(functions, session, *length, self.options.random_chunk)?)
            }
            Request::SeedRandom { seed } => {
                crypto::seed_random(functions, session, seed)?;
                Answer::Done
            }
            Request::GenerateKey { mechanism, template } => {
                Answer::Object(self.made(generate_key(functions, session, mechanism, template)?)?)
            }
            Request::GenerateKeyPair { mechanism, public, private } => {
                let (public, private) = generate_key_pair(functions, session, mechanism, public, private)?;
                Answer::KeyPair(Box::new((self.made(public)?, self.made(private)?)))
            }
            Request::FindObjects { template, limit, cut } => {
                let objects = self.search(template, *limit, *cut)?;
                if self.may_have_missed()? {
                    return Err(self.login_lost().into());
                }
                Answer::Objects(objects)
            }
            Request::GetAttributes { object, attributes } => Answer::Attributes(self.attributes(object, attributes)?),
            Request::DestroyObject { object } => {
                let handle = self.resolver.resolve_anew(object)?.handle;
                destroy_object(functions, session, handle)?;
                // Nobody has to look into where it is.
                token.known.is_gone(token.keys.forget_handle(handle).into_iter().chain([object.template()]));
                Answer::Done
            }
            Request::Mechanisms => Answer::Mechanisms(mechanisms(functions, token.slot())?),
            Request::TokenInfo => Answer::TokenInfo(Box::new(token.info()?)),
        })
    }

    /// What a fault asks for; `None`: try again at once, on the same session.
    fn judge<H: Host>(&self, fault: Fault, operation: &mut Operation<H>) -> Option<Step> {
        let Fault { error, executed, then } = fault;
        let known = executed.unwrap_or(Executed::No);
        match then {
            Some(Then::Park(lacks)) => return Some(Step::Park(lacks)),
            Some(Then::Discard(reason)) => return Some(Step::Discard(Err(Failure { error, executed: known }), reason)),
            None => (),
        }
        let call = match error {
            Error::Call(call) => call,
            // It may be the device, which fails whatever the ciphertext or signature.
            Error::DecryptionFailed { call } | Error::SignatureInvalid { call } if self.suspects(&call) == Suspected::Device => {
                let failure = Failure { error: call.into(), executed: Executed::Unknown };
                return Some(self.lasting(call, failure, false));
            }
            // A search that finds nothing says so of a lost login, too.
            Error::KeyNotFound | Error::ObjectStale => match self.may_have_missed() {
                Ok(true) => {
                    let may_retry = may_retry(operation, known);
                    return Some(self.log_in(self.login_lost(), may_retry, operation));
                }
                Ok(false) => return Some(self.missing(error, known, operation)),
                // Nobody can tell if the key is there.
                Err(call) => call,
            },
            other => return Some(Step::Keep(Err(Failure { error: other, executed: known }))),
        };
        let class = self.class(&call);
        // What the module refuses in the call itself may not have run either, but is the caller's to ask for again.
        let has_begun = executed != Some(Executed::No) && call.phase != Phase::Init;
        let may_retry = may_retry(operation, if has_begun { Executed::Unknown } else { Executed::No });
        let executed = executed.unwrap_or_else(|| crate::execution::executed::executed(&call, class));
        let failure = Failure { error: call.into(), executed };
        let step = match class {
            // An earlier operation left it so: this one has not been tried.
            Class::DirtySession if !has_begun && self.session.is_unclear() && matches!(operation.place, Place::Pool) => {
                Step::Exchange
            }
            Class::DirtySession if may_retry && !has_begun => {
                operation.prepare_retry(class, call, executed, next_number());
                Step::Elsewhere(class.name())
            }
            Class::DirtySession => Step::Discard(Err(failure), class.name()),
            Class::StaleHandle => {
                if self.is_login_lost() {
                    return Some(self.log_in(call, may_retry, operation));
                }
                let is_object = matches!(operation.request.key_mut(), Some(KeyRef::Object { .. }));
                let is_gone = is_object && call.code == cryptoki_sys::CKR_OBJECT_HANDLE_INVALID;
                if self.forget_key(&mut operation.request) && may_retry {
                    operation.prepare_retry(class, call, executed, next_number());
                    // In the midst of an operation, nobody knows what it has left behind.
                    return (call.phase == Phase::Final).then_some(Step::Elsewhere(class.name()));
                }
                let error = if is_gone { Error::ObjectStale } else { call.into() };
                // A refused handle is refused before anything is done.
                ended(&call, class, Failure::not_executed(error))
            }
            Class::LoginLost if may_retry && self.wants_login(&operation.request, &call) => {
                operation.prepare_retry(class, call, executed, next_number());
                Step::Elsewhere("context_login")
            }
            Class::LoginLost => {
                let may_retry = may_retry && !matches!(operation.request, Request::Probe);
                return Some(self.log_in(call, may_retry, operation));
            }
            class if is_suspicious(class) => self.investigate(class, call, failure, may_retry, operation),
            _ if call.active => Step::Discard(Err(failure), "active"),
            _ => Step::Keep(Err(failure)),
        };
        Some(step)
    }

    /// What the pool makes of a return code.
    pub(crate) fn class(&self, call: &CallError) -> Class {
        self.options.class(call)
    }

    /// What failed may be the operation, the session, the token or the module.
    fn investigate<H: Host>(
        &self,
        class: Class,
        call: CallError,
        failure: Failure,
        may_retry: bool,
        operation: &mut Operation<H>,
    ) -> Step {
        let Diagnosis { trouble, is_good } =
            diagnose(&self.options.policy, self.session, self.used, class, self.resolver.epoch, self.fresh);
        let executed = failure.executed;
        if let Some(trouble) = trouble {
            // What was open before is gone, but that is no reason to say that the token was.
            let retry = may_retry && trouble != Trouble::Renewed;
            return Step::Recover(Recover { trouble, call, class, failure, retry });
        }
        let suspected = self.suspects(&call);
        if suspected == Suspected::Device {
            return self.lasting(call, failure, may_retry && class == Class::DeviceTrouble);
        }
        let is_good = is_good && suspected == Suspected::Nothing;
        if is_good && call.phase == Phase::Final {
            // In the midst of an operation, nobody knows what it has left behind.
            self.session.set_unclear();
        }
        match class {
            Class::DeadSession if may_retry => {
                operation.prepare_retry(class, call, executed, next_number());
                Step::Elsewhere(class.name())
            }
            Class::DeviceTrouble if may_retry => {
                operation.prepare_retry(class, call, executed, next_number());
                Step::Pause((!is_good || call.active).then_some(class.name()))
            }
            Class::DeviceTrouble | Class::Ambiguous if is_good && call.active => Step::Discard(Err(failure), "active"),
            Class::DeviceTrouble | Class::Ambiguous if is_good => Step::Keep(Err(failure)),
            _ => Step::Discard(Err(failure), class.name()),
        }
    }

    /// What a failure says of the device, in the light of those before it.
    fn suspects(&self, call: &CallError) -> Suspected {
        let Resolver { token, session, now, .. } = self.resolver;
        let Some(limits) = self.options.policy.trouble.filter(|_| is_trouble(self.class(call))) else {
            return Suspected::Nothing;
        };
        if token.suspicion.failed(Failed::Operation, now, limits) != Verdict::Ask {
            return Suspected::Nothing;
        }
        let Reply::Fails { on } = ask_device(&self.options.policy, token, Some((self.session.index(), session))) else {
            token.suspicion.succeeded();
            return Suspected::Nothing;
        };
        match token.suspicion.confirmed(on, crate::support::clock::now(), limits) {
            Verdict::Act => Suspected::Device,
            Verdict::Ask => Suspected::Session,
            Verdict::Bear => Suspected::Nothing,
        }
    }

    /// The device is in trouble that lasts.
    fn lasting(&self, call: CallError, failure: Failure, retry: bool) -> Step {
        let trouble = Trouble::Lasting { restarts: self.resolver.token.module.restarts() };
        Step::Recover(Recover { trouble, call, class: self.class(&call), failure, retry })
    }

    /// The token says that nobody is logged in: log in and try again, where this pool can.
    fn log_in<H: Host>(&self, call: CallError, may_retry: bool, operation: &mut Operation<H>) -> Step {
        // Refused for want of a login is refused before anything is done.
        let answer = |error| ended(&call, Class::LoginLost, Failure::not_executed(error));
        if self.options.login == LoginMode::None {
            if self.is_logged_out() {
                // An explicit login has been lost.
                self.resolver.token.gate.lost(self.resolver.epoch);
            }
            return answer(Error::PinRequired { call });
        }
        self.resolver.token.gate.lost(self.resolver.epoch);
        if !may_retry {
            return answer(call.into());
        }
        operation.prepare_retry(Class::LoginLost, call, Executed::No, next_number());
        // As with a stale handle: what waits for the login then, does so on another session.
        if call.phase == Phase::Final { Step::Elsewhere(Class::LoginLost.name()) } else { Step::LogIn }
    }

    /// Whether a search may have missed something: what is private does not show without a login, and somebody may have logged in again since.
    /// The session is asked first: whoever it says is logged in again has moved the epoch by then.
    fn may_have_missed(&self) -> Result<bool, CallError> {
        let Resolver { token, epoch, .. } = self.resolver;
        let asks = self.asks_for_login();
        let changed = self.options.login != LoginMode::None && token.gate.epoch() != epoch;
        if changed { Ok(true) } else { asks }
    }

    /// Whether a login is due and there is none, as the session says; `Err`: it does not say.
    fn asks_for_login(&self) -> Result<bool, CallError> {
        if self.options.login == LoginMode::None {
            return Ok(false);
        }
        self.has_no_user().map_err(|error| CallError { phase: Phase::Init, ..error })
    }

    /// A login is due, and the session says that there is none.
    fn is_login_lost(&self) -> bool {
        self.asks_for_login().unwrap_or(false)
    }

    fn is_logged_out(&self) -> bool {
        self.has_no_user().unwrap_or(false)
    }

    fn has_no_user(&self) -> Result<bool, CallError> {
        let Resolver { functions, session, .. } = self.resolver;
        session_info(functions, session).map(|info| !info.is_user() && !info.is_security_officer())
    }

    /// The token wants a login though there is one: it is the key that wants it, and has not said so.
    fn wants_login(&self, request: &Request, call: &CallError) -> bool {
        let is_look_up = call.function.starts_with("C_FindObjects");
        let key = match request {
            Request::Apply { key, task, .. } if task.may_want_login() => key,
            Request::Batch(batch) if batch.may_want_login() => &batch.key,
            _ => return false,
        };
        if self.options.login == LoginMode::None || is_look_up || self.is_logged_out() {
            return false;
        }
        let Ok(key) = self.resolver.resolve(key) else { return false };
        // One that says that it does not want it is believed: then the login was lost, and somebody has logged in again since.
        if self.resolver.says_no_login(key.handle) || self.resolver.token.gate.epoch() != self.resolver.epoch {
            return false;
        }
        self.resolver.token.keys.wants_login(key.handle, self.resolver.epoch);
        true
    }

    fn login_lost(&self) -> CallError {
        CallError::new("C_FindObjects", cryptoki_sys::CKR_USER_NOT_LOGGED_IN, Phase::Single)
    }

    /// The probe that no input decides.
    pub(crate) fn answers(&self) -> bool {
        session_info(self.resolver.functions, self.resolver.session).is_ok()
    }

    /// Whether another try may be made on a session that has lain idle. Many a library says by itself that it lives: the device is asked, too.
    fn is_alive(&self) -> bool {
        let Resolver { functions, session, .. } = self.resolver;
        let asked = session_info(functions, session)
            .and_then(|_| crypto::generate_random(functions, session, PROBE_BYTES, PROBE_BYTES).map(drop));
        !asked.is_err_and(|error| self.options.class(&error) == Class::DeadSession)
    }

    fn forget_key(&self, request: &mut Request) -> bool {
        request.key_mut().is_some_and(|key| self.resolver.forget(key))
    }
}
