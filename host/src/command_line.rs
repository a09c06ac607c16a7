//! The frame around the command line of every program: wrong usage, panics and failures all end in one line and an exit
//! code.

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use crate::manual::page;
use crate::{Answer, log, panics, sentence};

/// What differs between the programs.
pub struct Program<A, E> {
    /// The number of `-v` less the number of `-q`.
    pub verbosity: fn(&A) -> i8,
    /// Does what the arguments say.
    pub obey: fn(&A) -> Result<Answer, E>,
    /// What a failure has to say.
    pub explain: fn(&E) -> Answer,
}

impl<A: Parser, E> Program<A, E> {
    /// The whole program, from its arguments to its exit code.
    pub fn main(&self) -> ExitCode {
        let answer = match A::try_parse() {
            Ok(arguments) => self.answer(&arguments),
            Err(error) => usage::<A>(&error),
        };
        ExitCode::from(answer.deliver())
    }

    fn answer(&self, arguments: &A) -> Answer {
        log::init((self.verbosity)(arguments));
        panics::note();
        // The hook has noted the panic; what it leaves behind is dropped with the process.
        match catch_unwind(AssertUnwindSafe(|| (self.obey)(arguments))) {
            Ok(outcome) => outcome.unwrap_or_else(|error| (self.explain)(&error)),
            Err(_) => Answer::complaint(panics::fault(&name::<A>()), 1),
        }
    }
}

/// How much `-v` and `-q`, so many times each, ask for.
pub fn verbosity(verbose: u8, quiet: u8) -> i8 {
    // Counts of a flag on one command line; more than 100 of them mean no more than 100.
    verbose.min(100) as i8 - quiet.min(100) as i8
}

/// What clap has to say: help in full, a mistake in one line.
pub fn usage<A: CommandFactory>(error: &clap::Error) -> Answer {
    let text = error.to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Answer::text(text);
    }
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        return Answer::complaint(format!("no command was given; `{} --help` lists them", name::<A>()), 2);
    }
    Answer::complaint(sentence::of_usage(&text), 2)
}

/// The completions of a shell.
pub fn completions<A: CommandFactory>(shell: Shell) -> Answer {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut A::command(), name::<A>(), &mut text);
    Answer::text(String::from_utf8_lossy(&text))
}

/// The manual page of the program, or of one of its commands, for `man`.
pub fn manual<A: CommandFactory>(command: Option<&str>) -> Answer {
    let mut program = A::command();
    // Gives every command the options that all of them take, and its own name, such as `edge-client-run`.
    program.build();
    let Some(command) = command.map_or(Some(&program), |command| program.find_subcommand(command)) else {
        let command = command.unwrap_or_default();
        return Answer::complaint(format!("there is no command '{command}'; `{} --help` lists them", name::<A>()), 2);
    };
    Answer::text(page(&program, command))
}

fn name<A: CommandFactory>() -> String {
    A::command().get_name().to_owned()
}
