//! Loading ahead: the same order whatever the threads, bounded memory, errors in their places.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use twinspan_sdk::loader::ahead;
use twinspan_sdk::{Error, Result, random};

/// Takes from nothing to three milliseconds, drawn anew for each number.
fn slowly(number: usize) {
    let drawn = random::uniform(random::key(3, "pause"), number as u64);
    std::thread::sleep(Duration::from_micros((3000.0 * drawn) as u64));
}

/// Counts those of its kind that are in memory.
struct Counted(usize, Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn the_order_is_that_of_the_requests_and_memory_is_bounded() {
    for workers in [0, 1, 2, 4] {
        let (alive, most) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let load = |number: usize| {
            most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            slowly(number);
            Ok(Counted(number, alive.clone()))
        };
        let numbers = ahead(workers, 0..60, load, |answers| {
            answers.map(|a| Ok(a?.0)).collect::<Result<Vec<_>>>()
        });
        assert_eq!(numbers.unwrap(), (0..60).collect::<Vec<_>>());
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        // Two a worker, and the one that the consumer holds.
        let most = most.into_inner();
        assert!(most <= 2 * workers + 1, "{workers} workers: {most}");
        assert!(workers == 0 || most > 1, "{workers} workers: {most}");
    }
}

#[test]
fn a_slow_first_answer_does_not_let_the_others_run_away() {
    let begun = AtomicUsize::new(0);
    let load = |number: usize| {
        begun.fetch_add(1, Ordering::SeqCst);
        if number == 0 {
            std::thread::sleep(Duration::from_millis(60));
        }
        Ok(begun.load(Ordering::SeqCst))
    };
    let first = ahead(3, 0..100, load, |answers| answers.next());
    assert_eq!(first.unwrap().unwrap(), 6, "what was begun before it came");
}

#[test]
fn errors_and_panics_come_in_their_places() {
    for workers in [0, 1, 2, 4] {
        let load = |number: usize| {
            slowly(number);
            match number {
                2 => Err(Error::plugin("bad picture")),
                4 => panic!("out of {}", "ideas"),
                _ => Ok(number),
            }
        };
        let said: Vec<String> = ahead(workers, 0..6, load, |answers| {
            let shown = |a: Result<usize>| a.map_or_else(|e| e.to_string(), |n| n.to_string());
            answers.map(shown).collect()
        });
        let panicked = "loading a batch panicked: out of ideas";
        assert_eq!(said, ["0", "1", "bad picture", "3", panicked, "5"]);
    }
}

#[test]
fn a_consumer_that_leaves_is_not_held_up_by_endless_requests() {
    for workers in [0, 1, 4] {
        let first: Result<Vec<usize>> =
            ahead(workers, 0.., Ok, |answers| answers.take(3).collect());
        assert_eq!(first.unwrap(), [0, 1, 2]);
    }
    let empty = ahead(2, std::iter::empty::<u8>(), Ok, |answers| {
        answers.next().is_none()
    });
    assert!(empty);
}
