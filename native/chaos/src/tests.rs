//! The module as an application sees it, around a real module that is made up. Its state is the process's, so that
//! there is one test that changes it, which goes from one scene to the next.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use crate::command::execute;
use crate::forward::LIST;
use crate::real::Real;
use crate::state::CHAOS;
use crate::{C_GetInterface, C_GetInterfaceList};

/// Sessions that the real module has open, calls of its `C_Finalize`, `C_Sign` and `C_Login`.
static OPEN: AtomicUsize = AtomicUsize::new(0);
static FINALIZED: AtomicUsize = AtomicUsize::new(0);
static SIGNED: AtomicUsize = AtomicUsize::new(0);
static LOGINS: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn initialize(_: *mut c_void) -> CK_RV {
    CKR_OK
}

unsafe extern "C" fn finalize(_: *mut c_void) -> CK_RV {
    FINALIZED.fetch_add(1, Ordering::SeqCst);
    OPEN.store(0, Ordering::SeqCst);
    CKR_OK
}

unsafe extern "C" fn open(_: CK_SLOT_ID, _: CK_FLAGS, _: *mut c_void, _: CK_NOTIFY, session: *mut CK_SESSION_HANDLE) -> CK_RV {
    OPEN.fetch_add(1, Ordering::SeqCst);
    // SAFETY: given by the function under test. Always the same handle: chaos must not depend on it.
    unsafe { *session = 1 };
    CKR_OK
}

unsafe extern "C" fn close(_: CK_SESSION_HANDLE) -> CK_RV {
    OPEN.fetch_sub(1, Ordering::SeqCst);
    CKR_OK
}

unsafe extern "C" fn sign(_: CK_SESSION_HANDLE, _: *mut u8, _: CK_ULONG, _: *mut u8, _: *mut CK_ULONG) -> CK_RV {
    SIGNED.fetch_add(1, Ordering::SeqCst);
    CKR_OK
}

/// The PIN is one byte, and right if that is `1`.
unsafe extern "C" fn login(_: CK_SESSION_HANDLE, _: CK_USER_TYPE, pin: *mut u8, _: CK_ULONG) -> CK_RV {
    LOGINS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: given by the test.
    if unsafe { *pin } == b'1' { CKR_OK } else { CKR_PIN_INCORRECT }
}

unsafe extern "C" fn token_info(_: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    // SAFETY: given by the function under test.
    unsafe { *info = CK_TOKEN_INFO { flags: CKF_LOGIN_REQUIRED | CKF_RNG, ..Default::default() } };
    CKR_OK
}

static REAL: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
    C_Initialize: Some(initialize),
    C_Finalize: Some(finalize),
    C_OpenSession: Some(open),
    C_CloseSession: Some(close),
    C_Sign: Some(sign),
    C_Login: Some(login),
    C_GetTokenInfo: Some(token_info),
    ..EMPTY
};

const EMPTY: CK_FUNCTION_LIST = {
    // SAFETY: a version of zeros, and no functions.
    unsafe { std::mem::zeroed() }
};

/// Calls a function of the list.
macro_rules! c {
    // SAFETY: the arguments are valid for the real module above, which looks at none.
    ($name:ident($($argument:expr),*)) => { unsafe { LIST.$name.unwrap()($($argument),*) } };
}

fn do_initialize(flags: CK_FLAGS) -> CK_RV {
    let mut arguments = CK_C_INITIALIZE_ARGS { flags, ..Default::default() };
    c!(C_Initialize((&raw mut arguments).cast()))
}

fn do_finalize() -> CK_RV {
    c!(C_Finalize(ptr::null_mut()))
}

fn do_open() -> Result<CK_SESSION_HANDLE, CK_RV> {
    let mut session = 0;
    match c!(C_OpenSession(1, CKF_SERIAL_SESSION, ptr::null_mut(), None, &mut session)) {
        CKR_OK => Ok(session),
        code => Err(code),
    }
}

fn do_sign(session: CK_SESSION_HANDLE) -> CK_RV {
    let (mut byte, mut size) = (0, 1);
    c!(C_Sign(session, &mut byte, 1, &mut byte, &mut size))
}

fn do_login(session: CK_SESSION_HANDLE, mut pin: u8) -> CK_RV {
    c!(C_Login(session, CKU_USER, &mut pin, 1))
}

fn do_token_info() -> CK_TOKEN_INFO {
    let mut info = CK_TOKEN_INFO::default();
    assert_eq!(c!(C_GetTokenInfo(1, &mut info)), CKR_OK);
    info
}

fn run(command: &str) -> String {
    execute(command).unwrap_or_else(|message| panic!("{command}: {message}"))
}

/// A thread that signs, and hangs there.
fn hung(session: CK_SESSION_HANDLE) -> JoinHandle<CK_RV> {
    run("hang C_Sign nth=1");
    let thread = thread::spawn(move || do_sign(session));
    while run("hanging") != "C_Sign=1" {
        thread::yield_now();
    }
    thread
}

/// The violations since the last question.
fn violations() -> String {
    let text = run("violations");
    run("reset_counts");
    text
}

#[test]
fn scenes() {
    CHAOS.set_real(Real { list: &REAL, interfaces: None, later: CK_FUNCTION_LIST_3_2::default() });

    // A module without interfaces has one, of PKCS#11 2.40, with the one function list.
    let (mut room, mut count) = (CK_INTERFACE { pInterfaceName: ptr::null_mut(), pFunctionList: ptr::null_mut(), flags: 0 }, 0);
    // SAFETY: the number is asked for, then there is too little room, then enough.
    unsafe {
        assert_eq!((C_GetInterfaceList(ptr::null_mut(), &mut count), count), (CKR_OK, 1));
        count = 0;
        assert_eq!((C_GetInterfaceList(&mut room, &mut count), count), (CKR_BUFFER_TOO_SMALL, 1));
        assert_eq!((C_GetInterfaceList(&mut room, &mut count), count), (CKR_OK, 1));
    }
    assert_eq!(room.pFunctionList.cast_const().cast(), ptr::from_ref(&LIST));

    // Nothing works before C_Initialize, nor after C_Finalize.
    assert_eq!(do_open(), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
    assert_eq!(do_initialize(CKF_OS_LOCKING_OK), CKR_OK);
    let session = do_open().unwrap();
    assert_eq!((do_finalize(), do_finalize()), (CKR_OK, CKR_CRYPTOKI_NOT_INITIALIZED));
    assert_eq!(do_initialize(CKF_OS_LOCKING_OK), CKR_OK);
    assert_eq!(do_sign(session), CKR_SESSION_HANDLE_INVALID, "a session of before");

    // Two threads on one session: the second one waits for the first, and is counted.
    let (one, two) = (do_open().unwrap(), do_open().unwrap());
    let signed = SIGNED.load(Ordering::SeqCst);
    let thread = hung(one);
    let second = thread::spawn(move || do_sign(one));
    while CHAOS.violations().0 < 1 {
        thread::yield_now();
    }
    assert!(!second.is_finished());
    assert_eq!(do_sign(two), CKR_OK, "another session");
    assert_eq!(c!(C_CloseAllSessions(1)), CKR_FUNCTION_FAILED);
    run("release C_Sign");
    assert_eq!(thread.join().unwrap(), CKR_OK);
    assert_eq!(second.join().unwrap(), CKR_OK);
    assert_eq!(SIGNED.load(Ordering::SeqCst), signed + 3);
    let text = violations();
    assert!(text.starts_with("2\tC_Sign called on session"), "{text}");
    assert!(text.ends_with("C_CloseAllSessions called while another thread is in C_Sign"), "{text}");

    // C_Finalize with a thread inside never reaches the real module.
    let finalized = FINALIZED.load(Ordering::SeqCst);
    let thread = hung(one);
    assert_eq!(do_finalize(), CKR_FUNCTION_FAILED);
    assert_eq!(FINALIZED.load(Ordering::SeqCst), finalized);
    assert_eq!(violations(), "1\tC_Finalize called while another thread is in C_Sign");

    // A hanging call can be answered; a token that goes meanwhile takes its session, which is closed when it is free.
    let before = OPEN.load(Ordering::SeqCst);
    run("remove_token");
    assert_eq!(OPEN.load(Ordering::SeqCst), before - 1, "the idle one only");
    assert_eq!(do_open(), Err(CKR_TOKEN_NOT_PRESENT));
    run("release C_Sign");
    assert_eq!(thread.join().unwrap(), CKR_DEVICE_REMOVED);
    assert_eq!(OPEN.load(Ordering::SeqCst), before - 2);
    run("return_token");
    assert_eq!(c!(C_CloseSession(one)), CKR_SESSION_HANDLE_INVALID);
    assert!(run("status").contains("sessions=0 token_away=false"), "{}", run("status"));

    // The number of a session that has died is given out again.
    run("reuse_handles on");
    let (one, two) = (do_open().unwrap(), do_open().unwrap());
    assert_eq!((one, two), (1, 2));
    run("kill_sessions");
    assert_eq!(do_sign(two), CKR_SESSION_HANDLE_INVALID);
    let (one, two) = (do_open().unwrap(), do_open().unwrap());
    assert_eq!((one, two, do_sign(two)), (1, 2, CKR_OK));
    assert_eq!(c!(C_CloseSession(one)), CKR_OK);
    assert_eq!((do_open(), c!(C_CloseSession(1)), c!(C_CloseSession(two))), (Ok(1), CKR_OK, CKR_OK));
    run("reuse_handles off");
    assert!(run("status").contains("sessions=0 token_away=false"), "{}", run("status"));

    let session = do_open().unwrap();
    let thread = hung(session);
    run("release * code=0x30");
    assert_eq!(thread.join().unwrap(), CKR_DEVICE_ERROR);

    // The limit counts what is open.
    run("session_limit 2");
    let second = do_open().unwrap();
    assert_eq!(do_open(), Err(CKR_SESSION_COUNT));
    assert_eq!(c!(C_CloseSession(second)), CKR_OK);
    assert!(do_open().is_ok());
    run("session_limit off");

    // As after a failover.
    run("uninitialize");
    assert_eq!(do_sign(session), CKR_CRYPTOKI_NOT_INITIALIZED);
    assert_eq!(do_finalize(), CKR_CRYPTOKI_NOT_INITIALIZED);
    assert_eq!(do_initialize(CKF_OS_LOCKING_OK), CKR_OK);
    assert_eq!(FINALIZED.load(Ordering::SeqCst), finalized + 1);
    assert_eq!(do_sign(session), CKR_SESSION_HANDLE_INVALID);

    // A module that cannot lock wants one thread at a time.
    assert_eq!(do_finalize(), CKR_OK);
    run("cant_lock on");
    assert_eq!(do_initialize(CKF_OS_LOCKING_OK), CKR_CANT_LOCK);
    assert_eq!(do_initialize(0), CKR_OK);
    let (one, two) = (do_open().unwrap(), do_open().unwrap());
    assert_eq!(violations(), "0");
    let thread = hung(one);
    assert_eq!(do_sign(two), CKR_FUNCTION_FAILED);
    run("reset");
    assert_eq!(thread.join().unwrap(), CKR_OK);

    // A command is executed once, and one that makes no sense is told so.
    run("once 1 seed 1");
    assert_eq!(run("once 2 fail C_Sign 0x30 nth=2"), "");
    run("once 2 fail C_Sign 0x31 nth=1");
    assert_eq!((do_sign(one), do_sign(one), do_sign(one)), (CKR_OK, CKR_DEVICE_ERROR, CKR_OK));
    for wrong in
        ["", "dance", "latency", "latency C_Sing 5", "latency C_Sign 5000000000", "fail C_Sign 0xyz", "hang C_Sign nth=0"]
    {
        assert!(execute(wrong).is_err(), "{wrong}");
    }

    // The real call runs, and nobody hears its answer.
    let signed = SIGNED.load(Ordering::SeqCst);
    run("fail C_Sign 5 run=true count=1");
    assert_eq!((do_sign(one), SIGNED.load(Ordering::SeqCst)), (CKR_GENERAL_ERROR, signed + 1));
    run("fail C_Sign 5 count=1");
    assert_eq!((do_sign(one), SIGNED.load(Ordering::SeqCst)), (CKR_GENERAL_ERROR, signed + 1));

    // A size query is counted apart, and costs its own.
    run("latency C_Sign 60000000");
    run("size_query 20000");
    let start = Instant::now();
    assert_eq!(c!(C_Sign(one, ptr::null_mut(), 0, ptr::null_mut(), &mut 0)), CKR_OK);
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(run("size_queries"), "C_Sign=1");
    run("reset");

    // Wrong PINs are counted until they lock, a right one begins again, and a locked PIN is not asked for.
    let flags = || do_token_info().flags;
    assert_eq!((do_login(one, b'0'), flags() & CKF_USER_PIN_COUNT_LOW), (CKR_PIN_INCORRECT, CKF_USER_PIN_COUNT_LOW));
    assert_eq!((do_login(one, b'1'), flags()), (CKR_OK, CKF_LOGIN_REQUIRED | CKF_RNG));
    assert_eq!((do_login(one, b'0'), do_login(one, b'0')), (CKR_PIN_INCORRECT, CKR_PIN_INCORRECT));
    assert_eq!((flags() & CKF_USER_PIN_FINAL_TRY, run("pin_tries user")), (CKF_USER_PIN_FINAL_TRY, "1".into()));
    assert_eq!((do_login(one, b'0'), flags() & CKF_USER_PIN_LOCKED), (CKR_PIN_INCORRECT, CKF_USER_PIN_LOCKED));
    let logins = LOGINS.load(Ordering::SeqCst);
    assert_eq!((do_login(one, b'1'), LOGINS.load(Ordering::SeqCst)), (CKR_PIN_LOCKED, logins));
    run("reset");
    assert_eq!(do_login(one, b'1'), CKR_OK);

    // A token shows the flags that it is told to, its limit, and how many sessions there are.
    run("token_flags 0x2 0x1");
    run("session_limit 2");
    let info = do_token_info();
    assert_eq!(info.flags, CKF_LOGIN_REQUIRED | CKF_WRITE_PROTECTED);
    assert_eq!((info.ulSessionCount, info.ulRwSessionCount, info.ulMaxSessionCount), (2, 0, 2));
    let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    assert_eq!(c!(C_OpenSession(1, flags, ptr::null_mut(), None, &mut 0)), CKR_TOKEN_WRITE_PROTECTED);
    assert_eq!(do_finalize(), CKR_OK);
}

#[test]
fn a_module_of_2_40_has_the_interface_of_that() {
    let ask = |name: &[u8], version: Option<(u8, u8)>, flags| {
        let mut version = version.map(|(major, minor)| CK_VERSION { major, minor });
        let version = version.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
        let name = if name.is_empty() { ptr::null_mut() } else { name.as_ptr().cast_mut() };
        let mut interface = ptr::null_mut();
        // SAFETY: locals that outlive the call; a name ends with a NUL.
        let code = unsafe { C_GetInterface(name, version, &mut interface, flags) };
        // SAFETY: NULL, or an interface, which stays, whose list begins with its version.
        let list = unsafe { interface.as_ref().map(|interface| (*interface.pFunctionList.cast::<CK_FUNCTION_LIST>()).version) };
        assert_eq!(code == CKR_OK, list.is_some());
        list.map(|version| (version.major, version.minor))
    };
    assert_eq!(ask(b"", None, 0), Some((2, 40)));
    assert_eq!(ask(b"PKCS 11\0", Some((2, 40)), 0), Some((2, 40)));
    assert_eq!(ask(b"PKCS 11\0", Some((3, 0)), 0), None);
    assert_eq!(ask(b"Vendor\0", None, 0), None);
    assert_eq!(ask(b"", None, CKF_INTERFACE_FORK_SAFE), None);
}
