#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| grapevine_fuzz::device_state(bytes));
