//! The pool's configuration, validated once.

use crate::Millis;

/// What a pool is made of. [`Config::validate`] is called by `Pool::new`, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What the pool is called in messages.
    pub label: String,
    /// The most sessions that may be open, opening or closing at any time.
    pub max_sessions: usize,
    /// How many stripes share them.
    pub stripes: usize,
    /// How long a session may lie idle before a tick closes it; `None`: for ever.
    pub idle_ttl: Option<Millis>,
    /// How long a session may live before it is closed when it comes free; `None`: for ever.
    pub max_lifetime: Option<Millis>,
    /// The most operations that may wait.
    pub max_waiting: usize,
}

/// A field of [`Config`] that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pool {label:?}: {field} must be {expected}, got {got}")]
pub struct ConfigError {
    /// The pool's label.
    pub label: String,
    /// The field's name.
    pub field: &'static str,
    /// What it must be.
    pub expected: &'static str,
    /// What it was.
    pub got: u64,
}

impl Config {
    /// Checks every field; the first bad one is named.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bad = |field, expected, got: u64| Err(ConfigError { label: self.label.clone(), field, expected, got });
        if self.max_sessions < 1 {
            return bad("max_sessions", "at least 1", self.max_sessions as u64);
        }
        if self.stripes < 1 || self.stripes > self.max_sessions {
            return bad("stripes", "between 1 and max_sessions", self.stripes as u64);
        }
        if self.idle_ttl == Some(0) {
            return bad("idle_ttl", "at least 1 ms", 0);
        }
        if self.max_lifetime == Some(0) {
            return bad("max_lifetime", "at least 1 ms", 0);
        }
        Ok(())
    }
}

/// The share of stripe `index` when `sessions` are split over `stripes`: the first ones get what does not divide.
pub(crate) fn share(sessions: usize, stripes: usize, index: usize) -> usize {
    sessions / stripes + usize::from(index < sessions % stripes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uneven_split_is_exact() {
        let shares: Vec<_> = (0..3).map(|index| share(7, 3, index)).collect();
        assert_eq!(shares, [3, 2, 2]);
        for sessions in 1..40 {
            for stripes in 1..=sessions {
                assert_eq!((0..stripes).map(|i| share(sessions, stripes, i)).sum::<usize>(), sessions);
            }
        }
    }

    #[test]
    fn a_bad_field_is_named() {
        let good =
            Config { label: "payments".into(), max_sessions: 2, stripes: 1, idle_ttl: None, max_lifetime: None, max_waiting: 0 };
        assert_eq!(good.validate(), Ok(()));
        let field = |config: Config| config.validate().unwrap_err().field;
        assert_eq!(field(Config { max_sessions: 0, ..good.clone() }), "max_sessions");
        assert_eq!(field(Config { stripes: 0, ..good.clone() }), "stripes");
        assert_eq!(field(Config { stripes: 3, ..good.clone() }), "stripes");
        assert_eq!(field(Config { idle_ttl: Some(0), ..good.clone() }), "idle_ttl");
        assert_eq!(field(Config { max_lifetime: Some(0), ..good }), "max_lifetime");
    }
}
