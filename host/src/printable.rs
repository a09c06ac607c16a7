//! Foreign text for terminals and logs: what cannot be seen is written out.
//!
//! Names come from files, models, brokers and other devices. A control character among them moves the cursor or colours
//! the screen, one for the direction of writing reorders a line, one without width makes two names look alike.

use core::fmt::{self, Display, Formatter, Write};

/// Longest encoding of a character in UTF-8.
const UTF8_BYTES: usize = 4;

/// `text` with every character that has no visible form of its own, line breaks and tabs among them, written as in JSON:
/// `\n`, `\u001b`, `\u202e`. So JSON stays the same JSON. A text that was made printable stays as it is.
pub fn printable(text: &str) -> Printable<'_> {
    Printable { text, keeps_lines: false }
}

/// As [`printable`], for a text of several lines: line breaks and tabs stay.
pub fn printable_lines(text: &str) -> Printable<'_> {
    Printable { text, keeps_lines: true }
}

/// A text that shows what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a> {
    text: &'a str,
    keeps_lines: bool,
}

impl Display for Printable<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for character in self.text.chars() {
            let stays = self.keeps_lines && matches!(character, '\n' | '\t');
            if stays || is_visible(character) {
                formatter.write_char(character)?;
            } else {
                escape(character, formatter)?;
            }
        }
        Ok(())
    }
}

fn escape(character: char, formatter: &mut Formatter<'_>) -> fmt::Result {
    match character {
        '\n' => formatter.write_str("\\n"),
        '\r' => formatter.write_str("\\r"),
        '\t' => formatter.write_str("\\t"),
        other => other.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(formatter, "\\u{unit:04x}")),
    }
}

fn is_visible(character: char) -> bool {
    match character {
        ' '..='~' => true,
        // Letters and marks that are drawn as nothing: joiners, fillers, choices between forms.
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' => false,
        '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}' => false,
        other => is_known(other),
    }
}

/// Whether the standard library's tables hold a form for it. They are asked about a text that it ends: there a mark, such
/// as an accent, belongs to the letter before it.
fn is_known(character: char) -> bool {
    let mut buffer = [b'a'; 1 + UTF8_BYTES];
    let length = 1 + character.encode_utf8(&mut buffer[1..]).len();
    let text = str::from_utf8(&buffer[..length]).expect("a letter and a character are text");
    text.escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_seen_stays() {
        for text in [
            "",
            "cat",
            "C:\\pictures\\new",
            "it's \"one\"",
            "Äpfel",
            "A\u{308}pfel",
            "кошка",
            "猫",
            "قطة",
            "बिल्ली",
            "😀",
            "ไทย",
        ] {
            assert_eq!(printable(text).to_string(), text);
        }
    }

    #[test]
    fn what_cannot_is_written_out() {
        for (text, expected) in [
            ("\u{1b}[31mred", "\\u001b[31mred"),
            ("a\nb\r\tc\0", "a\\nb\\r\\tc\\u0000"),
            ("\u{7f}\u{9b}31m", "\\u007f\\u009b31m"),
            ("gpj.\u{202e}exe", "gpj.\\u202eexe"),
            ("\u{2066}a\u{2069}\u{61c}\u{200e}", "\\u2066a\\u2069\\u061c\\u200e"),
            ("ca\u{200b}t\u{200d}\u{200c}\u{2060}", "ca\\u200bt\\u200d\\u200c\\u2060"),
            ("\u{feff}cat\u{ad}\u{34f}\u{fe0f}\u{3164}", "\\ufeffcat\\u00ad\\u034f\\ufe0f\\u3164"),
            ("a\u{2028}b\u{2029}c\u{a0}d", "a\\u2028b\\u2029c\\u00a0d"),
            ("\u{e0041}\u{10ffff}", "\\udb40\\udc41\\udbff\\udfff"),
        ] {
            let shown = printable(text).to_string();
            assert_eq!(shown, expected);
            assert_eq!(printable(&shown).to_string(), shown, "a second time changes nothing");
        }
        assert_eq!(printable_lines("a\n\tb\u{1b}\r\n").to_string(), "a\n\tb\\u001b\\r\n");
    }

    #[test]
    fn json_stays_the_same_json() {
        let names = ["\u{9b}", "\u{202e}", "👩\u{200d}🔬", "\u{e0041}", "\"\\\n"];
        let json = serde_json::to_string_pretty(&names).expect("strings are JSON");
        let shown = printable_lines(&json).to_string();
        assert!(!shown.contains(['\u{9b}', '\u{202e}', '\u{200d}']), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).expect("it is JSON"), names);
    }
}
