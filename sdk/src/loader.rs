//! Loading ahead of the step: what a consumer will ask for is made by threads meanwhile.
//!
//! Owns the threads, the bound on what is in memory, and the order. Knows neither data nor
//! models: training and evaluation say what to load.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::{Error, Result};

/// Threads where nobody says how many.
pub const WORKERS: usize = 1;

/// Items in the making or waiting, by worker: one that it makes and one that waits.
const BY_WORKER: usize = 2;

/// Answers `requests` by `load` on `workers` threads and hands the answers to `consume`, in the
/// order of the requests.
///
/// At most two answers a worker are in the making or waiting; what the consumer has taken is its
/// own. Which thread answers does not show: an error comes in the place of its answer, and so
/// does a panic, as an error. With 0 workers, or where the system gives no thread, the consumer
/// loads each answer when it asks for it. When `consume` is done, what is still being made is
/// waited for and dropped.
///
/// ```
/// # use twinspan_sdk::loader::ahead;
/// let squares: Vec<u32> = ahead(2, 0..5, |n: u32| Ok(n * n), |answers| {
///     answers.collect::<twinspan_sdk::Result<_>>()
/// })?;
/// assert_eq!(squares, [0, 1, 4, 9, 16]);
/// # Ok::<(), twinspan_sdk::Error>(())
/// ```
pub fn ahead<R, T: Send, O>(
    workers: usize,
    requests: impl Iterator<Item = R> + Send,
    load: impl Fn(R) -> Result<T> + Sync,
    consume: impl FnOnce(&mut dyn Iterator<Item = Result<T>>) -> O,
) -> O {
    let queue = Queue {
        window: Mutex::new(Window {
            requests,
            asked: 0,
            taken: 0,
            ready: BTreeMap::new(),
            over: false,
        }),
        changed: Condvar::new(),
        most: workers.max(1).saturating_mul(BY_WORKER),
    };
    thread::scope(|scope| {
        let spawned = (0..workers)
            .map_while(|_| {
                let work = || {
                    while let Some((number, request)) = queue.claim() {
                        queue.put(number, guarded(&load, request));
                    }
                };
                thread::Builder::new().spawn_scoped(scope, work).ok()
            })
            .count();
        // Also when `consume` panics: the scope waits for the workers.
        let _close = Close(&queue);
        match spawned {
            0 => consume(&mut std::iter::from_fn(|| {
                let (_, request) = queue.claim()?;
                queue.lock().taken += 1;
                Some(guarded(&load, request))
            })),
            _ => consume(&mut std::iter::from_fn(|| queue.take())),
        }
    })
}

struct Queue<I, T> {
    window: Mutex<Window<I, T>>,
    changed: Condvar,
    /// Answers in the making or waiting at a time.
    most: usize,
}

struct Window<I, T> {
    requests: I,
    /// Requests given to workers.
    asked: usize,
    /// Answers given to the consumer.
    taken: usize,
    /// Answers that wait for their turn.
    ready: BTreeMap<usize, Result<T>>,
    /// There are no more requests, or nobody wants their answers.
    over: bool,
}

impl<R, I: Iterator<Item = R>, T> Queue<I, T> {
    /// The next request and its number, once there is room for its answer.
    fn claim(&self) -> Option<(usize, R)> {
        let full = |w: &mut Window<I, T>| !w.over && w.asked >= w.taken + self.most;
        let mut window = self
            .changed
            .wait_while(self.lock(), full)
            .unwrap_or_else(PoisonError::into_inner);
        if window.over {
            return None;
        }
        let Some(request) = window.requests.next() else {
            window.over = true;
            self.changed.notify_all();
            return None;
        };
        window.asked += 1;
        Some((window.asked - 1, request))
    }

    fn put(&self, number: usize, answer: Result<T>) {
        self.lock().ready.insert(number, answer);
        self.changed.notify_all();
    }

    /// The next answer in order, once it is there.
    fn take(&self) -> Option<Result<T>> {
        let missing = |w: &mut Window<I, T>| {
            let ended = w.over && w.taken == w.asked;
            !ended && !w.ready.contains_key(&w.taken)
        };
        let mut window = self
            .changed
            .wait_while(self.lock(), missing)
            .unwrap_or_else(PoisonError::into_inner);
        let number = window.taken;
        let answer = window.ready.remove(&number)?;
        window.taken += 1;
        self.changed.notify_all();
        Some(answer)
    }
}

impl<I, T> Queue<I, T> {
    fn lock(&self) -> MutexGuard<'_, Window<I, T>> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the workers home.
struct Close<'a, I, T>(&'a Queue<I, T>);

impl<I, T> Drop for Close<'_, I, T> {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

/// A panic while loading becomes an error: in a worker it would leave the consumer waiting.
fn guarded<R, T>(load: impl Fn(R) -> Result<T>, request: R) -> Result<T> {
    catch_unwind(AssertUnwindSafe(|| load(request))).unwrap_or_else(|panic| {
        Err(Error::plugin(format!(
            "loading a batch panicked: {}",
            said(panic.as_ref())
        )))
    })
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
