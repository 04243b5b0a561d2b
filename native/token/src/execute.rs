//! One operation on one session: the C calls, and what their return code asks for.

use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;
use session_pool::Millis;

use crate::access::Wait;
use crate::batch::SLICE;
use crate::clock::now;
use crate::error::{Error, Executed, Failure};
use crate::host::{Host, Outcome};
use crate::keys::Resolver;
use crate::p11::attributes::get_attributes;
use crate::p11::crypto;
use crate::p11::keys::{generate_key, generate_key_pair};
use crate::p11::objects::{describe, destroy_object, find_objects};
use crate::p11::session::session_info;
use crate::p11::slots::mechanisms;
use crate::p11::{CallError, Class, ObjectInfo, Phase};
use crate::parking::Lacks;
use crate::pool::{LoginMode, PoolOptions};
use crate::request::{Answer, ContextPin, KeyRef, Object, Operation, Request};
use crate::session::Session;

/// What becomes of the session, and of the operation.
pub(crate) enum Step {
    /// Answer; the session may serve the next.
    Keep(Outcome),
    /// Answer; close the session.
    Discard(Outcome, &'static str),
    /// Try again on another session; close this one.
    Elsewhere(&'static str),
    /// Log in, then try again; the session is good.
    LogIn,
    /// Wait at the gate.
    Wait(Wait),
    /// Wait for what the login that the key wants lacks.
    Park(Lacks),
}

/// An error, and whether the operation itself may have run.
pub(crate) struct Fault {
    pub(crate) error: Error,
    pub(crate) executed: Executed,
    /// What it asks for, if the error does not say.
    pub(crate) then: Option<Then>,
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
        Self { error, executed: Executed::No, then: Some(Then::Park(lacks)) }
    }

    /// The operation has run.
    pub(crate) fn ran(error: impl Into<Error>) -> Self {
        Self { error: error.into(), executed: Executed::Yes, then: None }
    }
}

impl From<Error> for Fault {
    /// Nothing of the operation itself has run.
    fn from(error: Error) -> Self {
        Self { error, executed: Executed::No, then: None }
    }
}

impl From<CallError> for Fault {
    fn from(call: CallError) -> Self {
        let executed = match (call.phase, call.class()) {
            (Phase::Init, _) => Executed::No,
            (_, Class::Caller | Class::StaleHandle | Class::LoginLost | Class::Buffer | Class::DirtySession) => Executed::Yes,
            _ => Executed::Unknown,
        };
        Self { error: call.into(), executed, then: None }
    }
}

/// The means of one attempt.
pub(crate) struct Attempt<'a> {
    pub(crate) options: &'a PoolOptions,
    pub(crate) resolver: Resolver<'a>,
    /// When a slice of a batch is to end.
    pub(crate) until: Instant,
}

/// Runs an operation, and says what to do next. `epoch` is the one in which the session was found logged in.
pub(crate) fn execute<H: Host>(options: &PoolOptions, session: &Session, operation: &mut Operation<H>, epoch: u64) -> Step {
    let Some((token, functions, handle)) = session.parts() else { return Step::Elsewhere("closed") };
    let now = now();
    let ttl: Option<Millis> = options.key_cache_ttl;
    let resolver = Resolver { token, functions, session: handle, epoch, now, ttl };
    let attempt = Attempt { options, resolver, until: Instant::now() + SLICE };
    loop {
        let fault = match attempt.perform(&mut operation.request, &mut operation.context) {
            Ok(answer) => return Step::Keep(Ok(answer)),
            Err(fault) => fault,
        };
        match attempt.judge(fault, operation) {
            Some(step) => {
                if let Some(step) = attempt.absorb(step, operation) {
                    return step;
                }
            }
            None => operation.retries += 1,
        }
    }
}

impl Attempt<'_> {
    fn perform(&self, request: &mut Request, context: &mut ContextPin) -> Result<Answer, Fault> {
        let Resolver { token, functions, session, .. } = self.resolver;
        Ok(match request {
            Request::Ping => Answer::Done,
            Request::Apply { key, mechanism, task } => {
                let key = self.resolver.resolve(key)?.handle;
                self.apply(key, mechanism, task, context)?
            }
            Request::Batch(batch) => {
                self.go_on(batch, context)?;
                Answer::Done
            }
            Request::Digest { mechanism, data } => Answer::Bytes(crypto::digest(functions, session, mechanism, data)?),
            Request::GenerateRandom { length } => Answer::Bytes(crypto::generate_random(functions, session, *length)?),
            Request::GenerateKey { mechanism, template } => {
                Answer::Object(self.made(generate_key(functions, session, mechanism, template)?)?)
            }
            Request::GenerateKeyPair { mechanism, public, private } => {
                let (public, private) = generate_key_pair(functions, session, mechanism, public, private)?;
                Answer::KeyPair(self.made(public)?, self.made(private)?)
            }
            Request::FindObjects { template } => {
                let handles = find_objects(functions, session, template, None)?;
                let mut objects = Vec::with_capacity(handles.len());
                for handle in handles {
                    objects.push(self.object(describe(functions, session, handle)?));
                }
                if objects.is_empty() && self.is_login_lost() {
                    return Err(self.login_lost().into());
                }
                Answer::Objects(objects)
            }
            Request::GetAttributes { object, attributes } => {
                let object = self.resolver.resolve(object)?.handle;
                Answer::Attributes(get_attributes(functions, session, object, attributes)?)
            }
            Request::DestroyObject { object } => {
                let object = self.resolver.resolve_anew(object)?.handle;
                destroy_object(functions, session, object)?;
                token.keys.forget_handle(object);
                Answer::Done
            }
            Request::Mechanisms => Answer::Mechanisms(mechanisms(functions, token.slot())?),
        })
    }

    /// What a fault asks for; `None`: try again at once, on the same session.
    fn judge<H: Host>(&self, fault: Fault, operation: &mut Operation<H>) -> Option<Step> {
        let Fault { error, executed, then } = fault;
        match then {
            Some(Then::Park(lacks)) => return Some(Step::Park(lacks)),
            Some(Then::Discard(reason)) => return Some(Step::Discard(Err(Failure { error, executed }), reason)),
            None => (),
        }
        let first = operation.may_be_tried_again();
        let may_retry = first && (executed == Executed::No || operation.request.is_idempotent());
        let answer = |error, executed| Err(Failure { error, executed });
        let call = match error {
            Error::Call(call) => call,
            // A search that finds nothing says so of a lost login, too.
            Error::KeyNotFound | Error::ObjectStale if self.is_login_lost() => {
                return Some(self.log_in(self.login_lost(), may_retry));
            }
            other => return Some(Step::Keep(answer(other, executed))),
        };
        let class = self.class(&call);
        let step = match class {
            Class::DeadSession if may_retry => Step::Elsewhere(class.name()),
            Class::DirtySession if first && executed == Executed::No => Step::Elsewhere(class.name()),
            Class::DeadSession | Class::DirtySession | Class::TokenGone | Class::Module | Class::Unknown => {
                Step::Discard(answer(error, executed), class.name())
            }
            Class::StaleHandle => {
                if self.is_login_lost() {
                    return Some(self.log_in(call, may_retry));
                }
                let is_object = matches!(operation.request.key_mut(), Some(KeyRef::Object { .. }));
                let is_gone = is_object && call.code == cryptoki_sys::CKR_OBJECT_HANDLE_INVALID;
                if self.forget_key(&mut operation.request) && may_retry {
                    return None;
                }
                // A refused handle is refused before anything is done.
                let error = if is_gone { Error::ObjectStale } else { error };
                Step::Keep(answer(error, Executed::No))
            }
            Class::LoginLost if may_retry && self.wants_login(&operation.request) => Step::Elsewhere("context_login"),
            Class::LoginLost => return Some(self.log_in(call, may_retry)),
            Class::DeviceTrouble | Class::Ambiguous if !self.answers() => Step::Discard(answer(error, executed), class.name()),
            _ if call.active => Step::Discard(answer(error, executed), "active"),
            _ => Step::Keep(answer(error, executed)),
        };
        Some(step)
    }

    /// What the pool makes of a return code.
    pub(crate) fn class(&self, call: &CallError) -> Class {
        self.options.policy.get(&call.code).copied().unwrap_or(call.class())
    }

    /// The token says that nobody is logged in: log in and try again, where this pool can.
    fn log_in(&self, call: CallError, may_retry: bool) -> Step {
        // Refused for want of a login is refused before anything is done.
        let answer = |error| Step::Keep(Err(Failure::not_executed(error)));
        if self.options.login == LoginMode::None {
            if self.is_logged_out() {
                // An explicit login has been lost.
                self.resolver.token.gate.lost(self.resolver.epoch);
            }
            return answer(Error::PinRequired { call });
        }
        self.resolver.token.gate.lost(self.resolver.epoch);
        if may_retry { Step::LogIn } else { answer(call.into()) }
    }

    /// A login is due, and the session says that there is none.
    fn is_login_lost(&self) -> bool {
        self.options.login != LoginMode::None && self.is_logged_out()
    }

    fn is_logged_out(&self) -> bool {
        let Resolver { functions, session, .. } = self.resolver;
        session_info(functions, session).is_ok_and(|info| !info.is_user() && !info.is_security_officer())
    }

    /// The token wants a login though there is one: it is the key that wants it, and has not said so.
    fn wants_login(&self, request: &Request) -> bool {
        let key = match request {
            Request::Apply { key, task, .. } if task.may_want_login() => key,
            Request::Batch(batch) if batch.may_want_login() => &batch.key,
            _ => return false,
        };
        if self.options.login == LoginMode::None || self.is_logged_out() {
            return false;
        }
        let Ok(key) = self.resolver.resolve(key) else { return false };
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

    fn forget_key(&self, request: &mut Request) -> bool {
        request.key_mut().is_some_and(|key| self.resolver.forget(key))
    }

    /// A new object. It exists: whatever becomes of its description, the operation has run.
    fn made(&self, handle: CK_OBJECT_HANDLE) -> Result<Object, Fault> {
        let Resolver { token, functions, session, .. } = self.resolver;
        let info = describe(functions, session, handle).map_err(Fault::ran)?;
        token.keys.forget_matching(&info);
        Ok(self.object(info))
    }

    fn object(&self, info: ObjectInfo) -> Object {
        Object { info, epoch: self.resolver.epoch, token: self.resolver.token.identity.clone() }
    }
}
