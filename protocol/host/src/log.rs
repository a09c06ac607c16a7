//! What is logged, and where: standard error, so that standard output stays for results.
//!
//! Levels: error = a person must act; warn = the system recovered by itself; info = one line per round; debug = per
//! message; trace = everything.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::{MakeWriter, format, layer};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::printable;

/// Overrides `-v` and `-q`: a level such as `debug`, or a filter such as `grapevine_host=trace,warn`.
pub const VARIABLE: &str = "GRAPEVINE_LOG";

/// Where our own messages come from: the libraries, and the three programs.
const OURS: [&str; 4] = ["grapevine", "aggregator", "edge_client", "fleet"];

/// Starts logging. `verbosity` is the number of `-v` less the number of `-q`; 0 shows one line per round.
/// A second call changes nothing.
pub fn init(verbosity: i8) {
    init_with(verbosity, "");
}

/// As [`init`], with directives such as `rumqttd=off` for libraries that must be heard differently. They hold under
/// any level that is asked for, and a directive for the same library in [`VARIABLE`] goes over them.
pub fn init_with(verbosity: i8, extra: &str) {
    let asked = env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    // Alone first: what is wrong with it should be said without our own directives around it.
    let refused = asked.as_deref().and_then(|text| filter("", text).err());
    let wanted = asked.filter(|_| refused.is_none()).unwrap_or_else(|| directives(verbosity));
    let filter = filter(extra, &wanted).expect("each half is a filter by itself");
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // An error means that the program around us has set up logging already, which is its right.
    let _already = tracing_subscriber::registry().with(lines(io::stderr, colour)).with(filter).try_init();
    if let Some(error) = refused {
        tracing::error!(%error, "{VARIABLE} is not a log filter; try `debug` or `grapevine_host=trace,warn`");
    }
}

/// One line per event, whoever wrote what is in it: values reach the terminal as [`printable`]. Only the colours are
/// control characters, and they are the formatter's own.
fn lines<W>(writer: W, colour: bool) -> impl Layer<Registry>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    Registry: for<'a> LookupSpan<'a>,
{
    let fields = format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", printable(&value)),
            name => write!(writer, "{}={}", name.trim_start_matches("r#"), printable(&value)),
        }
    });
    layer().with_writer(writer).with_ansi(colour).fmt_fields(fields.delimited(" "))
}

/// What is said last about a library holds. Targets and levels are enough; tracing's `EnvFilter` would bring regular
/// expressions to the device.
fn filter(extra: &str, wanted: &str) -> Result<Targets, ParseError> {
    let text = if extra.is_empty() { wanted.to_owned() } else { format!("{extra},{wanted}") };
    text.replace(' ', "").parse()
}

/// Other people's libraries are chatty: they are shown one level less, and never below warnings unless asked.
fn directives(verbosity: i8) -> String {
    let (theirs, ours) = match verbosity {
        ..=-3 => ("off", "off"),
        -2 => ("error", "error"),
        -1 => ("error", "warn"),
        0 => ("warn", "info"),
        1 => ("warn", "debug"),
        2 => ("info", "trace"),
        3.. => ("trace", "trace"),
    };
    OURS.iter().fold(theirs.to_owned(), |text, target| format!("{text},{target}={ours}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

    struct Kept;

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            WRITTEN.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_verbosity_is_a_filter() {
        for verbosity in i8::MIN..=i8::MAX {
            let text = directives(verbosity);
            assert!(filter("", &text).is_ok(), "{text}");
            let with_extra = filter("rumqttd=off", &text).unwrap().to_string();
            assert!(with_extra.contains("rumqttd=off"), "{with_extra}");
        }
        assert!(directives(0).starts_with("warn,grapevine=info"));
    }

    #[test]
    fn foreign_text_cannot_leave_its_line_or_colour_it() {
        for colour in [false, true] {
            WRITTEN.lock().unwrap().clear();
            let subscriber = tracing_subscriber::registry().with(lines(|| Kept, colour));
            tracing::subscriber::with_default(subscriber, || {
                let name = "cat\u{1b}[31m\n\u{9b}\u{202e}\u{200b}";
                tracing::warn!(device = %name, text = name, debug = ?name, "no class {name}");
            });
            let written = String::from_utf8(WRITTEN.lock().unwrap().clone()).unwrap();
            let line = written.strip_suffix('\n').unwrap();
            assert!(!line.contains(['\n', '\u{9b}', '\u{202e}', '\u{200b}']), "{line}");
            assert!(!line.contains("[31m") || line.contains("\\u001b[31m"), "{line}");
            assert!(line.contains("no class cat\\u001b[31m\\n\\u009b\\u202e\\u200b device=cat\\u001b[31m"), "{line}");
            assert_eq!(line.contains('\u{1b}'), colour, "{line}");
        }
    }

    #[test]
    fn a_second_start_does_no_harm() {
        init(-3);
        init_with(3, "rumqttd=off");
    }
}
