//! `imrun help`: the commands in groups.

use super::Cli;
use clap::CommandFactory;

/// Headings, and the commands beneath each in the order of their use.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Run", &["run", "check", "ps", "stop", "demo"]),
    (
        "Images",
        &[
            "images", "inspect", "verify", "history", "rollback", "rm", "gc",
        ],
    ),
    ("Import and registries", &["import", "pull", "push"]),
    ("Bake", &["bake"]),
    ("Look", &["mount", "umount", "doctor"]),
    (
        "Runtime for engines (docs/oci-runtime.md)",
        &[
            "create", "start", "state", "kill", "delete", "pause", "resume", "list", "features",
            "spec",
        ],
    ),
    (
        "Install",
        &["init", "completions", "manual", "help", "version"],
    ),
];

/// What `imrun` alone prints: the commands that this build has, and its options.
pub fn overview() -> String {
    let command = Cli::command();
    let line = |name: &&str| {
        let about = match *name {
            "help" => "Show this, or the help of a command".to_owned(),
            "version" => "Show the version".to_owned(),
            name => command.find_subcommand(name)?.get_about()?.to_string(),
        };
        Some(format!("  {name:<11}  {about}\n"))
    };
    let mut text = format!(
        "{}\n\nUsage: imrun [OPTIONS] COMMAND …\n       imrun [OPTIONS] IMAGE [ARG]…\n",
        command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default()
    );
    for (heading, names) in GROUPS {
        let lines: String = names.iter().filter_map(line).collect();
        if !lines.is_empty() {
            text += &format!("\n{heading}:\n{lines}");
        }
    }
    text += &format!("\n{OPTIONS}\n{}\n", super::EXAMPLES);
    text
}

const OPTIONS: &str = "\
Options of every command:
  --store DIR  Image store (IMRUN_STORE; /var/lib/imrun for root)
  --root DIR   Runtime state (IMRUN_ROOT; /run/imrun for root)
  -h, --help   Show the help of a command
";

/// The command that `word` was probably meant to be.
pub fn nearest(word: &str) -> Option<&'static str> {
    let commands = GROUPS.iter().flat_map(|(_, names)| names.iter().copied());
    let distances = commands.map(|name| (strsim::osa_distance(word, name), name));
    let (errors, name) = distances.min()?;
    (errors <= 1 + word.len() / 5).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overview_has_every_command_with_a_description() {
        let overview = overview();
        let command = Cli::command();
        let shown = command.get_subcommands().map(clap::Command::get_name);
        // Only completion scripts call `complete`.
        for name in shown.filter(|name| *name != "complete") {
            let line = overview
                .lines()
                .find(|line| line.starts_with(&format!("  {name} ")));
            let words = line.map(|line| line.split_whitespace().count());
            assert!(words.is_some_and(|words| words > 2), "{name}: {line:?}");
        }
    }

    #[test]
    fn a_mistyped_command_is_recognised_and_other_words_are_not() {
        let table = [
            ("rn", Some("rm")),
            ("improt", Some("import")),
            ("verfy", Some("verify")),
            ("histroy", Some("history")),
            ("runn", Some("run")),
            ("frobnicate", None),
            ("redis", None),
        ];
        for (word, meant) in table {
            assert_eq!(nearest(word), meant, "{word}");
        }
    }
}
