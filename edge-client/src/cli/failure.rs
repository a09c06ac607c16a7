//! Failures for people: one line each, whatever is behind them.

use grapevine_host::Answer;

/// A wrong combination of arguments that clap does not know to be one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

/// What a failed command has to say.
pub(super) fn answer(error: &anyhow::Error) -> Answer {
    let code = if error.is::<UsageError>() { 2 } else { 1 };
    Answer { code, ..Answer::failure(error.as_ref()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use grapevine_host::command_line::usage;

    use super::*;
    use crate::cli::Arguments;

    #[test]
    fn a_wrong_combination_is_wrong_usage() {
        assert_eq!(answer(&anyhow::anyhow!("no")), Answer::complaint("no", 1));
        assert_eq!(answer(&UsageError("no".into()).into()), Answer::complaint("no", 2));
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
            let answer = usage::<Arguments>(&Arguments::try_parse_from(arguments).unwrap_err());
            assert_eq!((answer.code, answer.text.as_str(), answer.complaints.len()), (2, "", 1));
            let line = &answer.complaints[0];
            assert!(line.contains(expected) && !line.contains('\n') && line.contains("--help"), "{line}");
        }
        let help = usage::<Arguments>(&Arguments::try_parse_from(["edge-client", "--help"]).unwrap_err());
        assert!(help.code == 0 && help.complaints.is_empty() && help.text.contains("Examples:"), "{help:?}");
    }
}
