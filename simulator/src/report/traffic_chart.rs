//! The chart of what a device's traffic buys: balanced accuracy against bytes sent and received.

use core::fmt::Write;

use super::chart::{Frame, Series, WIDTH, axis_label, open, text, ticks};
use super::units;

const LEFT: f64 = 50.0;
/// The label of the last power of ten reaches beyond it.
const RIGHT: f64 = WIDTH - 24.0;
const HEIGHT: f64 = 380.0;
const MOST_MARKS: usize = 8;

/// Balanced accuracy by the bytes that a device has exchanged, on a logarithmic scale. `bytes` has one list for each
/// series, as long as its values.
pub(super) fn accuracy_by_bytes(series: &[Series], bytes: &[Vec<u64>]) -> String {
    let mut svg = open(HEIGHT, "Balanced accuracy by bytes that a device sent and received");
    let all = || series.iter().flat_map(|one| one.values.iter().copied());
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let percents = if low <= high { ticks(low, high) } else { ticks(0.0, 100.0) };
    let logs = || bytes.iter().flatten().map(|&bytes| (bytes.max(1) as f64).log10());
    let (least, most) = (logs().fold(f64::INFINITY, f64::min), logs().fold(f64::NEG_INFINITY, f64::max));
    let (first, last) = if least <= most { (least.floor(), most.ceil().max(least.floor() + 1.0)) } else { (3.0, 6.0) };
    let frame = Frame {
        across: (LEFT, RIGHT),
        up: (HEIGHT - 46.0, 12.0),
        x: (first, last),
        y: (percents[0], percents[percents.len() - 1]),
    };
    frame.percent_axis(&mut svg, &percents, "balanced accuracy, %");
    let bottom = frame.up.0;
    for power in first as u32..=last as u32 {
        let x = frame.x(f64::from(power));
        let _ = write!(svg, r#"<path class="tick" d="M{x:.1} {bottom:.1}v5"/>"#);
        // The last label has little room to its right.
        let anchor = if power == last as u32 { "end" } else { "middle" };
        text(&mut svg, (x, bottom + 19.0), anchor, &units::power_of_ten_bytes(power));
    }
    axis_label(&mut svg, ((LEFT + RIGHT) / 2.0, HEIGHT - 7.0), "sent and received by a device until then");
    for (one, bytes) in series.iter().zip(bytes) {
        let every = one.values.len().div_ceil(MOST_MARKS).max(1);
        let end = one.values.len().saturating_sub(1);
        let points: Vec<(f64, f64)> = one
            .values
            .iter()
            .zip(bytes)
            .map(|(&value, &bytes)| (frame.x((bytes.max(1) as f64).log10()), frame.y(value)))
            .collect();
        let marked = |position: usize| position == end || position % every == one.look % every;
        one.draw(&mut svg, &points, marked, |position| {
            let (round, value) = (position + 1, one.values[position]);
            format!("{}, round {round}: {value:.1} % after {}", one.name, units::bytes(bytes[position]))
        });
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_bytes_lie_further_right() {
        let series = Series { name: "a <method>".to_owned(), look: 0, values: vec![40.0, 50.0] };
        let svg = accuracy_by_bytes(&[series], &[vec![1_500, 90_000]]);
        assert!(svg.contains("a &lt;method&gt;, round 2: 50.0 % after 90.0 kB"), "{svg}");
        assert!(svg.contains(">1 kB<") && svg.contains(">100 kB<") && !svg.contains(">1 MB<"), "{svg}");
        let line = svg.split(r#"class="line" d="M"#).nth(1).unwrap();
        let x = |point: &str| point.split(' ').next().unwrap().parse::<f64>().unwrap();
        let points: Vec<f64> = line.split('"').next().unwrap().split('L').map(x).collect();
        assert!(points[0] > LEFT && points[0] < points[1] && points[1] < RIGHT, "{points:?}");
    }

    #[test]
    fn nothing_is_a_chart_too() {
        assert!(accuracy_by_bytes(&[], &[]).ends_with("</svg>"));
    }
}
