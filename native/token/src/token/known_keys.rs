//! Which keys a token has had, so that one that has vanished is told from one that never was. A module may have lost sight of its token's objects
//! (SoftHSM does when the token's directory goes away and returns): then nothing that was known is found any more, until it is initialized again.

use std::collections::HashSet;

use parking_lot::Mutex;
use session_pool::Millis;

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
    /// Templates that have found a key.
    found: HashSet<Template>,
    /// Those that find none, as has been looked into.
    gone: HashSet<Template>,
    /// When a key that had vanished was last looked into.
    looked_at: Option<Millis>,
}

impl KnownKeys {
    /// A template has found a key.
    pub(crate) fn note_found(&self, template: &Template) {
        let mut known = self.0.lock();
        known.gone.remove(template);
        if known.found.len() >= MOST {
            known.found.clear();
        }
        known.found.insert(template.clone());
    }

    /// These templates find nothing: there is nothing to look into any more, until they find one again.
    pub(crate) fn note_gone(&self, templates: impl IntoIterator<Item = Template>) {
        let mut known = self.0.lock();
        if known.gone.len() >= MOST {
            known.gone.clear();
        }
        for template in templates {
            known.found.remove(&template);
            known.gone.insert(template);
        }
    }

    /// Nothing has come of looking into these templates: they are as known as before.
    pub(crate) fn note_still_known(&self, templates: &[Template]) {
        let mut known = self.0.lock();
        for template in templates {
            known.gone.remove(template);
            known.found.insert(template.clone());
        }
    }

    /// A key, or another object, is not found by its template. Whether it had been there, and that is to be looked into now: once in a while,
    /// whatever the key. `is_object`: the template is that of an object which a caller has been given, so that it has been there.
    pub(crate) fn has_vanished(&self, template: &Template, is_object: bool, now: Millis, apart: Millis) -> bool {
        let mut known = self.0.lock();
        let was_there =
            if is_object { !template.is_empty() && !known.gone.contains(template) } else { known.found.contains(template) };
        if !was_there {
            return false;
        }
        if known.looked_at.is_some_and(|looked_at| now.saturating_sub(looked_at) < apart) {
            return false;
        }
        known.looked_at = Some(now);
        true
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

    /// A key that is named by a template.
    fn key_has_vanished(keys: &KnownKeys, label: &str, now: Millis, apart: Millis) -> bool {
        keys.has_vanished(&template(label), false, now, apart)
    }

    /// An object that a caller was given.
    fn object_has_vanished(keys: &KnownKeys, label: &str, now: Millis, apart: Millis) -> bool {
        keys.has_vanished(&template(label), true, now, apart)
    }

    #[test]
    fn what_was_never_found_has_not_vanished_but_an_object_was_there() {
        let keys = KnownKeys::default();
        assert!(!key_has_vanished(&keys, "a", 0, 10));
        assert!(object_has_vanished(&keys, "a", 0, 10));
        keys.note_found(&template("b"));
        assert!(key_has_vanished(&keys, "b", 10, 10));
    }

    #[test]
    fn keys_are_looked_into_once_in_a_while() {
        let keys = KnownKeys::default();
        ["a", "b"].iter().for_each(|label| keys.note_found(&template(label)));
        assert!(key_has_vanished(&keys, "a", 0, 10));
        assert!(!key_has_vanished(&keys, "b", 9, 10));
        assert!(key_has_vanished(&keys, "b", 10, 10));
    }

    #[test]
    fn what_is_gone_is_not_looked_into_until_it_is_found_again() {
        let keys = KnownKeys::default();
        keys.note_found(&template("a"));
        keys.note_gone([template("a")]);
        assert!(!key_has_vanished(&keys, "a", 0, 0));
        assert!(!object_has_vanished(&keys, "a", 0, 0));
        keys.note_still_known(&[template("a")]);
        assert!(key_has_vanished(&keys, "a", 0, 0));
        keys.note_gone([template("a")]);
        keys.note_found(&template("a"));
        assert!(key_has_vanished(&keys, "a", 0, 0));
        assert_eq!(keys.others(&template("b")), [template("a")]);
        assert_eq!(keys.others(&template("a")), [] as [Template; 0]);
    }
}
