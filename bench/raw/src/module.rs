//! The module: loaded and initialized, its token found and logged in on.

use std::error::Error;
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;

use cryptoki_sys::*;

/// A C function failed.
#[derive(Debug)]
pub struct Failed(pub &'static str, pub CK_RV);

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} answers 0x{:x}", self.0, self.1)
    }
}

impl Error for Failed {}

pub fn check(function: &'static str, code: CK_RV) -> Result<(), Failed> {
    if code == CKR_OK { Ok(()) } else { Err(Failed(function, code)) }
}

/// Calls a function of the list; one that is missing is `CKR_FUNCTION_NOT_SUPPORTED`. For use inside `unsafe`: the arguments must be what that
/// C function allows.
macro_rules! call {
    ($module:expr, $name:ident($($argument:expr),* $(,)?)) => {
        match $module.list.$name {
            Some(function) => $crate::module::check(stringify!($name), function($($argument),*)),
            None => Err($crate::module::Failed(stringify!($name), ::cryptoki_sys::CKR_FUNCTION_NOT_SUPPORTED)),
        }
    };
}
pub(crate) use call;

pub struct Module {
    pub list: &'static CK_FUNCTION_LIST,
}

impl Module {
    pub fn load(path: &Path) -> Result<Module, Box<dyn Error>> {
        // SAFETY: loading runs the library's constructors; it is the user's own PKCS#11 module.
        let library = ManuallyDrop::new(unsafe { Pkcs11::new(path) }?);
        let get_function_list = library.C_GetFunctionList.as_ref().map_err(|error| error.to_string())?;
        let mut list = ptr::null_mut();
        // SAFETY: `list` is where the function may write one pointer.
        check("C_GetFunctionList", unsafe { get_function_list(&mut list) })?;
        // SAFETY: the list stays, with the library, for the life of the process, and is only read.
        let list = unsafe { list.as_ref() }.ok_or("C_GetFunctionList gave no function list")?;
        let module = Module { list };
        let mut arguments = CK_C_INITIALIZE_ARGS { flags: CKF_OS_LOCKING_OK, ..Default::default() };
        // SAFETY: the arguments outlive the call.
        unsafe { call!(module, C_Initialize((&raw mut arguments).cast())) }?;
        Ok(module)
    }

    /// The slot of the token with this label.
    pub fn slot(&self, label: &str) -> Result<CK_SLOT_ID, Box<dyn Error>> {
        let mut slots = [0; 256];
        let mut count = slots.len() as CK_ULONG;
        // SAFETY: the buffer has room for `count` slots.
        unsafe { call!(self, C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &mut count)) }?;
        for &slot in &slots[..count as usize] {
            let mut info = CK_TOKEN_INFO::default();
            // SAFETY: `info` is one structure of that type.
            unsafe { call!(self, C_GetTokenInfo(slot, &mut info)) }?;
            if info.label.trim_ascii_end() == label.as_bytes() {
                return Ok(slot);
            }
        }
        Err(format!("there is no token labelled {label}").into())
    }

    pub fn open_session(&self, slot: CK_SLOT_ID) -> Result<CK_SESSION_HANDLE, Failed> {
        let mut session = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        // SAFETY: no callback is given; `session` has room for a handle.
        unsafe { call!(self, C_OpenSession(slot, flags, ptr::null_mut(), None, &mut session)) }?;
        Ok(session)
    }

    pub fn login(&self, session: CK_SESSION_HANDLE, pin: &str) -> Result<(), Failed> {
        // SAFETY: the PIN is only read.
        unsafe { call!(self, C_Login(session, CKU_USER, pin.as_ptr().cast_mut(), pin.len() as CK_ULONG)) }
    }

    /// The one key of this class and label.
    pub fn find_key(
        &self,
        session: CK_SESSION_HANDLE,
        class: CK_OBJECT_CLASS,
        label: &str,
    ) -> Result<CK_OBJECT_HANDLE, Box<dyn Error>> {
        let mut class = class;
        let mut template = [
            CK_ATTRIBUTE { type_: CKA_CLASS, pValue: (&raw mut class).cast(), ulValueLen: size_of_val(&class) as CK_ULONG },
            CK_ATTRIBUTE { type_: CKA_LABEL, pValue: label.as_ptr().cast_mut().cast(), ulValueLen: label.len() as CK_ULONG },
        ];
        let (mut found, mut count) = ([0; 2], 0);
        // SAFETY: the template is only read, and `found` has room for two handles.
        unsafe {
            call!(self, C_FindObjectsInit(session, template.as_mut_ptr(), template.len() as CK_ULONG))?;
            call!(self, C_FindObjects(session, found.as_mut_ptr(), found.len() as CK_ULONG, &mut count))?;
            call!(self, C_FindObjectsFinal(session))?;
        }
        match count {
            1 => Ok(found[0]),
            _ => Err(format!("expected one key labelled {label}, found {count}").into()),
        }
    }
}
