//! A SoftHSM token made for this run, and what the tests need around it: openssl, DER.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use cryptoki_sys::*;
use token::p11::{Attribute, Functions, Mechanism, objects, session, slots};

pub const PIN: &[u8] = b"7391";
const TOKEN: &str = "p11-main";
const LOGIN_TOKEN: &str = "p11-login";

/// What all tests of the process share.
pub struct Fixture {
    pub module: PathBuf,
    pub functions: Functions,
    /// The token that is logged in for the whole run.
    pub slot: CK_SLOT_ID,
    /// The token of the test that logs in and out.
    pub login_slot: CK_SLOT_ID,
    /// Public and private key.
    pub rsa: (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE),
    pub ec: (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE),
    dir: PathBuf,
}

/// A session that closes itself.
pub struct Session(pub CK_SESSION_HANDLE);

impl Drop for Session {
    fn drop(&mut self) {
        let _ = session::close_session(&fixture().functions, self.0);
    }
}

/// The fixture; the first call makes it.
pub fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(make)
}

/// A read-write session on the logged-in token.
pub fn open() -> Session {
    let fixture = fixture();
    Session(session::open_session(&fixture.functions, fixture.slot, true).unwrap())
}

fn make() -> Fixture {
    let module = module_path();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("p11-{}", std::process::id()));
    remove_at_exit(&dir);
    let tokens = dir.join("tokens");
    fs::create_dir_all(&tokens).unwrap();
    let config = dir.join("softhsm2.conf");
    fs::write(&config, format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display()))
        .unwrap();
    // SAFETY: every test begins here, so no other thread reads the environment by C's means meanwhile.
    unsafe { std::env::set_var("SOFTHSM2_CONF", &config) };
    for label in [TOKEN, LOGIN_TOKEN] {
        init_token(label);
    }

    let functions = Functions::load(&module).unwrap_or_else(|error| panic!("{error}: run script/bootstrap"));
    functions.initialize(None).unwrap();
    let slot = slot_of(&functions, TOKEN);
    // Stays open, since closing the last session logs the token out.
    let anchor = session::open_session(&functions, slot, true).unwrap();
    session::login(&functions, anchor, CKU_USER, None, Some(PIN)).unwrap();
    Fixture {
        rsa: make_rsa(&functions, anchor),
        ec: make_ec(&functions, anchor),
        login_slot: slot_of(&functions, LOGIN_TOKEN),
        module,
        functions,
        slot,
        dir,
    }
}

fn module_path() -> PathBuf {
    if let Some(path) = std::env::var_os("SOFTHSM2_MODULE") {
        return path.into();
    }
    let mut candidates = vec![
        PathBuf::from("/usr/lib/softhsm/libsofthsm2.so"),
        PathBuf::from("/usr/local/lib/softhsm/libsofthsm2.so"),
        PathBuf::from("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
    ];
    for entry in fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
        candidates.push(entry.path().join("softhsm/libsofthsm2.so"));
    }
    candidates
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("SoftHSM is not installed: run script/bootstrap, or set SOFTHSM2_MODULE"))
}

fn init_token(label: &str) {
    let pin = std::str::from_utf8(PIN).unwrap();
    let output = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", label])
        .args(["--so-pin", "12345678", "--pin", pin])
        .output()
        .unwrap_or_else(|error| panic!("cannot run softhsm2-util ({error}): run script/bootstrap"));
    assert!(output.status.success(), "softhsm2-util: {output:?}");
}

pub fn slot_of(functions: &Functions, label: &str) -> CK_SLOT_ID {
    slots::slots(functions, true)
        .unwrap()
        .into_iter()
        .find(|slot| slots::token_info(functions, *slot).unwrap().label == label)
        .unwrap_or_else(|| panic!("no token {label}"))
}

/// The order of exit handlers is last in, first out: this one, registered before the module is loaded, runs last.
fn remove_at_exit(dir: &Path) {
    static DIR: OnceLock<CString> = OnceLock::new();
    extern "C" fn remove() {
        if let Some(dir) = DIR.get() {
            let _ = fs::remove_dir_all(Path::new(std::ffi::OsStr::from_bytes(dir.to_bytes())));
        }
    }
    DIR.get_or_init(|| CString::new(dir.as_os_str().as_bytes()).unwrap());
    // SAFETY: the handler neither panics nor uses thread-local data.
    unsafe { libc::atexit(remove) };
}

fn make_rsa(functions: &Functions, session: CK_SESSION_HANDLE) -> (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE) {
    objects::generate_key_pair(
        functions,
        session,
        &Mechanism::new(CKM_RSA_PKCS_KEY_PAIR_GEN),
        &[
            Attribute::bool(CKA_TOKEN, true),
            Attribute::bool(CKA_VERIFY, true),
            Attribute::bool(CKA_ENCRYPT, true),
            Attribute::ulong(CKA_MODULUS_BITS, 2048),
            Attribute::bytes(CKA_PUBLIC_EXPONENT, [1, 0, 1]),
            Attribute::bytes(CKA_LABEL, "rsa"),
        ],
        &private_template("rsa", CKA_DECRYPT),
    )
    .unwrap()
}

fn make_ec(functions: &Functions, session: CK_SESSION_HANDLE) -> (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE) {
    objects::generate_key_pair(
        functions,
        session,
        &Mechanism::new(CKM_EC_KEY_PAIR_GEN),
        &[
            Attribute::bool(CKA_TOKEN, true),
            Attribute::bool(CKA_VERIFY, true),
            Attribute::bytes(CKA_EC_PARAMS, der::P256),
            Attribute::bytes(CKA_LABEL, "ec"),
        ],
        &private_template("ec", CKA_DERIVE),
    )
    .unwrap()
}

fn private_template(label: &str, use_too: CK_ATTRIBUTE_TYPE) -> Vec<Attribute> {
    vec![
        Attribute::bool(CKA_TOKEN, true),
        Attribute::bool(CKA_PRIVATE, true),
        Attribute::bool(CKA_SENSITIVE, true),
        Attribute::bool(CKA_SIGN, true),
        Attribute::bool(use_too, true),
        Attribute::bytes(CKA_LABEL, label),
        Attribute::bytes(CKA_ID, [0xa1]),
    ]
}

/// The bytes of an attribute that must be readable.
pub fn attribute(session: &Session, object: CK_OBJECT_HANDLE, kind: CK_ATTRIBUTE_TYPE) -> Vec<u8> {
    let read = objects::get_attributes(&fixture().functions, session.0, object, &[kind]).unwrap();
    read[0].1.bytes().unwrap().to_vec()
}

/// The RSA public key as SubjectPublicKeyInfo.
pub fn rsa_public_der(session: &Session) -> Vec<u8> {
    let public = fixture().rsa.0;
    let modulus = attribute(session, public, CKA_MODULUS);
    der::rsa_public(&modulus, &attribute(session, public, CKA_PUBLIC_EXPONENT))
}

/// The EC public key as SubjectPublicKeyInfo.
pub fn ec_public_der(session: &Session) -> Vec<u8> {
    let public = fixture().ec.0;
    let point = attribute(session, public, CKA_EC_POINT);
    der::ec_public(&attribute(session, public, CKA_EC_PARAMS), &point[2..])
}

/// A file in the run's folder that no other test uses.
pub fn file(content: &[u8]) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = fixture().dir.join(format!("file-{number}"));
    fs::write(&path, content).unwrap();
    path
}

/// Runs openssl; gives its standard output, or None when it fails.
pub fn openssl(arguments: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run openssl ({error}): run script/bootstrap"));
    output.status.success().then_some(output.stdout)
}

/// Whether openssl accepts a SHA-256 signature by the public key (SubjectPublicKeyInfo).
pub fn openssl_verifies(public: &[u8], options: &[&str], data: &[u8], signature: &[u8]) -> bool {
    let (public, data, signature) = (file(public), file(data), file(signature));
    let mut arguments = vec!["dgst", "-sha256", "-keyform", "DER"];
    arguments.extend(["-verify", public.to_str().unwrap()]);
    arguments.extend(options);
    arguments.extend(["-signature", signature.to_str().unwrap(), data.to_str().unwrap()]);
    openssl(&arguments).is_some()
}

pub mod der {
    /// The curve P-256 as CKA_EC_PARAMS has it.
    pub const P256: [u8; 10] = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const RSA: [u8; 13] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    const EC: [u8; 9] = [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];

    fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match content.len() {
            size @ 0..0x80 => out.push(size as u8),
            size @ 0x80..0x100 => out.extend([0x81, size as u8]),
            size => out.extend([0x82, (size >> 8) as u8, size as u8]),
        }
        out.extend(content);
        out
    }

    fn sequence(parts: &[&[u8]]) -> Vec<u8> {
        tagged(0x30, &parts.concat())
    }

    fn integer(big_endian: &[u8]) -> Vec<u8> {
        let start = big_endian.iter().position(|byte| *byte != 0);
        let digits = &big_endian[start.unwrap_or(big_endian.len())..];
        let sign: &[u8] = if digits.first().is_none_or(|byte| *byte >= 0x80) { &[0] } else { &[] };
        tagged(2, &[sign, digits].concat())
    }

    fn bits(content: &[u8]) -> Vec<u8> {
        tagged(3, &[&[0], content].concat())
    }

    pub fn rsa_public(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        let key = sequence(&[&integer(modulus), &integer(exponent)]);
        sequence(&[&tagged(0x30, &RSA), &bits(&key)])
    }

    pub fn ec_public(curve: &[u8], point: &[u8]) -> Vec<u8> {
        sequence(&[&sequence(&[&EC, curve]), &bits(point)])
    }

    /// PKCS#11's r and s, one after the other, as openssl has them.
    pub fn ecdsa_signature(raw: &[u8]) -> Vec<u8> {
        let (r, s) = raw.split_at(raw.len() / 2);
        sequence(&[&integer(r), &integer(s)])
    }
}
