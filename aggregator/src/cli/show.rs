//! Numbers, times and tables for people.

use core::fmt::Write;

/// Names in one sentence.
const MOST_NAMES: usize = 5;

/// How a column is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Words, from the left.
    Left(&'static str),
    /// Numbers, from the right.
    Right(&'static str),
}

/// Columns as wide as their widest entry; nothing is written behind the last one.
pub(super) fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let names: Vec<String> = columns.iter().map(|column| column.name().to_owned()).collect();
    let width = |index: usize| {
        let lengths = core::iter::once(&names).chain(rows).map(|row| row.get(index).map_or(0, |text| length(text)));
        lengths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in core::iter::once(&names).chain(rows) {
        let mut line = String::new();
        for ((cell, column), width) in row.iter().zip(columns).zip(&widths) {
            // Writing to a string cannot fail.
            let _ = match column {
                Column::Left(_) => write!(line, "{cell:<width$}  "),
                Column::Right(_) => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Left(name) | Self::Right(name) => name,
        }
    }
}

/// Lines of a name and a value.
pub(super) fn facts(lines: &[(&str, String)]) -> String {
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:9}  {value}");
        text
    })
}

/// Bytes in the unit that suits them.
pub(super) fn bytes(bytes: u64) -> String {
    let scaled = |unit: u32| bytes as f64 / f64::from(1_u32 << unit);
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..0x10_0000 => format!("{:.1} KiB", scaled(10)),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", scaled(20)),
        0x4000_0000.. => format!("{:.1} GiB", scaled(30)),
    }
}

/// Names of a list that may be long.
pub(super) fn some_of(names: &[String]) -> String {
    let first = &names[..names.len().min(MOST_NAMES)];
    match names.len() - first.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// How long before `now_ms` something was, both in milliseconds since 1970.
pub(super) fn ago(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1_000;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        172_800.. => format!("{} days ago", seconds / 86_400),
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let columns = [Column::Left("device"), Column::Right("samples"), Column::Left("state")];
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&columns, &[row(["a", "12", "present"]), row(["camera-1", "3", ""])]);
        assert_eq!(text, "device    samples  state\na              12  present\ncamera-1        3\n");
    }

    #[test]
    fn a_long_list_of_names_is_cut() {
        let names: Vec<String> = (1..8).map(|number| format!("camera-{number}")).collect();
        assert_eq!(some_of(&names[..2]), "camera-1, camera-2");
        assert_eq!(some_of(&names), "camera-1, camera-2, camera-3, camera-4, camera-5 and 2 more");
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!([0, 1_023, 1_024, 1 << 20, 3 << 30].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "3.0 GiB"]);
        let ago = |seconds: u64| ago(10_000_000_000, 10_000_000_000 - 1_000 * seconds);
        assert_eq!([3, 120, 7_200, 172_800].map(ago), ["3 s ago", "2 min ago", "2 h ago", "2 days ago"]);
        assert_eq!(super::ago(5, 10), "0 s ago");
    }
}
