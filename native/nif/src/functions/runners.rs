//! Functions for runners: processes that serve, and native threads.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use rustler::{Env, OwnedEnv, ResourceArc, Term};
use token::{Budget, Served, survive};

use crate::args::{Arg, answer};
use crate::beam::{Runner, Scheduler, Serving, SpinFlag, Thread, TokenPool};
use crate::resources::RunnerResource;
use crate::{args, atoms};

/// How much a runner does in one call: long enough that the way in costs nothing, short enough that its process can be stopped, and
/// other users of the dirty-IO schedulers get their turn.
const BUDGET: Budget = Budget { time: Duration::from_millis(20), bytes: 1 << 20 };

/// How often a thread of a draining pool looks whether leases are left.
const LEASES: Duration = Duration::from_millis(50);

/// The calling process becomes a runner. `{runner, true}`: it must serve at once.
#[rustler::nif]
fn runner_join<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || {
        let pool = pool.get()?;
        let pid = env.pid();
        let flag = SpinFlag::default();
        let (id, woken) = pool.pool.join(Runner::Process(pid, flag.clone()));
        let runner = ResourceArc::new(RunnerResource { pool: pool.pool.clone(), id, flag });
        if runner.monitor(Some(env), &pid).is_none() {
            pool.pool.runner_down(id, &mut Scheduler(env));
        }
        Ok((runner, woken))
    })
}

/// Serves until nothing waits (`:parked`) or the budget is used up (`:again`).
#[rustler::nif(schedule = "DirtyIo")]
fn serve<'a>(env: Env<'a>, runner: Arg<'a, ResourceArc<RunnerResource>>) -> Term<'a> {
    answer(env, || {
        let runner = runner.get()?;
        Ok(match runner.pool.serve(runner.id, &mut Serving(Scheduler(env), runner.flag.clone()), BUDGET) {
            Served::Parked => atoms::parked(),
            Served::Again => atoms::again(),
            Served::Gone => atoms::gone(),
        })
    })
}

/// Starts a runner on a native thread of its own. `false`: the system refuses one.
#[rustler::nif]
fn start_thread<'a>(env: Env<'a>, pool: args::Pool<'a>) -> Term<'a> {
    answer(env, || Ok(start_runner(&pool.get()?.pool)))
}

fn start_runner(pool: &Arc<TokenPool>) -> bool {
    let (sender, wakes) = bounded(1);
    // Before there is a thread: its place is counted as taken at once, so that nobody starts another for it.
    let (id, woken) = pool.join(Runner::Thread(sender));
    let own = pool.clone();
    let run = move || {
        let pool = own;
        let mut outlet = Thread(OwnedEnv::new());
        let mut serves = woken;
        loop {
            if serves {
                match survive(|| pool.serve(id, &mut outlet, BUDGET)) {
                    Some(Served::Again) => continue,
                    Some(Served::Parked) => (),
                    Some(Served::Gone) => return,
                    // Another takes its place.
                    None => return pool.depart(id),
                }
            }
            serves = match pool.is_draining() {
                false if wakes.recv().is_ok() => true,
                // What a lease's holder does goes on. Its end wakes nobody: hence a look now and then.
                true if pool.has_leases() => wakes.recv_timeout(LEASES).is_ok(),
                _ => return pool.depart(id),
            };
        }
    };
    let started = std::thread::Builder::new().name("pkcs11-runner".into()).spawn(run).is_ok();
    if !started {
        pool.withdraw(id);
    }
    started
}
