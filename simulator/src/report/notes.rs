//! What the page explains in words: the methods that ran, and how its numbers were measured.

use core::fmt::Write;

use grapevine_models::evaluate::Groups;
use grapevine_models::hyper_parameters::{INIT, TAU};
use grapevine_models::{Method, Params, Sums};

use super::markup::escape;
use super::results::{Report, Run};

/// What each method of the report does, in the order of the table; nothing where none is known.
pub(super) fn methods(report: &Report) -> String {
    let mut known: Vec<Method> = Vec::new();
    for method in report.runs.iter().filter_map(|run| run.method.parse().ok()) {
        if !known.contains(&method) {
            known.push(method);
        }
    }
    if known.is_empty() {
        return String::new();
    }
    let mut html = String::from("<dl class=\"methods\">\n");
    for method in known {
        let description = format!("{} ({})", method.summary(), method.source());
        let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", method.name(), escape(&description));
    }
    html + "</dl>\n"
}

/// The rounds a run took: `20`, or `1 + 20` for one that gathered sums before it trained.
pub(super) fn rounds(run: &Run) -> String {
    let measured = run.balanced_accuracy_by_round.len();
    if gathered_first(run) { format!("1 + {measured}") } else { measured.to_string() }
}

/// The card with the notes.
pub(super) fn card(report: &Report) -> String {
    let items: String = notes(report).iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    format!("<section class=\"card\">\n<h2>How to read this</h2>\n<ul class=\"notes\">\n{items}</ul>\n</section>\n")
}

fn gathered_first(run: &Run) -> bool {
    let Ok(method) = run.method.parse::<Method>() else { return false };
    let mut params = Params::defaults(method, run.accuracy_by_class.len());
    let set = |name: &str| run.hyper_parameters.get(name).cloned();
    if let Some(start) = set(INIT.name).and_then(|start| serde_json::from_value(start).ok()) {
        params.init = start;
    }
    if let Some(tau) = set(TAU.name).and_then(|tau| tau.as_f64()) {
        params.tau = tau as f32;
    }
    !method.is_one_shot() && params.check().is_ok_and(|params| params.needs() != Sums::Nothing)
}

fn notes(report: &Report) -> Vec<String> {
    let mut notes = vec![
        "Balanced accuracy is the mean of the accuracies of all classes: rare classes count as much as common ones."
            .to_owned(),
        groups(report.classes),
        "The imbalance ratio is how many training samples the most frequent class has for one of the rarest."
            .to_owned(),
    ];
    let conditions = report.conditions();
    let ran = |name: &str| conditions.iter().any(|(partition, _)| partition == name);
    if ran("global-prior") {
        notes.push(
            "Partition global-prior: devices hold equally many samples, each its own mix of classes; the smaller \
             alpha, the fewer classes on a device."
                .to_owned(),
        );
    }
    if ran("symmetric") {
        notes.push(
            "Partition symmetric: each class is divided over the devices on its own, so that devices differ in size; \
             the smaller alpha, the fewer devices share a class."
                .to_owned(),
        );
    }
    notes.push(about_cost(report).to_owned());
    notes.extend(about_rounds(report));
    notes.push(about_seeds(report).to_owned());
    notes.push("Every method saw the same devices, samples and test set.".to_owned());
    if !report.trials.is_empty() {
        notes.push(
            "Chosen hyper-parameters: each method's own, by the mean balanced accuracy over the seeds on a fifth of the \
             training samples, without a look at the test set; then run on all training samples."
                .to_owned(),
        );
    }
    notes.extend(report.notes.iter().cloned());
    if report.peak_memory_bytes.is_some() {
        notes.push("Peak memory is that of one process with the aggregator, all devices and the test.".to_owned());
    }
    notes
}

fn about_cost(report: &Report) -> &'static str {
    if report.counts_whole_runs() {
        "Traffic is what a device sends and receives in the whole run, the mean over all devices, of every message as the \
         protocol writes it, topics included, MQTT and TCP headers not. To 95 %: the first round after which the balanced \
         accuracy was 95 % of the final one."
    } else {
        "Traffic and CPU (processor time) are those of one device that takes part; time is that of the whole fleet, \
         here. Methods differ in rounds: multiply for the cost of a whole run."
    }
}

fn groups(classes: usize) -> String {
    let groups = Groups::of(classes);
    let (head, mid, tail) = (groups.head.len(), groups.mid.len(), groups.tail.len());
    if mid == 0 {
        return "Head is the more frequent class, tail the rarer one, mid the mean of both.".to_owned();
    }
    format!(
        "Classes by frequency: head is the first {head}, mid the next {mid}, tail the last {tail}; each number \
         is a mean over them."
    )
}

fn about_rounds(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    let is_one_shot = |run: &Run| run.method.parse().is_ok_and(Method::is_one_shot);
    if report.runs.iter().any(gathered_first) {
        notes.push("1 + rounds: the first one only gathers counts or sums and makes no head.".to_owned());
    }
    if report.rounds > 1 && report.runs.iter().any(is_one_shot) {
        notes.push("A dotted level is a method that needs one round.".to_owned());
    }
    notes
}

fn about_seeds(report: &Report) -> &'static str {
    if report.rows().iter().any(|row| row.seeds > 1) {
        "A ± is the standard deviation over seeds; lines and accuracies are then means."
    } else {
        "One seed: a difference of a few points may be chance. Repeat with other seeds before trusting it."
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::example;
    use super::*;

    #[test]
    fn each_method_is_explained_once() {
        let mut report = example();
        report.runs.push(report.runs[0].clone());
        let html = methods(&report);
        assert_eq!(html.matches("<dt>").count(), 3);
        assert!(html.contains("<dt>lda</dt><dd>no training"));
        assert_eq!(methods(&Report::default()), "");
    }

    #[test]
    fn the_round_that_only_gathers_is_told() {
        let mut report = example();
        assert_eq!([0, 1, 2].map(|index| rounds(&report.runs[index])), ["4", "4", "1"]);
        report.runs[1].method = "redgrape-live".to_owned();
        assert_eq!(rounds(&report.runs[1]), "1 + 4");
        assert!(card(&report).contains("1 + rounds"));
    }

    #[test]
    fn only_what_is_on_the_page_is_explained() {
        let mut report = example();
        let text = card(&report);
        assert!(text.contains("One seed") && text.contains("dotted") && text.contains("global-prior"));
        for absent in ["±", "1 + rounds", "symmetric"] {
            assert!(!text.contains(absent), "{absent}");
        }
        let mut again = report.runs[0].clone();
        again.seed = 2;
        report.runs.push(again);
        assert!(card(&report).contains('±') && !card(&report).contains("One seed"));
    }
}
