//! What a session holds of the pool's capacity, and the forms that it takes on its way.
//!
//! ```text
//!   Opening --opened--> Held --release, discard--> Closing --closed--> capacity
//!      |                 |  `--lease--> Held, leased
//!      |                 |                            |
//!      +---- quarantine -+----------------------------+----> hung, in the same hands: it can only be closed, and gives no capacity
//! ```

use crate::Millis;

/// How a session counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Opening,
    Running,
    /// A caller has it for itself, whether it runs something or not.
    Leased,
    Closing,
    /// It does not: the call that it is used in hangs, and another may be opened in its stead.
    Hung,
}

/// A session's share of the pool's capacity. It is apart from the session while a call is in progress, where others can see to it
/// (`Pool::quarantine`) if the call hangs.
#[derive(Debug)]
#[must_use = "capacity that is not given back is lost to the pool"]
pub struct Stake {
    pub(crate) stripe: usize,
    pub(crate) stage: Stage,
}

impl Stake {
    /// Whether the call was given up as hung.
    pub fn is_hung(&self) -> bool {
        self.stage == Stage::Hung
    }

    /// It goes on to another stage; one that is hung stays so.
    pub(crate) fn at(self, stage: Stage) -> Self {
        let stage = if self.is_hung() { Stage::Hung } else { stage };
        Self { stage, ..self }
    }

    fn is(&self, stage: Stage) -> bool {
        self.is_hung() || self.stage == stage
    }
}

/// An open session in a runner's hands. It must come back by `release` or `discard`.
#[derive(Debug)]
#[must_use = "a session that is not given back is lost to the pool"]
pub struct Held<S> {
    /// The session.
    pub session: S,
    pub(crate) stake: Stake,
    pub(crate) expires: Option<Millis>,
    /// It is kept alive, and has lain idle since then: that is no use of it.
    pub(crate) idle_since: Option<Millis>,
}

impl<S> Held<S> {
    /// Takes the session and its stake apart, for a call that may hang.
    pub fn lend(self) -> (Lent<S>, Stake) {
        (Lent { session: self.session, expires: self.expires, idle_since: self.idle_since }, self.stake)
    }

    /// Whether a call on it was given up as hung: it can only be closed.
    pub fn is_hung(&self) -> bool {
        self.stake.is_hung()
    }

    pub(crate) fn is_expired(&self, now: Millis) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// A session in a call, without its stake.
#[derive(Debug)]
#[must_use = "a session that is not given back is lost to the pool"]
pub struct Lent<S> {
    /// The session.
    pub session: S,
    expires: Option<Millis>,
    idle_since: Option<Millis>,
}

impl<S> Lent<S> {
    /// The call has returned: the session and its stake, whatever has become of that.
    pub fn rejoin(self, stake: Stake) -> Held<S> {
        debug_assert!(stake.is(Stage::Running) || stake.is(Stage::Leased), "{stake:?} is another session's");
        Held { session: self.session, stake, expires: self.expires, idle_since: self.idle_since }
    }
}

/// The right to open one session. It must end in `opened` or `open_failed`.
#[derive(Debug)]
#[must_use = "capacity that is not given back is lost to the pool"]
pub struct Opening(pub(crate) Stake);

/// A session that is being closed still counts. It must end in `closed`.
#[derive(Debug)]
#[must_use = "capacity that is not given back is lost to the pool"]
pub struct Closing(pub(crate) Stake);

macro_rules! stage {
    ($form:ident) => {
        impl $form {
            /// Whether its call was given up as hung.
            pub fn is_hung(&self) -> bool {
                self.0.is_hung()
            }

            /// Its stake, for a call that may hang.
            pub fn lend(self) -> Stake {
                self.0
            }

            /// The call has returned.
            pub fn rejoin(stake: Stake) -> Self {
                debug_assert!(stake.is(Stage::$form), "{stake:?} is another session's");
                Self(stake)
            }
        }
    };
}

stage!(Opening);
stage!(Closing);
