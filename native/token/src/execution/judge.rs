//! What a fault asks for: another try, a login, a recovery, or an answer.

use cryptoki_sys::CKR_OBJECT_HANDLE_INVALID;

use crate::error::{Error, Executed, Failure};
use crate::execution::attempt::Attempt;
use crate::execution::executed::judge_executed;
use crate::execution::step::{Fault, Recover, Step, Then};
use crate::operation::Operation;
use crate::operation::host::Host;
use crate::operation::key_ref::KeyRef;
use crate::operation::request::Request;
use crate::operation::stream::StreamPart;
use crate::options::LoginMode;
use crate::p11::{CallError, Class, Phase};
use crate::token::diagnosis::{Diagnosis, FailedCall, Suspected, Trouble, diagnose, is_suspicious, suspect_device};
use crate::token::session::next_number;

impl Attempt<'_> {
    /// What a fault asks for; `None`: try again at once, on the same session.
    pub(crate) fn judge<H: Host>(&self, fault: Fault, operation: &mut Operation<H>) -> Option<Step> {
        let Fault { error, executed, then } = fault;
        let known = executed.unwrap_or(Executed::No);
        match then {
            Some(Then::AwaitLogin(needs)) => return Some(Step::AwaitLogin(needs)),
            Some(Then::CancelAndAnswer(reason)) => {
                let failure = Failure { error, executed: known };
                return Some(self.end_and_answer("C_Login", reason, failure, &operation.request));
            }
            Some(Then::AnswerAndDiscard(reason)) => {
                return Some(Step::AnswerAndDiscard(Err(Failure { error, executed: known }), reason));
            }
            None => (),
        }
        let call = match error {
            Error::Call(call) => call,
            // It may be the device, which fails whatever the ciphertext or signature.
            Error::DecryptionFailed { call } | Error::SignatureInvalid { call } => {
                let class = self.class(&call);
                return Some(match suspect_device(&self.options.policy, self.resolver.token, class, &self.failed_call()) {
                    Suspected::Device(trouble) => {
                        let failure = Failure { error: call.into(), executed: Executed::Unknown };
                        Step::Recover(Recover { trouble, call, class, failure, retry: false })
                    }
                    Suspected::Session | Suspected::Nothing => Step::Answer(Err(Failure { error, executed: known })),
                });
            }
            // A search finds nothing after a lost login, too.
            Error::KeyNotFound | Error::NoKeyOfPublicKey { .. } | Error::ObjectStale => match self.may_have_missed() {
                Ok(true) => {
                    let may_retry = operation.may_retry(known);
                    return Some(self.retry_after_login(CallError::not_logged_in("C_FindObjects"), may_retry, operation));
                }
                Ok(false) => return Some(self.judge_missing(error, known, operation)),
                // Nobody can tell if the key is there.
                Err(call) => call,
            },
            other => return Some(Step::Answer(Err(Failure { error: other, executed: known }))),
        };
        let class = match self.class(&call) {
            Class::Caller if self.names_unknown_key(&operation.request) => Class::StaleHandle,
            class => class,
        };
        // What the module refuses in the call itself may not have run either, but is the caller's to ask for again.
        let has_begun = executed != Some(Executed::No) && call.phase != Phase::Init;
        let may_retry = operation.may_retry(if has_begun { Executed::Unknown } else { Executed::No });
        let executed = executed.unwrap_or_else(|| judge_executed(&call, class));
        let failure = Failure { error: call.into(), executed };
        let step = match class {
            // An earlier operation left it so: this one has not been tried.
            Class::DirtySession if self.cancel_earlier(&call) => return None,
            Class::DirtySession if !has_begun && self.session.is_unclear() && !operation.place.is_leased() => Step::TakeAnother,
            Class::DirtySession if may_retry && !has_begun => {
                operation.prepare_retry(class, call, executed, next_number());
                Step::RetryElsewhere(class.name())
            }
            Class::DirtySession => Step::AnswerAndDiscard(Err(failure), class.name()),
            Class::StaleHandle => {
                if self.is_login_lost() {
                    return Some(self.retry_after_login(call, may_retry, operation));
                }
                let is_object = operation.request.keys_mut().any(|key| matches!(key.named(), KeyRef::Object { .. }));
                let is_gone = is_object && call.code == CKR_OBJECT_HANDLE_INVALID;
                // A refused handle is refused before anything is done.
                let may_retry = may_retry || (operation.request.only_uses_keys() && operation.may_retry(Executed::No));
                if self.forget_keys(&mut operation.request) && may_retry {
                    operation.prepare_retry(class, call, executed, next_number());
                    // In the midst of an operation, nobody knows what it has left behind.
                    let is_good = call.phase != Phase::Final || self.cancel(call.function, &operation.request);
                    return (!is_good).then_some(Step::RetryElsewhere(class.name()));
                }
                let error = if is_gone { Error::ObjectStale } else { call.into() };
                self.answer_refusal(&call, class, Failure::not_executed(error), &operation.request)
            }
            Class::LoginLost if may_retry && self.learn_that_key_wants_login(&operation.request, &call) => {
                operation.prepare_retry(class, call, executed, next_number());
                let is_good = call.phase != Phase::Final || self.cancel(call.function, &operation.request);
                return (!is_good).then_some(Step::RetryElsewhere("context_login"));
            }
            Class::LoginLost => {
                let may_retry = may_retry && !matches!(operation.request, Request::Probe);
                return Some(self.retry_after_login(call, may_retry, operation));
            }
            class if is_suspicious(class) => self.investigate(class, call, failure, may_retry, operation),
            _ if call.active => self.end_and_answer(call.function, "active", failure, &operation.request),
            _ => Step::Answer(Err(failure)),
        };
        Some(step)
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
        let Diagnosis { trouble, is_session_good } =
            diagnose(&self.options.policy, self.resolver.token, class, &self.failed_call());
        let executed = failure.executed;
        if let Some(trouble) = trouble {
            let retry = match trouble {
                // What was open before is gone, but that is no reason to say that the token was.
                Trouble::Renewed => false,
                Trouble::Lasting { .. } => may_retry && class == Class::DeviceTrouble,
                Trouble::Silence | Trouble::DeadFromTheStart { .. } | Trouble::Module { .. } => may_retry,
            };
            return Step::Recover(Recover { trouble, call, class, failure, retry });
        }
        if is_session_good && call.phase == Phase::Final {
            // In the midst of an operation, nobody knows what it has left behind.
            self.session.set_unclear();
        }
        match class {
            Class::DeadSession if may_retry => {
                operation.prepare_retry(class, call, executed, next_number());
                Step::RetryElsewhere(class.name())
            }
            Class::DeviceTrouble if may_retry => {
                operation.prepare_retry(class, call, executed, next_number());
                let is_good = is_session_good && (!call.active || self.cancel(call.function, &operation.request));
                Step::RetryLater((!is_good).then_some(class.name()))
            }
            Class::DeviceTrouble | Class::Ambiguous if is_session_good && call.active => {
                self.end_and_answer(call.function, "active", failure, &operation.request)
            }
            Class::DeviceTrouble | Class::Ambiguous if is_session_good => Step::Answer(Err(failure)),
            _ => Step::AnswerAndDiscard(Err(failure), class.name()),
        }
    }

    /// The answer, when a call was refused before anything was done. In the midst of an operation, nobody knows what it has left behind.
    fn answer_refusal(&self, call: &CallError, class: Class, failure: Failure, request: &Request) -> Step {
        match call.phase {
            Phase::Final => self.end_and_answer(call.function, class.name(), failure, request),
            Phase::Single | Phase::Init => Step::Answer(Err(failure)),
        }
    }

    /// The answer, when a call of this function has failed in the midst of an operation: that is ended, or the session closed, for this reason.
    fn end_and_answer(&self, function: &str, reason: &'static str, failure: Failure, request: &Request) -> Step {
        let is_good = self.cancel(function, request);
        if is_good { Step::Answer(Err(failure)) } else { Step::AnswerAndDiscard(Err(failure), reason) }
    }

    /// What has failed, as far as its diagnosis asks.
    fn failed_call(&self) -> FailedCall<'_> {
        let epoch = self.resolver.epoch;
        FailedCall::Operation { session: self.session, used: self.used, epoch, is_first: self.is_first }
    }

    /// The token says that nobody is logged in: log in and try again, where this pool can.
    fn retry_after_login<H: Host>(&self, call: CallError, may_retry: bool, operation: &mut Operation<H>) -> Step {
        // Refused for want of a login is refused before anything is done.
        let request = &operation.request;
        let answer = |error| self.answer_refusal(&call, Class::LoginLost, Failure::not_executed(error), request);
        if self.options.login == LoginMode::None {
            if self.is_logged_out() {
                // An explicit login has been lost.
                self.resolver.token.gate.note_login_lost(self.resolver.epoch);
            }
            return answer(Error::PinRequired { call });
        }
        self.resolver.token.gate.note_login_lost(self.resolver.epoch);
        if !may_retry {
            return answer(call.into());
        }
        operation.prepare_retry(Class::LoginLost, call, Executed::No, next_number());
        // As with a stale handle: what waits for the login then, does so on another session.
        let is_good = call.phase != Phase::Final || self.cancel(call.function, &operation.request);
        if is_good { Step::RetryAfterLogin } else { Step::RetryElsewhere(Class::LoginLost.name()) }
    }

    /// The token wants a login though there is one: it is the key that wants it, and has not said so.
    fn learn_that_key_wants_login(&self, request: &Request, call: &CallError) -> bool {
        let is_look_up = call.function.starts_with("C_FindObjects");
        let key = match request {
            Request::Apply { key, task, .. } if task.may_want_login() => key,
            Request::Batch(batch) if batch.may_want_login() => &batch.key,
            Request::Stream(kind, StreamPart::Begin(beginning)) if kind.may_want_login() => match &beginning.key {
                Some(key) => key,
                None => return false,
            },
            _ => return false,
        };
        if self.options.login == LoginMode::None || is_look_up || self.is_logged_out() {
            return false;
        }
        let Ok(key) = self.resolver.resolve(key) else { return false };
        // One that says that it does not want it is believed: then the login was lost, and somebody has logged in again since.
        if self.resolver.says_no_login(key) || self.resolver.token.gate.epoch() != self.resolver.epoch {
            return false;
        }
        self.resolver.token.keys.put_wants_login(key, self.resolver.epoch);
        true
    }

    /// Whether the mechanism's parameters name a key that the module does not know any more. What it says of that is a code that may mean anything.
    fn names_unknown_key(&self, request: &Request) -> bool {
        let [_, other] = self.resolver.found.handles();
        matches!(request, Request::DeriveKey { other: Some(_), .. }) && other.is_some_and(|key| self.resolver.is_unknown(key))
    }

    /// Forgets the handle that was refused. `false`: its key cannot be found again. Of several keys, the code does not tell for certain which is meant: the
    /// module is asked which handles it knows. If it knows all of them, all are looked for again.
    fn forget_keys(&self, request: &mut Request) -> bool {
        let has_several = request.keys_mut().nth(1).is_some();
        let handles = self.resolver.found.handles();
        let is_unknown = handles.map(|handle| has_several && handle.is_some_and(|handle| self.resolver.is_unknown(handle)));
        let is_one_unknown = is_unknown.contains(&true);
        let mut can_be_found = false;
        for (key, is_unknown) in request.keys_mut().zip(is_unknown) {
            if is_unknown || !is_one_unknown {
                can_be_found |= self.resolver.forget(key);
            }
        }
        can_be_found
    }
}
