//! Failures for people: one line each, whatever is behind them.

use core::error::Error;
use std::panic;
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::error::ErrorKind;

use super::Answer;

/// The panic seen last, for the case that nobody caught it.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// An error with its causes in brackets, on one line. Many errors name their cause themselves; it is not said twice.
pub(super) fn sentence(error: &(dyn Error + 'static)) -> String {
    let causes = anyhow::Chain::new(error).skip(1);
    causes.map(|cause| one_line(&cause.to_string())).fold(one_line(&error.to_string()), |line, cause| {
        if line.contains(&cause) { line } else { format!("{line} ({cause})") }
    })
}

/// What clap has to say: help in full, a mistake in one line.
pub(super) fn of_usage(error: &clap::Error) -> Answer {
    let text = error.to_string();
    let is_one_of = |kinds: &[ErrorKind]| kinds.contains(&error.kind());
    if is_one_of(&[ErrorKind::DisplayHelp, ErrorKind::DisplayVersion]) {
        return Answer::text(text);
    }
    if is_one_of(&[ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ErrorKind::MissingSubcommand]) {
        return Answer::failure("no command was given; `aggregator --help` lists them".into(), 2);
    }
    let is_about_usage = |part: &str| part.starts_with("Usage:") || part.starts_with("For more information");
    let parts = text.split("\n\n").map(one_line).filter(|part| !part.is_empty() && !is_about_usage(part));
    let parts: Vec<String> = parts.map(|part| part.strip_prefix("error: ").unwrap_or(&part).to_owned()).collect();
    Answer::failure(format!("{}; `--help` shows what is possible", parts.join("; ")), 2)
}

/// Keeps the several lines of a panic off the terminal. Named threads have nobody who asks how they ended, so there a
/// panic is logged.
pub(super) fn note_panics() {
    panic::set_hook(Box::new(|info| {
        let message = one_line(info.payload_as_str().unwrap_or("no message"));
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        match thread::current().name() {
            None | Some("main") => tracing::debug!(%place, "panic: {message}"),
            Some(name) => tracing::error!(%place, thread = name, "a part of the program failed: {message}"),
        }
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{message}, at {place}"));
    }));
}

/// What is left to say after a panic that nobody caught.
pub(super) fn of_a_panic() -> Answer {
    let panic = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    let panic = panic.unwrap_or_else(|| "nothing is known about it".to_owned());
    Answer::failure(format!("aggregator has a fault ({panic}); please report this line and what led to it"), 1)
}

/// Without line breaks, tabs and runs of spaces.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use clap::Parser;
    use grapevine_host::config::ConfigError;

    use super::*;
    use crate::cli::Arguments;

    #[test]
    fn causes_are_named_once() {
        let error = ConfigError::Io { path: "a.toml".into(), source: io::Error::other("the disk\n is gone") };
        let line = sentence(&error);
        assert_eq!(line, "could not read a.toml; check that it is a text file and its permissions (the disk is gone)");
        let named = anyhow::Error::from(io::Error::other("gone")).context("cannot go on: gone");
        assert_eq!(sentence(named.as_ref()), "cannot go on: gone");
    }

    #[test]
    fn mistakes_are_one_line_and_help_is_whole() {
        for (arguments, expected) in [
            (&["aggregator", "serv"][..], "unrecognized subcommand 'serv'"),
            (&["aggregator", "serve", "--round", "3"], "unexpected argument '--round' found"),
            (&["aggregator", "serve", "--rounds", "0"], "invalid value '0' for '--rounds <COUNT>'"),
            (&["aggregator", "serve", "--embedded", "--broker", "mqtt://h"], "cannot be used with"),
            (&["aggregator", "init"], "required arguments were not provided: --fleet <NAME>"),
            (&["aggregator"], "no command was given"),
        ] {
            let answer = of_usage(&Arguments::try_parse_from(arguments).unwrap_err());
            assert_eq!((answer.code, answer.text.as_str()), (2, ""));
            let line = answer.complaint.unwrap();
            assert!(line.contains(expected) && !line.contains('\n') && line.contains("--help"), "{line}");
        }
        let help = of_usage(&Arguments::try_parse_from(["aggregator", "--help"]).unwrap_err());
        assert!(help.code == 0 && help.complaint.is_none() && help.text.contains("Examples:"), "{help:?}");
    }
}
