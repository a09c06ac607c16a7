//! The two line charts of a condition: accuracy by round, and accuracy by class from head to tail.

use core::fmt::Write;

use grapevine_models::evaluate::Groups;

use super::chart::{Frame, Series, WIDTH, axis_label, label_step, open, text, ticks, vertical_label};
use super::markup::{escape, shortened};
use super::results::Report;
use super::units;

const LEFT: f64 = 50.0;
const RIGHT: f64 = WIDTH - 12.0;
const MOST_MARKS: usize = 8;
const MOST_MARKED_CLASSES: usize = 24;
/// Share of the room of a class that its points are spread over.
const MOST_ASIDE: f64 = 0.7;
/// Pixels that the label of a class needs.
const LABEL_PIXELS: f64 = 22.0;
const LONGEST_NAME: usize = 12;
/// Mean width of a character in pixels.
const CHARACTER: f64 = 7.0;
/// Where the bars of the samples stand, and where they end at most.
const BARS: (f64, f64) = (372.0, 300.0);

/// Balanced accuracy over the rounds. A series of one value, from a method that needs one round, is a dotted level.
/// As high as the chart of the classes, beside which it stands.
pub(super) fn accuracy_by_round(report: &Report, series: &[Series]) -> String {
    let height = height(report);
    let mut svg = open(height, "Balanced accuracy after each round");
    let rounds = series.iter().map(|one| one.values.len()).max().unwrap_or(0).max(1);
    let all = || series.iter().flat_map(|one| one.values.iter().copied());
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let percents = if low <= high { ticks(low, high) } else { ticks(0.0, 100.0) };
    let frame = Frame {
        across: (LEFT, RIGHT),
        up: (height - 46.0, 12.0),
        x: (1.0, rounds as f64),
        y: (percents[0], percents[percents.len() - 1]),
    };
    frame.percent_axis(&mut svg, &percents, "balanced accuracy, %");
    for round in round_ticks(rounds) {
        let x = frame.x(round as f64);
        let bottom = frame.up.0;
        let _ = write!(svg, r#"<path class="tick" d="M{x:.1} {bottom:.1}v5"/>"#);
        text(&mut svg, (x, bottom + 19.0), "middle", &round.to_string());
    }
    axis_label(&mut svg, ((LEFT + RIGHT) / 2.0, height - 7.0), "round");
    let every = rounds.div_ceil(MOST_MARKS);
    for one in series {
        let tooltip = |position: usize| format!("{}, round {}: {:.1} %", one.name, position + 1, one.values[position]);
        match one.values.as_slice() {
            [] => {}
            [only] if rounds > 1 => one.draw_level(&mut svg, frame.across, frame.y(*only), &tooltip(0)),
            values => {
                let point = |(position, &value): (usize, &f64)| (frame.x((position + 1) as f64), frame.y(value));
                let points: Vec<(f64, f64)> = values.iter().enumerate().map(point).collect();
                // Marks are staggered, so that lines lying on one another stay visible.
                let last = values.len() - 1;
                let marked = |position: usize| position == last || position % every == one.look % every;
                one.draw(&mut svg, &points, marked, tooltip);
            }
        }
    }
    svg + "</svg>"
}

/// Accuracy of each class, the classes ordered from the most frequent to the rarest, above a bar per class with its
/// number of training samples.
pub(super) fn accuracy_by_class(report: &Report, series: &[Series]) -> String {
    let order = report.classes_by_frequency();
    let height = height(report);
    let mut svg = open(height, "Accuracy of each class, from the most frequent to the rarest");
    let frame =
        Frame { across: (LEFT, RIGHT), up: (284.0, 28.0), x: (-0.5, order.len() as f64 - 0.5), y: (0.0, 100.0) };
    group_bands(&mut svg, &frame, order.len());
    frame.percent_axis(&mut svg, &[0.0, 25.0, 50.0, 75.0, 100.0], "accuracy, %");
    count_bars(&mut svg, report, &order, &frame, BARS);
    class_labels(&mut svg, report, &order, &frame, BARS.0);
    axis_label(&mut svg, ((LEFT + RIGHT) / 2.0, height - 6.0), "class, most frequent first (bars: training samples)");
    let is_crowded = order.len() > MOST_MARKED_CLASSES;
    for (at, one) in series.iter().enumerate() {
        let name = |position: usize| report.class_name(order[position]);
        let value = |position: usize| one.values.get(order[position]).copied().unwrap_or(0.0);
        let aside = beside(at, series.len(), frame.x(1.0) - frame.x(0.0));
        let points: Vec<(f64, f64)> =
            (0..order.len()).map(|position| (frame.x(position as f64) + aside, frame.y(value(position)))).collect();
        one.draw_points(&mut svg, &points, if is_crowded { 1.8 } else { 3.4 }, |position| {
            format!("{}, class {}: {:.1} %", one.name, name(position), value(position))
        });
    }
    svg + "</svg>"
}

/// How far from the middle of its class a series stands, so that equal values stay visible. `room` is that of a class.
fn beside(series: usize, all: usize, room: f64) -> f64 {
    let step = (MOST_ASIDE * room / all.max(1) as f64).min(8.0);
    (series as f64 - (all.max(1) - 1) as f64 / 2.0) * step
}

/// Writes the names of the classes below `y`, as many as have room.
pub(super) fn class_labels(svg: &mut String, report: &Report, order: &[usize], frame: &Frame, y: f64) {
    let every = label_step(order.len(), ((frame.across.1 - frame.across.0) / LABEL_PIXELS) as usize);
    let slanted = labels_are_slanted(report);
    for (position, &class) in order.iter().enumerate().step_by(every) {
        let x = frame.x(position as f64);
        let name = shortened(&report.class_name(class), LONGEST_NAME);
        if slanted {
            let (name, x, y) = (escape(&name), x + 4.0, y + 12.0);
            let _ =
                write!(svg, r#"<text text-anchor="end" transform="translate({x:.1} {y:.1})rotate(-40)">{name}</text>"#);
        } else {
            text(svg, (x, y + 16.0), "middle", &name);
        }
    }
}

/// Pixels below an axis that the names of the classes need.
pub(super) fn label_height(report: &Report) -> f64 {
    // The sine of the 40 degrees that slanted names fall by.
    if labels_are_slanted(report) { 20.0 + 0.643 * CHARACTER * longest_name(report) } else { 24.0 }
}

/// Whether the names of the classes are too long to stand side by side.
fn labels_are_slanted(report: &Report) -> bool {
    let room = (RIGHT - LEFT) / report.classes.max(1) as f64;
    longest_name(report) * CHARACTER > room.max(LABEL_PIXELS)
}

/// Characters of the longest name as shown.
fn longest_name(report: &Report) -> f64 {
    let longest = (0..report.classes).map(|class| report.class_name(class).chars().count()).max().unwrap_or(0);
    longest.min(LONGEST_NAME) as f64
}

fn height(report: &Report) -> f64 {
    BARS.0 + label_height(report) + 20.0
}

fn group_bands(svg: &mut String, frame: &Frame, classes: usize) {
    let groups = Groups::of(classes);
    for (name, classes) in [("head", groups.head), ("mid", groups.mid), ("tail", groups.tail)] {
        if classes.is_empty() {
            continue;
        }
        let left = frame.x(classes.start as f64 - 0.5);
        let right = frame.x(classes.end as f64 - 0.5);
        let (bottom, top) = frame.up;
        if name != "mid" {
            let (width, height) = (right - left, bottom - top);
            let _ = write!(
                svg,
                r#"<rect class="band" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"/>"#
            );
        }
        text(svg, ((left + right) / 2.0, top - 9.0), "middle", name);
    }
}

fn count_bars(svg: &mut String, report: &Report, order: &[usize], frame: &Frame, (bottom, top): (f64, f64)) {
    let most = report.class_counts.iter().copied().max().unwrap_or(1).max(1);
    let room = (frame.across.1 - frame.across.0) / order.len().max(1) as f64;
    let width = (0.72 * room).min(room - 0.3);
    // As many numbers as the longest has room for, from the first on: numbers on the short ones alone would mislead.
    let every = label_step(units::count(most).chars().count(), (room / CHARACTER) as usize);
    for (position, &class) in order.iter().enumerate() {
        let count = report.class_counts.get(class).copied().unwrap_or(0);
        // A class with few samples must not look like one with none.
        let height = ((bottom - top - 14.0) * count as f64 / most as f64).max(if count > 0 { 1.5 } else { 0.0 });
        let (x, y) = (frame.x(position as f64), bottom - height);
        let left = x - width / 2.0;
        let title = escape(&format!("class {}: {} samples", report.class_name(class), units::count(count)));
        let _ = write!(
            svg,
            r#"<rect class="bar" x="{left:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{title}</title></rect>"#
        );
        if position % every == 0 {
            text(svg, (x, y - 4.0), "middle", &units::count(count));
        }
    }
    let _ = write!(svg, r#"<path class="tick" d="M{:.1} {bottom:.1}H{:.1}"/>"#, frame.across.0, frame.across.1);
    vertical_label(svg, (bottom + top) / 2.0, "samples");
}

fn round_ticks(rounds: usize) -> Vec<usize> {
    if rounds <= 10 {
        return (1..=rounds).collect();
    }
    let within = |tick: &usize| (1..=rounds).contains(tick);
    let mut shown: Vec<usize> =
        ticks(0.0, rounds as f64).into_iter().map(|tick| tick as usize).filter(within).collect();
    shown.insert(0, 1);
    shown
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::example;
    use super::*;

    fn series(values: &[f64]) -> Series {
        Series { name: "a <method>".to_owned(), look: 0, values: values.to_vec() }
    }

    #[test]
    fn a_single_value_is_a_level_and_none_is_nothing() {
        let svg = accuracy_by_round(&example(), &[series(&[40.0, 50.0]), series(&[45.0]), series(&[])]);
        assert_eq!(svg.matches("level").count(), 1);
        assert!(svg.contains("a &lt;method&gt;, round 2: 50.0 %"));
        assert!(!accuracy_by_round(&example(), &[series(&[45.0])]).contains("level"));
        assert!(accuracy_by_round(&example(), &[]).ends_with("</svg>"));
    }

    #[test]
    fn every_class_has_a_bar_and_a_mark() {
        let svg = accuracy_by_class(&example(), &[series(&[50.0; 10])]);
        assert_eq!(svg.matches(r#"class="bar""#).count(), 10);
        assert_eq!(svg.matches(r#"class="mark""#).count(), 10);
        assert!(!svg.contains(r#"class="line""#), "classes are no axis: nothing leads from one to the next");
        assert!(svg.contains("class 0: 128 samples"));
    }

    #[test]
    fn equal_points_stand_side_by_side() {
        let offsets: Vec<f64> = (0..4).map(|at| beside(at, 4, 40.0)).collect();
        assert_eq!(offsets, [-10.5, -3.5, 3.5, 10.5]);
        assert_eq!(beside(0, 1, 40.0), 0.0);
    }

    #[test]
    fn rounds_have_few_ticks() {
        assert_eq!(round_ticks(3), [1, 2, 3]);
        assert_eq!(round_ticks(60), [1, 10, 20, 30, 40, 50, 60]);
    }
}
