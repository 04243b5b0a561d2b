//! A lease, as whoever runs on it knows it: the session that its holder has, and the timer that ends it.

use std::collections::VecDeque;

use parking_lot::Mutex;
use session_pool::{Ended, GivenBack, Held, LeaseEnd, OnLease, Ticket};

use crate::support::sender::Timer;
use crate::token::session::Session;

/// A lease on which operations `W` run.
pub struct Lease<W> {
    session: session_pool::Lease<Session, W>,
    expiry: Mutex<Expiry>,
}

/// What ends a lease that is held for too long. It goes as soon as the lease is over.
enum Expiry {
    None,
    Due(#[expect(dead_code, reason = "it is there to be dropped")] Timer),
    Over,
}

impl<W> Default for Lease<W> {
    fn default() -> Self {
        Self { session: session_pool::Lease::default(), expiry: Mutex::new(Expiry::None) }
    }
}

impl<W> Lease<W> {
    /// It ends when this timer does what it is for.
    pub fn expires_with(&self, timer: Timer) {
        let mut expiry = self.expiry.lock();
        if !matches!(*expiry, Expiry::Over) {
            let before = std::mem::replace(&mut *expiry, Expiry::Due(timer));
            // What is dropped sends.
            drop(expiry);
            drop(before);
        }
    }

    /// Whether it has a session.
    pub fn is_active(&self) -> bool {
        self.session.is_active()
    }

    /// Its session is there. `Err`: it has ended meanwhile.
    pub(crate) fn start(&self, held: Held<Session>, ticket: Ticket) -> Result<(), Held<Session>> {
        self.session.start(held, ticket)
    }

    /// An operation is to run on it.
    pub(crate) fn submit(&self, operation: W) -> OnLease<Session, W> {
        self.session.submit(operation)
    }

    /// An operation on it is done. `broken`: its session must not be used again, for this reason.
    pub(crate) fn give_back(&self, held: Held<Session>, broken: Option<&'static str>) -> GivenBack<Session, W> {
        let given_back = self.session.give_back(held, broken);
        if let GivenBack::Ended { .. } = given_back {
            self.drop_timer();
        }
        given_back
    }

    /// The call of its operation hangs: it ends now, and these operations with it.
    pub(crate) fn abandon(&self) -> VecDeque<W> {
        match self.session.abandon() {
            Some(waiting) => {
                self.drop_timer();
                waiting
            }
            None => VecDeque::new(),
        }
    }

    /// It ends: now, or when its operation is done.
    pub(crate) fn end(&self, end: LeaseEnd) -> Ended<Session> {
        self.drop_timer();
        self.session.end(end)
    }

    fn drop_timer(&self) {
        let before = std::mem::replace(&mut *self.expiry.lock(), Expiry::Over);
        drop(before);
    }
}
