//! What comes of keys: one that is wrapped, unwrapped or derived with another.

use crate::execution::attempt::Attempt;
use crate::execution::resolver::Resolver;
use crate::execution::step::Fault;
use crate::execution::task::{check_ciphertext, check_key};
use crate::operation::answer::Answer;
use crate::operation::key_ref::KeyRef;
use crate::p11::fit::Use;
use crate::p11::keys::{derive_key, unwrap_key, wrap_key};
use crate::p11::slots::library_info;
use crate::p11::{CallError, Mechanism, Phase, Template, lengths};

impl Attempt<'_> {
    /// A key, encrypted with another one.
    pub(crate) fn wrap(&self, wrapping: &KeyRef, mechanism: &Mechanism, key: &KeyRef) -> Result<Answer, Fault> {
        let Resolver { functions, session, .. } = self.resolver;
        // Both before anything is asked of either: if their handles are stale, they are so together, and the one other try is for both.
        let (wrapping, key) = (self.resolver.resolve(wrapping)?, self.resolver.resolve_at(1, key)?);
        self.resolver.found.turn_to(0);
        let facts = &*self.resolver.facts(wrapping)?;
        check_key(mechanism, Use::Wrap, facts)?;
        let wrapped = wrap_key(functions, session, mechanism, wrapping, key)?;
        check_ciphertext("C_WrapKey", mechanism, wrapped, |size| lengths::may_be_wrapped(mechanism, size, facts.modulus_size))
    }

    /// A new key, from one that was encrypted.
    pub(crate) fn unwrap(
        &self,
        unwrapping: &KeyRef,
        mechanism: &Mechanism,
        wrapped: &[u8],
        template: &Template,
    ) -> Result<Answer, Fault> {
        let Resolver { functions, session, .. } = self.resolver;
        let unwrapping = self.resolver.resolve(unwrapping)?;
        check_key(mechanism, Use::Unwrap, &*self.resolver.facts(unwrapping)?)?;
        let key = unwrap_key(functions, session, mechanism, unwrapping, wrapped, template)?;
        Ok(Answer::Object(Box::new(self.describe_new_object(key, None, template))))
    }

    /// A new key, made from another one.
    pub(crate) fn derive(
        &self,
        base: &KeyRef,
        mechanism: &mut Mechanism,
        other: Option<&KeyRef>,
        template: &Template,
    ) -> Result<Answer, Fault> {
        let Resolver { functions, session, .. } = self.resolver;
        let base = self.resolver.resolve(base)?;
        if let Some(other) = other {
            mechanism.set_key(self.resolver.resolve_at(1, other)?);
            self.resolver.found.turn_to(0);
        }
        check_key(mechanism, Use::Derive, &*self.resolver.facts(base)?)?;
        self.fit_parameters(mechanism)?;
        let key = derive_key(functions, session, mechanism, base, template)?;
        Ok(Answer::Object(Box::new(self.describe_new_object(key, None, template))))
    }

    /// Gives the parameters the form that the module takes.
    pub(crate) fn fit_parameters(&self, mechanism: &mut Mechanism) -> Result<(), CallError> {
        if mechanism.has_password() {
            let info = library_info(self.resolver.functions).map_err(|call| CallError { phase: Phase::Init, ..call })?;
            // NSS has stayed with the structure of before, and reads the password's length behind a pointer.
            mechanism.set_length_pointer(info.cryptoki_version < (2, 40) || info.manufacturer.starts_with("Mozilla"));
        }
        Ok(())
    }
}
