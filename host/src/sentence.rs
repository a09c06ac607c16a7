//! Failures for people: one line each, whatever is behind them.

use core::error::Error;

/// An error with its causes in brackets, on one line. Many errors name their cause themselves; it is not said twice.
pub fn sentence(error: &(dyn Error + 'static)) -> String {
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
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What an argument parser says about a mistake, in paragraphs, as one line that points to `--help`.
pub fn of_usage(paragraphs: &str) -> String {
    let is_about_usage = |part: &str| part.starts_with("Usage:") || part.starts_with("For more information");
    let parts = paragraphs.split("\n\n").map(one_line).filter(|part| !part.is_empty() && !is_about_usage(part));
    let parts: Vec<String> = parts.map(|part| part.strip_prefix("error: ").unwrap_or(&part).to_owned()).collect();
    format!("{}; `--help` shows what is possible", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::config::ConfigError;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot go on: gone")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_are_named_once() {
        let error = ConfigError::Io { path: "a.toml".into(), source: io::Error::other("the disk\n is gone") };
        let expected = "could not read a.toml; check that it is a text file and its permissions (the disk is gone)";
        assert_eq!(sentence(&error), expected);
        assert_eq!(sentence(&Outer(io::Error::other("gone"))), "cannot go on: gone");
    }

    #[test]
    fn a_mistake_is_one_line() {
        let text = "error: unexpected argument '--tpo' found\n\n  tip: a similar argument exists: '--top'\n\n\
                    Usage: x --top <COUNT>\n\nFor more information, try '--help'.\n";
        let expected = "unexpected argument '--tpo' found; tip: a similar argument exists: '--top'; \
                        `--help` shows what is possible";
        assert_eq!(of_usage(text), expected);
    }
}
