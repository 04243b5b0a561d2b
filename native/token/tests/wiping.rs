//! What may be secret is wiped before its memory is given back: an allocator of our own looks at every block that is freed.

#[allow(dead_code)]
#[path = "p11_softhsm/support.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cryptoki_sys::*;
use support::{fixture, open};
use token::p11::{Attribute, Iv, Mechanism, Params, Value, crypto, objects};
use token::{Answer, Data};

/// What is looked for. Nothing else has these bytes.
const SECRET: [u8; 32] = *b"\x91\xc2 the secret that is looked for";

/// Blocks that had it when they were freed.
static LEFT_BEHIND: AtomicUsize = AtomicUsize::new(0);

struct Looking;

#[global_allocator]
static ALLOCATOR: Looking = Looking;

// SAFETY: it is the system's, which gets every block back as it was given, by the layout of its allocation.
unsafe impl GlobalAlloc for Looking {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises. Zeroed, so that whatever is looked at later has been written.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is as large as its layout says, and initialized; nobody else uses it any more.
        let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
        if bytes.windows(SECRET.len()).any(|window| window == SECRET) {
            LEFT_BEHIND.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
    // `realloc` is the default one, which allocates, copies and frees by the two above.
}

/// How many blocks with the secret are freed while `run` runs.
fn left_behind(run: impl FnOnce()) -> usize {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = LEFT_BEHIND.load(Ordering::SeqCst);
    run();
    LEFT_BEHIND.load(Ordering::SeqCst) - before
}

#[test]
fn what_is_not_wiped_is_seen() {
    assert_eq!(left_behind(|| drop(SECRET.to_vec())), 1);
    // One that had to move when it grew leaves the old one behind, too.
    let grow = || {
        let mut bytes = SECRET.to_vec();
        bytes.reserve_exact(4096);
        drop(bytes);
    };
    assert_eq!(left_behind(grow), 2);
}

#[test]
fn the_data_of_a_call_is_wiped() {
    assert_eq!(left_behind(|| drop(Data::Owned(SECRET[..].into()))), 0);
}

#[test]
fn the_parameters_of_a_mechanism_are_wiped() {
    let bytes = || SECRET.to_vec();
    let params = || {
        [
            Params::Bytes(bytes()),
            Params::RsaOaep { hash: CKM_SHA_1, mgf: CKG_MGF1_SHA1, source: bytes() },
            Params::Gcm { iv: Iv::Given(bytes()), aad: bytes(), tag_bits: 128 },
            Params::Ecdh1 { kdf: CKD_NULL, shared_data: bytes(), public_data: bytes() },
            Params::SignatureContext { hedge: CKH_HEDGE_REQUIRED, context: bytes(), hash: None },
        ]
    };
    assert_eq!(left_behind(|| drop(params())), 0);
    let used = || {
        for params in params() {
            let mechanism = Mechanism { code: CKM_VENDOR_DEFINED, params };
            mechanism.clone().with_ck_iv(|_| ());
        }
    };
    assert_eq!(left_behind(used), 0);
}

#[test]
fn the_values_of_a_template_are_wiped() {
    let made = || {
        let inner = vec![Attribute::bytes(CKA_VALUE, SECRET)];
        let template = vec![
            Attribute::bytes(CKA_VALUE, SECRET),
            Attribute::bytes(CKA_PRIVATE_EXPONENT, SECRET),
            Attribute { kind: CKA_UNWRAP_TEMPLATE, value: Value::Template(inner) },
        ];
        drop(template.clone());
    };
    assert_eq!(left_behind(made), 0);
}

#[test]
fn what_the_token_decrypts_and_reveals_is_wiped() {
    let (f, session) = (&fixture().functions, open());
    let secret = |value: Vec<u8>| {
        let mut template = vec![
            Attribute::ulong(CKA_CLASS, CKO_SECRET_KEY),
            Attribute::ulong(CKA_KEY_TYPE, CKK_AES),
            Attribute::bool(CKA_SENSITIVE, false),
            Attribute::bytes(CKA_VALUE, value),
        ];
        template.extend([CKA_ENCRYPT, CKA_DECRYPT, CKA_EXTRACTABLE].map(|usage| Attribute::bool(usage, true)));
        objects::create_object(f, session.0, &template).unwrap()
    };
    let key = secret(vec![7; 32]);
    let mechanism = Mechanism { code: CKM_AES_CBC_PAD, params: Params::Bytes(vec![3; 16]) };
    let sealed = crypto::encrypt(f, session.0, key, &mechanism, &SECRET).unwrap().bytes;
    let decrypted = || {
        let bytes = crypto::decrypt(f, session.0, key, &mechanism, &sealed).unwrap();
        assert!(bytes[..] == SECRET);
        drop(Answer::Bytes(bytes));
    };
    assert_eq!(left_behind(decrypted), 0);
    let revealed = || {
        let key = secret(SECRET.to_vec());
        let read = objects::get_attributes(f, session.0, key, &[CKA_VALUE, CKA_VALUE_LEN]).unwrap();
        assert!(read[0].1.bytes() == Some(&SECRET));
        drop(Answer::Attributes(read));
    };
    assert_eq!(left_behind(revealed), 0);
}
