//! The thread pool that models share: each thread has its stretch of a loop's tasks and helps the others at the end; idle workers spin briefly before they sleep.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// A parallel loop: called with (task, worker). No two tasks that run at once have the same worker index.
pub type Tasks<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// A task panicked; the others of its loop were finished or skipped, none is running any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a task of the thread pool panicked")
    }
}

impl std::error::Error for Panicked {}

/// A thread pool of the caller's, in place of Kiln's own.
pub trait Executor: Send + Sync {
    /// The number of different worker indices that `run` uses.
    fn workers(&self) -> usize;
    /// Calls `f(task, worker)` once for each of `0..tasks` and returns when all calls have returned. Worker indices are below
    /// [`workers`](Executor::workers), and no two calls that overlap in time have the same one.
    fn run(&self, tasks: usize, f: Tasks);
}

/// A handle of a thread pool; clones share it. The threads end when the last handle is dropped.
#[derive(Clone)]
pub struct Threads(Kind);

#[derive(Clone)]
enum Kind {
    One,
    Pool(Arc<Pool>),
    Custom(Arc<dyn Executor>),
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threads({})", self.workers())
    }
}

impl Default for Threads {
    /// The pool of the process, with a thread for each physical core that the process may use. It starts at the first call.
    fn default() -> Threads {
        static SHARED: OnceLock<Threads> = OnceLock::new();
        SHARED.get_or_init(|| Threads::new(physical_cores())).clone()
    }
}

impl Threads {
    /// A pool of `n` threads, the caller's included: 0 and 1 start none. Where the system refuses threads there are fewer.
    pub fn new(n: usize) -> Threads {
        if n <= 1 { Threads(Kind::One) } else { Threads(Kind::Pool(Arc::new(Pool::start(n)))) }
    }
    /// The caller's own pool.
    pub fn custom(executor: Arc<dyn Executor>) -> Threads {
        Threads(Kind::Custom(executor))
    }
    /// The number of worker indices: what per-worker memory is sized for.
    pub fn workers(&self) -> usize {
        match &self.0 {
            Kind::One => 1,
            Kind::Pool(p) => p.threads.len() + 1,
            Kind::Custom(e) => e.workers().max(1),
        }
    }
    /// Tells the pool that parallel loops follow closely until the guard is dropped: only meanwhile do idle workers spin.
    pub fn enter(&self) -> Active<'_> {
        let pool = match &self.0 {
            Kind::Pool(p) => Some(&*p.shared),
            _ => None,
        };
        if let Some(s) = pool {
            s.active.fetch_add(1, SeqCst);
            s.wake();
        }
        Active(pool)
    }
    /// Calls `f(task, worker)` for each of `0..tasks` on the threads of the pool, and returns when all are done.
    ///
    /// Allocates nothing. Loops of several callers may run at once: a caller that finds the pool busy (a task that starts a
    /// loop, too) runs all of its tasks itself, as worker 0. After a panic the tasks that have not begun are skipped.
    pub fn run(&self, tasks: usize, f: Tasks) -> Result<(), Panicked> {
        let failed = AtomicBool::new(false);
        let guarded = |task: usize, worker: usize| {
            if !failed.load(Relaxed) {
                let call = AssertUnwindSafe(|| f(task, worker));
                if let Err(payload) = catch_unwind(call) {
                    failed.store(true, Relaxed);
                    forget(payload);
                }
            }
        };
        match &self.0 {
            Kind::Pool(p) if tasks > 1 => p.run(tasks, &guarded),
            Kind::Custom(e) if tasks > 1 => e.run(tasks, &guarded),
            _ => (0..tasks).for_each(|task| guarded(task, 0)),
        }
        if failed.load(Relaxed) { Err(Panicked) } else { Ok(()) }
    }
}

/// Drops the payload of a panic, whose own destructor may panic.
fn forget(payload: Box<dyn Any + Send>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(std::mem::forget);
}

/// A span in which parallel loops follow closely; see [`Threads::enter`].
#[derive(Debug)]
pub struct Active<'a>(Option<&'a Shared>);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        if let Some(s) = self.0 {
            s.active.fetch_sub(1, SeqCst);
        }
    }
}

/// Rounds that an idle worker spins before it sleeps.
const SPINS: u32 = 20_000;
/// Rounds that a caller spins for the last tasks of others before it lets other threads have the core.
const WAITS: u32 = 2_000;
/// Most tasks of one round; longer loops take several.
const ROUND: usize = (1 << 16) - 1;

/// A line of the cache of its own, for what threads write.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

/// The loop that is running: the function, and the first task of the round.
type Job = (*const (dyn Fn(usize, usize) + Sync), usize);

/// What the caller and the workers share.
///
/// The tasks of a round are cut into one stretch for each thread. A thread takes its own from the front and then the others'
/// from the back, so that the same part of every layer stays with the same thread, whose cache holds what it wrote of the
/// layer before; a thread that comes late, or is kept busy by other processes, only gives its stretch away.
struct Shared {
    /// The current round: its number in the high half, its tasks in the low half.
    round: Line<AtomicU64>,
    /// What is taken of each thread's stretch: the round's number in the high half, then the tasks taken from the front and
    /// those taken from the back. A word of an earlier round means that nothing is taken.
    taken: Box<[Line<AtomicU64>]>,
    /// Finished tasks of the current round.
    done: Line<AtomicUsize>,
    /// Whether a caller has the pool.
    busy: Line<AtomicBool>,
    /// Callers inside of [`Threads::enter`].
    active: AtomicUsize,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    /// Wake-ups so far; only changed under the lock.
    wakes: Mutex<u64>,
    wake: Condvar,
    job: UnsafeCell<Option<Job>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

// SAFETY: `job` is written only by the caller that holds `busy`, while no task is left to take, and read only by those who took
// a task; the function behind it is Sync, and outlives the loop.
unsafe impl Sync for Shared {}
// SAFETY: as for Sync.
unsafe impl Send for Shared {}

impl Shared {
    /// The number of the current round.
    fn number(&self) -> u32 {
        (self.round.0.load(SeqCst) >> 32) as u32
    }
    /// Takes a task of the stretch of `owner` in a round: the next one if `front`, else the last.
    ///
    /// What is taken belongs to the current round, however late the caller is: a round ends when all of its tasks are taken and
    /// done, so while one is current and a word tells of another, that other is an earlier one, and the round cannot end before
    /// the word changes.
    fn take(&self, (number, tasks): (u32, usize), owner: usize, front: bool) -> Option<usize> {
        let owners = self.taken.len();
        let (from, to) = (owner * tasks / owners, (owner + 1) * tasks / owners);
        let word = &self.taken[owner].0;
        let mut seen = word.load(Acquire);
        loop {
            let (fronts, backs) = if (seen >> 32) as u32 == number {
                (seen >> 16 & 0xffff, seen & 0xffff)
            } else if self.number() == number {
                (0, 0)
            } else {
                return None;
            };
            if (fronts + backs) as usize >= to - from {
                return None;
            }
            let (f, b) = if front { (fronts + 1, backs) } else { (fronts, backs + 1) };
            match word.compare_exchange_weak(seen, u64::from(number) << 32 | f << 16 | b, AcqRel, Acquire) {
                Ok(_) => return Some(if front { from + fronts as usize } else { to - 1 - backs as usize }),
                Err(now) => seen = now,
            }
        }
    }
    /// Runs tasks of the current round as long as there are any; returns its number.
    fn drain(&self, worker: usize) -> u32 {
        let round = self.round.0.load(SeqCst);
        let round = ((round >> 32) as u32, (round & 0xffff_ffff) as usize);
        let owners = self.taken.len();
        let mut ran = 0;
        for i in 0..owners {
            while let Some(task) = self.take(round, (worker + i) % owners, i == 0) {
                // SAFETY: the task belongs to the current round, whose caller waits for it to be done: the job was written
                // before the round was published, and stays until then.
                unsafe {
                    if let Some((f, first)) = *self.job.get() {
                        (*f)(first + task, worker);
                    }
                }
                ran += 1;
            }
        }
        if ran > 0 {
            self.done.0.fetch_add(ran, Release);
        }
        round.0
    }
    /// Wakes the sleeping workers.
    fn wake(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            *self.wakes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.wake.notify_all();
        }
    }
    /// Sleeps until there may be a round other than `seen`.
    fn sleep(&self, seen: u32) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *wakes;
        // Announced before the last look: whoever publishes work looks for sleepers afterwards.
        self.sleepers.fetch_add(1, SeqCst);
        while *wakes == before && self.number() == seen && !self.stop.load(SeqCst) {
            wakes = self.wake.wait(wakes).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
    fn work(&self, worker: usize) {
        let (mut idle, mut seen) = (0, 0);
        while !self.stop.load(Relaxed) {
            if self.number() != seen {
                seen = self.drain(worker);
                idle = 0;
            } else if idle < SPINS && self.active.load(Relaxed) > 0 {
                idle += 1;
                std::hint::spin_loop();
            } else {
                self.sleep(seen);
                idle = 0;
            }
        }
    }
}

/// Kiln's own threads.
struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start(n: usize) -> Pool {
        let shared = Arc::new(Shared {
            round: Line::default(),
            taken: (0..n).map(|_| Line::default()).collect(),
            done: Line::default(),
            busy: Line::default(),
            active: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            wakes: Mutex::new(0),
            wake: Condvar::new(),
            job: UnsafeCell::new(None),
        });
        let start = |worker: usize| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("kiln-{worker}")).spawn(move || shared.work(worker)).ok()
        };
        let threads = (1..n).map_while(start).collect();
        Pool { shared, threads }
    }
    /// Runs a loop; `f` does not panic.
    fn run(&self, tasks: usize, f: Tasks) {
        let s = &*self.shared;
        if s.busy.0.compare_exchange(false, true, Acquire, Relaxed).is_err() {
            (0..tasks).for_each(|task| f(task, 0));
            return;
        }
        // SAFETY: the lifetime ends with this call, and no worker uses the pointer after the last task of a round is done.
        let f: *const (dyn Fn(usize, usize) + Sync + 'static) = unsafe { std::mem::transmute(f as *const (dyn Fn(usize, usize) + Sync)) };
        for first in (0..tasks).step_by(ROUND) {
            let count = ROUND.min(tasks - first);
            // SAFETY: `busy` is held and all tasks of the round before are done, so nobody reads the job.
            unsafe { *s.job.get() = Some((f, first)) };
            s.done.0.store(0, Relaxed);
            s.round.0.store(u64::from(s.number().wrapping_add(1)) << 32 | count as u64, SeqCst);
            s.wake();
            s.drain(0);
            let mut waits = 0;
            while s.done.0.load(Acquire) != count {
                std::hint::spin_loop();
                waits += 1;
                if waits > WAITS {
                    std::thread::yield_now();
                }
            }
        }
        s.busy.0.store(false, Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.wake();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Physical cores, at most as many as the process may use threads at once.
fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut cores = std::collections::BTreeSet::new();
    for cpu in 0..4096 {
        // Threads of one core list the same siblings.
        match std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")) {
            Ok(siblings) => cores.insert(siblings),
            Err(_) => break,
        };
    }
    if cores.is_empty() { logical } else { cores.len().min(logical) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn counts(threads: &Threads, tasks: usize) {
        let seen: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
        let inside: Vec<AtomicU32> = (0..threads.workers()).map(|_| AtomicU32::new(0)).collect();
        threads
            .run(tasks, &|task, worker| {
                assert_eq!(inside[worker].fetch_add(1, SeqCst), 0, "one task at once for a worker");
                seen[task].fetch_add(1, SeqCst);
                inside[worker].fetch_sub(1, SeqCst);
            })
            .unwrap();
        assert!(seen.iter().all(|s| s.load(SeqCst) == 1), "every task runs once");
    }

    #[test]
    fn every_task_runs_once() {
        for n in [0, 1, 2, 3, 8] {
            let threads = Threads::new(n);
            assert_eq!(threads.workers(), n.max(1));
            for round in 0..300 {
                let guard = (round % 3 == 0).then(|| threads.enter());
                counts(&threads, round % 37);
                drop(guard);
            }
            counts(&threads, 20_000);
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let threads = Threads::new(3);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            counts(&threads, 50);
        }
    }

    #[test]
    fn callers_share_a_pool_and_tasks_may_nest() {
        let threads = Threads::new(3);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..200).for_each(|i| counts(&threads, i % 19)));
            }
        });
        let total = AtomicU32::new(0);
        threads
            .run(8, &|_, _| {
                threads
                    .run(8, &|_, worker| {
                        assert_eq!(worker, 0);
                        total.fetch_add(1, SeqCst);
                    })
                    .unwrap();
            })
            .unwrap();
        assert_eq!(total.load(SeqCst), 64);
    }

    #[test]
    fn a_panic_is_reported_and_the_pool_goes_on() {
        let threads = Threads::new(2);
        for threads in [&threads, &Threads::new(1)] {
            let result = threads.run(100, &|task, _| {
                if task == 7 {
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
            });
            assert_eq!(result, Err(Panicked));
            counts(threads, 100);
        }
    }

    #[test]
    fn a_custom_pool_runs_the_tasks() {
        struct Backwards;
        impl Executor for Backwards {
            fn workers(&self) -> usize {
                1
            }
            fn run(&self, tasks: usize, f: Tasks) {
                (0..tasks).rev().for_each(|task| f(task, 0));
            }
        }
        let threads = Threads::custom(Arc::new(Backwards));
        counts(&threads, 30);
        assert_eq!(threads.run(3, &|_, _| std::panic::resume_unwind(Box::new(1))), Err(Panicked));
    }

    #[test]
    fn the_shared_pool_is_one() {
        let (a, b) = (Threads::default(), Threads::default());
        assert_eq!(a.workers(), b.workers());
        counts(&a, 100);
    }

    #[test]
    #[ignore = "prints the overhead of a loop; run it in release"]
    fn overhead() {
        let threads = Threads::new(2);
        let _active = threads.enter();
        let spin = |n: u32| (0..n).for_each(|_| std::hint::spin_loop());
        let time = |f: &dyn Fn()| {
            let mut times: Vec<f64> = (0..5000)
                .map(|_| {
                    let start = std::time::Instant::now();
                    f();
                    start.elapsed().as_secs_f64() * 1e6
                })
                .collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        println!("one share {:.2} us", time(&|| spin(200)));
        println!("two shares on two threads {:.2} us", time(&|| threads.run(2, &|_, _| spin(200)).unwrap()));
        println!("eight quarter shares on two threads {:.2} us", time(&|| threads.run(8, &|_, _| spin(50)).unwrap()));
    }
}
