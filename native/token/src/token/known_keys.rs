//! Which keys a token has had, so that one that has vanished is told from one that never was. A module may have lost sight of its token's objects
//! (SoftHSM does when the token's directory goes away and returns): then nothing that was known is found any more, until it is initialized again.

use std::collections::HashSet;

use parking_lot::Mutex;
use session_pool::Millis;

use crate::operation::request::KeyRef;
use crate::p11::Template;

/// How many templates are remembered before the memory starts afresh.
const MOST: usize = 10_000;
/// How many others are looked for when one has vanished.
const OTHERS: usize = 8;

/// What is known of a token's keys, in whatever epoch.
#[derive(Default)]
pub(crate) struct KnownKeys(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Templates that have found one.
    found: HashSet<Template>,
    /// Those that find none, as has been looked into.
    gone: HashSet<Template>,
    looked_at: Option<Millis>,
}

impl KnownKeys {
    /// A template has found a key.
    pub(crate) fn found(&self, template: &Template) {
        let mut known = self.0.lock();
        known.gone.remove(template);
        if known.found.len() >= MOST {
            known.found.clear();
        }
        known.found.insert(template.clone());
    }

    /// They find none: there is nothing to look into any more, until they find one again.
    pub(crate) fn is_gone(&self, templates: impl IntoIterator<Item = Template>) {
        let mut known = self.0.lock();
        if known.gone.len() >= MOST {
            known.gone.clear();
        }
        for template in templates {
            known.found.remove(&template);
            known.gone.insert(template);
        }
    }

    /// Nothing has come of looking into these: they are as known as before.
    pub(crate) fn is_not_known_to_be_gone(&self, templates: &[Template]) {
        let mut known = self.0.lock();
        for template in templates {
            known.gone.remove(template);
            known.found.insert(template.clone());
        }
    }

    /// The template of a key that was there and is not found, if that is to be looked into now: once in a while, whatever the key.
    pub(crate) fn vanished(&self, key: &KeyRef, now: Millis, apart: Millis) -> Option<Template> {
        let mut known = self.0.lock();
        let template = match key {
            KeyRef::Find(template, _) => known.found.contains(template).then_some(template),
            // An object has been there.
            KeyRef::Object { find, .. } => (!find.is_empty() && !known.gone.contains(find)).then_some(find),
        }?;
        if known.looked_at.is_some_and(|looked_at| now.saturating_sub(looked_at) < apart) {
            return None;
        }
        known.looked_at = Some(now);
        Some(template.clone())
    }

    /// Some others that have been found.
    pub(crate) fn others(&self, template: &Template) -> Vec<Template> {
        let known = self.0.lock();
        known.found.iter().filter(|other| *other != template).take(OTHERS).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p11::{Attribute, Value};

    fn template(label: &str) -> Template {
        vec![Attribute { kind: cryptoki_sys::CKA_LABEL, value: Value::Bytes(label.into()) }]
    }

    fn key(label: &str) -> KeyRef {
        KeyRef::Find(template(label), None)
    }

    fn object(label: &str) -> KeyRef {
        KeyRef::Object { handle: 1, epoch: 0, token: Vec::new(), find: template(label) }
    }

    #[test]
    fn what_was_never_found_has_not_vanished_but_an_object_was_there() {
        let keys = KnownKeys::default();
        assert_eq!(keys.vanished(&key("a"), 0, 10), None);
        assert_eq!(keys.vanished(&object("a"), 0, 10), Some(template("a")));
        keys.found(&template("b"));
        assert_eq!(keys.vanished(&key("b"), 10, 10), Some(template("b")));
    }

    #[test]
    fn keys_are_looked_into_once_in_a_while() {
        let keys = KnownKeys::default();
        ["a", "b"].iter().for_each(|label| keys.found(&template(label)));
        assert!(keys.vanished(&key("a"), 0, 10).is_some());
        assert!(keys.vanished(&key("b"), 9, 10).is_none());
        assert!(keys.vanished(&key("b"), 10, 10).is_some());
    }

    #[test]
    fn what_is_gone_is_not_looked_into_until_it_is_found_again() {
        let keys = KnownKeys::default();
        keys.found(&template("a"));
        keys.is_gone([template("a")]);
        assert_eq!(keys.vanished(&key("a"), 0, 0), None);
        assert_eq!(keys.vanished(&object("a"), 0, 0), None);
        keys.is_not_known_to_be_gone(&[template("a")]);
        assert!(keys.vanished(&key("a"), 0, 0).is_some());
        keys.is_gone([template("a")]);
        keys.found(&template("a"));
        assert!(keys.vanished(&key("a"), 0, 0).is_some());
        assert_eq!(keys.others(&template("b")), [template("a")]);
        assert_eq!(keys.others(&template("a")), [] as [Template; 0]);
    }
}
