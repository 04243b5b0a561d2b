//! The functions of PKCS#11 2.40, and those of 3.0 and 3.2, by name and number.

macro_rules! functions {
    ($($name:ident)*) => {
        /// A function. `C_GetFunctionList`, `C_GetInterface` and `C_GetInterfaceList` are none of them: they are called before there is anything to steer.
        #[allow(non_camel_case_types, clippy::enum_variant_names)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Function { $($name),* }

        impl Function {
            /// All of them, in the order of the function list.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// PKCS#11's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

functions! {
    C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo
    C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo C_GetOperationState
    C_SetOperationState C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue
    C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate
    C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey
    C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify
    C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate
    C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom
    C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
    C_LoginUser C_SessionCancel C_MessageEncryptInit C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext
    C_MessageEncryptFinal C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext
    C_MessageDecryptFinal C_MessageSignInit C_SignMessage C_SignMessageBegin C_SignMessageNext C_MessageSignFinal
    C_MessageVerifyInit C_VerifyMessage C_VerifyMessageBegin C_VerifyMessageNext C_MessageVerifyFinal
    C_EncapsulateKey C_DecapsulateKey C_VerifySignatureInit C_VerifySignature C_VerifySignatureUpdate
    C_VerifySignatureFinal C_GetSessionValidationFlags C_AsyncComplete C_AsyncGetID C_AsyncJoin
    C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated
}

impl Function {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The functions that a word of a command means: one by its name, or all by `*`.
    pub fn named(word: &str) -> Result<Vec<Self>, String> {
        if word == "*" {
            return Ok(Self::ALL.to_vec());
        }
        match Self::ALL.iter().find(|function| function.name() == word) {
            Some(function) => Ok(vec![*function]),
            None => Err(format!("unknown function {word}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_name() {
        assert_eq!(Function::COUNT, 101);
        assert_eq!(Function::named("C_Sign"), Ok(vec![Function::C_Sign]));
        assert_eq!(Function::named("*").map(|all| all.len()), Ok(101));
        assert_eq!(Function::named("C_Sing"), Err("unknown function C_Sing".into()));
    }
}
