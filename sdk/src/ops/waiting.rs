//! How candle's threads wait for each other.
//!
//! Owns one setting of the process. candle's elementwise operations run on a pool of its own
//! beside rayon's, whose threads spin before they sleep; between operations of ours, which keep
//! the cores busy, the spinning takes them. Where cores are shared with anything else (a loader, a
//! build) a step of a small model took 2.5 times as long.

/// What candle reads the number of turns from, once.
const TURNS: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";
/// Turns of a waiting thread before it sleeps, in place of candle's 25000.
const FEW: &str = "200";

/// Lets candle's threads sleep soon where they wait; a setting of the user's stays.
///
/// # Safety
/// It changes the environment: call it first in `main`, before there is a second thread.
pub unsafe fn sleep_soon() {
    if std::env::var_os(TURNS).is_none() {
        // SAFETY: the caller's.
        unsafe { std::env::set_var(TURNS, FEW) };
    }
}
