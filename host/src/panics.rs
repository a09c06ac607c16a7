//! Panics, kept off the terminal: some libraries panic on damaged files and are caught by their callers, who say what
//! to do; whatever nobody catches is said in one line at the end.

use std::panic;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::sentence::one_line;

/// The panic seen last, for the case that nobody caught it.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Notes panics instead of printing them. Named threads run what nobody guards, so there a panic is logged as an error.
pub fn note() {
    panic::set_hook(Box::new(|info| {
        let message = one_line(info.payload_as_str().unwrap_or("no message"));
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        match thread::current().name() {
            None | Some("main") => tracing::debug!(%place, "panic: {message}"),
            Some(name) => tracing::error!(%place, thread = name, "a part of the program failed: {message}"),
        }
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{message}, at {place}"));
    }));
}

/// What is left to say after a panic that nobody caught.
pub fn fault(program: &str) -> String {
    let panic = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
    let panic = panic.unwrap_or_else(|| "nothing is known about it".to_owned());
    format!("{program} has a fault ({panic}); please report this line and what led to it")
}
