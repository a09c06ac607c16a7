//! Who holds what: devices by classes, each cell as dark as the logarithm of its number of samples.

use core::fmt::Write;

use super::chart::{Frame, WIDTH, axis_label, label_step, open, text, vertical_label};
use super::line_charts::{class_labels, label_height};
use super::markup::escape;
use super::results::Report;
use super::units;

/// Rows shown at most: more would be thinner than a pixel on a phone.
pub(super) const MOST_DEVICES: usize = 60;

const LEFT: f64 = 46.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 8.0;
/// Pixels that the number of a device needs.
const LABEL_PIXELS: f64 = 14.0;
/// Cells at least this wide and high show their number.
const NUMBER_PIXELS: (f64, f64) = (26.0, 14.0);

/// Renders the map; devices after the first [`MOST_DEVICES`] are left out.
pub(super) fn device_classes(report: &Report) -> String {
    let rows = &report.device_class_counts[..report.device_class_counts.len().min(MOST_DEVICES)];
    let order = report.classes_by_frequency();
    let row_height = (360.0 / rows.len().max(1) as f64).clamp(6.0, 26.0);
    let bottom = TOP + row_height * rows.len() as f64;
    let labels = label_height(report);
    let height = bottom + labels + 62.0;
    let frame = Frame {
        across: (LEFT, RIGHT),
        up: (bottom, TOP),
        x: (-0.5, order.len() as f64 - 0.5),
        y: (rows.len() as f64, 0.0),
    };
    let most = rows.iter().flatten().copied().max().unwrap_or(1).max(1);
    let mut svg = open(height, "Training samples of each class on each device");
    let _ = write!(
        svg,
        r#"<rect class="empty" x="{LEFT:.1}" y="{TOP:.1}" width="{:.1}" height="{:.1}"/>"#,
        RIGHT - LEFT,
        bottom - TOP
    );
    let every = label_step(rows.len(), ((bottom - TOP) / LABEL_PIXELS) as usize);
    for (device, counts) in rows.iter().enumerate() {
        if (device + 1) % every == 0 || device == 0 {
            text(&mut svg, (LEFT - 7.0, frame.y(device as f64 + 0.5) + 4.0), "end", &(device + 1).to_string());
        }
        for (position, &class) in order.iter().enumerate() {
            let count = counts.get(class).copied().unwrap_or(0);
            if count > 0 {
                cell(&mut svg, report, &frame, (device, position, class), count, most);
            }
        }
    }
    vertical_label(&mut svg, (bottom + TOP) / 2.0, "device");
    class_labels(&mut svg, report, &order, &frame, bottom);
    axis_label(&mut svg, ((LEFT + RIGHT) / 2.0, bottom + labels + 12.0), "class, most frequent first");
    scale(&mut svg, height - 26.0, most);
    svg + "</svg>"
}

/// Darkness of a count, from 0.18 for one sample to 1 for the most.
fn darkness(count: u64, most: u64) -> f64 {
    let share = if most > 1 { (count as f64).ln() / (most as f64).ln() } else { 1.0 };
    0.18 + 0.82 * share
}

fn cell(
    svg: &mut String,
    report: &Report,
    frame: &Frame,
    (device, position, class): (usize, usize, usize),
    count: u64,
    most: u64,
) {
    let (left, right) = (frame.x(position as f64 - 0.5), frame.x(position as f64 + 0.5));
    let (top, bottom) = (frame.y(device as f64), frame.y(device as f64 + 1.0));
    // A hairline between cells, while there is room for one.
    let gap = if right - left > 8.0 { 1.0 } else { 0.0 };
    let (width, height) = (right - left - gap, bottom - top - gap);
    let opacity = darkness(count, most);
    let title = escape(&format!("device {}, class {}: {}", device + 1, report.class_name(class), units::count(count)));
    let _ = write!(
        svg,
        r#"<rect class="cell" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}" fill-opacity="{opacity:.2}"><title>{title}</title></rect>"#
    );
    if width >= NUMBER_PIXELS.0 && height >= NUMBER_PIXELS.1 {
        let class = if opacity > 0.6 { "number dark" } else { "number" };
        let (x, y) = ((left + right - gap) / 2.0, (top + bottom - gap) / 2.0 + 4.0);
        let _ = write!(svg, r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="middle">{count}</text>"#);
    }
}

fn scale(svg: &mut String, y: f64, most: u64) {
    let powers = core::iter::successors(Some(1u64), |power| power.checked_mul(10)).take_while(|&power| power < most);
    let mut counts: Vec<u64> = powers.collect();
    counts.push(most);
    let step = 52.0;
    let start = (LEFT + RIGHT - step * (counts.len() + 1) as f64) / 2.0;
    for (position, count) in core::iter::once(0).chain(counts).enumerate() {
        let x = start + step * position as f64;
        let fill = if count == 0 {
            r#"class="empty""#.to_owned()
        } else {
            format!(r#"class="cell" fill-opacity="{:.2}""#, darkness(count, most))
        };
        let _ = write!(svg, r#"<rect {fill} x="{x:.1}" y="{y:.1}" width="{step:.1}" height="8"/>"#);
        text(svg, (x + step / 2.0, y + 21.0), "middle", &units::count(count));
    }
    text(svg, (start - 8.0, y + 8.0), "end", "samples");
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::example;
    use super::*;

    #[test]
    fn empty_cells_stay_empty() {
        let report = example();
        let filled = report.device_class_counts.iter().flatten().filter(|&&count| count > 0).count();
        let svg = device_classes(&report);
        assert_eq!(svg.matches("<title>device").count(), filled);
        assert!(svg.contains("device 1, class 0: 100"));
    }

    #[test]
    fn large_fleets_are_cut_off() {
        let mut report = example();
        report.device_class_counts = vec![vec![1; 10]; 500];
        assert_eq!(device_classes(&report).matches("<title>device").count(), 10 * MOST_DEVICES);
    }

    #[test]
    fn darkness_is_logarithmic() {
        assert!((darkness(1, 100) - 0.18).abs() < 1e-9 && (darkness(100, 100) - 1.0).abs() < 1e-9);
        assert!((darkness(10, 100) - 0.59).abs() < 1e-9);
        assert!((darkness(1, 1) - 1.0).abs() < 1e-9);
    }
}
