//! A report as JUnit XML, which every CI system shows: a suite per board, a case per phase. Pure.

use crate::report::{BoardReport, FailureKind, Report};

/// The whole file.
pub(crate) fn render(report: &Report) -> String {
    let suites: String = report.boards.iter().map(|board| suite(board, report.note)).collect();
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"hil\">\n{suites}</testsuites>\n")
}

fn suite(board: &BoardReport, note: &str) -> String {
    let failed =
        |kind| board.phases.iter().filter_map(|phase| phase.failure.as_ref()).filter(|it| it.kind == kind).count();
    let seconds: f64 = board.phases.iter().map(|phase| phase.seconds).sum();
    let mut text = format!(
        "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" time=\"{seconds:.3}\">\n    <properties>\n",
        escape(&board.name),
        board.phases.len(),
        failed(FailureKind::Board),
        failed(FailureKind::Host),
    );
    text += &property("note", note);
    text += &property("architecture", board.architecture.name());
    text += &property("reached_by", &board.reached_by);
    let figures = serde_json::to_value(&board.figures).expect("plain numbers and texts serialise");
    for (name, value) in figures.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        text += &property(name, value.as_str().unwrap_or(&value.to_string()));
    }
    text += "    </properties>\n";
    for phase in &board.phases {
        let (suite, name, seconds) = (escape(&board.name), escape(phase.name), phase.seconds);
        let head = format!("    <testcase classname=\"hil.{suite}\" name=\"{name}\" time=\"{seconds:.3}\"");
        text += &match &phase.failure {
            None => format!("{head}/>\n"),
            Some(failure) => {
                let tag = match failure.kind {
                    FailureKind::Board => "failure",
                    FailureKind::Host => "error",
                };
                format!("{head}>\n      <{tag} message=\"{}\"/>\n    </testcase>\n", escape(&failure.message))
            }
        };
    }
    text + "  </testsuite>\n"
}

fn property(name: &str, value: &str) -> String {
    format!("      <property name=\"{}\" value=\"{}\"/>\n", escape(name), escape(value))
}

/// A text inside quotation marks. What XML cannot hold at all, such as a console's bells, becomes a question mark.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\t' => escaped.push(' '),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_suite_per_board_and_a_case_per_phase() {
        let xml = render(&example());
        assert_eq!(xml.matches("<testsuite ").count(), 2, "{xml}");
        assert_eq!(xml.matches("<testcase ").count(), 4, "{xml}");
        assert!(
            xml.contains("<testsuite name=\"virt\" tests=\"2\" failures=\"0\" errors=\"0\" time=\"2.500\">"),
            "{xml}"
        );
        assert!(xml.contains("<testsuite name=\"raspi3b\" tests=\"2\" failures=\"1\" errors=\"0\""), "{xml}");
        assert!(xml.contains("<property name=\"ms_per_image\" value=\"12.345\"/>"), "{xml}");
        assert!(xml.contains("<property name=\"update_at_cut\" value=\"in-the-outbox\"/>"), "{xml}");
    }

    #[test]
    fn nothing_a_console_says_breaks_the_file() {
        let xml = render(&example());
        let message = "message=\"the &lt;console&gt; said &quot;nothing&quot; &amp; ended\"";
        assert!(xml.contains(message), "{xml}");
        assert_eq!(escape("a\u{7}b\nc"), "a?b c");
    }
}
