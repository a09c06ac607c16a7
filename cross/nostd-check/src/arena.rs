//! The heap: a fixed arena that knows how much of it was in use at most.
#![allow(unsafe_code, reason = "an allocator cannot be written without; this one hands everything on and counts")]

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// `N` bytes, in the program's own memory.
pub struct Arena<const N: usize> {
    memory: emballoc::Allocator<N>,
    held: AtomicUsize,
    peak: AtomicUsize,
}

impl<const N: usize> Arena<N> {
    /// All free.
    #[allow(clippy::new_without_default, reason = "an arena is a static")]
    pub const fn new() -> Self {
        Self { memory: emballoc::Allocator::new(), held: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// The most bytes asked for and not yet given back, without the allocator's own.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }
}

// SAFETY: every call goes on unchanged to an allocator that keeps the contract; counting touches no memory of it.
unsafe impl<const N: usize> GlobalAlloc for Arena<N> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        let memory = unsafe { self.memory.alloc(layout) };
        if !memory.is_null() {
            let held = self.held.fetch_add(layout.size(), Relaxed) + layout.size();
            self.peak.fetch_max(held, Relaxed);
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        self.held.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { self.memory.dealloc(memory, layout) }
    }
}
