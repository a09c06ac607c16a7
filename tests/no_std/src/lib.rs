//! Builds only without `std`, which would bring a second panic handler (error E0152).
#![no_std]
#![forbid(unsafe_code)]

use core::panic::PanicInfo;

use grapevine_models::{Method, Params, Plan, stream};
use grapevine_protocol::decode_to_device;

#[global_allocator]
static MEMORY: emballoc::Allocator<65_536> = emballoc::Allocator::new();

#[panic_handler]
fn stop(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Reaches into both crates.
pub extern "C" fn batches_and_frames(length: usize) -> usize {
    let params = Params::defaults(Method::RedGrape, 2).check();
    let batches = params.map_or(0, |params| {
        let mut batches = 0;
        Plan::draw(&[0, 1], 2, &params, stream(1, 1, b"device")).for_each_batch(|_| batches += 1);
        batches
    });
    batches + usize::from(decode_to_device(&[0; 8][..length.min(8)]).is_ok())
}
