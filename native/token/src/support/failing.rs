//! What keeps going wrong: the last error, and since when nothing has gone well.

use session_pool::Millis;

/// The last error, since the first one of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failing<E>(Option<(E, Millis)>);

impl<E> Default for Failing<E> {
    fn default() -> Self {
        Self(None)
    }
}

impl<E: Clone> Failing<E> {
    /// It has gone wrong (again).
    pub(crate) fn note(&mut self, error: E, now: Millis) {
        let since = self.0.as_ref().map_or(now, |(_, since)| *since);
        self.0 = Some((error, since));
    }

    /// It has gone well.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// The last error, and when the first one of its row was; `None`: it has gone well since, or has not been tried.
    pub(crate) fn get(&self) -> Option<(E, Millis)> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_last_error_since_the_first_after_a_success() {
        let mut failing = Failing::default();
        assert_eq!(failing.get(), None);
        failing.note("first", 1);
        failing.note("second", 2);
        assert_eq!(failing.get(), Some(("second", 1)));
        failing.clear();
        assert_eq!(failing.get(), None);
        failing.note("third", 3);
        assert_eq!(failing.get(), Some(("third", 3)));
    }
}
