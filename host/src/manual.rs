//! Manual pages, in the language of `man`, made of what `--help` says.
//!
//! That text is in the program anyway. A generator (clap_mangen) would add 160 kB to it.

use clap::Command;

/// Width of the text; `man` indents it by 7 columns of usually 80.
const COLUMNS: usize = 72;

/// The page about a command of a program, or about the program, which has been built.
pub(crate) fn page(program: &Command, command: &Command) -> String {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let version = program.get_version().unwrap_or_default();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let help = command.clone().term_width(COLUMNS).help_template("{all-args}{after-help}").render_long_help();
    let mut page = format!(".TH {name} 1 \"\" \"{} {version}\"\n", program.get_name());
    page += &format!(".SH NAME\n{name} \\- {}\n", escaped(about.trim_end_matches('.')));
    page += &format!(".SH SYNOPSIS\n.nf\n{}\n.fi\n", escaped(usage));
    for line in help.to_string().lines().map(str::trim_end) {
        match line.strip_suffix(':').filter(|heading| !heading.starts_with(' ')) {
            Some(heading) => page += &format!(".fi\n.SH {}\n.nf\n", heading.to_uppercase()),
            None => page += &format!("{}\n", escaped(line)),
        }
    }
    page
}

/// Text that stays as it is: nothing in it is a command, a hyphen or an escape.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.chars().next() {
        Some('.' | '\'') => format!("\\&{text}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn a_page_has_the_sections_of_the_help() {
        let run = Command::new("run").about("Run it.").arg(Arg::new("dry").long("dry-run").help("Do nothing."));
        let mut program =
            Command::new("tool").version("1.2").subcommand(run.after_help("Examples:\n  tool \\ run\n.x"));
        program.build();
        let page = page(&program, program.find_subcommand("run").unwrap());
        assert!(
            page.starts_with(".TH tool-run 1 \"\" \"tool 1.2\"\n.SH NAME\ntool-run \\- Run it\n.SH SYNOPSIS\n"),
            "{page}"
        );
        assert!(page.contains("\ntool run [OPTIONS]\n"), "{page}");
        assert!(page.contains("\n.SH OPTIONS\n.nf\n      \\-\\-dry\\-run <dry>\n"), "{page}");
        assert!(page.ends_with("\n.SH EXAMPLES\n.nf\n  tool \\e run\n\\&.x\n"), "{page}");
    }
}
