//! The logit offset: what a method's final head does when it is shifted, more head for less tail, and whether some `tau`
//! that was chosen on held-out training samples beats a rival in both.

use core::fmt::Write;

use grapevine_models::hyper_parameters::TAU;
use serde::{Deserialize, Serialize};

use super::markup::escape;
use super::table::aligned;
use super::units;

/// The logit offset of one method. Accuracies are means over the seeds, shares from 0 to 1, one for each `tau`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogitOffset {
    /// Name of the method.
    pub method: String,
    /// What is added to the bias, times `tau`.
    #[serde(default)]
    pub adds: String,
    /// The values of `tau`, beside the method's own.
    pub taus: Vec<f64>,
    /// Balanced accuracy on the test samples.
    pub balanced_accuracy: Vec<f64>,
    /// Mean over the head classes on the test samples.
    pub head_accuracy: Vec<f64>,
    /// Mean over the tail classes on the test samples.
    pub tail_accuracy: Vec<f64>,
    /// Balanced accuracy on the held-out training samples, after training without them.
    pub validation_balanced_accuracy: Vec<f64>,
    /// Mean over the head classes on those.
    pub validation_head_accuracy: Vec<f64>,
    /// The other methods.
    pub against: Vec<Against>,
}

/// A rival, and the `tau` at which, after the held-out samples, head and balanced accuracy are most probably both at least
/// the rival's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Name of the rival, whose own logit offset is left alone.
    pub rival: String,
    /// Of the method whose head is shifted.
    pub tau: f64,
    /// Of the method whose head is shifted there, on the test samples.
    pub head_accuracy: f64,
    /// Of the method whose head is shifted there, on the test samples.
    pub balanced_accuracy: f64,
    /// Of the rival, on the test samples.
    pub rival_head_accuracy: f64,
    /// Of the rival, on the test samples.
    pub rival_balanced_accuracy: f64,
    /// Whether the method whose head is shifted has at least both.
    pub dominates: bool,
}

impl LogitOffset {
    /// Rivals that no chosen `tau` reaches in both.
    pub fn undominated(&self) -> impl Iterator<Item = &Against> {
        self.against.iter().filter(|against| !against.dominates)
    }

    fn verdict(&self) -> String {
        let (of, method) = (self.against.len(), &self.method);
        let rivals: Vec<&str> = self.undominated().map(|against| against.rival.as_str()).collect();
        let reached = of - rivals.len();
        let but = if rivals.is_empty() { String::new() } else { format!("; not for {}", rivals.join(", ")) };
        format!("For {reached} of {of} rivals {method} has at least both at that tau{but}.")
    }

    fn curve(&self) -> Vec<Vec<String>> {
        let heading = [TAU.name, "balanced %", "head %", "tail %", "held out: balanced %", "head %"];
        let at = |values: &Vec<f64>, position: usize| values.get(position).map_or_else(String::new, percent);
        let line = |(position, tau): (usize, &f64)| {
            let columns = [
                &self.balanced_accuracy,
                &self.head_accuracy,
                &self.tail_accuracy,
                &self.validation_balanced_accuracy,
                &self.validation_head_accuracy,
            ];
            [tau.to_string()].into_iter().chain(columns.map(|values| at(values, position))).collect()
        };
        [heading.map(str::to_owned).to_vec()].into_iter().chain(self.taus.iter().enumerate().map(line)).collect()
    }

    fn rivals(&self) -> Vec<Vec<String>> {
        let heading = ["rival", TAU.name, "balanced %", "rival's", "head %", "rival's", "at least both"];
        let line = |against: &Against| {
            let accuracies = [
                against.balanced_accuracy,
                against.rival_balanced_accuracy,
                against.head_accuracy,
                against.rival_head_accuracy,
            ];
            let mut cells = vec![against.rival.clone(), against.tau.to_string()];
            cells.extend(accuracies.iter().map(percent));
            cells.push(if against.dominates { "yes" } else { "no" }.to_owned());
            cells
        };
        [heading.map(str::to_owned).to_vec()].into_iter().chain(self.against.iter().map(line)).collect()
    }
}

/// For a terminal: of every logit offset its curve and its rivals.
pub(super) fn text(logit_offsets: &[LogitOffset]) -> String {
    let mut text = String::new();
    for logit_offset in logit_offsets {
        let _ = write!(
            text,
            "\nThe logit offset of {}: tau times {} is added to the bias of its final head.\n{}",
            logit_offset.method,
            logit_offset.adds,
            aligned(&logit_offset.curve(), 0)
        );
        if !logit_offset.against.is_empty() {
            let _ = write!(
                text,
                "\n{} against each rival, at the tau chosen on held-out training samples.\n{}\n{}\n",
                logit_offset.method,
                aligned(&logit_offset.rivals(), 1),
                logit_offset.verdict()
            );
        }
    }
    text
}

/// For the page: the same, a card for each logit offset; nothing where there is none.
pub(super) fn cards(logit_offsets: &[LogitOffset]) -> String {
    let mut html = String::new();
    for logit_offset in logit_offsets {
        let _ = write!(
            html,
            "<section class=\"card\">\n<h2>The logit offset of {}</h2>\n<p class=\"lead\">Tau times {} is added to the bias of the \
             final head: more head for less tail. For each rival the tau was chosen on held-out training samples. {}</p>\n\
             <div class=\"pair\">\n{}{}</div>\n</section>\n",
            escape(&logit_offset.method),
            escape(&logit_offset.adds),
            escape(&logit_offset.verdict()),
            html_table(&logit_offset.curve()),
            html_table(&logit_offset.rivals()),
        );
    }
    html
}

fn html_table(lines: &[Vec<String>]) -> String {
    let row = |line: &Vec<String>, element: &str| {
        line.iter().map(|cell| format!("<{element}>{}</{element}>", escape(cell))).collect::<String>()
    };
    let Some((heading, lines)) = lines.split_first() else { return String::new() };
    let body: String = lines.iter().map(|line| format!("<tr>{}</tr>\n", row(line, "td"))).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n",
        row(heading, "th")
    )
}

fn percent(share: &f64) -> String {
    units::percent(*share)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn example() -> LogitOffset {
        let against = |rival: &str, rival_head_accuracy, dominates| Against {
            rival: rival.to_owned(),
            tau: 0.1,
            head_accuracy: 0.7,
            balanced_accuracy: 0.6,
            rival_head_accuracy,
            rival_balanced_accuracy: 0.55,
            dominates,
        };
        LogitOffset {
            method: "redgrape".to_owned(),
            adds: "the log class share".to_owned(),
            taus: vec![0.0, 0.1],
            balanced_accuracy: vec![0.62, 0.6],
            head_accuracy: vec![0.65, 0.7],
            tail_accuracy: vec![0.5, 0.4],
            validation_balanced_accuracy: vec![0.61, 0.59],
            validation_head_accuracy: vec![0.64, 0.71],
            against: vec![against("fedavg", 0.7, true), against("<lda>", 0.8, false)],
        }
    }

    #[test]
    fn a_dial_shows_its_curve_and_says_where_it_fails() {
        let text = text(&[example()]);
        for line in [
            "tau  balanced %  head %  tail %  held out: balanced %  head %",
            "0.1        60.0    70.0    40.0                  59.0    71.0",
            "<lda>   0.1        60.0     55.0    70.0     80.0             no",
            "For 1 of 2 rivals redgrape has at least both at that tau; not for <lda>.",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        let page = cards(&[example()]);
        assert!(page.contains("not for &lt;lda&gt;") && !page.contains("<lda>"), "{page}");
        assert_eq!(page.matches("<tr>").count(), page.matches("</tr>").count());
        assert_eq!(super::text(&[]) + &cards(&[]), "");
    }
}
