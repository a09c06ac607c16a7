//! The report as one HTML file that needs nothing else: no script, no font, no image, no network.

use core::fmt::Write;

use super::charts::Charts;
use super::columns::{Column, columns};
use super::heat_map::{MOST_DEVICES, device_classes};
use super::markup::{escape, shortened};
use super::results::{Report, Row, verdicts};
use super::{logit_offset, notes, table, units};
use crate::data::long_tail::ratio_of;

const STYLE: &str = include_str!("page.css");
const DIGEST_FIGURES: usize = 16;
/// How the names of made-up data begin.
const SYNTHETIC: &str = "synthetic:";
const MADE_UP: &str = " The samples are made-up clusters of features: accuracies say nothing about real images.";
/// Renders the page.
pub fn render(report: &Report) -> String {
    let mut page = String::with_capacity(64 * 1024);
    let title = escape(&format!("Grapevine: {}", report.data));
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n{}\n{}</header>\n",
        lead(report),
        facts(report)
    );
    let verdicts: String = verdicts(report).iter().map(|verdict| format!("<p>{}</p>\n", escape(verdict))).collect();
    if !verdicts.is_empty() {
        let _ = writeln!(page, "<div class=\"verdict\">\n{verdicts}</div>");
    }
    page += &results_table(report);
    let conditions = report.conditions();
    for condition in &conditions {
        if conditions.len() > 1 {
            let (partition, participation) = condition;
            let heading = escape(&format!("Partition {partition}, participation {participation}"));
            let _ = writeln!(page, "<h2 class=\"condition\">{heading}</h2>");
        }
        page += &condition_charts(report, condition);
    }
    let _ = write!(page, "<div class=\"pair\">\n{}{}</div>\n", device_card(report), notes::card(report));
    page += &logit_offset::cards(&report.logit_offsets);
    page += &trials_table(report);
    page += &runs_table(report);
    page += &footer(report);
    page += "</main>\n</body>\n</html>\n";
    page
}

fn lead(report: &Report) -> String {
    let plural = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let (most, fewest) = (report.test_class_counts.iter().max(), report.test_class_counts.iter().min());
    let test = match most.zip(fewest) {
        Some((most, fewest)) if most > fewest => {
            format!("the test set has {} to {} samples of a class", units::count(*fewest), units::count(*most))
        }
        Some(_) | None => "the test set has equally many samples of every class".to_owned(),
    };
    let text = format!(
        "A fleet of {} trains one classifier in at most {}. Training samples never leave their device: the most frequent \
         class has {} times as many as the rarest; {test}.{}",
        plural(report.devices, "device"),
        plural(report.rounds, "round"),
        units::count(ratio_of(&report.class_counts).round() as u64),
        if report.data.starts_with(SYNTHETIC) { MADE_UP } else { "" }
    );
    format!("<p class=\"lead\">{}</p>", escape(&text))
}

fn facts(report: &Report) -> String {
    let joined = |values: Vec<String>| {
        let mut different: Vec<String> = Vec::new();
        for value in values {
            if !different.contains(&value) {
                different.push(value);
            }
        }
        different.join(", ")
    };
    let conditions = report.conditions();
    let mut seeds: Vec<u64> = report.runs.iter().map(|run| run.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let partitions = joined(conditions.iter().map(|(partition, _)| partition.clone()).collect());
    let facts = [
        ("data", report.data.clone()),
        ("training samples", units::count(report.class_counts.iter().sum())),
        ("classes", report.classes.to_string()),
        ("features per sample", report.features.to_string()),
        ("imbalance ratio", imbalance(report)),
        ("partition", format!("{partitions}, alpha {}", report.alpha)),
        ("devices per round", joined(conditions.iter().map(|(_, participation)| participation.clone()).collect())),
        ("rounds of training", report.rounds.to_string()),
        (if seeds.len() == 1 { "seed" } else { "seeds" }, joined(seeds.iter().map(u64::to_string).collect())),
        ("peak memory", report.peak_memory_bytes.map_or_else(|| "-".to_owned(), units::bytes)),
    ];
    let mut html = String::from("<dl class=\"facts\">\n");
    for (name, value) in facts {
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    html + "</dl>\n"
}

/// The ratio asked for, and what whole samples made of it.
fn imbalance(report: &Report) -> String {
    let asked = (10.0 * report.imbalance_ratio).round() / 10.0;
    match (report.class_counts.iter().max(), report.class_counts.iter().min()) {
        (Some(&most), Some(&fewest)) => {
            format!("{asked} ({} to {} samples)", units::count(most), units::count(fewest))
        }
        (None, _) | (_, None) => asked.to_string(),
    }
}

fn results_table(report: &Report) -> String {
    let rows = report.rows();
    let conditions = report.conditions();
    let condition = |row: &Row| {
        let run = &row.mean;
        conditions.iter().position(|(partition, other)| (partition, other) == (&run.partition, &run.participation))
    };
    let best = |row: &Row| {
        let rivals = rows.iter().filter(|rival| condition(rival) == condition(row));
        rivals.map(|rival| rival.mean.balanced_accuracy).fold(f64::NEG_INFINITY, f64::max)
    };
    let texts = table::text_headings(report);
    let columns = columns(report);
    let mut html = String::from(
        "<section class=\"card\">\n<h2>Results on the test set, after the last round</h2>\n\
         <div class=\"scroll\"><table class=\"results\">\n<thead>",
    );
    html += &group_headings(texts.len(), &columns);
    for heading in &texts {
        let _ = write!(html, "<th scope=\"col\" class=\"text\">{heading}</th>");
    }
    for column in &columns {
        let _ = write!(html, "<th scope=\"col\">{}</th>", column.page.1);
    }
    html += "</tr></thead>\n<tbody>\n";
    for (position, row) in rows.iter().enumerate() {
        let first = position > 0 && condition(row) != condition(&rows[position - 1]);
        html += match (first, row.mean.balanced_accuracy >= best(row)) {
            (false, false) => "<tr>",
            (false, true) => "<tr class=\"best\">",
            (true, false) => "<tr class=\"first\">",
            (true, true) => "<tr class=\"first best\">",
        };
        for (column, cell) in table::text_cells(row, report).iter().enumerate() {
            let cell = escape(cell);
            let _ = match column {
                0 => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ => write!(html, "<td class=\"text\" data-label=\"{}\">{cell}</td>", texts[column]),
            };
        }
        for (position, column) in columns.iter().enumerate() {
            let cell = escape(&(column.cell)(row));
            let label = label(column);
            let _ = match position {
                0 => write!(html, "{}{cell}</td>", share_cell(&label, row.mean.balanced_accuracy)),
                _ => write!(html, "<td data-label=\"{label}\">{cell}</td>"),
            };
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table></div>\n" + &notes::methods(report) + "</section>\n"
}

/// The upper row of headings: one over each run of columns of the same group.
fn group_headings(texts: usize, columns: &[Column]) -> String {
    let mut html = String::from("<tr class=\"group\">");
    html += &"<td></td>".repeat(texts);
    for group in columns.chunk_by(|left, right| left.page.0 == right.page.0) {
        let _ = match (group[0].page.0, group.len()) {
            ("", columns) => write!(html, "{}", "<td></td>".repeat(columns)),
            (heading, columns) => write!(html, "<th scope=\"colgroup\" colspan=\"{columns}\">{heading}</th>"),
        };
    }
    html + "</tr>\n<tr>"
}

/// What stands before a number where a narrow screen has no room for columns.
fn label(column: &Column) -> String {
    let (group, name) = column.page;
    if group.is_empty() { name.to_owned() } else { format!("{name} ({group})") }
}

/// Opens a cell with a bar as long as the share.
fn share_cell(label: &str, share: f64) -> String {
    format!(
        "<td class=\"share\" data-label=\"{label}\" style=\"background-size:calc({:.3}*(100% - 1.1rem)) 5px\">",
        share.clamp(0.0, 1.0)
    )
}

fn condition_charts(report: &Report, condition: &(String, String)) -> String {
    let charts = Charts::of(report, condition);
    let traffic = charts.by_bytes().map_or_else(String::new, |chart| {
        format!("<section class=\"card\">\n<h2>Balanced accuracy for a device's traffic</h2>\n{chart}\n</section>\n")
    });
    format!(
        "{}\n<div class=\"pair\">\n<section class=\"card\">\n<h2>Balanced accuracy, round by round</h2>\n{}\n</section>\n\
         <section class=\"card\">\n<h2>Accuracy of each class, after the last round</h2>\n{}\n</section>\n{traffic}</div>\n",
        charts.legend(),
        charts.by_round(),
        charts.by_class()
    )
}

fn device_card(report: &Report) -> String {
    let devices = report.device_class_counts.len();
    let note = if devices > MOST_DEVICES { format!(", the first {MOST_DEVICES} of {devices}") } else { String::new() };
    format!("<section class=\"card\">\n<h2>What each device holds{note}</h2>\n{}\n</section>\n", device_classes(report))
}

fn runs_table(report: &Report) -> String {
    let mut html = String::from(
        "<section class=\"card\"><details><summary>Every run, with the digest of its final head</summary>\n\
         <div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">method</th><th scope=\"col\">seed</th>\
         <th scope=\"col\" class=\"text\">partition</th><th scope=\"col\" class=\"text\">participation</th>\
         <th scope=\"col\">balanced %</th><th scope=\"col\" class=\"text\">head digest</th></tr></thead>\n<tbody>\n",
    );
    for run in &report.runs {
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"text\">{}</td><td class=\"text\">{}</td><td>{}</td>\
             <td class=\"text\"><code title=\"{}\">{}</code></td></tr>",
            escape(&run.method),
            run.seed,
            escape(&run.partition),
            escape(&run.participation),
            units::percent(run.balanced_accuracy),
            escape(&run.head_digest),
            escape(&shortened(&run.head_digest, DIGEST_FIGURES))
        );
    }
    html + "</tbody>\n</table></div></details></section>\n"
}

/// What was tried to choose hyper-parameters; nothing where nothing was.
fn trials_table(report: &Report) -> String {
    if report.trials.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<section class=\"card\"><details><summary>Every combination of hyper-parameters that was tried</summary>\n\
         <div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">method</th><th scope=\"col\" class=\"text\">values</th>\
         <th scope=\"col\">balanced %, held-out training samples</th></tr></thead>\n<tbody>\n",
    );
    for trial in &report.trials {
        let values: Vec<String> = trial.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let _ = writeln!(
            html,
            "<tr{}><th scope=\"row\">{}</th><td class=\"text\">{}</td><td>{}</td></tr>",
            if trial.chosen { " class=\"best\"" } else { "" },
            escape(&trial.method),
            escape(&values.join(" ")),
            units::percent(trial.validation_accuracy)
        );
    }
    html + "</tbody>\n</table></div></details></section>\n"
}

fn footer(report: &Report) -> String {
    format!(
        "<footer><p>Grapevine {}. To make this page again: <code>{}</code></p></footer>\n",
        escape(&report.version),
        escape(&report.command)
    )
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::example;
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let page = render(&example());
        for forbidden in ["http", "<script", "<link", "<img", "url(", "@import", "src="] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn every_text_is_escaped() {
        let mut report = example();
        let hostile = "<i x=\"'&>".to_owned();
        for run in &mut report.runs {
            run.method.clone_from(&hostile);
            run.head_digest.clone_from(&hostile);
            run.partition.clone_from(&hostile);
            run.participation = format!("{hostile}{}", run.seed);
        }
        report.runs[0].participation.clone_from(&hostile);
        report.class_names = vec![hostile.clone(); 10];
        (report.data, report.version, report.command) = (hostile.clone(), hostile.clone(), hostile);
        let page = render(&report);
        assert!(!page.contains("<i") && !page.contains("x=\"'"));
        assert!(page.contains("&lt;i x=&quot;&#39;&amp;&gt;"));
    }

    #[test]
    fn numbers_keep_their_names_where_there_is_no_room_for_columns() {
        let page = render(&example());
        assert!(page.contains("data-label=\"tail (accuracy, %)\">13.3</td>"), "{page}");
        assert!(page.contains(".results td::before { content: attr(data-label)"));
    }

    #[test]
    fn a_test_set_that_is_not_balanced_is_not_called_so() {
        let mut report = example();
        assert!(render(&report).contains("equally many samples of every class"));
        report.test_class_counts = vec![80, 40, 30, 8, 8, 8, 8, 8, 8, 2];
        let page = render(&report);
        assert!(
            page.contains("the test set has 2 to 80 samples of a class")
                && !page.contains("equally many samples of every")
        );
    }

    #[test]
    fn elements_are_closed() {
        let page = render(&example());
        for element in
            ["svg", "section", "table", "tr", "td", "th", "g", "text", "title", "div", "ul", "li", "dl", "main"]
        {
            let opened = page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
            assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
        }
    }

    #[test]
    fn each_condition_has_its_charts_and_an_empty_report_is_a_page() {
        let mut report = example();
        assert_eq!(render(&report).matches("Balanced accuracy, round by round").count(), 1);
        report.runs[2].participation = "2 of 3".to_owned();
        let page = render(&report);
        assert_eq!(page.matches("Balanced accuracy, round by round").count(), 2);
        assert!(page.contains("Partition global-prior, participation 2 of 3"));
        assert!(render(&Report::default()).ends_with("</html>\n"));
    }
}
