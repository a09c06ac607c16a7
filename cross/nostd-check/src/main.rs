//! The program for the board: plays the round, prints what came of it to the debugger, and ends the emulator.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use core::hint::black_box;

use cortex_m::peripheral::{Peripherals, SYST, syst::SystClkSource};
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprintln};
use grapevine_nostd_check::golden::CASE;
use grapevine_nostd_check::product::{SIZES, Work};
use grapevine_nostd_check::round::{ALLOWED_ERROR, play};
use grapevine_nostd_check::{ARENA_BYTES, arena_peak};

/// Of the emulated board, whose clock `-icount shift=0` binds to one nanosecond per instruction.
const INSTRUCTIONS_PER_TICK: u32 = 40;
/// The timer counts 24 bits down.
const MOST_TICKS: u32 = 0x00ff_ffff;

#[entry]
fn main() -> ! {
    let mut timer = Peripherals::take().expect("taken once").SYST;
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(MOST_TICKS);
    timer.enable_counter();
    let passed = round(&mut timer) && product(&mut timer);
    loop {
        debug::exit(if passed { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    }
}

/// Plays the golden round and says what it needed.
fn round(timer: &mut SYST) -> bool {
    let (outcome, instructions) = counted(timer, || play(&CASE));
    let (arena, stack_bytes) = (arena_peak(), cortex_m_stack::stack_size());
    let stack = stack_bytes - cortex_m_stack::stack_painted();
    // As whole numbers: the printing of floats would count as text.
    let billionths = |error: f64| (error * 1e9) as u32;
    let passed = outcome.largest_error <= ALLOWED_ERROR;
    hprintln!(
        "golden case {}: {} classes, {} features, {} samples, {} mini-batches",
        CASE.name,
        CASE.classes,
        CASE.features_per_sample,
        CASE.labels.len(),
        CASE.batches.len()
    );
    hprintln!(
        "largest relative error {} parts per billion, allowed {}: {}",
        billionths(outcome.largest_error),
        billionths(ALLOWED_ERROR),
        if passed { "passed" } else { "FAILED" }
    );
    hprintln!("update {} bytes, about {} instructions", outcome.update_bytes, instructions);
    hprintln!("arena {} of {} bytes at most", arena, ARENA_BYTES);
    hprintln!("stack {} of {} bytes at most", stack, stack_bytes);
    passed
}

/// Counts the instructions of the product of training and of the plain one.
fn product(timer: &mut SYST) -> bool {
    let work = Work::new();
    let (plain, plainly) = counted(timer, || black_box(&work).plain());
    let (tiled, tiledly) = counted(timer, || black_box(&work).tiled());
    let hundredths = |instructions: u32| instructions * 100 / work.multiplications() as u32;
    hprintln!(
        "product {:?}: instructions per 100 multiply-adds: {} of three plain loops, {} of the kernel",
        SIZES,
        hundredths(plainly),
        hundredths(tiledly)
    );
    (plain - tiled).abs() < 1e-9
}

/// What some work gives, and how many instructions it took, rounded to a tick.
fn counted<T>(timer: &mut SYST, work: impl FnOnce() -> T) -> (T, u32) {
    timer.clear_current();
    let before = SYST::get_current();
    let result = work();
    (result, before.wrapping_sub(SYST::get_current()) % (MOST_TICKS + 1) * INSTRUCTIONS_PER_TICK)
}
