//! The small parts that the charts are made of: scales, ticks, axes, series with their marks, legends.
//!
//! The SVG is written by hand: a few shapes are all that the report needs, and so the page follows the reader's light or
//! dark theme through CSS variables, which a plotting library's fixed colours could not.

use core::fmt::Write;

use super::markup::escape;

/// Width of every chart in SVG units: about one pixel each on a desktop, three quarters of one on a phone.
pub(super) const WIDTH: f64 = 480.0;

/// Colours of the page; further series are dashed.
pub(super) const COLOURS: usize = 8;
const SHAPES: usize = 6;

/// One line of a chart, in percent.
pub(super) struct Series {
    /// Shown in the legend.
    pub(super) name: String,
    /// Decides colour, mark and dashes: the same method looks the same in every chart.
    pub(super) look: usize,
    /// One value per position.
    pub(super) values: Vec<f64>,
}

/// Where data coordinates lie on the drawing: pixels left to right and bottom to top.
pub(super) struct Frame {
    /// Pixels of the left and the right edge.
    pub(super) across: (f64, f64),
    /// Pixels of the bottom and the top edge.
    pub(super) up: (f64, f64),
    /// Data values at the left and the right edge.
    pub(super) x: (f64, f64),
    /// Data values at the bottom and the top edge.
    pub(super) y: (f64, f64),
}

impl Frame {
    /// Pixels of a horizontal position.
    pub(super) fn x(&self, value: f64) -> f64 {
        interpolated(value, self.x, self.across)
    }

    /// Pixels of a vertical position.
    pub(super) fn y(&self, value: f64) -> f64 {
        interpolated(value, self.y, self.up)
    }

    /// Horizontal grid lines with their percentages, and what they measure.
    pub(super) fn percent_axis(&self, svg: &mut String, ticks: &[f64], label: &str) {
        let (left, right) = self.across;
        for &tick in ticks {
            let y = self.y(tick);
            let _ = write!(svg, r#"<path class="grid" d="M{left:.1} {y:.1}H{right:.1}"/>"#);
            text(svg, (left - 7.0, y + 4.0), "end", &format!("{tick:.0}"));
        }
        let (bottom, top) = self.up;
        vertical_label(svg, (bottom + top) / 2.0, label);
    }
}

/// How many positions lie between labels when `room` of them fit: a round number.
pub(super) fn label_step(positions: usize, room: usize) -> usize {
    let needed = positions.div_ceil(room.max(1));
    let powers = core::iter::successors(Some(1usize), |power| power.checked_mul(10));
    let steps = powers.flat_map(|power| [1, 2, 5].map(|factor: usize| factor.saturating_mul(power)));
    steps.into_iter().find(|&step| step >= needed).unwrap_or(positions)
}

/// Opens a chart that a screen reader announces as `title`.
pub(super) fn open(height: f64, title: &str) -> String {
    let title = escape(title);
    format!(r#"<svg viewBox="0 0 {WIDTH:.0} {height:.0}" role="img" aria-label="{title}">"#)
}

/// Writes a text; `anchor` is `start`, `middle` or `end`.
pub(super) fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, content: &str) {
    let content = escape(content);
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{content}</text>"#);
}

/// Writes the label of an axis, centred.
pub(super) fn axis_label(svg: &mut String, (x, y): (f64, f64), content: &str) {
    let content = escape(content);
    let _ = write!(svg, r#"<text class="label" x="{x:.1}" y="{y:.1}" text-anchor="middle">{content}</text>"#);
}

/// Writes the label of a vertical axis, centred at `y` at the left edge of the drawing.
pub(super) fn vertical_label(svg: &mut String, y: f64, content: &str) {
    let content = escape(content);
    let _ = write!(
        svg,
        r#"<text class="label" text-anchor="middle" transform="translate(13 {y:.1})rotate(-90)">{content}</text>"#
    );
}

/// Round numbers from below `low` to above `high`, at most about seven of them.
pub(super) fn ticks(low: f64, high: f64) -> Vec<f64> {
    let span = (high - low).max(1.0);
    let magnitude = 10f64.powf((span / 6.0).log10().floor());
    let fits = |factor: &f64| span / (factor * magnitude) <= 6.0;
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(fits).unwrap_or(10.0) * magnitude;
    let step = step.max(1.0);
    let first = (low / step).floor();
    let last = (high / step).ceil().max(first + 1.0);
    (0..=(last - first) as usize).map(|position| (first + position as f64) * step).collect()
}

impl Series {
    /// Draws the line through `points`, with a mark and a tooltip on those that `marked` admits.
    pub(super) fn draw(
        &self,
        svg: &mut String,
        points: &[(f64, f64)],
        marked: impl Fn(usize) -> bool,
        tooltip: impl Fn(usize) -> String,
    ) {
        let _ = write!(svg, r#"<g class="{}">"#, self.classes());
        if points.len() > 1 {
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            let _ = write!(svg, r#"<path class="line" d="M{}"/>"#, path.join("L"));
        }
        for (position, &point) in points.iter().enumerate().filter(|&(position, _)| marked(position)) {
            let title = escape(&tooltip(position));
            let _ = write!(svg, r#"<path class="mark" d="{}"><title>{title}</title></path>"#, self.mark(point, 3.4));
        }
        svg.push_str("</g>");
    }

    /// Draws points without a line between them, for positions that have no order of their own.
    pub(super) fn draw_points(
        &self,
        svg: &mut String,
        points: &[(f64, f64)],
        size: f64,
        tooltip: impl Fn(usize) -> String,
    ) {
        let _ = write!(svg, r#"<g class="{}">"#, self.classes());
        for (position, &point) in points.iter().enumerate() {
            let title = escape(&tooltip(position));
            let _ = write!(svg, r#"<path class="mark" d="{}"><title>{title}</title></path>"#, self.mark(point, size));
        }
        svg.push_str("</g>");
    }

    /// Draws a level for a method that has one value and no course.
    pub(super) fn draw_level(&self, svg: &mut String, (left, right): (f64, f64), y: f64, tooltip: &str) {
        let mark = self.mark((left, y), 3.4);
        let (classes, tooltip) = (self.classes(), escape(tooltip));
        let _ = write!(
            svg,
            r#"<g class="{classes}"><path class="line level" d="M{left:.1} {y:.1}H{right:.1}"/><path class="mark" d="{mark}"><title>{tooltip}</title></path></g>"#
        );
    }

    fn classes(&self) -> String {
        let dashes = if self.look >= COLOURS { " dashed" } else { "" };
        format!("s{}{dashes}", self.look % COLOURS)
    }

    fn mark(&self, (x, y): (f64, f64), size: f64) -> String {
        let wide = 1.25 * size;
        match self.look % SHAPES {
            0 => {
                format!("M{:.1} {y:.1}a{size} {size} 0 1 0 {d} 0a{size} {size} 0 1 0 -{d} 0z", x - size, d = 2.0 * size)
            }
            1 => format!("M{:.1} {:.1}h{d}v{d}h-{d}z", x - size, y - size, d = 2.0 * size),
            2 => format!("M{x:.1} {:.1}l{wide} {d}h-{}z", y - wide, 2.0 * wide, d = 2.0 * size),
            3 => format!("M{x:.1} {:.1}l{wide} {wide}l-{wide} {wide}l-{wide} -{wide}z", y - wide),
            4 => format!("M{x:.1} {:.1}l{wide} -{d}h-{}z", y + wide, 2.0 * wide, d = 2.0 * size),
            _ => format!(
                "M{:.1} {:.1}h{t}v{t}h{t}v{t}h-{t}v{t}h-{t}v-{t}h-{t}v-{t}h{t}z",
                x - 0.35 * wide,
                y - 1.05 * wide,
                t = 0.7 * wide
            ),
        }
    }
}

/// The legend of several series, as HTML that wraps on a narrow screen.
pub(super) fn legend(series: &[Series]) -> String {
    let mut html = String::from(r#"<ul class="legend">"#);
    for one in series {
        let (classes, mark, name) = (one.classes(), one.mark((15.0, 7.0), 3.4), escape(&one.name));
        let _ = write!(
            html,
            r#"<li><svg viewBox="0 0 30 14" aria-hidden="true"><g class="{classes}"><path class="line" d="M1 7H29"/><path class="mark" d="{mark}"/></g></svg>{name}</li>"#
        );
    }
    html + "</ul>"
}

/// The legend of several series as SVG, and how high it is.
pub(super) fn legend_rows(series: &[Series]) -> (String, f64) {
    const ROW: f64 = 20.0;
    const LINE: f64 = 30.0;
    const CHARACTER: f64 = 7.0;
    let (mut x, mut y) = (10.0, 6.0);
    let mut svg = String::new();
    for one in series {
        let width = LINE + 22.0 + CHARACTER * one.name.chars().count() as f64;
        if x > 10.0 && x + width > WIDTH {
            (x, y) = (10.0, y + ROW);
        }
        let middle = y + 0.5 * ROW;
        let (classes, mark) = (one.classes(), one.mark((x + 0.5 * LINE, middle), 3.4));
        let _ = write!(
            svg,
            r#"<g class="{classes}"><path class="line" d="M{x:.1} {middle:.1}h{LINE}"/><path class="mark" d="{mark}"/></g>"#
        );
        text(&mut svg, (x + LINE + 6.0, middle + 4.0), "start", &one.name);
        x += width;
    }
    (svg, y + ROW + 6.0)
}

fn interpolated(value: f64, from: (f64, f64), to: (f64, f64)) -> f64 {
    let span = from.1 - from.0;
    let share = if span == 0.0 { 0.5 } else { (value - from.0) / span };
    to.0 + share * (to.1 - to.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        assert_eq!(ticks(0.0, 100.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(31.0, 52.0), [30.0, 35.0, 40.0, 45.0, 50.0, 55.0]);
        assert_eq!(ticks(50.2, 50.3), [50.0, 51.0]);
        assert_eq!(ticks(50.0, 50.0), [50.0, 51.0]);
    }

    #[test]
    fn labels_stand_at_round_distances() {
        assert_eq!(
            [(10, 20), (10, 5), (60, 25), (100, 19), (1000, 19)].map(|(n, room)| label_step(n, room)),
            [1, 2, 5, 10, 100]
        );
        assert_eq!(label_step(0, 0), 1);
    }

    #[test]
    fn every_look_draws_something_different() {
        let series = |look| Series { name: String::new(), look, values: Vec::new() };
        let looks: Vec<String> =
            (0..24).map(|look| format!("{}{}", series(look).classes(), series(look).mark((0.0, 0.0), 3.0))).collect();
        let mut unique = looks[..16].to_vec();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 16);
    }

    #[test]
    fn one_value_lies_in_the_middle() {
        let frame = Frame { across: (0.0, 10.0), up: (10.0, 0.0), x: (1.0, 1.0), y: (0.0, 100.0) };
        assert_eq!((frame.x(1.0), frame.y(25.0)), (5.0, 7.5));
    }
}
