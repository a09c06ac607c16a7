//! What a command has to say at its end, and how it is said: results on standard output, complaints on standard error.

use core::error::Error;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::sentence::sentence;
use crate::{printable, printable_lines};

/// What a shell expects of a process that Ctrl-C ended: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// What a command has to say at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// For standard error, a sentence each.
    pub complaints: Vec<String>,
    /// The exit code.
    pub code: u8,
}

impl Answer {
    /// A success.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A success, as JSON if that was asked for.
    ///
    /// # Errors
    /// If the value cannot be written as JSON.
    pub fn of<T: Serialize>(
        value: &T,
        json: bool,
        render: impl FnOnce(&T) -> String,
    ) -> Result<Self, serde_json::Error> {
        let text = if json { serde_json::to_string_pretty(value)? + "\n" } else { render(value) };
        Ok(Self::text(text))
    }

    /// A failure in one sentence.
    pub fn complaint(complaint: impl Into<String>, code: u8) -> Self {
        Self { complaints: vec![complaint.into()], code, ..Self::default() }
    }

    /// What an error has to say; exit code 1.
    pub fn failure(error: &(dyn Error + 'static)) -> Self {
        Self::complaint(sentence(error), 1)
    }

    /// Writes it to the two outputs of this process and gives the exit code. Whatever foreign names it holds reach the
    /// terminal as [`printable`].
    pub fn deliver(&self) -> u8 {
        let mut code = self.code;
        let mut complaints = self.complaints.clone();
        let mut output = io::stdout().lock();
        match write!(output, "{}", printable_lines(&self.text)).and_then(|()| output.flush()) {
            Ok(()) => {}
            // The reader had enough, as in `| head`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => {
                complaints.push(format!("cannot write the result: {error}; check where the output goes"));
                code = code.max(1);
            }
        }
        for complaint in complaints {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "error: {}", printable(&complaint));
        }
        code
    }
}
