//! What a runner has in hand, written down where others can see it: what it runs, since when, and the stake of its session. If its call
//! hangs, the stake is quarantined behind its back; it finds out when the call returns. All of that happens under the cell's lock, so that
//! it cannot race with the return.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use session_pool::{Closing, Held, Lent, Millis, Opening, Source, Stake, State};

use crate::module::{Module, Stuck};
use crate::operation::host::Host;
use crate::operation::request::{Header, Operation, Place, Work};
use crate::pool::SessionPool;
use crate::pool::lease::Lease;
use crate::runner::spin::Pace;
use crate::support::clock::now;
use crate::token::session::Session;

/// A runner's cell; a session that is being closed has one, too.
pub(crate) struct Cell<H: Host> {
    /// Whether its thread may be left behind in a call that hangs.
    pub(crate) is_expendable: bool,
    doing: Mutex<Option<Doing<H>>>,
    pub(crate) pace: Pace,
}

/// What is being done.
pub(crate) struct Doing<H: Host> {
    pub(crate) errand: Errand<H>,
    /// When it began; `None`: it waits for its turn, outside of the module.
    pub(crate) since: Option<Millis>,
    /// The session's number; 0 while it is being opened.
    pub(crate) session: u64,
    pub(crate) stake: Stake,
    /// It was reported as hung.
    pub(crate) reported: Option<Reported>,
}

/// That a call was reported as hung; known to its module.
pub(crate) struct Reported {
    _stuck: Option<Stuck>,
}

impl Reported {
    pub(crate) fn to(module: Option<&Arc<Module>>) -> Self {
        Self { _stuck: module.map(Module::sticks) }
    }
}

/// What it is about.
pub(crate) struct Errand<H: Host> {
    pub(crate) kind: Kind,
    /// Who waits for it.
    pub(crate) header: Option<Arc<Header<H>>>,
    /// The lease whose session it runs on.
    pub(crate) lease: Option<Arc<Lease<H>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A caller's operation, of this name.
    Call(&'static str),
    /// A login or logout: there is only one for everybody, so that nothing replaces it.
    Login,
    Logout,
    Close,
    /// An idle session is kept alive.
    Keepalive,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Call(name) => name,
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Close => "close",
            Self::Keepalive => "keepalive",
        }
    }

    /// Whether another session does instead of one that hangs in it.
    pub(crate) fn is_replaceable(self) -> bool {
        matches!(self, Self::Call(_) | Self::Close | Self::Keepalive)
    }
}

impl<H: Host> Errand<H> {
    pub(crate) fn of(work: &Work<H>) -> Self {
        let asked = |kind, header: Option<&Arc<Header<H>>>| Self { kind, header: header.cloned(), lease: None };
        match work {
            Work::Call(Operation { header, request, place, .. }) => {
                let lease = match place {
                    Place::Within(lease) => Some(lease.clone()),
                    Place::Pool | Place::Takes(_) => None,
                };
                Self { lease, ..asked(Kind::Call(request.name()), Some(header)) }
            }
            Work::Express(express) => asked(express.kind(), express.header()),
            Work::Keepalive(_) => asked(Kind::Keepalive, None),
        }
    }
}

impl<H: Host> Doing<H> {
    /// Whether its caller has gone.
    pub(crate) fn is_given_up(&self) -> bool {
        self.errand.header.as_ref().is_some_and(|header| header.progress.state() == State::Abandoned)
    }

    /// Whether it has been at it for so long.
    pub(crate) fn has_taken(&self, limit: Millis) -> bool {
        self.since.is_some_and(|since| since.saturating_add(limit) <= now())
    }
}

/// A grant's session, or the right to open one, in a runner's hands, while its stake is in the cell.
pub(crate) struct Hand<'a, H: Host> {
    cell: &'a Cell<H>,
    session: Option<Lent<Session>>,
}

/// An open one.
pub(crate) struct InUse<'a, H: Host> {
    cell: &'a Cell<H>,
    lent: Lent<Session>,
}

/// A call that was reported as hung has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) kind: Kind,
    pub(crate) session: u64,
    pub(crate) since: Millis,
}

impl<H: Host> Cell<H> {
    pub(crate) fn new(is_expendable: bool) -> Self {
        Self { is_expendable, doing: Mutex::new(None), pace: Pace::default() }
    }

    /// A session's on its way through the reaper.
    pub(crate) fn closing(session: u64, closing: Closing) -> Self {
        let cell = Self::new(true);
        let errand = Errand { kind: Kind::Close, header: None, lease: None };
        cell.put(errand, None, session, closing.lend());
        cell
    }

    /// A runner takes a grant in hand.
    pub(crate) fn take_up(&self, source: Source<Session>, errand: Errand<H>) -> Hand<'_, H> {
        let (session, index, stake) = match source {
            Source::Session(held) => {
                let index = held.session.index();
                let (lent, stake) = held.lend();
                (Some(lent), index, stake)
            }
            Source::Capacity(opening) => (None, 0, opening.lend()),
        };
        self.put(errand, Some(now()), index, stake);
        Hand { cell: self, session }
    }

    fn put(&self, errand: Errand<H>, since: Option<Millis>, session: u64, stake: Stake) {
        *self.doing.lock() = Some(Doing { errand, since, session, stake, reported: None });
    }

    /// What is in it, to look at or to quarantine: nothing may be sent, dropped, or asked of the module meanwhile.
    pub(crate) fn look(&self) -> MutexGuard<'_, Option<Doing<H>>> {
        self.doing.lock()
    }

    /// It goes into the module, having waited for its turn (`begins`), or waits for it.
    pub(crate) fn begins(&self, begins: bool) {
        if let Some(doing) = &mut *self.doing.lock() {
            doing.since = begins.then(now);
        }
    }

    /// Empties it: the stake, and what was reported.
    fn clear(&self) -> (Stake, Option<Late>) {
        let doing = self.doing.lock().take();
        let Doing { errand, since, session, stake, reported } = doing.expect("only who has put something in takes it out");
        let late = since.filter(|_| reported.is_some()).map(|since| Late { kind: errand.kind, session, since });
        (stake, late)
    }

    /// The session that it is for is closed.
    pub(crate) fn closed(&self) -> (Closing, Option<Late>) {
        let (stake, late) = self.clear();
        (Closing::rejoin(stake), late)
    }

    /// What a panic has left behind.
    pub(crate) fn take_stake(&self) -> Option<Stake> {
        let doing = self.doing.lock().take();
        doing.map(|doing| doing.stake)
    }
}

impl<'a, H: Host> Hand<'a, H> {
    /// An open session, if there is one.
    pub(crate) fn in_use(self) -> Result<InUse<'a, H>, Self> {
        let Self { cell, session } = self;
        match session {
            Some(lent) => Ok(InUse { cell, lent }),
            None => Err(Self { cell, session }),
        }
    }

    /// The cell that its stake is in.
    pub(crate) fn cell(&self) -> &'a Cell<H> {
        self.cell
    }

    /// A session was opened with the right to it.
    pub(crate) fn opened(self, sessions: &SessionPool<H>, session: Session) -> InUse<'a, H> {
        let index = session.index();
        let mut doing = self.cell.look();
        let Doing { errand, since, stake, reported, .. } = doing.take().expect("only who has put something in takes it out");
        let (lent, stake) = sessions.opened(Opening::rejoin(stake), session, now()).lend();
        *doing = Some(Doing { errand, since, session: index, stake, reported });
        drop(doing);
        InUse { cell: self.cell, lent }
    }

    /// Lays it down.
    pub(crate) fn lay_down(self) -> (Source<Session>, Option<Late>) {
        let (stake, late) = self.cell.clear();
        let source = match self.session {
            Some(lent) => Source::Session(lent.rejoin(stake)),
            None => Source::Capacity(Opening::rejoin(stake)),
        };
        (source, late)
    }
}

impl<H: Host> InUse<'_, H> {
    pub(crate) fn session(&self) -> &Session {
        &self.lent.session
    }

    /// The cell that its stake is in.
    pub(crate) fn cell(&self) -> &Cell<H> {
        self.cell
    }

    /// Whether a call on it was given up as hung.
    pub(crate) fn is_hung(&self) -> bool {
        self.cell.look().as_ref().is_some_and(|doing| doing.stake.is_hung())
    }

    /// Lays it down.
    pub(crate) fn lay_down(self) -> (Held<Session>, Option<Late>) {
        let (stake, late) = self.cell.clear();
        (self.lent.rejoin(stake), late)
    }
}
