//! Samples per class as bars, as wide as the terminal and in the characters that it knows.

use core::fmt::Write;
use std::io;

use terminal_size::{Width, terminal_size_of};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns where nobody tells how many there are.
const USUAL_COLUMNS: usize = 80;
/// Bounds of the longest bar, in columns.
const BAR_COLUMNS: [usize; 2] = [10, 60];
/// Around the columns of a line: `  name  123456   12.3 %  bar`.
const BESIDE_COLUMNS: usize = 2 + 2 + COUNT_COLUMNS + 2 + 7 + 2;
const COUNT_COLUMNS: usize = 6;

/// How a histogram is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Of a line.
    columns: usize,
    /// Whether there is more than ASCII.
    is_unicode: bool,
}

impl Style {
    /// What standard output shows: its width, or `COLUMNS` where it is no terminal, and the locale's characters.
    pub(super) fn of_output() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let terminal = terminal_size_of(io::stdout()).map(|(Width(columns), _)| usize::from(columns));
        let told = || variable("COLUMNS")?.parse().ok();
        let columns = terminal.or_else(told).unwrap_or(USUAL_COLUMNS);
        Self { columns, is_unicode: cfg!(windows) || is_utf8(variable) }
    }
}

/// Whether the locale's characters are those of Unicode; the first variable that is set decides.
fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|value| !value.is_empty());
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// One line per class: name, samples, share of all, bar.
pub(super) fn histogram(by_class: &[(&str, u32)], style: Style) -> String {
    let all: u64 = by_class.iter().map(|&(_, samples)| u64::from(samples)).sum();
    let most = by_class.iter().map(|&(_, samples)| samples).max().unwrap_or(0);
    let widest = by_class.iter().map(|(class, _)| class.width()).max().unwrap_or(0);
    let room = style.columns.saturating_sub(BESIDE_COLUMNS);
    let name_columns = widest.min(room.saturating_sub(BAR_COLUMNS[0]).max(room / 3));
    let bar_columns = room.saturating_sub(name_columns).clamp(BAR_COLUMNS[0], BAR_COLUMNS[1]);
    let mut text = String::new();
    for &(class, samples) in by_class {
        let name = fitted(class, name_columns, style);
        let share = 100.0 * f64::from(samples) / (all.max(1) as f64);
        let line =
            format!("  {name}  {samples:>COUNT_COLUMNS$}  {share:5.1} %  {}", bar(samples, most, bar_columns, style));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The name in so many columns, cut or filled up.
fn fitted(name: &str, columns: usize, style: Style) -> String {
    let mut fitted = name.to_owned();
    if name.width() > columns {
        let mark = if style.is_unicode { '…' } else { '~' };
        let mut used = 1;
        let fits = |character: &char| {
            used += character.width().unwrap_or(0);
            used <= columns
        };
        fitted = name.chars().take_while(fits).chain([mark]).collect();
    }
    let missing = columns.saturating_sub(fitted.width());
    fitted + &" ".repeat(missing)
}

/// A class with any samples shows at least a sliver.
fn bar(samples: u32, most: u32, columns: usize, style: Style) -> String {
    const SLIVERS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let part = |steps: usize| (u64::from(samples) * steps as u64).div_ceil(u64::from(most.max(1))) as usize;
    if !style.is_unicode {
        return "#".repeat(part(columns));
    }
    let eighths = part(8 * columns);
    let mut bar = "█".repeat(eighths / 8);
    bar.push(SLIVERS[eighths % 8]);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(by_class: &[(&str, u32)], columns: usize, is_unicode: bool) -> Vec<String> {
        histogram(by_class, Style { columns, is_unicode }).lines().map(str::to_owned).collect()
    }

    #[test]
    fn bars_are_in_proportion_and_fill_the_line() {
        let unicode = lines(&[("a", 80), ("two", 40), ("none", 0), ("rare", 1)], 60, true);
        assert_eq!(unicode[0], format!("  a         80   66.1 %  {}", "█".repeat(35)));
        assert_eq!(unicode[1], format!("  two       40   33.1 %  {}▌", "█".repeat(17)));
        assert_eq!(unicode[2], "  none       0    0.0 %");
        assert_eq!(unicode[3], "  rare       1    0.8 %  ▌");
        assert_eq!(unicode[0].width(), 60);
        let ascii = lines(&[("a", 80), ("b", 1)], 60, false);
        assert!(ascii[0].is_ascii() && ascii[0].len() == 60 && ascii[1].ends_with("%  #"), "{ascii:?}");
    }

    #[test]
    fn names_of_any_script_and_length_keep_the_columns() {
        let by_class = [("日本語", 3), ("a name that is much longer than the line has room for", 3)];
        for (columns, is_unicode) in [(60, true), (40, false), (0, true)] {
            let lines = lines(&by_class, columns, is_unicode);
            assert_eq!(lines[0].width(), lines[1].width(), "{lines:?}");
            assert!(columns == 0 || lines[0].width() == columns, "{lines:?}");
        }
        assert_eq!(lines(&[], 80, true), Vec::<String>::new());
        assert!(lines(&[("a", 0)], 80, true)[0].ends_with("0.0 %"));
    }

    #[test]
    fn the_first_locale_that_is_set_decides() {
        let set = |values: &'static [(&str, &str)]| {
            is_utf8(move |name| values.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(set(&[("LANG", "en_GB.UTF-8")]));
        assert!(set(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(!set(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
        assert!(!set(&[]));
    }
}
