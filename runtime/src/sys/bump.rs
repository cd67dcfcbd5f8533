//! The allocator of the `davit` binary: it hands out memory from one static area and takes nothing back.
//!
//! A runtime command lives for milliseconds and ends by exit, so freeing is wasted work; musl's malloc was a
//! third of a command's instructions. It takes no lock and keeps no state that a fork could tear, and
//! it packs what was allocated, so that a forked init touches, and is charged for, few pages.
//! What does not fit goes to the system's allocator, so long-lived commands (`run` in the foreground) work
//! as ever. Not for the shim, which lives long.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Size of the area in bytes: a list of some hundred containers fits. It is zero pages until touched.
const AREA: usize = 4 << 20;

/// The allocator; see the module's text.
#[derive(Debug)]
pub struct Bump {
    area: Area,
    /// Bytes handed out.
    used: AtomicUsize,
}

#[derive(Debug)]
#[repr(align(16))]
struct Area(UnsafeCell<[u8; AREA]>);

// SAFETY: the area's bytes are only reached through the pointers that `alloc` gave out, each part once.
unsafe impl Sync for Area {}

impl Bump {
    /// For a `#[global_allocator]` static.
    #[must_use]
    pub const fn new() -> Self {
        Bump { area: Area(UnsafeCell::new([0; AREA])), used: AtomicUsize::new(0) }
    }

    fn start(&self) -> usize {
        self.area.0.get() as usize
    }

    fn owns(&self, pointer: *mut u8) -> bool {
        (self.start()..self.start() + AREA).contains(&(pointer as usize))
    }

    /// Takes `layout.size()` aligned bytes off the area; their offset, or `None` when it is full.
    fn take(&self, layout: Layout) -> Option<usize> {
        let start = self.start();
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let end = aligned(start + used, layout.align())? - start;
            let end = end.checked_add(layout.size())?;
            (end <= AREA).then_some(end)
        });
        let used = taken.ok()?;
        Some(aligned(start + used, layout.align())? - start)
    }
}

impl Default for Bump {
    fn default() -> Self {
        Self::new()
    }
}

/// Least alignment, that of malloc: nix keeps control messages, which need 8, in a `Vec<u8>`.
const LEAST_ALIGN: usize = 16;

fn aligned(address: usize, align: usize) -> Option<usize> {
    address.checked_next_multiple_of(align.max(LEAST_ALIGN))
}

// SAFETY: `alloc` returns memory inside the area that no other allocation holds (the atomic update moves
// `used` past it), aligned as asked, or what System returns; `dealloc` and `realloc` pass to System only
// what came from it.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            // SAFETY: take() returned an offset inside the area.
            Some(offset) => unsafe { self.area.0.get().cast::<u8>().add(offset) },
            // SAFETY: the caller's layout, passed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            // SAFETY: as in alloc. Nothing is handed out twice, so the static area's bytes are still zero.
            Some(offset) => unsafe { self.area.0.get().cast::<u8>().add(offset) },
            // SAFETY: the caller's layout, passed on.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if !self.owns(pointer) {
            // SAFETY: not ours, so it came from System.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.owns(pointer) {
            // SAFETY: not ours, so it came from System.
            return unsafe { System.realloc(pointer, layout, size) };
        }
        if size <= layout.size() {
            return pointer;
        }
        // The last allocation grows in place: the usual case of a Vec or String that is being filled.
        let (from, to) =
            (pointer as usize - self.start() + layout.size(), pointer as usize - self.start() + size);
        if to <= AREA && self.used.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return pointer;
        }
        // SAFETY: a layout of the caller's alignment and the new size, as the contract of realloc asks.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both are valid for the old size, and the new one was not handed out before.
            unsafe { std::ptr::copy_nonoverlapping(pointer, new, layout.size()) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY of each block below: layouts are valid and not zero-sized, and sizes match what was allocated.
    #[test]
    fn allocations_are_apart_aligned_and_zero() {
        static BUMP: Bump = Bump::new();
        let bump = &BUMP;
        let odd = Layout::from_size_align(3, 1).unwrap();
        let wide = Layout::from_size_align(64, 64).unwrap();
        // SAFETY: see above.
        let (a, b) = unsafe { (bump.alloc(odd), bump.alloc_zeroed(wide)) };
        assert!(bump.owns(a) && bump.owns(b));
        assert_eq!(b as usize % 64, 0);
        assert!(b as usize >= a as usize + 3);
        // SAFETY: 64 bytes were allocated.
        assert!(unsafe { std::slice::from_raw_parts(b, 64) }.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn the_last_allocation_grows_in_place_and_others_move() {
        static BUMP: Bump = Bump::new();
        let bump = &BUMP;
        let layout = Layout::from_size_align(8, 8).unwrap();
        // SAFETY: see above.
        unsafe {
            let first = bump.alloc(layout);
            first.write_bytes(7, 8);
            assert_eq!(bump.realloc(first, layout, 100), first);
            let second = bump.alloc(layout);
            let moved = bump.realloc(first, Layout::from_size_align(100, 8).unwrap(), 200);
            assert_ne!(moved, first);
            assert!(moved > second);
            assert_eq!(std::slice::from_raw_parts(moved, 8), [7; 8]);
        }
    }

    #[test]
    fn what_does_not_fit_comes_from_the_system() {
        static BUMP: Bump = Bump::new();
        let bump = &BUMP;
        let large = Layout::from_size_align(AREA + 1, 8).unwrap();
        // SAFETY: see above.
        unsafe {
            let pointer = bump.alloc(large);
            assert!(!pointer.is_null() && !bump.owns(pointer));
            let pointer = bump.realloc(pointer, large, AREA + 2);
            bump.dealloc(pointer, Layout::from_size_align(AREA + 2, 8).unwrap());
        }
    }
}
