//! Streams: what a key does with data that comes in parts, or their digest. Between two parts the operation is active in the module, and what it needs lies
//! with the session. Whatever fails in the midst of it leaves it there, marked as broken: then the session is closed, with the module's operation.

use cryptoki_sys::{CK_OBJECT_HANDLE, CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_OPERATION_NOT_INITIALIZED};

use crate::error::{Error, Executed};
use crate::execution::attempt::Attempt;
use crate::execution::hashing::{Hasher, Hashing};
use crate::execution::ignored_params::with_params_of_curve;
use crate::execution::resolver::Resolver;
use crate::execution::step::{Fault, Then};
use crate::execution::task::{check_key, check_signature_length};
use crate::operation::ContextPin;
use crate::operation::answer::Answer;
use crate::operation::key_ref::KeyRef;
use crate::operation::stream::{Beginning, StreamKind, StreamPart};
use crate::p11::stream::{self, Kind};
use crate::p11::{CallError, Class, HeldMechanism, Mechanism, Phase, lengths};
use crate::support::wiped::Wiped;

/// A stream between two parts.
struct Stream {
    kind: Kind,
    mechanism: HeldMechanism,
    key: Option<Key>,
    /// What is signed or verified is hashed here, and the module waits for the digest.
    hashed: Option<(Hashing, Hasher)>,
    /// What is to be verified.
    signature: Wiped,
    /// Bytes of the signature that is to be made.
    signature_size: Option<usize>,
    order_size: Option<usize>,
    modulus_size: Option<usize>,
    /// Whether a plaintext goes out only when the whole has been verified.
    withholds: bool,
    /// Bytes that went into it.
    taken: usize,
    /// Bytes that came out of it.
    given: usize,
    /// A part has failed: nothing more is to come of it.
    is_broken: bool,
}

/// The key of a stream: it had this handle in this epoch.
struct Key {
    named: KeyRef,
    handle: CK_OBJECT_HANDLE,
    epoch: u64,
}

impl Stream {
    /// Bytes that the operation has not given yet.
    fn held_back(&self) -> usize {
        self.taken.saturating_sub(self.given)
    }

    /// No ciphertext goes out without the IV that it was made with.
    fn check_iv(&self) -> Result<(), Error> {
        match self.mechanism.replaced_iv() {
            Some(iv) if self.kind == Kind::Encrypt => Err(Error::IvReplaced { function: "C_Encrypt", iv }),
            _ => Ok(()),
        }
    }
}

impl Attempt<'_> {
    /// Does a part of a stream.
    pub(crate) fn run_stream(&self, kind: Kind, part: &StreamPart, context: &mut ContextPin) -> Result<Answer, Fault> {
        match part {
            StreamPart::Begin(beginning) => self.begin_stream(kind, beginning, context),
            StreamPart::Update(data) => {
                let mut stream = self.take_stream()?;
                let updated = self.update_stream(&mut stream, data);
                stream.is_broken |= updated.is_err();
                self.session.put_stream(stream);
                updated
            }
            StreamPart::Finish => {
                let mut stream = self.take_stream()?;
                match self.finish_stream(&mut stream) {
                    Ok(answer) => Ok(answer),
                    Err(Ended { fault, is_active }) => {
                        if is_active {
                            stream.is_broken = true;
                            self.session.put_stream(stream);
                        }
                        Err(fault)
                    }
                }
            }
            StreamPart::BreakOff => self.break_off_stream(),
        }
    }

    fn begin_stream(&self, kind: Kind, beginning: &Beginning, context: &mut ContextPin) -> Result<Answer, Fault> {
        let Resolver { functions, session, epoch, .. } = self.resolver;
        let Beginning { key, mechanism, signature, unverified } = beginning;
        let begin = |mechanism: &Mechanism, key, login: &mut dyn FnMut() -> Result<(), CallError>| {
            let mut held = HeldMechanism::new(mechanism.clone());
            stream::begin(functions, session, kind, key, &mut held, login).map(|()| held)
        };
        let mut stream = match key {
            None => Stream::new(kind, begin(mechanism, 0, &mut || self.check_session())?),
            Some(named) => {
                let handle = self.resolver.resolve(named)?;
                let facts = &*self.resolver.facts(handle)?;
                let mechanism = &*with_params_of_curve(mechanism, facts);
                if let Some(usage) = StreamKind(kind).usage() {
                    check_key(mechanism, usage, facts)?;
                }
                if let Some(signature) = signature {
                    check_signature_length(mechanism, signature.len(), facts)?;
                }
                let may_hash = matches!(kind, Kind::Sign | Kind::Verify);
                let begin = |login: &mut dyn FnMut() -> Result<(), CallError>| match may_hash {
                    true => self.choose_hashing(handle, mechanism, |mechanism, hashing| {
                        Ok((begin(mechanism, handle, login)?, hashing.map(|hashing| (hashing.clone(), hashing.hasher()))))
                    }),
                    false => Ok((begin(mechanism, handle, login)?, None)),
                };
                let (held, hashed) = if StreamKind(kind).may_want_login() {
                    self.run_with_login(handle, facts, context, begin)?
                } else {
                    begin(&mut || self.check_session())?
                };
                Stream {
                    key: Some(Key { named: named.clone(), handle, epoch }),
                    hashed,
                    signature_size: facts.signature_size(lengths::of_signature(mechanism)),
                    order_size: facts.order_size(),
                    modulus_size: facts.modulus_size,
                    ..Stream::new(kind, held)
                }
            }
        };
        stream.signature = signature.as_deref().map(Wiped::from).unwrap_or_default();
        stream.withholds = kind == Kind::Decrypt && !unverified && lengths::is_authenticated(mechanism);
        let checked = stream.check_iv();
        stream.is_broken = checked.is_err();
        self.session.put_stream(Box::new(stream));
        match checked {
            Ok(()) => Ok(Answer::Done),
            Err(error) => Err(broken_off(error)),
        }
    }

    fn update_stream(&self, stream: &mut Stream, data: &[u8]) -> Result<Answer, Fault> {
        let Resolver { functions, session, .. } = self.resolver;
        if let Some((_, hasher)) = &mut stream.hashed {
            hasher.update(data);
            stream.taken = stream.taken.saturating_add(data.len());
            return Ok(Answer::Done);
        }
        let held_back = stream.held_back();
        let bytes = match stream::update(functions, session, stream.kind, data, held_back) {
            Ok(bytes) => bytes,
            Err(call) => return Err(self.refused(stream, call)),
        };
        stream.taken = stream.taken.saturating_add(data.len());
        stream.given = stream.given.saturating_add(bytes.len());
        if !matches!(stream.kind, Kind::Encrypt | Kind::Decrypt) {
            return Ok(Answer::Done);
        }
        if !bytes.is_empty() {
            self.check_stream(stream)?;
            if stream.withholds {
                return Err(Fault::ran(Error::PlaintextUnverified));
            }
        }
        Ok(Answer::Bytes(bytes))
    }

    fn finish_stream(&self, stream: &mut Stream) -> Result<Answer, Ended> {
        let kind = stream.kind;
        let finished = self.call_final(stream);
        let bytes = finished.map_err(|call| {
            // What a module has come to a verdict on is over, unless it says otherwise.
            let is_active = call.active || self.class(&call) != Class::Caller;
            Ended { fault: self.refused(stream, call), is_active }
        })?;
        stream.given = stream.given.saturating_add(bytes.len());
        self.check_stream(stream)?;
        if kind == Kind::Decrypt && lengths::lacks_tag(&stream.mechanism, stream.taken) {
            let call = CallError::new("C_DecryptFinal", CKR_ENCRYPTED_DATA_LEN_RANGE, Phase::Final);
            return Err(Ended::from(Fault::ran(Error::DecryptionFailed { call })));
        }
        let (mechanism, taken, given) = (&stream.mechanism, stream.taken, stream.given);
        let allowed = |size: Option<usize>| size.map(|size| size..=size);
        // Of ciphertexts and plaintexts, the whole.
        let (function, length, allowed) = match kind {
            Kind::Verify => return Ok(Answer::Done),
            Kind::Digest => ("C_DigestFinal", bytes.len(), lengths::of_digest(mechanism)),
            Kind::Sign => ("C_SignFinal", bytes.len(), allowed(stream.signature_size)),
            Kind::Encrypt => ("C_EncryptFinal", given, lengths::of_ciphertext(mechanism, taken, stream.modulus_size)),
            Kind::Decrypt => ("C_DecryptFinal", given, lengths::of_plaintext(mechanism, taken)),
        };
        if allowed.is_some_and(|allowed| !allowed.contains(&length)) {
            return Err(Ended::from(Fault::ran(Error::OutputLength { function })));
        }
        Ok(Answer::Bytes(bytes))
    }

    /// Ends what is active on the session: by `C_SessionCancel`, or by its Final call, of whose output nothing is kept. Where that would be a signature, or
    /// the operation may go on all the same, the session is closed instead.
    fn break_off_stream(&self) -> Result<Answer, Fault> {
        let Ok(mut stream) = self.take_stream_of_any_state() else { return Ok(Answer::Done) };
        let is_cancelled = self.cancel_stream(StreamKind(stream.kind));
        if is_cancelled || (stream.kind != Kind::Sign && (self.has_ended(&mut stream) || self.has_ended(&mut stream))) {
            return Ok(Answer::Done);
        }
        self.session.put_stream(stream);
        Err(broken_off(Error::Interrupted { cause: "the stream was broken off" }))
    }

    /// Whether an operation has certainly ended, now that its Final call is made. What says nothing for certain may be asked again.
    fn has_ended(&self, stream: &mut Stream) -> bool {
        match self.call_final(stream) {
            Ok(_) => true,
            Err(call) => call.code == CKR_OPERATION_NOT_INITIALIZED || (!call.active && self.class(&call) == Class::Caller),
        }
    }

    /// The Final call, or what stands for it where the data is hashed here.
    fn call_final(&self, stream: &mut Stream) -> Result<Wiped, CallError> {
        let Resolver { functions, session, .. } = self.resolver;
        let (kind, held_back) = (stream.kind, stream.held_back());
        match &mut stream.hashed {
            Some((hashing, hasher)) => {
                let digest = hashing.input_of_digest(hasher.finalize_reset().into_vec(), stream.order_size);
                stream::finish_with_digest(functions, session, kind, &digest, &stream.signature)
            }
            None => stream::finish(functions, session, kind, &stream.signature, held_back),
        }
    }

    /// Whether what came out was made with the right key and the IV that the caller knows.
    fn check_stream(&self, stream: &Stream) -> Result<(), Fault> {
        stream.check_iv().map_err(Fault::ran)?;
        match &stream.key {
            Some(Key { named, handle, epoch }) if !self.is_key_still(named, *handle, *epoch) => {
                Err(Fault { executed: Some(Executed::Unknown), ..Fault::ran(Error::SessionLost) })
            }
            _ => Ok(()),
        }
    }

    /// A call that failed, or has found fault with a ciphertext or a signature.
    fn refused(&self, stream: &Stream, call: CallError) -> Fault {
        match stream.kind {
            Kind::Verify => self.tell_refusal_from_failure(call.into(), |call| Error::SignatureInvalid { call }),
            Kind::Decrypt => self.tell_refusal_from_failure(call.into(), |call| Error::DecryptionFailed { call }),
            Kind::Digest | Kind::Sign | Kind::Encrypt => call.into(),
        }
    }

    fn take_stream(&self) -> Result<Box<Stream>, Fault> {
        let stream = self.take_stream_of_any_state()?;
        if stream.is_broken {
            self.session.put_stream(stream);
            return Err(broken_off(Error::Interrupted { cause: "a part of the stream has failed before" }));
        }
        Ok(stream)
    }

    fn take_stream_of_any_state(&self) -> Result<Box<Stream>, Fault> {
        let stream = self.session.take_stream().and_then(|stream| stream.downcast().ok());
        stream.ok_or_else(|| Fault::from(Error::Interrupted { cause: "no stream is in progress on the session" }))
    }
}

/// The end of a stream that is none.
struct Ended {
    fault: Fault,
    /// Whether the module's operation may be active all the same.
    is_active: bool,
}

impl From<Fault> for Ended {
    /// The Final call has succeeded.
    fn from(fault: Fault) -> Self {
        Self { fault, is_active: false }
    }
}

/// The session is to be closed, since an operation is active on it.
fn broken_off(error: Error) -> Fault {
    Fault { then: Some(Then::AnswerAndDiscard("stream_broken_off")), ..Fault::ran(error) }
}

impl Stream {
    fn new(kind: Kind, mechanism: HeldMechanism) -> Self {
        Self {
            kind,
            mechanism,
            key: None,
            hashed: None,
            signature: Wiped::default(),
            signature_size: None,
            order_size: None,
            modulus_size: None,
            withholds: false,
            taken: 0,
            given: 0,
            is_broken: false,
        }
    }
}
