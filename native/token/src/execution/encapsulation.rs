//! A secret that is shared with the holder of a private key, as a key object on the token.

use crate::error::Error;
use crate::execution::attempt::Attempt;
use crate::execution::resolver::Resolver;
use crate::execution::step::Fault;
use crate::execution::task::{check_key, check_output_length};
use crate::operation::answer::Answer;
use crate::operation::key_ref::KeyRef;
use crate::p11::fit::Use;
use crate::p11::keys::{decapsulate_key, encapsulate_key};
use crate::p11::objects::destroy_object;
use crate::p11::{Mechanism, Template};

impl Attempt<'_> {
    /// Makes a key, and the ciphertext of which the holder of the private key makes the same. One without the other is of use to nobody: where the
    /// ciphertext cannot be given away, since it cannot be right or nobody waits for it any more, the key is destroyed.
    pub(crate) fn encapsulate(&self, key: &KeyRef, mechanism: &Mechanism, template: &Template) -> Result<Answer, Fault> {
        let Resolver { functions, session, .. } = self.resolver;
        let public = self.resolver.resolve(key)?;
        let facts = self.resolver.facts(public)?;
        check_key(mechanism, Use::Encapsulate, &facts)?;
        let size = facts.encapsulated_size(mechanism.code);
        let made = encapsulate_key(functions, session, mechanism, public, template);
        let ciphertext = made
            .ciphertext
            .map_err(Fault::from)
            .and_then(|bytes| check_output_length("C_EncapsulateKey", bytes, size.map(|size| size..=size)))
            .and_then(|bytes| self.check_wanted().map(|()| bytes).map_err(Fault::ran));
        match (ciphertext, made.key) {
            (Ok(ciphertext), Some(key)) => {
                Ok(Answer::Encapsulated { ciphertext, key: Box::new(self.describe_new_object(key, None, template)) })
            }
            (Err(fault), Some(key)) if self.used.is_owner() => {
                // Whatever comes of it: there is nobody to hear of it, or something worse to say.
                let _ = destroy_object(functions, session, key);
                Err(fault)
            }
            (Err(fault), _) => Err(fault),
            (Ok(_), None) => Err(Fault::ran(Error::OutputLength { function: "C_EncapsulateKey" })),
        }
    }

    /// Makes the key of a ciphertext. One whose length is none that the key's ciphertexts have is refused here: whether a module looks is its own affair.
    pub(crate) fn decapsulate(
        &self,
        key: &KeyRef,
        mechanism: &Mechanism,
        ciphertext: &[u8],
        template: &Template,
    ) -> Result<Answer, Fault> {
        let Resolver { functions, session, .. } = self.resolver;
        let private = self.resolver.resolve(key)?;
        let facts = self.resolver.facts(private)?;
        check_key(mechanism, Use::Decapsulate, &facts)?;
        if let Some(expected) = facts.encapsulated_size(mechanism.code)
            && expected != ciphertext.len()
        {
            return Err(Error::CiphertextLength { expected, given: ciphertext.len() }.into());
        }
        let key = decapsulate_key(functions, session, mechanism, private, ciphertext, template)?;
        Ok(Answer::Object(Box::new(self.describe_new_object(key, None, template))))
    }
}
