//! An operation that a failed call has left active on its session, or may have, is ended by `C_SessionCancel` (PKCS#11 3.0). Where the module has no
//! such function, or that fails, the session is closed.

use cryptoki_sys::{
    CK_FLAGS, CKF_DECRYPT, CKF_DIGEST, CKF_ENCRYPT, CKF_FIND_OBJECTS, CKF_MESSAGE_DECRYPT, CKF_MESSAGE_ENCRYPT, CKF_SIGN,
    CKF_VERIFY, CKR_OPERATION_ACTIVE,
};

use crate::execution::attempt::Attempt;
use crate::operation::request::Request;
use crate::operation::stream::StreamKind;
use crate::p11::fit::Use;
use crate::p11::messages::Direction;
use crate::p11::session::cancel;
use crate::p11::{CallError, Phase};

/// Each operation that we begin.
const ALL: CK_FLAGS =
    CKF_SIGN | CKF_VERIFY | CKF_ENCRYPT | CKF_DECRYPT | CKF_DIGEST | CKF_FIND_OBJECTS | CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT;

impl Attempt<'_> {
    /// Ends the operation in whose midst a call of this function has failed; `false`: the session has to be closed.
    pub(crate) fn cancel(&self, function: &str, request: &Request) -> bool {
        let is_cancelled = self.cancel_operations(flags_of(function).or_else(|| flags_of_request(request)).unwrap_or(ALL));
        if is_cancelled {
            // Whether it is true, the next operation sees.
            self.session.set_unclear();
        }
        is_cancelled
    }

    /// Ends what an earlier operation has left active, if that is what a call has failed of, so that it may be made again. Once: a module that says that it
    /// has ended it, and goes on to refuse calls for it, is not believed again.
    pub(crate) fn cancel_earlier(&self, call: &CallError) -> bool {
        let is_refused = call.code == CKR_OPERATION_ACTIVE && call.phase == Phase::Init;
        // The call does not say which operation it is: some modules have one at a time, whatever it does.
        is_refused && !self.has_cancelled.replace(true) && self.cancel_operations(ALL)
    }

    /// Ends a stream's operation, whatever state it is in; `false`: it cannot be said that it has ended.
    pub(crate) fn cancel_stream(&self, kind: StreamKind) -> bool {
        self.cancel_operations(kind.usage().map_or(CKF_DIGEST, flags_of_use))
    }

    /// Ends an operation by messages whose final call has failed; `false`: the session has to be closed.
    pub(crate) fn cancel_messages(&self, direction: Direction) -> bool {
        let is_cancelled = self.cancel_operations(match direction {
            Direction::Encrypt => CKF_MESSAGE_ENCRYPT,
            Direction::Decrypt => CKF_MESSAGE_DECRYPT,
        });
        if is_cancelled {
            self.session.set_unclear();
        }
        is_cancelled
    }

    fn cancel_operations(&self, flags: CK_FLAGS) -> bool {
        // The handle may be another session's by now, whose operations are not ours to end.
        self.used.is_owner() && cancel(self.resolver.functions, self.resolver.session, flags).is_ok()
    }
}

/// The operation that a C function belongs to.
fn flags_of(function: &str) -> Option<CK_FLAGS> {
    let families = [
        ("C_MessageEncrypt", CKF_MESSAGE_ENCRYPT),
        ("C_EncryptMessage", CKF_MESSAGE_ENCRYPT),
        ("C_MessageDecrypt", CKF_MESSAGE_DECRYPT),
        ("C_DecryptMessage", CKF_MESSAGE_DECRYPT),
        ("C_Sign", CKF_SIGN),
        ("C_Verify", CKF_VERIFY),
        ("C_Encrypt", CKF_ENCRYPT),
        ("C_Decrypt", CKF_DECRYPT),
        ("C_Digest", CKF_DIGEST),
        ("C_FindObjects", CKF_FIND_OBJECTS),
    ];
    families.into_iter().find(|(family, _)| function.starts_with(family)).map(|(_, flags)| flags)
}

/// The operation that a request begins with a key: what has failed is the login for one use of that.
fn flags_of_request(request: &Request) -> Option<CK_FLAGS> {
    let usage = match request {
        Request::Apply { task, .. } => task.usage(),
        Request::Batch(batch) => batch.next_task().and_then(|(_, task)| task.usage()),
        Request::Stream(kind, _) => kind.usage(),
        _ => None,
    };
    usage.map(flags_of_use)
}

fn flags_of_use(usage: Use) -> CK_FLAGS {
    match usage {
        // These begin nothing that goes on.
        Use::Wrap | Use::Unwrap | Use::Derive | Use::Encapsulate | Use::Decapsulate => 0,
        Use::Sign => CKF_SIGN,
        Use::Verify => CKF_VERIFY,
        Use::Encrypt => CKF_ENCRYPT,
        Use::Decrypt => CKF_DECRYPT,
    }
}
