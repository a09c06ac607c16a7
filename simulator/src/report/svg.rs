//! The charts of a report as files of their own, for papers and slides: plain SVG without anything from outside.

use core::fmt::Write;

use super::chart::{COLOURS, WIDTH, legend_rows};
use super::charts::Charts;
use super::results::Report;

const PAGE_STYLE: &str = include_str!("page.css");

/// A chart and the name of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvgFile {
    /// Such as `accuracy-by-round.svg`.
    pub name: String,
    /// The whole file.
    pub content: String,
}

/// Every chart of every condition. Names end in the condition's number where there are several.
pub fn render(report: &Report) -> Vec<SvgFile> {
    let conditions = report.conditions();
    let mut files = Vec::new();
    for (number, condition) in conditions.iter().enumerate() {
        let charts = Charts::of(report, condition);
        let mut add = |name: &str, chart: &str| {
            let number = if conditions.len() > 1 { format!("-{}", number + 1) } else { String::new() };
            files.push(SvgFile { name: format!("{name}{number}.svg"), content: alone(&charts, chart) });
        };
        add("accuracy-by-round", &charts.by_round());
        add("accuracy-by-class", &charts.by_class());
        if let Some(chart) = charts.by_bytes() {
            add("accuracy-by-bytes", &chart);
        }
    }
    files
}

/// A chart with its legend above it and its style inside.
fn alone(charts: &Charts<'_>, chart: &str) -> String {
    let (legend, top) = legend_rows(&charts.series(|row| &row.mean.balanced_accuracy_by_round));
    let opening = format!(r#"<svg viewBox="0 0 {WIDTH:.0} "#);
    let body = chart.strip_prefix(&opening).expect("charts begin with their size");
    let (bottom, rest) = body.split_once('"').expect("the size ends somewhere");
    let height = top + bottom.parse::<f64>().expect("a size is a number");
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0} {height:.0}" width="{WIDTH:.0}" height="{height:.0}">
<style>{}</style>
<rect width="100%" height="100%" fill="#ffffff"/>
{legend}
<svg y="{top:.0}" width="{WIDTH:.0}" height="{bottom}" viewBox="0 0 {WIDTH:.0} {bottom}"{rest}
</svg>
"##,
        style()
    )
}

/// The page's light colours as plain rules: many programs that draw SVG know no variables.
fn style() -> String {
    let (ink, muted, grid, band) = (colour("ink"), colour("muted"), colour("grid"), colour("band"));
    let mut rules = format!(
        "text{{font:12px sans-serif;fill:{muted}}}.label{{fill:{ink}}}.grid{{stroke:{grid};fill:none}}\
         .tick{{stroke:{muted};fill:none}}.band{{fill:{band}}}.bar{{fill:{muted};fill-opacity:.45}}\
         .line{{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}}\
         .dashed .line{{stroke-dasharray:7 4}}.level{{stroke-dasharray:1 5}}.mark{{stroke:#ffffff;stroke-width:1}}"
    );
    for look in 0..COLOURS {
        let colour = colour(&format!("c{look}"));
        let _ = write!(rules, ".s{look} .line{{stroke:{colour}}}.s{look} .mark{{fill:{colour}}}");
    }
    rules
}

/// A colour of the page by its name; the first definition is that of the light theme.
fn colour(name: &str) -> &'static str {
    let definition = PAGE_STYLE.split_once(&format!("--{name}: ")).expect("the page defines its colours").1;
    definition.split([';', '}']).next().expect("a split has a first part").trim()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::example;
    use super::*;

    #[test]
    fn every_chart_is_a_file_that_needs_nothing() {
        let mut report = example();
        assert_eq!(render(&report).len(), 2);
        for run in &mut report.runs {
            run.bytes_per_device_by_round =
                (1..=run.balanced_accuracy_by_round.len() as u64).map(|round| 900 * round).collect();
        }
        let files = render(&report);
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["accuracy-by-round.svg", "accuracy-by-class.svg", "accuracy-by-bytes.svg"]);
        for SvgFile { content, .. } in files {
            assert!(content.starts_with("<svg xmlns=") && content.trim_end().ends_with("</svg>"));
            assert_eq!(content.matches("<svg").count(), content.matches("</svg>").count());
            assert!(!content.contains("var(") && content.matches("http").count() == 1, "{content}");
            assert!(content.contains(">redgrape</text>") && content.contains(".s1 .line{stroke:#d55e00}"));
        }
    }

    #[test]
    fn conditions_have_files_of_their_own() {
        let mut report = example();
        report.runs[2].participation = "2 of 3".to_owned();
        let names: Vec<String> = render(&report).into_iter().map(|file| file.name).collect();
        assert!(names.contains(&"accuracy-by-class-2.svg".to_owned()), "{names:?}");
    }
}
