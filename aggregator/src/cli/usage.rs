//! Wrong usage for people: one line, whatever clap has to say.

use clap::error::ErrorKind;
use grapevine_host::{Answer, sentence};

/// What clap has to say: help in full, a mistake in one line.
pub(super) fn answer(error: &clap::Error) -> Answer {
    let text = error.to_string();
    let is_one_of = |kinds: &[ErrorKind]| kinds.contains(&error.kind());
    if is_one_of(&[ErrorKind::DisplayHelp, ErrorKind::DisplayVersion]) {
        return Answer::text(text);
    }
    if is_one_of(&[ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ErrorKind::MissingSubcommand]) {
        return Answer::complaint("no command was given; `aggregator --help` lists them", 2);
    }
    Answer::complaint(sentence::of_usage(&text), 2)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Arguments;

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
            let answer = answer(&Arguments::try_parse_from(arguments).unwrap_err());
            assert_eq!((answer.code, answer.text.as_str()), (2, ""));
            let line = answer.complaints.concat();
            assert!(line.contains(expected) && !line.contains('\n') && line.contains("--help"), "{line}");
        }
        let help = answer(&Arguments::try_parse_from(["aggregator", "--help"]).unwrap_err());
        assert!(help.code == 0 && help.complaints.is_empty() && help.text.contains("Examples:"), "{help:?}");
    }
}
