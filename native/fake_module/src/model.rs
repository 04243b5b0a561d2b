//! What the module is: slots with tokens, sessions, logins, secret keys. It does what the standard says.

use std::collections::{BTreeMap, VecDeque};

use cryptoki_sys::*;

/// The user's PIN of every token, until a test gives it another.
pub const PIN: &[u8] = b"1234";

/// The label of the key that every token has.
pub const KEY_LABEL: &[u8] = b"key";

/// How many wrong PINs in a row lock it.
const TRIES: usize = 3;

/// Bytes of a signature.
const SIGNATURE_SIZE: usize = 32;

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) is_initialized: bool,
    tokens: BTreeMap<CK_SLOT_ID, Token>,
    pub(crate) sessions: BTreeMap<CK_SESSION_HANDLE, Session>,
    pub(crate) given_handles: VecDeque<CK_SESSION_HANDLE>,
    last_handle: CK_SESSION_HANDLE,
    /// Moves on with each `C_Initialize`: no object has the handle that it had before.
    incarnation: CK_OBJECT_HANDLE,
    pub(crate) tried_pins: Vec<Vec<u8>>,
    pub(crate) tried_names: Vec<Vec<u8>>,
    pub(crate) cancelled: Vec<CK_FLAGS>,
    /// Whether `C_EncryptMessage` leaves the IV as it was.
    pub(crate) makes_no_iv: bool,
    /// Whether a message ends its operation, which it should not.
    pub(crate) ends_messages: bool,
    /// What `C_GetMechanismInfo` says that each mechanism can do.
    pub(crate) mechanism_flags: CK_FLAGS,
    /// What `C_EncapsulateKey` says of the length of its ciphertext, in place of the truth.
    pub(crate) ciphertext_claim: Option<CK_ULONG>,
    /// The versions of the standard's interface that there are.
    pub(crate) interfaces: Vec<(u8, u8)>,
}

/// A token in its slot.
pub struct Token {
    /// Whether it is there.
    pub is_present: bool,
    /// Its label.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// The user's PIN.
    pub pin: Vec<u8>,
    /// How many wrong PINs it takes until it locks.
    pub tries_left: usize,
    /// Who is logged in.
    pub user: Option<CK_USER_TYPE>,
    /// How many sessions it gives.
    pub max_sessions: usize,
    /// Whether each use of a key wants a login of its own (`CKA_ALWAYS_AUTHENTICATE`).
    pub always_authenticate: bool,
    /// The name with which its user logs in; empty: any, or none.
    pub user_name: Vec<u8>,
    /// `CKA_KEY_TYPE` of its keys.
    pub key_type: CK_KEY_TYPE,
    /// The labels of its keys; each key's number is its place here.
    keys: Vec<Option<Vec<u8>>>,
}

pub(crate) struct Session {
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    /// The key of the operation that was begun, and whether the login that it wants has been made.
    operation: Option<(CK_OBJECT_HANDLE, bool)>,
    /// The messages that are encrypted or decrypted.
    messages: Option<Messages>,
    /// What a search has found, and was not yet asked for.
    search: Option<Vec<CK_OBJECT_HANDLE>>,
}

/// What a key makes of data. No cryptography, but of this data only, and of this key.
pub fn signature(label: &[u8], data: &[u8]) -> Vec<u8> {
    let mut signature = vec![data.len() as u8; SIGNATURE_SIZE];
    for (index, byte) in label.iter().chain(data).enumerate() {
        let place = index % SIGNATURE_SIZE;
        signature[place] = signature[place].rotate_left(3) ^ byte.wrapping_add(index as u8);
    }
    signature
}

/// The tag of a message, of which each byte depends on all of it. No cryptography, either.
pub fn tag(label: &[u8], iv: &[u8], aad: &[u8], data: &[u8]) -> Vec<u8> {
    let bytes = signature(label, &[iv, aad, data].concat());
    let all = bytes.iter().fold(0, |all, byte| all ^ byte);
    bytes.into_iter().map(|byte| byte ^ all).collect()
}

/// An operation by messages.
struct Messages {
    flags: CK_FLAGS,
    mechanism: CK_MECHANISM_TYPE,
    key: CK_OBJECT_HANDLE,
    /// How many there have been.
    count: u8,
    /// Whether the login that the next one wants has been made.
    is_proved: bool,
}

/// A message that is encrypted: no cryptography, as with [`signature`].
pub struct Message {
    /// Other than that of the message before.
    pub iv: Vec<u8>,
    /// The data the other way round.
    pub bytes: Vec<u8>,
    /// What a key makes of the data.
    pub tag: Vec<u8>,
}

/// The ciphertext of the secret that a key of this label is made of: it is secret to nobody.
pub fn ciphertext_for(label: &[u8]) -> Vec<u8> {
    [b"the ciphertext for ", label].concat()
}

impl Token {
    fn in_slot(slot: CK_SLOT_ID) -> Self {
        Self {
            is_present: true,
            label: format!("fake-{slot}"),
            serial: format!("{slot:04}"),
            pin: PIN.to_vec(),
            tries_left: TRIES,
            user: None,
            max_sessions: 100,
            always_authenticate: false,
            user_name: Vec::new(),
            key_type: CKK_GENERIC_SECRET,
            keys: vec![Some(KEY_LABEL.to_vec())],
        }
    }

    fn flags(&self) -> CK_FLAGS {
        let tries = match self.tries_left {
            0 => CKF_USER_PIN_LOCKED,
            1 => CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_COUNT_LOW,
            TRIES.. => 0,
            _ => CKF_USER_PIN_COUNT_LOW,
        };
        CKF_RNG | CKF_LOGIN_REQUIRED | CKF_USER_PIN_INITIALIZED | CKF_TOKEN_INITIALIZED | tries
    }

    fn check_pin(&mut self, pin: &[u8]) -> CK_RV {
        if self.tries_left == 0 {
            return CKR_PIN_LOCKED;
        }
        if pin == self.pin {
            self.tries_left = TRIES;
            return CKR_OK;
        }
        self.tries_left -= 1;
        CKR_PIN_INCORRECT
    }
}

type Checked<T> = Result<T, CK_RV>;

pub(crate) fn code(result: Checked<()>) -> CK_RV {
    result.err().unwrap_or(CKR_OK)
}

impl Model {
    pub(crate) const fn new() -> Self {
        Self {
            is_initialized: false,
            tokens: BTreeMap::new(),
            sessions: BTreeMap::new(),
            given_handles: VecDeque::new(),
            last_handle: 0,
            incarnation: 0,
            tried_pins: Vec::new(),
            tried_names: Vec::new(),
            cancelled: Vec::new(),
            makes_no_iv: false,
            ends_messages: false,
            mechanism_flags: CKF_ENCRYPT | CKF_DECRYPT | CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT,
            ciphertext_claim: None,
            interfaces: Vec::new(),
        }
    }

    /// The token of a slot, which is made if there is none.
    pub(crate) fn token_in(&mut self, slot: CK_SLOT_ID) -> &mut Token {
        self.tokens.entry(slot).or_insert_with(|| Token::in_slot(slot))
    }

    pub(crate) fn initialize(&mut self) -> CK_RV {
        if self.is_initialized {
            return CKR_CRYPTOKI_ALREADY_INITIALIZED;
        }
        self.token_in(0);
        self.is_initialized = true;
        self.incarnation += 1;
        CKR_OK
    }

    pub(crate) fn finalize(&mut self) {
        self.is_initialized = false;
        self.sessions.clear();
        self.tokens.values_mut().for_each(|token| token.user = None);
    }

    pub(crate) fn slots(&self, with_token: bool) -> Vec<CK_SLOT_ID> {
        self.tokens.iter().filter(|(_, token)| token.is_present || !with_token).map(|(slot, _)| *slot).collect()
    }

    pub(crate) fn is_present(&self, slot: CK_SLOT_ID) -> Checked<bool> {
        self.tokens.get(&slot).map(|token| token.is_present).ok_or(CKR_SLOT_ID_INVALID)
    }

    fn token(&mut self, slot: CK_SLOT_ID) -> Checked<&mut Token> {
        let token = self.tokens.get_mut(&slot).ok_or(CKR_SLOT_ID_INVALID)?;
        if token.is_present { Ok(token) } else { Err(CKR_TOKEN_NOT_PRESENT) }
    }

    pub(crate) fn token_info(&mut self, slot: CK_SLOT_ID) -> Checked<CK_TOKEN_INFO> {
        let sessions = self.sessions.values().filter(|session| session.slot == slot).count();
        let token = self.token(slot)?;
        Ok(CK_TOKEN_INFO {
            label: padded(&token.label),
            manufacturerID: padded("pkcs11_pool"),
            model: padded("fake"),
            serialNumber: padded(&token.serial),
            flags: token.flags(),
            ulMaxSessionCount: token.max_sessions as CK_ULONG,
            ulSessionCount: sessions as CK_ULONG,
            ulMaxRwSessionCount: token.max_sessions as CK_ULONG,
            ulRwSessionCount: sessions as CK_ULONG,
            ulMaxPinLen: 64,
            ulMinPinLen: 4,
            ..CK_TOKEN_INFO::default()
        })
    }

    pub(crate) fn open(&mut self, slot: CK_SLOT_ID, flags: CK_FLAGS) -> Checked<CK_SESSION_HANDLE> {
        let open = self.sessions.values().filter(|session| session.slot == slot).count();
        if open >= self.token(slot)?.max_sessions {
            return Err(CKR_SESSION_COUNT);
        }
        let handle = self.given_handles.pop_front().unwrap_or(self.last_handle + 1);
        self.last_handle = self.last_handle.max(handle);
        self.sessions.insert(handle, Session { slot, flags, operation: None, messages: None, search: None });
        Ok(handle)
    }

    pub(crate) fn session(&mut self, handle: CK_SESSION_HANDLE) -> Checked<&mut Session> {
        self.sessions.get_mut(&handle).ok_or(CKR_SESSION_HANDLE_INVALID)
    }

    /// A session ends; with the last one of a token its login.
    pub(crate) fn close(&mut self, handle: CK_SESSION_HANDLE) {
        let Some(Session { slot, .. }) = self.sessions.remove(&handle) else { return };
        if !self.sessions.values().any(|session| session.slot == slot) {
            self.token_in(slot).user = None;
        }
    }

    pub(crate) fn forget_sessions(&mut self, slot: CK_SLOT_ID) {
        self.sessions.retain(|_, session| session.slot != slot);
        self.token_in(slot).user = None;
    }

    pub(crate) fn session_info(&mut self, handle: CK_SESSION_HANDLE) -> Checked<CK_SESSION_INFO> {
        let (slot, flags) = self.session(handle).map(|session| (session.slot, session.flags))?;
        let is_writing = flags & CKF_RW_SESSION != 0;
        let state = match (self.token(slot)?.user, is_writing) {
            (None, false) => CKS_RO_PUBLIC_SESSION,
            (None, true) => CKS_RW_PUBLIC_SESSION,
            (Some(CKU_SO), _) => CKS_RW_SO_FUNCTIONS,
            (Some(_), false) => CKS_RO_USER_FUNCTIONS,
            (Some(_), true) => CKS_RW_USER_FUNCTIONS,
        };
        Ok(CK_SESSION_INFO { slotID: slot, state, flags, ulDeviceError: 0 })
    }

    /// `None`: a NULL PIN, as if it were typed at the device.
    pub(crate) fn log_in(&mut self, handle: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: Option<&[u8]>) -> Checked<()> {
        let slot = self.session(handle)?.slot;
        let for_one_use = user == CKU_CONTEXT_SPECIFIC;
        let session = self.session(handle)?;
        if for_one_use && session.operation.is_none() && session.messages.is_none() {
            return Err(CKR_OPERATION_NOT_INITIALIZED);
        }
        match self.token(slot)?.user {
            Some(_) if for_one_use => (),
            Some(other) if other == user => return Err(CKR_USER_ALREADY_LOGGED_IN),
            Some(_) => return Err(CKR_USER_ANOTHER_ALREADY_LOGGED_IN),
            None if for_one_use => return Err(CKR_USER_NOT_LOGGED_IN),
            None => (),
        }
        self.tried_pins.push(pin.unwrap_or_default().to_vec());
        let token = self.token(slot)?;
        let own = token.pin.clone();
        match token.check_pin(pin.unwrap_or(&own)) {
            CKR_OK => (),
            code => return Err(code),
        }
        if for_one_use {
            let session = self.session(handle)?;
            session.operation.iter_mut().for_each(|(_, is_proved)| *is_proved = true);
            session.messages.iter_mut().for_each(|messages| messages.is_proved = true);
        } else {
            self.token(slot)?.user = Some(user);
        }
        Ok(())
    }

    /// A login with a user name. A name that is not the user's is as bad as a wrong PIN.
    pub(crate) fn log_in_as(
        &mut self,
        handle: CK_SESSION_HANDLE,
        user: CK_USER_TYPE,
        pin: Option<&[u8]>,
        name: &[u8],
    ) -> Checked<()> {
        self.tried_names.push(name.to_vec());
        let slot = self.session(handle)?.slot;
        let own = &self.token(slot)?.user_name;
        let is_other = !own.is_empty() && own != name;
        self.log_in(handle, user, if is_other { Some(b"the PIN of another") } else { pin })
    }

    /// The operations that are meant by the flags end.
    pub(crate) fn cancel(&mut self, handle: CK_SESSION_HANDLE, flags: CK_FLAGS) -> Checked<()> {
        let session = self.session(handle)?;
        if flags & (CKF_SIGN | CKF_VERIFY) != 0 {
            session.operation = None;
        }
        session.messages = session.messages.take().filter(|messages| messages.flags & flags == 0);
        if flags & CKF_FIND_OBJECTS != 0 {
            session.search = None;
        }
        self.cancelled.push(flags);
        Ok(())
    }

    pub(crate) fn log_out(&mut self, handle: CK_SESSION_HANDLE) -> Checked<()> {
        let slot = self.session(handle)?.slot;
        self.token(slot)?.user.take().map(drop).ok_or(CKR_USER_NOT_LOGGED_IN)
    }
}

/// Keys: each is private, and can sign.
impl Model {
    fn handle_of(&self, number: usize) -> CK_OBJECT_HANDLE {
        self.incarnation * 1_000 + number as CK_OBJECT_HANDLE
    }

    /// The token that a session is on, and the key's number there.
    fn key(&mut self, session: CK_SESSION_HANDLE, handle: CK_OBJECT_HANDLE, invalid: CK_RV) -> Checked<(&mut Token, usize)> {
        let slot = self.session(session)?.slot;
        let number = handle.checked_sub(self.handle_of(0)).ok_or(invalid)? as usize;
        let token = self.token(slot)?;
        if token.user.is_none() || token.keys.get(number).is_none_or(Option::is_none) {
            return Err(invalid);
        }
        Ok((token, number))
    }

    /// What an attribute of an object is; `None`: it has no such one.
    pub(crate) fn attribute(
        &mut self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        kind: CK_ATTRIBUTE_TYPE,
    ) -> Checked<Option<Vec<u8>>> {
        let (token, number) = self.key(session, object, CKR_OBJECT_HANDLE_INVALID)?;
        Ok(match kind {
            CKA_CLASS => Some(CKO_SECRET_KEY.to_ne_bytes().to_vec()),
            CKA_KEY_TYPE => Some(token.key_type.to_ne_bytes().to_vec()),
            CKA_LABEL => token.keys[number].clone(),
            CKA_ID => Some(vec![number as u8]),
            CKA_PRIVATE | CKA_TOKEN | CKA_SIGN | CKA_VERIFY => Some(vec![1]),
            CKA_ALWAYS_AUTHENTICATE => Some(vec![u8::from(token.always_authenticate)]),
            _ => None,
        })
    }

    pub(crate) fn begin_search(&mut self, session: CK_SESSION_HANDLE, template: &[(CK_ATTRIBUTE_TYPE, Vec<u8>)]) -> Checked<()> {
        if self.session(session)?.search.is_some() {
            return Err(CKR_OPERATION_ACTIVE);
        }
        let slot = self.session(session)?.slot;
        let count = self.token(slot)?.keys.len();
        let handles: Vec<_> = (0..count).map(|number| self.handle_of(number)).collect();
        let matches = |handle: &CK_OBJECT_HANDLE| {
            template
                .iter()
                .all(|(kind, value)| self.attribute(session, *handle, *kind).is_ok_and(|own| own.as_ref() == Some(value)))
        };
        // What is private is not found without a login: such keys have no attributes.
        let found = handles.into_iter().filter(matches).collect();
        self.session(session)?.search = Some(found);
        Ok(())
    }

    pub(crate) fn next_found(&mut self, session: CK_SESSION_HANDLE, most: usize) -> Checked<Vec<CK_OBJECT_HANDLE>> {
        let search = self.session(session)?.search.as_mut().ok_or(CKR_OPERATION_NOT_INITIALIZED)?;
        Ok(search.drain(..most.min(search.len())).collect())
    }

    pub(crate) fn end_search(&mut self, session: CK_SESSION_HANDLE) -> Checked<()> {
        self.session(session)?.search.take().map(drop).ok_or(CKR_OPERATION_NOT_INITIALIZED)
    }

    pub(crate) fn begin_operation(&mut self, session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> Checked<()> {
        if self.session(session)?.operation.is_some() {
            return Err(CKR_OPERATION_ACTIVE);
        }
        let (token, _) = self.key(session, key, CKR_KEY_HANDLE_INVALID)?;
        let needs_no_proof = !token.always_authenticate;
        self.session(session)?.operation = Some((key, needs_no_proof));
        Ok(())
    }

    /// The signature of data under the key of the operation, which ends.
    pub(crate) fn finish_operation(&mut self, session: CK_SESSION_HANDLE, data: &[u8]) -> Checked<Vec<u8>> {
        let (key, is_proved) = self.session(session)?.operation.take().ok_or(CKR_OPERATION_NOT_INITIALIZED)?;
        let (token, number) = self.key(session, key, CKR_USER_NOT_LOGGED_IN)?;
        if !is_proved {
            return Err(CKR_USER_NOT_LOGGED_IN);
        }
        Ok(signature(token.keys[number].as_deref().unwrap_or_default(), data))
    }

    pub(crate) fn generate(&mut self, session: CK_SESSION_HANDLE, label: Vec<u8>) -> Checked<CK_OBJECT_HANDLE> {
        let slot = self.session(session)?.slot;
        let token = self.token(slot)?;
        if token.user.is_none() {
            return Err(CKR_USER_NOT_LOGGED_IN);
        }
        token.keys.push(Some(label));
        let number = token.keys.len() - 1;
        Ok(self.handle_of(number))
    }

    /// Begins to encrypt (`CKF_MESSAGE_ENCRYPT`) or to decrypt messages.
    pub(crate) fn begin_messages(
        &mut self,
        session: CK_SESSION_HANDLE,
        mechanism: CK_MECHANISM_TYPE,
        key: CK_OBJECT_HANDLE,
        flags: CK_FLAGS,
    ) -> Checked<()> {
        if self.session(session)?.messages.is_some() {
            return Err(CKR_OPERATION_ACTIVE);
        }
        self.key(session, key, CKR_KEY_HANDLE_INVALID).map(drop)?;
        self.session(session)?.messages = Some(Messages { flags, mechanism, key, count: 0, is_proved: false });
        Ok(())
    }

    /// The mechanism of the operation by messages, which is one more message; its number, and the label of its key.
    pub(crate) fn next_message(
        &mut self,
        session: CK_SESSION_HANDLE,
        wanted: CK_FLAGS,
    ) -> Checked<(CK_MECHANISM_TYPE, u8, Vec<u8>)> {
        let messages = self.session(session)?.messages.as_mut().filter(|messages| messages.flags == wanted);
        let messages = messages.ok_or(CKR_OPERATION_NOT_INITIALIZED)?;
        messages.count += 1;
        let (mechanism, key, count) = (messages.mechanism, messages.key, messages.count);
        let is_proved = std::mem::take(&mut messages.is_proved);
        if self.ends_messages {
            self.session(session)?.messages = None;
        }
        let (token, place) = self.key(session, key, CKR_USER_NOT_LOGGED_IN)?;
        if wanted == CKF_MESSAGE_DECRYPT && token.always_authenticate && !is_proved {
            return Err(CKR_USER_NOT_LOGGED_IN);
        }
        Ok((mechanism, count, token.keys[place].clone().unwrap_or_default()))
    }

    /// `given`: the IV that the application gives; `None`: the token is to make it.
    pub(crate) fn encrypt_message(number: u8, label: &[u8], given: Option<&[u8]>, aad: &[u8], data: &[u8]) -> Message {
        let iv = given.map_or_else(|| vec![number; 12], <[u8]>::to_vec);
        let tag = tag(label, &iv, aad, data);
        Message { iv, bytes: data.iter().rev().copied().collect(), tag }
    }

    /// The plaintext, if this is the beginning of its tag.
    pub(crate) fn decrypt_message(label: &[u8], iv: &[u8], aad: &[u8], data: &[u8], tag: &[u8]) -> Checked<Vec<u8>> {
        let plain: Vec<u8> = data.iter().rev().copied().collect();
        let own = Self::encrypt_message(0, label, Some(iv), aad, &plain).tag;
        if own.starts_with(tag) { Ok(plain) } else { Err(CKR_AEAD_DECRYPT_FAILED) }
    }

    pub(crate) fn end_messages(&mut self, session: CK_SESSION_HANDLE, flags: CK_FLAGS) -> Checked<()> {
        let session = self.session(session)?;
        if session.messages.as_ref().is_none_or(|messages| messages.flags != flags) {
            return Err(CKR_OPERATION_NOT_INITIALIZED);
        }
        session.messages = None;
        Ok(())
    }

    /// A key of a secret that is encapsulated for another key, or was.
    pub(crate) fn encapsulate(
        &mut self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        label: Vec<u8>,
    ) -> Checked<CK_OBJECT_HANDLE> {
        self.key(session, key, CKR_KEY_HANDLE_INVALID).map(drop)?;
        self.generate(session, label)
    }

    pub(crate) fn destroy(&mut self, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Checked<()> {
        let (token, number) = self.key(session, object, CKR_OBJECT_HANDLE_INVALID)?;
        token.keys[number] = None;
        Ok(())
    }
}

/// A text in a field of fixed size, as the standard wants it.
fn padded<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let mut field = [b' '; SIZE];
    field[..text.len()].copy_from_slice(text.as_bytes());
    field
}
