//! The conversation over a board's serial console, with `boards/init` at the other end: each command has a number, and
//! each line of its answer begins with it, so that commands can go on beside each other.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ChildStdin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::board::Answering;
use crate::process::{Process, next};
use crate::trouble::Trouble;
use crate::waiting::{Interruption, Limit};

/// A terminal takes no longer line.
const LONGEST_COMMAND: usize = 4000;

/// The console of a running board. Dropping it kills the board.
pub(super) struct Console {
    process: Process,
    input: ChildStdin,
    answers: Arc<Mutex<BTreeMap<u32, Sender<String>>>>,
    /// What the board says about itself.
    news: Receiver<String>,
    newest: u32,
}

impl Console {
    /// The console at both ends of a process.
    pub(super) fn new(mut process: Process) -> Self {
        let input = process.input().expect("a new process has its input");
        let answers: Arc<Mutex<BTreeMap<u32, Sender<String>>>> = Arc::default();
        let (sender, news) = unbounded();
        let (lines, listeners) = (process.lines().clone(), Arc::clone(&answers));
        thread::spawn(move || {
            for line in lines {
                match parse(&line) {
                    Said::Answer(number, text) => {
                        let listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
                        // Nobody may be listening any more.
                        drop(listeners.get(&number).map(|listener| listener.send(text.into())));
                    }
                    Said::News(text) => drop(sender.send(text.into())),
                    Said::Other => {}
                }
            }
            // The board is gone: whoever listens hears that nothing more comes.
            listeners.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Self { process, input, answers, news, newest: 0 }
    }

    /// Waits until the board takes commands.
    pub(super) fn ready(&self, limit: &Limit<'_>, interruption: &Interruption) -> Result<(), Trouble> {
        let news = next(&self.news, limit, interruption, Some)?;
        match news.as_deref() {
            Some("ready") => Ok(()),
            Some(complaint) => Err(Trouble::Board(format!("the board is {complaint}; {}", limit.advice))),
            None => Err(Trouble::Board(format!("the emulator ended by itself; {}", limit.advice))),
        }
    }

    /// Starts a command beside those that run.
    pub(super) fn start(&mut self, command: &str) -> Result<Answering, Trouble> {
        self.newest += 1;
        let line = format!("{} start {command}\n", self.newest);
        if line.len() > LONGEST_COMMAND || command.contains('\n') {
            return Err(Trouble::Host(format!("a command of {} bytes is no line for a console", line.len())));
        }
        let (sender, receiver) = unbounded();
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(self.newest, sender);
        let sent = self.input.write_all(line.as_bytes()).and_then(|()| self.input.flush());
        sent.map_err(|error| Trouble::Board(format!("the board's console is closed: {error}")))?;
        Ok(Answering::new(receiver, None))
    }

    /// Ends the board's process.
    pub(super) fn kill(mut self) {
        self.process.kill();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Answer(u32, &'a str),
    News(&'a str),
    Other,
}

/// The kernel may have said something at the beginning of the line.
fn parse(line: &str) -> Said<'_> {
    let Some((_, said)) = line.split_once("hil ") else { return Said::Other };
    let (number, text) = said.split_once(' ').unwrap_or((said, ""));
    match number.parse() {
        Ok(number) => Said::Answer(number, text),
        Err(_) if said == "ready" || said.starts_with("broken") => Said::News(said),
        Err(_) => Said::Other,
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::process::Command;

    use super::*;

    const LIMIT: Limit<'_> = Limit { what: "the answer", time: Duration::from_secs(20), advice: "read the log" };

    #[test]
    fn answers_are_told_from_whatever_else_a_console_says() {
        assert_eq!(parse("hil 3 {\"device\": 1}"), Said::Answer(3, "{\"device\": 1}"));
        assert_eq!(parse("hil 3"), Said::Answer(3, ""));
        assert_eq!(parse("[    4.3] usb: hil 12 end 0"), Said::Answer(12, "end 0"));
        assert_eq!(parse("hil ready"), Said::News("ready"));
        assert_eq!(parse("hil broken no disk"), Said::News("broken no disk"));
        assert_eq!(parse("until further notice"), Said::Other);
        assert_eq!(parse("[    4.369619] bcm2835-power: ASB"), Said::Other);
    }

    /// The loop of `boards/init`, by this machine's shell.
    #[test]
    fn the_board_end_of_the_conversation_answers() {
        let init = include_str!("../../boards/init");
        let (_, conversation) = init.split_once("answer() {").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let script = format!("answer() {{{conversation}");
        let process = Process::start("a shell", Command::new("sh").args(["-c", &script]), &folder.path().join("log"));
        let mut console = Console::new(process.unwrap());
        let (_keeper, interruption) = Interruption::manual();
        console.ready(&LIMIT, &interruption).unwrap();
        let long = console.start("echo begun; while [ ! -e /nowhere ]; do sleep 1; done").unwrap();
        long.line("begun", &LIMIT, &interruption).unwrap();
        let answer = console.start("printf 'a\\nb'; exit 3").unwrap().end(&LIMIT, &interruption).unwrap();
        assert_eq!((answer.code, answer.text.as_str()), (3, "a\nb"));
        console.kill();
        let lost = long.end(&LIMIT, &interruption).unwrap_err().to_string();
        assert!(lost.contains("connection to the board was lost"), "{lost}");
    }
}
