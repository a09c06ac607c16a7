//! Numbers as people read them: shares in percent, bytes and seconds in fitting units.

/// A share as a percentage with one decimal and no sign: `0.5034` is `50.3`.
pub fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// Bytes in decimal units with three figures: `228048` is `228 kB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    scaled(count as f64, 1000.0, &UNITS)
}

/// A power of ten of bytes: `4` is `10 kB`.
pub(super) fn power_of_ten_bytes(power: u32) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let unit = UNITS[(power as usize / 3).min(UNITS.len() - 1)];
    format!("{} {unit}", 10_u32.pow(power % 3))
}

/// Seconds in a fitting unit with three figures: `0.0123` is `12.3 ms`.
pub fn seconds(value: f64) -> String {
    if value >= 600.0 {
        format!("{:.1} min", value / 60.0)
    } else if value >= 0.9995 {
        format!("{} s", three_figures(value))
    } else {
        scaled(value * 1e6, 1000.0, &["µs", "ms", "s"])
    }
}

/// A whole number in groups of three: `12345` is `12,345`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // Half a last figure early, so that nothing is shown as "1000 kB".
    while value >= base - 0.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{} {}", three_figures(value), units[unit])
}

fn three_figures(value: f64) -> String {
    if value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([percent(0.5034), percent(1.0), percent(0.0)], ["50.3", "100.0", "0.0"]);
        let sizes = [0, 999, 1000, 228_048, 999_700, 5_100_000_000].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.00 kB", "228 kB", "1.00 MB", "5.10 GB"]);
        assert_eq!([0, 2, 3, 5, 7].map(power_of_ten_bytes), ["1 B", "100 B", "1 kB", "100 kB", "10 MB"]);
        let times = [0.0, 0.000_5, 0.012_3, 0.9999, 1.5, 11.8, 599.0, 1200.0].map(seconds);
        assert_eq!(times, ["0.00 µs", "500 µs", "12.3 ms", "1.00 s", "1.50 s", "11.8 s", "599 s", "20.0 min"]);
        assert_eq!([0, 12, 123, 1234, 1_234_567].map(count), ["0", "12", "123", "1,234", "1,234,567"]);
    }
}
