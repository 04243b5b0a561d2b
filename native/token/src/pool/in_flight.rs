//! What is in flight, in one place: what each runner, each caller that runs its own operation, and each session that is being closed has in
//! hand, since when, and the stake of its session.
//!
//! A record is where others can see it. If its call hangs, the stake is quarantined behind the runner's back; the runner finds out when the call
//! returns. All of that happens under the record's lock, so that it cannot race with the return.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use session_pool::{Closing, Held, Lent, Millis, Opening, RunnerId, Source, Stake, State};

use crate::module::{Module, StuckCall};
use crate::operation::OperationLease;
use crate::operation::header::Header;
use crate::operation::host::Host;
use crate::pool::grant::SessionPool;
use crate::pool::pace::Pace;
use crate::pool::work::{Kind, Work};
use crate::support::clock::now;
use crate::token::session::Session;

/// All records of a pool.
pub(crate) struct InFlightRecords<H: Host> {
    runners: Mutex<HashMap<RunnerId, Arc<InFlight<H>>>>,
    inline: Mutex<InlineCalls<H>>,
    closing: Mutex<Vec<Arc<InFlight<H>>>>,
}

/// The records of callers that run their own operations. Each has one for the time of its call.
struct InlineCalls<H: Host> {
    all: Vec<Arc<InFlight<H>>>,
    free: Vec<Arc<InFlight<H>>>,
}

impl<H: Host> Default for InFlightRecords<H> {
    fn default() -> Self {
        let inline = InlineCalls { all: Vec::new(), free: Vec::new() };
        Self { runners: Mutex::default(), inline: Mutex::new(inline), closing: Mutex::default() }
    }
}

impl<H: Host> InFlightRecords<H> {
    /// A runner has joined.
    pub(crate) fn add_runner(&self, id: RunnerId, record: InFlight<H>) {
        self.runners.lock().insert(id, Arc::new(record));
    }

    /// A runner's record.
    pub(crate) fn of_runner(&self, id: RunnerId) -> Arc<InFlight<H>> {
        self.runners.lock().entry(id).or_insert_with(|| Arc::new(InFlight::new(false))).clone()
    }

    /// A runner has left.
    pub(crate) fn remove_runner(&self, id: RunnerId) {
        self.runners.lock().remove(&id);
    }

    /// A caller is about to run its own operation.
    pub(crate) fn begin_inline(&self) -> Arc<InFlight<H>> {
        let mut inline = self.inline.lock();
        inline.free.pop().unwrap_or_else(|| {
            let record = Arc::new(InFlight::new(false));
            inline.all.push(record.clone());
            record
        })
    }

    /// It has run it.
    pub(crate) fn end_inline(&self, record: Arc<InFlight<H>>) {
        self.inline.lock().free.push(record);
    }

    /// How many callers run their own operations.
    pub(crate) fn inline_calls(&self) -> usize {
        let inline = self.inline.lock();
        inline.all.len() - inline.free.len()
    }

    /// A session is about to be closed.
    pub(crate) fn begin_closing(&self, session: u64, closing: Closing) -> Arc<InFlight<H>> {
        let record = Arc::new(InFlight::new(true));
        record.begin(Purpose { kind: Kind::Close, header: None, lease: None }, None, session, closing.lend());
        self.closing.lock().push(record.clone());
        record
    }

    /// It is closed.
    pub(crate) fn end_closing(&self, record: &Arc<InFlight<H>>) {
        self.closing.lock().retain(|other| !Arc::ptr_eq(other, record));
    }

    /// Where calls into the module may be in progress, with the runner whose place goes with it.
    pub(crate) fn all(&self) -> Vec<(Option<RunnerId>, Arc<InFlight<H>>)> {
        let mut all: Vec<_> = self.runners.lock().iter().map(|(id, record)| (Some(*id), record.clone())).collect();
        all.extend(self.inline.lock().all.iter().map(|record| (None, record.clone())));
        all.extend(self.closing.lock().iter().map(|record| (None, record.clone())));
        all
    }

    /// How many callers' operations are under way.
    pub(crate) fn active(&self) -> usize {
        let is_active =
            |record: &InFlight<H>| record.lock().as_ref().is_some_and(|current| matches!(current.purpose.kind, Kind::Call(_)));
        self.all().iter().filter(|(_, record)| is_active(record)).count()
    }

    /// Calls that hang (or were given up, and have not yet returned) and hold their capacity all the same; `besides`: but for this one.
    pub(crate) fn stuck_besides(&self, besides: Option<&Arc<InFlight<H>>>) -> usize {
        let is_stuck =
            |record: &InFlight<H>| record.lock().as_ref().is_some_and(|current| current.hangs() && !current.stake.is_hung());
        let is_other = |record: &Arc<InFlight<H>>| besides.is_none_or(|besides| !Arc::ptr_eq(record, besides));
        self.all().iter().filter(|(_, record)| is_other(record) && is_stuck(record)).count()
    }

    /// Calls that hang and hold their capacity all the same.
    pub(crate) fn stuck(&self) -> usize {
        self.stuck_besides(None)
    }
}

/// What one runner has in hand.
pub(crate) struct InFlight<H: Host> {
    /// Whether its thread may be left behind in a call that hangs.
    pub(crate) is_expendable: bool,
    current: Mutex<Option<Current<H>>>,
    pub(crate) pace: Pace,
}

/// What is being done.
pub(crate) struct Current<H: Host> {
    pub(crate) purpose: Purpose<H>,
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
    _stuck: Option<StuckCall>,
}

impl Reported {
    pub(crate) fn to(module: Option<&Arc<Module>>) -> Self {
        Self { _stuck: module.map(|module| module.count_stuck_call()) }
    }
}

/// What it is about.
pub(crate) struct Purpose<H: Host> {
    pub(crate) kind: Kind,
    /// Who waits for it.
    pub(crate) header: Option<Arc<Header<H>>>,
    /// The lease whose session it runs on.
    pub(crate) lease: Option<Arc<OperationLease<H>>>,
}

impl<H: Host> Purpose<H> {
    pub(crate) fn of(work: &Work<H>) -> Self {
        let (kind, header) = match work {
            Work::Call(operation) => (Kind::Call(operation.request.name()), Some(&operation.header)),
            Work::Control(control) => (control.kind(), control.header()),
            Work::Keepalive(_) => (Kind::Keepalive, None),
        };
        Self { kind, header: header.cloned(), lease: work.lease().cloned() }
    }
}

impl<H: Host> Current<H> {
    /// It is a call that was reported as hung, or given up.
    pub(crate) fn hangs(&self) -> bool {
        self.reported.is_some() || (self.since.is_some() && self.is_given_up())
    }

    /// Whether its caller has gone.
    pub(crate) fn is_given_up(&self) -> bool {
        self.purpose.header.as_ref().is_some_and(|header| header.progress.state() == State::Abandoned)
    }

    /// Whether it has been at it for so long.
    pub(crate) fn has_taken(&self, limit: Millis) -> bool {
        self.since.is_some_and(|since| since.saturating_add(limit) <= now())
    }
}

/// A grant's session, or the right to open one, in a runner's hands, while its stake is in the record.
pub(crate) struct Taken<'a, H: Host> {
    record: &'a InFlight<H>,
    session: Option<Lent<Session>>,
}

/// An open one.
pub(crate) struct InUse<'a, H: Host> {
    record: &'a InFlight<H>,
    lent: Lent<Session>,
}

/// A call that was reported as hung has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LateReturn {
    pub(crate) kind: Kind,
    pub(crate) session: u64,
    pub(crate) since: Millis,
}

impl<H: Host> InFlight<H> {
    pub(crate) fn new(is_expendable: bool) -> Self {
        Self { is_expendable, current: Mutex::new(None), pace: Pace::default() }
    }

    /// A runner takes a grant in hand.
    pub(crate) fn take(&self, source: Source<Session>, purpose: Purpose<H>, now: Millis) -> Taken<'_, H> {
        let (session, index, stake) = match source {
            Source::Session(held) => {
                let index = held.session.index();
                let (lent, stake) = held.lend();
                (Some(lent), index, stake)
            }
            Source::Capacity(opening) => (None, 0, opening.lend()),
        };
        self.begin(purpose, Some(now), index, stake);
        Taken { record: self, session }
    }

    fn begin(&self, purpose: Purpose<H>, since: Option<Millis>, session: u64, stake: Stake) {
        *self.current.lock() = Some(Current { purpose, since, session, stake, reported: None });
    }

    /// What is in it, to look at or to quarantine: nothing may be sent, dropped, or asked of the module meanwhile.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Current<H>>> {
        self.current.lock()
    }

    /// It goes into the module, having waited for its turn (`is_inside`), or waits for it.
    pub(crate) fn set_inside(&self, is_inside: bool) {
        if let Some(current) = &mut *self.current.lock() {
            current.since = is_inside.then(now);
        }
    }

    /// Empties it: the stake, and what was reported.
    fn end(&self) -> (Stake, Option<LateReturn>) {
        let current = self.current.lock().take();
        let Current { purpose, since, session, stake, reported } = current.expect("only who has put something in takes it out");
        let late = since.filter(|_| reported.is_some()).map(|since| LateReturn { kind: purpose.kind, session, since });
        (stake, late)
    }

    /// The session that it is for is closed.
    pub(crate) fn end_closing(&self) -> (Closing, Option<LateReturn>) {
        let (stake, late) = self.end();
        (Closing::rejoin(stake), late)
    }

    /// What a panic has left behind.
    pub(crate) fn take_stake(&self) -> Option<Stake> {
        let current = self.current.lock().take();
        current.map(|current| current.stake)
    }
}

impl<'a, H: Host> Taken<'a, H> {
    /// An open session, if there is one.
    pub(crate) fn in_use(self) -> Result<InUse<'a, H>, Self> {
        let Self { record, session } = self;
        match session {
            Some(lent) => Ok(InUse { record, lent }),
            None => Err(Self { record, session }),
        }
    }

    /// The record that its stake is in.
    pub(crate) fn record(&self) -> &'a InFlight<H> {
        self.record
    }

    /// A session was opened with the right to it.
    pub(crate) fn opened(self, sessions: &SessionPool<H>, session: Session) -> InUse<'a, H> {
        let index = session.index();
        let mut current = self.record.lock();
        let Current { purpose, since, stake, reported, .. } = current.take().expect("only who has put something in takes it out");
        let (lent, stake) = sessions.opened(Opening::rejoin(stake), session, now()).lend();
        *current = Some(Current { purpose, since, session: index, stake, reported });
        drop(current);
        InUse { record: self.record, lent }
    }

    /// The runner has done with it.
    pub(crate) fn finish(self) -> (Source<Session>, Option<LateReturn>) {
        let (stake, late) = self.record.end();
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

    /// The record that its stake is in.
    pub(crate) fn record(&self) -> &InFlight<H> {
        self.record
    }

    /// Whether a call on it was given up as hung.
    pub(crate) fn is_hung(&self) -> bool {
        self.record.lock().as_ref().is_some_and(|current| current.stake.is_hung())
    }

    /// The runner has done with it.
    pub(crate) fn finish(self) -> (Held<Session>, Option<LateReturn>) {
        let (stake, late) = self.record.end();
        (self.lent.rejoin(stake), late)
    }
}
