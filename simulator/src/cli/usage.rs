//! Arguments that are refused with all their causes.

use core::error::Error;
use core::str::FromStr;

use grapevine_host::sentence;

/// For clap, which leaves out the causes of an error.
pub(super) fn parsed<T: FromStr<Err: Error + 'static>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| sentence::sentence(&error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use grapevine_host::command_line::usage;

    use crate::cli::Arguments;

    #[test]
    fn mistakes_are_one_line_and_help_is_whole() {
        for (arguments, expected) in [
            (&["fleet", "dmo"][..], "unrecognized subcommand 'dmo'; tip: "),
            (&["fleet", "demo", "--round", "3"], "unexpected argument '--round' found"),
            (&["fleet", "bench", "--standardise", "train"], "required arguments were not provided: --data <PATH|SPEC>"),
            (&["fleet", "demo", "--features", "synthetic:8x1"], "synthetic data set out of range ("),
            (&["fleet"], "no command was given"),
        ] {
            let answer = usage::<Arguments>(&Arguments::try_parse_from(arguments).unwrap_err());
            assert_eq!((answer.code, answer.text.as_str(), answer.complaints.len()), (2, "", 1));
            let line = &answer.complaints[0];
            assert!(line.contains(expected) && !line.contains('\n') && line.contains("--help"), "{line}");
        }
        let help = usage::<Arguments>(&Arguments::try_parse_from(["fleet", "demo", "--help"]).unwrap_err());
        assert!(help.code == 0 && help.complaints.is_empty() && help.text.contains("Examples:"), "{help:?}");
    }
}
