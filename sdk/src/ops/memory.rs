//! A global allocator that keeps large blocks.
//!
//! Training asks for the same large tensors at every step. The system's allocator gives such
//! blocks back at once, and the kernel then clears every page anew, which takes longer than most
//! operations on the block. Owns the choice of what is kept; a program opts in with
//!
//! ```
//! #[global_allocator]
//! static MEMORY: twinspan_sdk::ops::Recycler = twinspan_sdk::ops::Recycler::new();
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks of at least this size are kept.
const LARGE: usize = 1 << 20;

/// Bytes that may be kept.
const MOST: usize = 2 << 30;

/// Sizes from one power of two to the next.
const STEPS: usize = 8;

/// Kept sizes: from [`LARGE`] up to 2³⁶ bytes.
const SIZES: usize = STEPS * 16;

/// Large blocks start on a huge page.
const ALIGNMENT: usize = 2 << 20;

/// Hands large blocks that were freed to the next who asks for one of about their size; all else
/// goes to the system. At most 2 GiB are kept.
pub struct Recycler {
    busy: AtomicBool,
    shelves: UnsafeCell<Shelves>,
}

/// Freed blocks by size; each holds the address of the next in its first bytes.
struct Shelves {
    first: [*mut u8; SIZES],
    kept: usize,
}

// SAFETY: `shelves` is touched only between `lock` and `unlock`.
unsafe impl Sync for Recycler {}

impl Default for Recycler {
    fn default() -> Self {
        Self::new()
    }
}

/// The shelf for blocks of at least `size` bytes, and the size that its blocks have.
fn shelf(size: usize) -> (usize, usize) {
    let doubling = size.ilog2() as usize;
    let step = (1usize << doubling) / STEPS;
    let steps = (size - (1 << doubling)).div_ceil(step);
    let index = (doubling - LARGE.ilog2() as usize) * STEPS + steps;
    (index, (1 << doubling) + steps * step)
}

impl Recycler {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            shelves: UnsafeCell::new(Shelves {
                first: [ptr::null_mut(); SIZES],
                kept: 0,
            }),
        }
    }

    /// Runs `f` on the shelves alone.
    fn alone<R>(&self, f: impl FnOnce(&mut Shelves) -> R) -> R {
        while self
            .busy
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            std::hint::spin_loop();
        }
        // SAFETY: `busy` was false and is true now, so nobody else is here; `f` neither panics
        // nor allocates.
        let result = f(unsafe { &mut *self.shelves.get() });
        self.busy.store(false, Ordering::Release);
        result
    }

    /// The shelf of a layout and the layout of its blocks, where it is one to be kept.
    fn kept(layout: Layout) -> Option<(usize, Layout)> {
        if layout.size() < LARGE || layout.align() > ALIGNMENT {
            return None;
        }
        let (index, size) = shelf(layout.size());
        let alignment = if size >= 2 * ALIGNMENT {
            ALIGNMENT
        } else {
            4096
        };
        if index >= SIZES || layout.align() > alignment {
            return None;
        }
        Some((index, Layout::from_size_align(size, alignment).ok()?))
    }

    fn take(&self, index: usize, block: Layout) -> Option<*mut u8> {
        self.alone(|shelves| {
            let found = shelves.first[index];
            if found.is_null() {
                return None;
            }
            // SAFETY: a block on a shelf is ours, and `put` wrote the next address into it.
            shelves.first[index] = unsafe { found.cast::<*mut u8>().read() };
            shelves.kept -= block.size();
            Some(found)
        })
    }

    /// False where enough is kept already.
    fn put(&self, index: usize, block: Layout, freed: *mut u8) -> bool {
        self.alone(|shelves| {
            if shelves.kept + block.size() > MOST {
                return false;
            }
            // SAFETY: the block was given to us, is larger than an address and aligned to one.
            unsafe { freed.cast::<*mut u8>().write(shelves.first[index]) };
            shelves.first[index] = freed;
            shelves.kept += block.size();
            true
        })
    }
}

/// Asks Linux for huge pages; a refusal changes nothing but the speed.
fn prefer_huge_pages(block: *mut u8, layout: Layout) {
    #[cfg(target_os = "linux")]
    if layout.align() == ALIGNMENT {
        unsafe extern "C" {
            fn madvise(address: *mut u8, length: usize, advice: i32) -> i32;
        }
        const MADV_HUGEPAGE: i32 = 14;
        // SAFETY: the range was just allocated, and the advice does not change what it holds.
        unsafe { madvise(block, layout.size() / 4096 * 4096, MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (block, layout);
}

// SAFETY: every block comes from `System` with a layout that `kept` derives from the caller's
// alone, at least as large and as aligned, and goes back to it with the same one. A block is on
// one shelf or in one caller's hands.
unsafe impl GlobalAlloc for Recycler {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((index, block)) = Self::kept(layout) else {
            // SAFETY: the caller's promise is passed on.
            return unsafe { System.alloc(layout) };
        };
        self.take(index, block).unwrap_or_else(|| {
            // SAFETY: the block's size is not 0.
            let fresh = unsafe { System.alloc(block) };
            if !fresh.is_null() {
                prefer_huge_pages(fresh, block);
            }
            fresh
        })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::kept(layout).is_none() {
            // SAFETY: the caller's promise is passed on.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise is passed on; what `alloc` gives is at least as large.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn dealloc(&self, freed: *mut u8, layout: Layout) {
        match Self::kept(layout) {
            Some((index, block)) if self.put(index, block, freed) => (),
            // SAFETY: `alloc` got the block from `System` with this layout.
            Some((_, block)) => unsafe { System.dealloc(freed, block) },
            // SAFETY: the caller's promise is passed on.
            None => unsafe { System.dealloc(freed, layout) },
        }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return ptr::null_mut();
        };
        match (Self::kept(layout), Self::kept(wanted)) {
            // SAFETY: the caller's promise is passed on.
            (None, None) => unsafe { System.realloc(old, layout, size) },
            (Some((a, _)), Some((b, _))) if a == b => old,
            // SAFETY: both blocks hold at least the bytes that are copied, and do not overlap.
            _ => unsafe {
                let new = self.alloc(wanted);
                if !new.is_null() {
                    ptr::copy_nonoverlapping(old, new, layout.size().min(size));
                    self.dealloc(old, layout);
                }
                new
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shelves_are_as_large_as_asked_and_little_more() {
        for size in (LARGE..64 * LARGE).step_by(99_991) {
            let (index, block) = shelf(size);
            assert!(block >= size && block <= size + size / STEPS + 1, "{size}");
            assert_eq!(shelf(block), (index, block), "{size}");
            assert!(index < SIZES);
        }
    }

    #[test]
    fn blocks_come_back_zeroed_grown_and_whole() {
        let memory = Recycler::new();
        let layout = Layout::from_size_align(3 * LARGE + 5, 64).unwrap();
        // SAFETY: every block is used within its layout and freed once with it.
        unsafe {
            let a = memory.alloc(layout);
            a.write_bytes(7, layout.size());
            memory.dealloc(a, layout);
            let b = memory.alloc_zeroed(layout);
            assert_eq!(a, b, "a freed block is handed out again");
            let all = std::slice::from_raw_parts(b, layout.size());
            assert!(all.iter().all(|&x| x == 0));
            b.write_bytes(3, layout.size());
            let size = 9 * LARGE;
            let c = memory.realloc(b, layout, size);
            let all = std::slice::from_raw_parts(c, layout.size());
            assert!(all.iter().all(|&x| x == 3));
            let small = Layout::from_size_align(size, 64).unwrap();
            let d = memory.realloc(c, small, 100);
            assert_eq!(*d.add(99), 3);
            memory.dealloc(d, Layout::from_size_align(100, 64).unwrap());
        }
    }
}
