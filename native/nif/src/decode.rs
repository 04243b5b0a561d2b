//! Terms in: requests, keys, mechanisms, templates, options. The Elixir side has checked them: what does not fit here is refused as a whole,
//! see `args`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use rustler::{Atom, Binary, Error, NifMap, NifResult, OwnedEnv, ResourceArc, Term};
use session_pool::Config;
use token::p11::stream::Kind;
use token::p11::{Attribute, Class, Derivation, Iv, Mechanism, Params, PrfData, Salt, Template, Value};
use token::{
    Batch, Beginning, Data, KeyRef, Limits, LoginMode, ModuleConfig, Newest, Numbers, Policy, PoolOptions, Provision, PublicKey,
    Request, Selector, StreamKind, StreamPart, Task, UriAttribute, Wiped,
};

use crate::atoms;
use crate::resources::PreparedResource;

/// Larger binaries are kept by reference rather than copied.
const COPY_LIMIT: usize = 64 * 1024;

/// A binary of the VM's that an environment of ours keeps alive.
struct Kept {
    _env: OwnedEnv,
    bytes: *const [u8],
}

// SAFETY: the bytes are immutable, and stay where they are while the environment holds the binary.
unsafe impl Send for Kept {}

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the environment, which lives as long as this, holds a reference to the binary; a binary of more than 64 bytes lies
        // outside of any heap and never moves.
        unsafe { &*self.bytes }
    }
}

fn data(term: Term<'_>) -> NifResult<Data> {
    let binary: Binary = term.decode()?;
    if binary.len() <= COPY_LIMIT {
        return Ok(Data::Owned(binary.as_slice().into()));
    }
    let env = OwnedEnv::new();
    let bytes = env.run(|own| Ok::<_, Error>(std::ptr::from_ref(term.in_env(own).decode::<Binary>()?.as_slice())))?;
    Ok(Data::Kept(Box::new(Kept { _env: env, bytes })))
}

fn bytes(term: Term<'_>) -> NifResult<Vec<u8>> {
    Ok(term.decode::<Binary>()?.as_slice().to_vec())
}

/// A request.
pub(crate) fn request(term: Term<'_>) -> NifResult<Request> {
    if term.is_atom() {
        return match term.decode::<Atom>()? {
            atom if atom == atoms::ping() => Ok(Request::Ping),
            atom if atom == atoms::probe() => Ok(Request::Probe),
            atom if atom == atoms::mechanisms() => Ok(Request::Mechanisms),
            atom if atom == atoms::token_info() => Ok(Request::TokenInfo),
            _ => Err(Error::BadArg),
        };
    }
    let parts = rustler::types::tuple::get_tuple(term)?;
    let (tag, rest) = parts.split_first().ok_or(Error::BadArg)?;
    let tag: Atom = tag.decode()?;
    let request = match rest {
        [verb, key, mechanism, input] if tag == atoms::apply() => {
            Request::Apply { key: self::key(*key)?, mechanism: self::mechanism(*mechanism)?, task: task(verb.decode()?, *input)? }
        }
        [verb, prepared, input] if tag == atoms::apply() => {
            let PreparedResource { key, mechanism } = &*prepared.decode::<ResourceArc<PreparedResource>>()?;
            let (key, mechanism) = (KeyRef::Shared(key.clone()), mechanism.clone());
            Request::Apply { key, mechanism, task: task(verb.decode()?, *input)? }
        }
        [verb, key, inputs] if tag == atoms::batch() => {
            Request::Batch(Batch::new(self::key(*key)?, tasks(verb.decode()?, *inputs)?))
        }
        [verb, key, mechanism] if tag == atoms::prepare() => Request::Prepare {
            kind: stream_kind(verb.decode()?)?,
            key: self::key(*key)?,
            mechanism: self::mechanism(*mechanism)?,
        },
        [mechanism, message] if tag == atoms::digest() => {
            Request::Digest { mechanism: self::mechanism(*mechanism)?, data: data(*message)? }
        }
        [verb, key, mechanism, input] if tag == atoms::stream_begin() => {
            let kind = stream_kind(verb.decode()?)?;
            Request::Stream(kind, StreamPart::Begin(Box::new(beginning(kind, *key, *mechanism, *input)?)))
        }
        [verb, part] if tag == atoms::stream_update() => {
            Request::Stream(stream_kind(verb.decode()?)?, StreamPart::Update(data(*part)?))
        }
        [verb] if tag == atoms::stream_finish() => Request::Stream(stream_kind(verb.decode()?)?, StreamPart::Finish),
        [verb] if tag == atoms::stream_break_off() => Request::Stream(stream_kind(verb.decode()?)?, StreamPart::BreakOff),
        [length] if tag == atoms::generate_random() => Request::GenerateRandom { length: length.decode()? },
        [seed] if tag == atoms::seed_random() => Request::SeedRandom { seed: data(*seed)? },
        [mechanism, wanted] if tag == atoms::generate_key() => {
            Request::GenerateKey { mechanism: self::mechanism(*mechanism)?, template: template(*wanted)? }
        }
        [mechanism, public, private] if tag == atoms::generate_key_pair() => Request::GenerateKeyPair {
            mechanism: self::mechanism(*mechanism)?,
            public: template(*public)?,
            private: template(*private)?,
        },
        [wanted, limit, at_most] if tag == atoms::find_objects() => {
            Request::FindObjects { template: template(*wanted)?, limit: limit.decode()?, cut: at_most.decode()? }
        }
        [object, attributes] if tag == atoms::get_attributes() => {
            Request::GetAttributes { object: key(*object)?, attributes: attributes.decode()? }
        }
        [wrapping, mechanism, wrapped] if tag == atoms::wrap_key() => {
            Request::WrapKey { key: key(*wrapping)?, mechanism: self::mechanism(*mechanism)?, wrapped: Box::new(key(*wrapped)?) }
        }
        [unwrapping, mechanism, wrapped, wanted] if tag == atoms::unwrap_key() => Request::UnwrapKey {
            key: key(*unwrapping)?,
            mechanism: self::mechanism(*mechanism)?,
            wrapped: data(*wrapped)?,
            template: template(*wanted)?,
        },
        [base, mechanism, wanted] if tag == atoms::derive_key() => {
            let (key, template) = (key(*base)?, template(*wanted)?);
            let (mechanism, other) = mechanism_with_key(*mechanism)?;
            Request::DeriveKey { key, mechanism, other: other.map(Box::new), template }
        }
        [public, mechanism, wanted] if tag == atoms::encapsulate() => {
            Request::EncapsulateKey { key: key(*public)?, mechanism: self::mechanism(*mechanism)?, template: template(*wanted)? }
        }
        [private, mechanism, ciphertext, wanted] if tag == atoms::decapsulate() => Request::DecapsulateKey {
            key: key(*private)?,
            mechanism: self::mechanism(*mechanism)?,
            ciphertext: data(*ciphertext)?,
            template: template(*wanted)?,
        },
        [object] if tag == atoms::object_size() => Request::ObjectSize { object: key(*object)? },
        [wanted] if tag == atoms::create_object() => Request::CreateObject { template: template(*wanted)? },
        [object, changed] if tag == atoms::copy_object() => {
            Request::CopyObject { object: key(*object)?, template: template(*changed)? }
        }
        [object, changed] if tag == atoms::set_attributes() => {
            Request::SetAttributes { object: key(*object)?, template: template(*changed)? }
        }
        [object] if tag == atoms::destroy_object() => Request::DestroyObject { object: key(*object)? },
        _ => return Err(Error::BadArg),
    };
    Ok(request)
}

/// What is done with a key, and the mechanism, for many requests.
pub(crate) fn prepared(key: Term<'_>, mechanism: Term<'_>) -> NifResult<PreparedResource> {
    Ok(PreparedResource { key: Arc::new(self::key(key)?), mechanism: self::mechanism(mechanism)? })
}

/// What a key does, and with what: data, of `:verify` `{data, signature}`, of `:digest_key` `{prefix, suffix}`.
fn task(verb: Atom, input: Term<'_>) -> NifResult<Task> {
    if verb == atoms::sign() {
        Ok(Task::Sign(data(input)?))
    } else if verb == atoms::verify() {
        let (message, signature): (Term, Term) = input.decode()?;
        Ok(Task::Verify { data: data(message)?, signature: data(signature)? })
    } else if verb == atoms::encrypt() {
        Ok(Task::Encrypt(data(input)?))
    } else if verb == atoms::decrypt() {
        Ok(Task::Decrypt(data(input)?))
    } else if verb == atoms::digest_key() {
        let (prefix, suffix): (Term, Term) = input.decode()?;
        Ok(Task::DigestKey { prefix: data(prefix)?, suffix: data(suffix)? })
    } else {
        Err(Error::BadArg)
    }
}

fn stream_kind(verb: Atom) -> NifResult<StreamKind> {
    let kinds = [
        (atoms::digest(), Kind::Digest),
        (atoms::sign(), Kind::Sign),
        (atoms::verify(), Kind::Verify),
        (atoms::encrypt(), Kind::Encrypt),
        (atoms::decrypt(), Kind::Decrypt),
    ];
    kinds.into_iter().find(|(name, _)| *name == verb).map(|(_, kind)| StreamKind(kind)).ok_or(Error::BadArg)
}

/// What a stream begins with. The key is nil for `:digest`; the input is the signature of `:verify`, and of `:decrypt` whether a plaintext goes out that is
/// not verified yet.
fn beginning(kind: StreamKind, key: Term<'_>, mechanism: Term<'_>, input: Term<'_>) -> NifResult<Beginning> {
    let key = if kind.0 == Kind::Digest { None } else { Some(self::key(key)?) };
    let signature = if kind.0 == Kind::Verify { Some(data(input)?) } else { None };
    let unverified = kind.0 == Kind::Decrypt && input.decode()?;
    Ok(Beginning { key, mechanism: self::mechanism(mechanism)?, signature, unverified })
}

/// `[{mechanism, input}]`, with nil for the mechanism of the one before.
fn tasks(verb: Atom, inputs: Term<'_>) -> NifResult<Vec<(Arc<Mechanism>, Task)>> {
    let mut last: Option<Arc<Mechanism>> = None;
    inputs
        .decode::<rustler::ListIterator>()?
        .map(|entry| {
            let (mechanism, input): (Term, Term) = entry.decode()?;
            if !mechanism.is_atom() {
                last = Some(Arc::new(self::mechanism(mechanism)?));
            }
            Ok((last.clone().ok_or(Error::BadArg)?, task(verb, input)?))
        })
        .collect()
}

/// `{:find | :newest, template}`, `{:find | :newest, template, uri}`, `{:public_key, class, numbers, info, certificate}`, or
/// `{:object, handle, epoch, token, template}`, with the unique id of an object that has one behind it.
fn key(term: Term<'_>) -> NifResult<KeyRef> {
    let found = match term.decode::<(Atom, Term)>() {
        Ok((tag, wanted)) => Some((tag, wanted, None)),
        Err(_) => term.decode::<(Atom, Term, Term)>().ok().map(|(tag, wanted, token)| (tag, wanted, Some(token))),
    };
    if let Some((tag, wanted, token)) = found {
        let (wanted, token) = (template(wanted)?, token.map(uri).transpose()?);
        return match tag {
            tag if tag == atoms::find() => Ok(KeyRef::Find(wanted, token)),
            tag if tag == atoms::newest() => Ok(KeyRef::Newest(Newest::new(wanted, token))),
            _ => Err(Error::BadArg),
        };
    }
    if let Ok((tag, class, numbers, info, certificate)) = term.decode::<(Atom, u64, Term, Term, Term)>()
        && tag == atoms::public_key()
    {
        let certificate = if certificate.is_binary() { Some(bytes(certificate)?) } else { None };
        let key = PublicKey::new(class, self::numbers(numbers)?, bytes(info)?, certificate);
        return Ok(KeyRef::PublicKey(Box::new(key)));
    }
    let parts = rustler::types::tuple::get_tuple(term)?;
    let (object, unique_id) = match parts[..] {
        [tag, handle, epoch, token, find] => ([tag, handle, epoch, token, find], None),
        [tag, handle, epoch, token, find, unique_id] => ([tag, handle, epoch, token, find], Some(bytes(unique_id)?)),
        _ => return Err(Error::BadArg),
    };
    let [tag, handle, epoch, token, find] = object;
    if tag.decode::<Atom>()? != atoms::object() {
        return Err(Error::BadArg);
    }
    let (handle, epoch) = (handle.decode()?, epoch.decode()?);
    Ok(KeyRef::Object { handle, epoch, token: bytes(token)?, find: template(find)?, unique_id })
}

/// `{:rsa, modulus, exponent}`, `{:curve, key_type, params, point}` or `{:post_quantum, key_type, parameter_set, value}`.
fn numbers(term: Term<'_>) -> NifResult<Numbers> {
    if let Ok((tag, modulus, exponent)) = term.decode::<(Atom, Term, Term)>()
        && tag == atoms::rsa()
    {
        return Ok(Numbers::Rsa { modulus: bytes(modulus)?, exponent: bytes(exponent)? });
    }
    let (tag, key_type, params, value): (Atom, u64, Term, Term) = term.decode()?;
    if tag == atoms::curve() {
        Ok(Numbers::Curve { key_type, params: bytes(params)?, point: bytes(value)? })
    } else if tag == atoms::post_quantum() {
        Ok(Numbers::PostQuantum { key_type, set: params.decode()?, value: bytes(value)? })
    } else {
        Err(Error::BadArg)
    }
}

/// `{code, params}`, whose parameters name no key.
fn mechanism(term: Term<'_>) -> NifResult<Mechanism> {
    match mechanism_with_key(term)? {
        (mechanism, None) => Ok(mechanism),
        (_, Some(_)) => Err(Error::BadArg),
    }
}

/// `{code, params}`, and the key that the parameters name.
fn mechanism_with_key(term: Term<'_>) -> NifResult<(Mechanism, Option<KeyRef>)> {
    let (code, params): (u64, Term) = term.decode()?;
    if params.is_tuple()
        && let Some((derivation, key)) = derivation(&rustler::types::tuple::get_tuple(params)?)?
    {
        return Ok((Mechanism { code, params: Params::Derivation(Box::new(derivation)) }, key));
    }
    Ok((Mechanism { code, params: self::params(params)? }, None))
}

/// What a key is made with, and the other key that it is made with; `None`: it is something else.
fn derivation(parts: &[Term<'_>]) -> NifResult<Option<(Derivation, Option<KeyRef>)>> {
    let (tag, rest) = parts.split_first().ok_or(Error::BadArg)?;
    let tag: Atom = tag.decode()?;
    let wiped = |term: &Term<'_>| Ok::<_, Error>(Wiped::from(term.decode::<Binary>()?.as_slice()));
    let derivation = match rest {
        [other] if tag == atoms::key() => return Ok(Some((Derivation::Key(0), Some(key(*other)?)))),
        [data] if tag == atoms::string_data() => Derivation::Data(wiped(data)?),
        [iv, data] if tag == atoms::cbc_data() => {
            let iv = bytes(*iv)?;
            match (<[u8; 16]>::try_from(&iv[..]), <[u8; 8]>::try_from(&iv[..])) {
                (Ok(iv), _) => Derivation::Cbc16 { iv, data: wiped(data)? },
                (_, Ok(iv)) => Derivation::Cbc8 { iv, data: wiped(data)? },
                _ => return Err(Error::BadArg),
            }
        }
        [hash, extract, expand, salt, info] if tag == atoms::hkdf() => {
            let (salt, key) = match salt {
                salt if salt.is_binary() => (Salt::Data(wiped(salt)?), None),
                salt if salt.is_tuple() => (Salt::Key(0), Some(key(*salt)?)),
                _none => (Salt::None, None),
            };
            let (hash, extract, expand) = (hash.decode()?, extract.decode()?, expand.decode()?);
            return Ok(Some((Derivation::Hkdf { hash, extract, expand, salt, info: wiped(info)? }, key)));
        }
        [prf, iterations, salt, password] if tag == atoms::pbkdf2() => Derivation::Pbkdf2 {
            prf: prf.decode()?,
            iterations: iterations.decode()?,
            salt: wiped(salt)?,
            password: wiped(password)?,
            has_length_pointer: false,
        },
        [prf, iv, data] if tag == atoms::sp800_108() => {
            let data = data.decode::<rustler::ListIterator>()?.map(prf_data).collect::<NifResult<_>>()?;
            Derivation::Sp800108 { prf: prf.decode()?, iv: iv.is_binary().then(|| wiped(iv)).transpose()?, data }
        }
        _ => return Ok(None),
    };
    Ok(Some((derivation, None)))
}

/// A binary, or `{type, bits, little_endian}`, with no bits for what the block before was.
fn prf_data(term: Term<'_>) -> NifResult<PrfData> {
    if term.is_binary() {
        return Ok(PrfData::Bytes(Wiped::from(term.decode::<Binary>()?.as_slice())));
    }
    let (kind, bits, is_little_endian) = term.decode()?;
    Ok(PrfData::number(kind, bits, is_little_endian))
}

fn params(term: Term<'_>) -> NifResult<Params> {
    if term.is_binary() {
        return Ok(Params::Bytes(bytes(term)?));
    }
    if term.is_atom() {
        return if term.decode::<Atom>()? == atoms::nil() { Ok(Params::None) } else { Err(Error::BadArg) };
    }
    let parts = rustler::types::tuple::get_tuple(term)?;
    let (tag, rest) = parts.split_first().ok_or(Error::BadArg)?;
    let tag: Atom = tag.decode()?;
    // Bytes come last: those that are decoded before another part is refused would not be wiped.
    Ok(match rest {
        [hash] if tag == atoms::hashed() => Params::Hashed { hash: hash.decode()?, curve: None },
        [hash, curve] if tag == atoms::hashed() => Params::Hashed { hash: hash.decode()?, curve: Some(bytes(*curve)?) },
        [hash, mgf, salt] if tag == atoms::rsa_pss() => {
            Params::RsaPss { hash: hash.decode()?, mgf: mgf.decode()?, salt_length: salt.decode()? }
        }
        [hash, mgf, source] if tag == atoms::rsa_oaep() => {
            Params::RsaOaep { hash: hash.decode()?, mgf: mgf.decode()?, source: bytes(*source)? }
        }
        [aes_bits, hash, mgf, source] if tag == atoms::rsa_aes() => {
            let (aes_bits, hash, mgf) = (aes_bits.decode()?, hash.decode()?, mgf.decode()?);
            Params::RsaAes { aes_bits, hash, mgf, source: bytes(*source)? }
        }
        [aes_bits, kdf, shared_data] if tag == atoms::ecdh_aes() => {
            Params::EcdhAes { aes_bits: aes_bits.decode()?, kdf: kdf.decode()?, shared_data: bytes(*shared_data)? }
        }
        [iv, aad, tag_bits] if tag == atoms::gcm() => {
            Params::Gcm { tag_bits: tag_bits.decode()?, iv: self::iv(*iv)?, aad: bytes(*aad)? }
        }
        [nonce, aad, mac_length, data_length] if tag == atoms::ccm() => Params::Ccm {
            mac_length: mac_length.decode()?,
            data_length: data_length.decode()?,
            nonce: iv(*nonce)?,
            aad: bytes(*aad)?,
        },
        [nonce, aad] if tag == atoms::poly1305() => Params::Poly1305 { nonce: bytes(*nonce)?, aad: bytes(*aad)? },
        [counter, nonce] if tag == atoms::chacha20() => Params::ChaCha20 { counter: bytes(*counter)?, nonce: bytes(*nonce)? },
        [prehash, context] if tag == atoms::eddsa() => Params::Eddsa { prehash: prehash.decode()?, context: bytes(*context)? },
        [kdf, shared_data, public_data] if tag == atoms::ecdh1() => {
            Params::Ecdh1 { kdf: kdf.decode()?, public_data: bytes(*public_data)?, shared_data: bytes(*shared_data)? }
        }
        [hedge, context, hash] if tag == atoms::signature_context() => {
            let (hedge, hash) = (hedge.decode()?, hash.decode()?);
            Params::SignatureContext { hedge, hash, context: bytes(*context)? }
        }
        _ => return Err(Error::BadArg),
    })
}

/// An IV, or `:token`.
fn iv(term: Term<'_>) -> NifResult<Iv> {
    if term.is_atom() && term.decode::<Atom>()? == atoms::token() { Ok(Iv::Token) } else { Ok(Iv::Given(bytes(term)?)) }
}

/// `[{code, value}]`.
fn template(term: Term<'_>) -> NifResult<Template> {
    term.decode::<rustler::ListIterator>()?
        .map(|entry| {
            let (kind, value): (u64, Term) = entry.decode()?;
            Ok(Attribute { kind, value: self::value(value)? })
        })
        .collect()
}

fn value(term: Term<'_>) -> NifResult<Value> {
    if term.is_binary() {
        return Ok(Value::Bytes(bytes(term)?));
    }
    if term.is_atom() {
        return Ok(Value::Bool(term.decode()?));
    }
    let (tag, inner): (Atom, Term) = term.decode()?;
    if tag == atoms::ulong() {
        Ok(Value::Ulong(inner.decode()?))
    } else if tag == atoms::ulongs() {
        Ok(Value::Ulongs(inner.decode()?))
    } else if tag == atoms::template() {
        Ok(Value::Template(template(inner)?))
    } else {
        Err(Error::BadArg)
    }
}

/// The pool's options, in the form that `Pkcs11Pool.PoolServer.NativeOptions` gives them.
#[derive(NifMap)]
pub(crate) struct Options<'a> {
    label: String,
    module: String,
    module_sha256: Option<String>,
    module_env: HashMap<String, String>,
    module_args: Option<String>,
    slot: Term<'a>,
    exclusive: bool,
    login: Atom,
    user: u64,
    username: Option<String>,
    lazy: bool,
    read_only: bool,
    serialize: bool,
    operation_timeout: Option<u64>,
    keepalive: Option<u64>,
    random_chunk: usize,
    trouble_timeout: Option<u64>,
    trouble_interval: u64,
    key_cache_ttl: Option<u64>,
    retry_policy: Vec<(u64, String)>,
    pool_size: usize,
    stripes: usize,
    idle_ttl: Option<u64>,
    max_lifetime: Option<u64>,
    max_waiting: usize,
    retain_pin: bool,
    inactivity_timeout: Option<u64>,
    explicit_login: bool,
    pub(crate) shutdown_timeout: Option<u64>,
    pub(crate) executor: Atom,
    pub(crate) dirty_io_schedulers: usize,
}

impl Options<'_> {
    pub(crate) fn pool(&self) -> NifResult<PoolOptions> {
        let login = match self.login {
            atom if atom == atoms::none() => LoginMode::None,
            atom if atom == atoms::pin() => LoginMode::Pin,
            atom if atom == atoms::protected() => LoginMode::Protected,
            _ => return Err(Error::BadArg),
        };
        let class = |(code, name): &(u64, String)| Some((*code, Class::from_name(name)?));
        Ok(PoolOptions {
            module: self.module.clone(),
            module_config: ModuleConfig {
                serialize: self.serialize,
                ..module_config(&self.module_sha256, &self.module_env, &self.module_args)
            },
            selector: selector(self.slot)?,
            exclusive: self.exclusive,
            login,
            user: self.user,
            user_name: self.username.clone(),
            retain_pin: self.retain_pin,
            inactivity_timeout: self.inactivity_timeout,
            explicit_login: self.explicit_login,
            lazy: self.lazy,
            read_only: self.read_only,
            operation_timeout: self.operation_timeout,
            keepalive: self.keepalive,
            random_chunk: self.random_chunk,
            key_cache_ttl: self.key_cache_ttl,
            policy: Policy {
                overrides: self.retry_policy.iter().map(class).collect::<Option<_>>().ok_or(Error::BadArg)?,
                trouble: self.trouble_timeout.map(|after| Limits { after, apart: self.trouble_interval }),
            },
            sessions: Config {
                label: self.label.clone(),
                max_sessions: self.pool_size,
                stripes: self.stripes,
                idle_ttl: self.idle_ttl,
                max_lifetime: self.max_lifetime,
                max_waiting: self.max_waiting,
            },
        })
    }
}

fn module_config(sha256: &Option<String>, env: &HashMap<String, String>, args: &Option<String>) -> ModuleConfig {
    ModuleConfig {
        sha256: sha256.as_deref().map(str::to_ascii_lowercase),
        env: env.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<BTreeMap<_, _>>(),
        args: args.clone(),
        serialize: false,
    }
}

/// A module, without a pool.
#[derive(NifMap)]
pub(crate) struct ModulePlace {
    pub(crate) module: String,
    module_sha256: Option<String>,
    module_env: HashMap<String, String>,
    module_args: Option<String>,
    pub(crate) timeout: u64,
}

impl ModulePlace {
    pub(crate) fn config(&self) -> ModuleConfig {
        module_config(&self.module_sha256, &self.module_env, &self.module_args)
    }
}

/// Where a token is to be provisioned.
#[derive(NifMap)]
pub(crate) struct Place<'a> {
    pub(crate) module: String,
    module_sha256: Option<String>,
    module_env: HashMap<String, String>,
    module_args: Option<String>,
    slot: Term<'a>,
    pub(crate) force: bool,
}

impl Place<'_> {
    pub(crate) fn config(&self) -> ModuleConfig {
        module_config(&self.module_sha256, &self.module_env, &self.module_args)
    }

    pub(crate) fn selector(&self) -> NifResult<Selector> {
        selector(self.slot)
    }
}

/// `{:init_token, label, so_pin}`, `{:init_pin, so_pin, pin}` or `{:set_pin, user, old, new}`.
pub(crate) fn provision(term: Term<'_>) -> NifResult<Provision> {
    let pin = |term: Term<'_>| Ok::<_, Error>(token::Pin::new(bytes(term)?));
    let parts = rustler::types::tuple::get_tuple(term)?;
    let (tag, rest) = parts.split_first().ok_or(Error::BadArg)?;
    let tag: Atom = tag.decode()?;
    match rest {
        [label, so_pin] if tag == atoms::init_token() => Ok(Provision::Token { label: label.decode()?, so_pin: pin(*so_pin)? }),
        [so_pin, user_pin] if tag == atoms::init_pin() => Ok(Provision::UserPin { so_pin: pin(*so_pin)?, pin: pin(*user_pin)? }),
        [user, old, new] if tag == atoms::set_pin() => {
            Ok(Provision::ChangePin { user: user.decode()?, old: pin(*old)?, new: pin(*new)? })
        }
        _ => Err(Error::BadArg),
    }
}

/// `{:label, s}`, `{:serial, s}`, `{:slot_id, n}`, `{:uri, [{name, value}]}` or `:uninitialized`.
fn selector(term: Term<'_>) -> NifResult<Selector> {
    if term.is_atom() && term.decode::<Atom>()? == atoms::uninitialized() {
        return Ok(Selector::Uninitialized);
    }
    let (tag, inner): (Atom, Term) = term.decode()?;
    if tag == atoms::label() {
        Ok(Selector::Label(inner.decode()?))
    } else if tag == atoms::serial() {
        Ok(Selector::Serial(inner.decode()?))
    } else if tag == atoms::slot_id() {
        Ok(Selector::Id(inner.decode()?))
    } else if tag == atoms::uri() {
        uri(inner)
    } else {
        Err(Error::BadArg)
    }
}

fn uri(term: Term<'_>) -> NifResult<Selector> {
    let pairs: Vec<(String, String)> = term.decode()?;
    let attribute = |(name, value): (String, String)| Some((UriAttribute::from_name(&name)?, value));
    Ok(Selector::Uri(pairs.into_iter().map(attribute).collect::<Option<_>>().ok_or(Error::BadArg)?))
}

/// A PIN, or nil for a NULL one.
pub(crate) fn optional_pin(term: Term<'_>) -> NifResult<Option<token::Pin>> {
    if term.is_atom() && term.decode::<Atom>()? == atoms::nil() {
        return Ok(None);
    }
    Ok(Some(token::Pin::new(bytes(term)?)))
}

/// `{:ok, pin}` or `{:error, cause, word}`.
pub(crate) fn pin(term: Term<'_>) -> NifResult<Result<token::Pin, token::Error>> {
    if let Ok((tag, pin)) = term.decode::<(Atom, Term)>()
        && tag == atoms::ok()
    {
        return Ok(Ok(token::Pin::new(bytes(pin)?)));
    }
    let (_error, cause, word): (Atom, String, Option<String>) = term.decode()?;
    Ok(Err(token::Error::PinSourceFailed { cause, word }))
}
