//! One golden round of RedGrape without an operating system: trained by `models`, packed, cut, framed and read again
//! by `protocol`, in a fixed arena.
//!
//! Builds only without `std`, which would bring a second panic handler (error E0152). Read [`round::play`] first.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

pub mod arena;
pub mod golden;
pub mod product;
pub mod round;

#[cfg(not(feature = "hosted"))]
use core::panic::PanicInfo;

/// All memory of the round but its stack. What the round needs of it, `run` prints.
pub const ARENA_BYTES: usize = 32 * 1024;

#[cfg(not(feature = "hosted"))]
#[global_allocator]
static ARENA: arena::Arena<ARENA_BYTES> = arena::Arena::new();

/// The most bytes of the arena that were in use at one time.
#[cfg(not(feature = "hosted"))]
pub fn arena_peak() -> usize {
    ARENA.peak()
}

#[cfg(all(feature = "board", target_os = "none"))]
#[panic_handler]
fn stop(panic: &PanicInfo<'_>) -> ! {
    cortex_m_semihosting::hprintln!("{}", panic);
    loop {
        cortex_m_semihosting::debug::exit(cortex_m_semihosting::debug::EXIT_FAILURE);
    }
}

#[cfg(not(any(feature = "hosted", all(feature = "board", target_os = "none"))))]
#[panic_handler]
fn stop(_: &PanicInfo<'_>) -> ! {
    loop {}
}
