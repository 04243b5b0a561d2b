//! Whether a pool does what it is there for; and if it does not, why, and since when. It is put together from what the pool knows already:
//! neither the module nor anybody's PIN source is asked.

use session_pool::Stats;

use crate::error::Error;
use crate::operation::host::Host;
use crate::options::LoginMode;
use crate::pool::TokenPool;
use crate::pool::availability::Outage;
use crate::pool::record::Ailment;
use crate::support::clock::now;

impl<H: Host> TokenPool<H> {
    /// What is wrong, the worst first; `stuck`: calls that hang and hold their capacity.
    pub(crate) fn ailment(&self, stats: &Stats, stuck: usize) -> Option<Ailment> {
        self.end_of_service()
            .or_else(|| self.token_trouble())
            .or_else(|| self.login_trouble())
            .or_else(|| self.hung_trouble(stats, stuck))
            .or_else(|| self.opening_trouble(stats))
    }

    fn end_of_service(&self) -> Option<Ailment> {
        let is_over = self.is_draining() || self.availability.is_stopped();
        is_over.then(|| Ailment::down((Error::Draining, self.record.drains_since())))
    }

    fn token_trouble(&self) -> Option<Ailment> {
        let Outage { error, since, is_recovering } = self.availability.outage(self.record.made())?;
        Some(if is_recovering { Ailment::degraded((error, since)) } else { Ailment::down((error, since)) })
    }

    /// Why operations do not get through the gate.
    fn login_trouble(&self) -> Option<Ailment> {
        if self.options.login == LoginMode::None {
            return None;
        }
        let token = self.availability.bound_token()?;
        let own = self.login.own_trouble(&token);
        let of_all = token.gate.trouble(self.options.user);
        if own.is_none() && token.gate.is_logged_in() {
            // Keys that want a login for each use do not get theirs.
            return of_all.map(Ailment::degraded);
        }
        own.or(of_all).map(Ailment::down)
    }

    fn hung_trouble(&self, stats: &Stats, stuck: usize) -> Option<Ailment> {
        let hung = stats.hung + stuck;
        if hung == 0 {
            return None;
        }
        let (mut since, mut login) = (now(), false);
        for (_, record) in self.in_flight.all() {
            if let Some(current) = record.lock().as_ref().filter(|current| current.hangs()) {
                since = since.min(current.since.unwrap_or(since));
                login |= !current.purpose.kind.is_replaceable();
            }
        }
        let trouble = (Error::SessionsHung { hung, size: stats.size }, since);
        let is_all = login || stuck >= stats.ceiling;
        Some(if is_all { Ailment::down(trouble) } else { Ailment::degraded(trouble) })
    }

    fn opening_trouble(&self, stats: &Stats) -> Option<Ailment> {
        if stats.idle + stats.running + stats.leased == 0
            && let Some(failed) = self.record.opening_failure()
        {
            return Some(Ailment::down(failed));
        }
        let starts = !self.options.lazy && !self.record.has_served();
        starts.then(|| Ailment::degraded((Error::Starting, self.record.made())))
    }
}
