//! Failures for people: one line each, whatever is behind them.

use core::error::Error;
use std::panic;
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::error::ErrorKind;

use super::Answer;

/// A wrong combination of arguments that clap does not know to be one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

/// The panic seen last, for the case that nobody caught it.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// What a failed command has to say.
pub(super) fn answer(error: &anyhow::Error) -> Answer {
    let code = if error.is::<UsageError>() { 2 } else { 1 };
    Answer { complaints: vec![sentence(error.as_ref())], code, ..Answer::default() }
}

/// An error with its causes in brackets, on one line. Many errors name their cause themselves; it is not said twice.
pub(super) fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut line = one_line(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_line = one_line(&cause.to_string());
        if !line.contains(&cause_line) {
            line = format!("{line} ({cause_line})");
        }
        source = cause.source();
    }
    line
}

/// Without line breaks, tabs and runs of spaces.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What clap has to say: help in full, a mistake in one line.
pub(super) fn usage(error: &clap::Error) -> Answer {
    let text = error.to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Answer::text(text);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let line = "no command was given; `edge-client --help` lists them".to_owned();
        return Answer { complaints: vec![line], code: 2, ..Answer::default() };
    }
    let mut parts = Vec::new();
    for paragraph in text.split("\n\n") {
        let paragraph = one_line(paragraph);
        if !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more information") {
            parts.push(paragraph.strip_prefix("error: ").unwrap_or(&paragraph).trim().to_owned());
        }
    }
    parts.retain(|part| !part.is_empty());
    let line = format!("{}; `--help` shows what is possible", parts.join("; "));
    Answer { complaints: vec![line], code: 2, ..Answer::default() }
}

/// Keeps panics off the terminal: the runtime of extractors, the image decoders and the store panic on some damaged
/// files and are caught by their callers, who say what to do. Named threads run what nobody guards, so there a panic
/// is an error.
pub(super) fn hush_panics() {
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
pub(super) fn fault() -> Answer {
    let panic = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    let panic = panic.unwrap_or_else(|| "nothing is known about it".to_owned());
    let line = format!("edge-client has a fault ({panic}); please report this line and what led to it");
    Answer { complaints: vec![line], code: 1, ..Answer::default() }
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
        let source = io::Error::other("the disk\n is gone");
        let error = ConfigError::Io { path: "a.toml".into(), source };
        let line = sentence(&error);
        assert_eq!(line, "could not read a.toml; check that it is a text file and its permissions (the disk is gone)");
        let named = anyhow::Error::from(io::Error::other("gone")).context("cannot go on: gone");
        assert_eq!(answer(&named).complaints, ["cannot go on: gone"]);
        assert_eq!(answer(&UsageError("no".into()).into()).code, 2);
    }

    #[test]
    fn mistakes_are_one_line_and_help_is_whole() {
        for (arguments, expected) in [
            (&["edge-client", "ingset"][..], "unrecognized subcommand 'ingset'; tip: "),
            (&["edge-client", "run", "--tpo", "3"], "unexpected argument '--tpo' found"),
            (&["edge-client", "init"], "required arguments were not provided: --fleet <NAME>"),
            (&["edge-client", "train", "--method", "sgd"], "`sgd` is not a method; the methods are fedavg"),
            (&["edge-client"], "no command was given"),
        ] {
            let answer = usage(&Arguments::try_parse_from(arguments).unwrap_err());
            assert_eq!((answer.code, answer.text.as_str(), answer.complaints.len()), (2, "", 1));
            let line = &answer.complaints[0];
            assert!(line.contains(expected) && !line.contains('\n') && line.contains("--help"), "{line}");
        }
        let help = usage(&Arguments::try_parse_from(["edge-client", "--help"]).unwrap_err());
        assert!(help.code == 0 && help.complaints.is_empty() && help.text.contains("Examples:"), "{help:?}");
    }
}
