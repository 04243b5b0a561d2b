//! The C calls of each request.

use cryptoki_sys::{CKO_PRIVATE_KEY, CKO_PUBLIC_KEY, CKO_SECRET_KEY};

use crate::execution::attempt::Attempt;
use crate::execution::resolver::Resolver;
use crate::execution::step::Fault;
use crate::execution::task::{check_key, check_output_length};
use crate::operation::ContextPin;
use crate::operation::answer::Answer;
use crate::operation::request::Request;
use crate::p11::keys::{generate_key, generate_key_pair};
use crate::p11::objects::{copy_object, create_object, destroy_object, set_attributes};
use crate::p11::slots::mechanisms;
use crate::p11::{CallError, crypto, lengths};
use crate::token::diagnosis::PROBE_BYTES;

impl Attempt<'_> {
    /// Does what is asked for.
    pub(crate) fn perform(&self, request: &mut Request, context: &mut ContextPin) -> Result<Answer, Fault> {
        let Resolver { token, functions, session, .. } = self.resolver;
        Ok(match request {
            Request::Ping => Answer::Done,
            Request::Probe => Answer::Bytes(crypto::generate_random(functions, session, PROBE_BYTES, PROBE_BYTES)?),
            Request::Apply { key, mechanism, task } => {
                let key = self.resolver.resolve(key)?;
                self.run_task(key, mechanism, task, context)?
            }
            Request::Prepare { kind, key, mechanism } => {
                let key = self.resolver.resolve(key)?;
                let facts = self.resolver.facts(key)?;
                if let Some(usage) = kind.usage() {
                    check_key(mechanism, usage, &facts)?;
                }
                Answer::Done
            }
            Request::Batch(batch) => {
                self.run_slice(batch, context)?;
                Answer::Done
            }
            Request::Digest { mechanism, data } => {
                let digest = crypto::digest(functions, session, mechanism, data)?;
                Answer::Bytes(check_output_length("C_Digest", digest, lengths::of_digest(mechanism))?)
            }
            Request::Stream(kind, part) => self.run_stream(kind.0, part, context)?,
            Request::GenerateRandom { length } => {
                Answer::Bytes(crypto::generate_random(functions, session, *length, self.options.random_chunk)?)
            }
            Request::SeedRandom { seed } => {
                crypto::seed_random(functions, session, seed)?;
                Answer::Done
            }
            Request::GenerateKey { mechanism, template } => {
                self.fit_parameters(mechanism)?;
                let key = generate_key(functions, session, mechanism, template)?;
                Answer::Object(Box::new(self.describe_new_object(key, Some(CKO_SECRET_KEY), template)))
            }
            Request::GenerateKeyPair { mechanism, public, private } => {
                let keys = generate_key_pair(functions, session, mechanism, public, private)?;
                let public = self.describe_new_object(keys.0, Some(CKO_PUBLIC_KEY), public);
                Answer::KeyPair(Box::new((public, self.describe_new_object(keys.1, Some(CKO_PRIVATE_KEY), private))))
            }
            Request::FindObjects { template, limit, cut } => {
                let objects = self.search(template, *limit, *cut)?;
                if self.may_have_missed()? {
                    return Err(CallError::not_logged_in("C_FindObjects").into());
                }
                Answer::Objects(objects)
            }
            Request::GetAttributes { object, attributes } => Answer::Attributes(self.read_attributes(object, attributes)?),
            Request::WrapKey { key, mechanism, wrapped } => self.wrap(key, mechanism, wrapped)?,
            Request::UnwrapKey { key, mechanism, wrapped, template } => self.unwrap(key, mechanism, wrapped, template)?,
            Request::DeriveKey { key, mechanism, other, template } => self.derive(key, mechanism, other.as_deref(), template)?,
            Request::EncapsulateKey { key, mechanism, template } => self.encapsulate(key, mechanism, template)?,
            Request::DecapsulateKey { key, mechanism, ciphertext, template } => {
                self.decapsulate(key, mechanism, ciphertext, template)?
            }
            Request::ObjectSize { object } => Answer::Size(self.read_size(object)?),
            Request::CreateObject { template } => {
                Answer::Object(Box::new(self.describe_new_object(create_object(functions, session, template)?, None, template)))
            }
            Request::CopyObject { object, template } => {
                let original = self.resolver.resolve_anew(object)?;
                Answer::Object(Box::new(self.describe_new_object(
                    copy_object(functions, session, original, template)?,
                    None,
                    template,
                )))
            }
            Request::SetAttributes { object, template } => {
                let handle = self.resolver.resolve_anew(object)?;
                let set = set_attributes(functions, session, handle, template);
                let found_by = token.keys.forget_handle(handle);
                // What finds another object may find this one, too, from now on; also after a failure: the change may have been made.
                token.keys.clear();
                set?;
                // What found it may find it no longer, which is nothing to look into.
                token.known.note_gone(found_by);
                Answer::Done
            }
            Request::DestroyObject { object } => {
                let handle = self.resolver.resolve_anew(object)?;
                destroy_object(functions, session, handle)?;
                // Nobody has to look into where it is.
                token.known.note_gone(token.keys.forget_handle(handle).into_iter().chain([object.template()]));
                Answer::Done
            }
            Request::Mechanisms => Answer::Mechanisms(mechanisms(functions, token.slot())?),
            Request::TokenInfo => Answer::TokenInfo(Box::new(token.info()?)),
        })
    }
}
