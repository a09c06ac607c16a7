//! What a board's shell says to a command: lines, then one that says how it ended.

use crossbeam_channel::Receiver;

use crate::process::{Process, next};
use crate::trouble::Trouble;
use crate::waiting::{Interruption, Limit};

/// Appended to a command, so that its end is a line like any other.
pub(crate) const SAY_END: &str = r"printf '\nend %s\n' $?";

/// All that a command said, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0 is success.
    pub(crate) code: i32,
    /// Both outputs.
    pub(crate) text: String,
}

impl Answer {
    /// The text of a success.
    pub(crate) fn success(self, command: &str) -> Result<String, Trouble> {
        if self.code == 0 {
            return Ok(self.text);
        }
        let last = self.text.lines().rfind(|line| !line.is_empty()).unwrap_or("nothing");
        let program = command.split_whitespace().find(|word| !word.contains('=')).unwrap_or(command);
        Err(Trouble::Board(format!("the board's `{program}` ended with exit code {}: {last}", self.code)))
    }
}

/// A command that runs on a board. Its lines come as they are said.
pub(crate) struct Answering {
    lines: Receiver<String>,
    /// What carries it, if it needs a process of its own.
    carrier: Option<Process>,
}

impl Answering {
    /// The command whose lines these are, down to the `end` line.
    pub(crate) fn new(lines: Receiver<String>, carrier: Option<Process>) -> Self {
        Self { lines, carrier }
    }

    /// The next line that holds a text. A command that ends before is an error.
    pub(crate) fn line(&self, part: &str, limit: &Limit<'_>, interruption: &Interruption) -> Result<String, Trouble> {
        let mut last = String::new();
        let found = next(&self.lines, limit, interruption, |line| {
            if line.contains(part) {
                return Some(Ok(line));
            }
            if let Some(code) = ended(&line) {
                let message = format!("the program ended with exit code {code} before {}: {last}", limit.what);
                return Some(Err(Trouble::Board(message)));
            }
            if !line.is_empty() {
                last = line;
            }
            None
        })?;
        found.unwrap_or_else(|| Err(gone(limit)))
    }

    /// A line with this text, if one was said by now.
    pub(crate) fn has_said(&self, part: &str) -> bool {
        self.lines.try_iter().any(|line| line.contains(part))
    }

    /// Waits until it ends.
    pub(crate) fn end(self, limit: &Limit<'_>, interruption: &Interruption) -> Result<Answer, Trouble> {
        let mut text = String::new();
        let code = next(&self.lines, limit, interruption, |line| {
            let code = ended(&line);
            if code.is_none() {
                text += &line;
                text.push('\n');
            }
            code
        })?;
        drop(self.carrier);
        let code = code.ok_or_else(|| gone(limit))?;
        text.truncate(text.trim_end().len());
        Ok(Answer { code, text })
    }
}

fn ended(line: &str) -> Option<i32> {
    line.strip_prefix("end ")?.parse().ok()
}

fn gone(limit: &Limit<'_>) -> Trouble {
    Trouble::Board(format!("the connection to the board was lost before {}; {}", limit.what, limit.advice))
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use crossbeam_channel::unbounded;

    use super::*;

    const LIMIT: Limit<'_> = Limit { what: "the answer", time: Duration::from_secs(5), advice: "read the log" };

    fn answering(lines: &[&str]) -> Answering {
        let (sender, receiver) = unbounded();
        lines.iter().for_each(|line| sender.send((*line).into()).unwrap());
        Answering::new(receiver, None)
    }

    #[test]
    fn an_answer_ends_with_its_exit_code() {
        let (_keeper, interruption) = Interruption::manual();
        let answer = answering(&["{", "}", "", "end 0"]).end(&LIMIT, &interruption).unwrap();
        assert_eq!(answer, Answer { code: 0, text: "{\n}".into() });
        let answer = answering(&["error: no room", "", "end 1"]).end(&LIMIT, &interruption).unwrap();
        let error = answer.success("A=1 ./edge-client ingest images").unwrap_err().to_string();
        assert_eq!(error, "the board's `./edge-client` ended with exit code 1: error: no room");
    }

    #[test]
    fn a_lost_connection_and_an_early_end_are_told_apart() {
        let (_keeper, interruption) = Interruption::manual();
        let lost = answering(&["one"]).line("two", &LIMIT, &interruption).unwrap_err().to_string();
        assert_eq!(lost, "the connection to the board was lost before the answer; read the log");
        let ended = answering(&["no broker", "", "end 1"]).line("two", &LIMIT, &interruption).unwrap_err().to_string();
        assert_eq!(ended, "the program ended with exit code 1 before the answer: no broker");
        assert_eq!(answering(&["one", "two 2"]).line("two", &LIMIT, &interruption).unwrap(), "two 2");
    }
}
