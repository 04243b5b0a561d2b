//! Counting what all threads together complete in one window that is the same for all of them.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::module::Failed;
use crate::operation::{self, Task};

/// What was completed, and in what time.
pub struct Measured {
    completed: u64,
    time: Duration,
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, r#"{{"completed":{},"seconds":{}}}"#, self.completed, self.time.as_secs_f64())
    }
}

/// A thread's own count, on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicU64);

/// Runs the task on all sessions, one thread each, and counts after `warm_up` ms for `measured` ms.
pub fn measure(task: &Task<'_>, sessions: &[u64], warm_up: u64, measured: u64) -> Result<Measured, Failed> {
    let counts: Vec<Count> = sessions.iter().map(|_| Count::default()).collect();
    let sum = || counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum::<u64>();
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .iter()
            .zip(&counts)
            .map(|(&session, count)| scope.spawn(move || run(task, session, &count.0, stop)))
            .collect();
        thread::sleep(Duration::from_millis(warm_up));
        let (before, started) = (sum(), Instant::now());
        thread::sleep(Duration::from_millis(measured));
        let (completed, time) = (sum() - before, started.elapsed());
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(Measured { completed, time })
    })
}

fn run(task: &Task<'_>, session: u64, count: &AtomicU64, stop: &AtomicBool) -> Result<(), Failed> {
    let mut buffer = operation::buffer();
    while !stop.load(Ordering::Relaxed) {
        task.run(session, &mut buffer)?;
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
