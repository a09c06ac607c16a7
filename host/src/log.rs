//! What is logged, and where: standard error, so that standard output stays for results.
//!
//! Levels: error = a person must act; warn = the system recovered by itself; info = one line per round and per device that
//! comes, goes or is refused; debug = per message; trace = everything.
//!
//! Where standard error is the journal of systemd, each line begins with its priority as `sd-daemon(3)` describes, so that
//! `journalctl -p err` finds what a person must act on; the journal has the time and the program itself.

use core::fmt;
use std::env;
use std::io::{self, IsTerminal};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format, layer};
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
    let asked = env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let refused = asked.as_deref().and_then(|text| filter(text).err());
    let wanted = asked.filter(|_| refused.is_none()).unwrap_or_else(|| directives(verbosity));
    let filter = filter(&wanted).expect("what was asked for was tried, and our own directives are a filter");
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // An error means that the program around us has set up logging already, which is its right.
    let _already = if is_journal() {
        tracing_subscriber::registry().with(journal_lines(io::stderr)).with(filter).try_init()
    } else {
        tracing_subscriber::registry().with(lines(io::stderr, colour)).with(filter).try_init()
    };
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
    layer().with_writer(writer).with_ansi(colour).fmt_fields(printable_fields())
}

/// The same for the journal.
fn journal_lines<W>(writer: W) -> impl Layer<Registry>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    Registry: for<'a> LookupSpan<'a>,
{
    layer().with_writer(writer).with_ansi(false).fmt_fields(printable_fields()).event_format(Journal::default())
}

fn printable_fields() -> impl for<'a> FormatFields<'a> + 'static {
    let fields = format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", printable(&value)),
            name => write!(writer, "{}={}", name.trim_start_matches("r#"), printable(&value)),
        }
    });
    fields.delimited(" ")
}

/// Lines for the journal: a priority, and neither time nor level.
struct Journal {
    rest: Format<Full, ()>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { rest: Format::default().without_time().with_level(false) }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Journal {
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.rest.format_event(context, writer, event)
    }
}

/// The priorities of `syslog(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Whether standard error is the stream to the journal that the service manager made, and not one that somebody has
/// redirected since.
#[cfg(unix)]
fn is_journal() -> bool {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    let Some(stream) = env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(metadata) =
        io::stderr().as_fd().try_clone_to_owned().and_then(|descriptor| File::from(descriptor).metadata())
    else {
        return false;
    };
    stream == format!("{}:{}", metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn is_journal() -> bool {
    false
}

/// What is said last about a library holds. Targets and levels are enough; tracing's `EnvFilter` would bring regular
/// expressions to the device.
fn filter(text: &str) -> Result<Targets, ParseError> {
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
    use std::sync::{Arc, Mutex};

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
            assert!(filter(&text).is_ok(), "{text}");
        }
        assert!(directives(0).starts_with("warn,grapevine=info"));
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_priorities_and_no_times() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = journal_lines(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::error!(device = "camera-1", "a person must act");
            tracing::info!("a round");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("<3>") && lines[0].ends_with("a person must act device=\"camera-1\""), "{text}");
        assert!(lines[1].starts_with("<6>") && !lines[1].contains("INFO"), "{text}");
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
        init(3);
    }
}
