//! `imrun completions`, `imrun manual`: files for packages of imrun.

use super::completions::{Completions, Words};
use super::{Cli, Global};
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use clap::{Args, CommandFactory, Subcommand};
use std::path::{Path, PathBuf};

/// Commands of the feature `manual`.
#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Print completions for a shell
    #[command(hide = true)]
    Completions(Completions),
    /// Print words that complete an argument
    #[command(hide = true)]
    Complete(Words),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Manual(Manual),
}

impl Command {
    /// Runs the command. Returns its exit code.
    pub fn execute(self, global: &Global) -> Result<u8> {
        match self {
            Command::Completions(completions) => completions.execute(),
            Command::Complete(words) => words.execute(global),
            Command::Manual(manual) => manual.execute(),
        }
    }
}

/// Write the manual pages into a directory
#[derive(Args)]
pub struct Manual {
    /// Existing directory
    directory: PathBuf,
}

impl Manual {
    /// Writes a page for imrun and one for each command.
    pub fn execute(self) -> Result<u8> {
        if !self.directory.is_dir() {
            return Err(
                Error::usage(format_args!("{:?}", self.directory), "is not a directory")
                    .hint("make it first: mkdir"),
            );
        }
        let mut command = Cli::command();
        command.build();
        write_pages(command, &self.directory).map(|()| 0)
    }
}

/// Writes the pages of a command and of its visible subcommands.
fn write_pages(command: clap::Command, directory: &Path) -> Result<()> {
    for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        write_pages(below.clone(), directory)?;
    }
    let notes = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let is_top = command.get_name() == "imrun";
    let page = clap_mangen::Man::new(command.after_help(None::<&str>));
    let file = directory.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text)
        .context(|| format!("write({file:?})"))?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    text += &sections(&notes);
    if is_top {
        text += &section("EXIT STATUS", EXIT_STATUS);
        text += &section("ENVIRONMENT", ENVIRONMENT);
        text += &section("FILES", FILES);
    }
    files::replace(&file, text.as_bytes(), files::PUBLIC)
}

/// The paragraphs of a command's notes, each a section: "Examples:" and "Exit codes:".
fn sections(notes: &str) -> String {
    let paragraphs = notes
        .split("\n\n")
        .filter_map(|paragraph| paragraph.split_once(':'));
    let titled = paragraphs.map(|(title, text)| match title {
        "Exit codes" => section("EXIT STATUS", text.trim_start()),
        title => section(&title.to_uppercase(), text.trim_start_matches('\n')),
    });
    titled.collect()
}

/// A section of text whose lines stay as they are (man(7)).
fn section(title: &str, text: &str) -> String {
    let mut section = format!(".SH \"{title}\"\n.nf\n");
    for line in text.lines() {
        // `\&` keeps a line that begins with a dot or a quote from being a request.
        section += &format!("\\&{}\n", line.replace('\\', "\\e").replace('-', "\\-"));
    }
    section + ".fi\n"
}

const EXIT_STATUS: &str = "\
the app's own  it ended by itself
128+n          it ended by signal n
121            imrun itself failed after the start; the container was ended
122            a side effect, under --on-write kill
123            the sink stayed stalled, under --on-stall kill
124            lines were lost at the end, where the app itself ended with 0
125            imrun refused or failed: nothing of the image ran; wrong usage
126            the entrypoint cannot be executed
127            the entrypoint is not there";

const ENVIRONMENT: &str = "\
IMRUN_STORE            image store, as --store
IMRUN_ROOT             runtime state, as --root
IMRUN_SINK             sinks, separated by spaces, as --sink
IMRUN_DRIVER           auto, erofs or overlay, as --driver
IMRUN_ON_WRITE         of a bundle: report, kill or quiet, as --on-write of an image
IMRUN_CAP_ADD          of a bundle: capabilities that it may have, as --cap-add of an image
IMRUN_FINGERPRINT_KEY  key of the fingerprints of environment values in launch records
NO_COLOR               no colours in help";

const FILES: &str = "\
/var/lib/imrun  image store of root; $XDG_DATA_HOME/imrun of a user
/run/imrun      runtime state of root; $XDG_RUNTIME_DIR/imrun of a user";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().to_owned();
        Manual { directory }.execute().unwrap();
        let shown = Cli::command();
        let shown = shown
            .get_subcommands()
            .filter(|command| !command.is_hide_set());
        for command in shown {
            let page = dir.path().join(format!("imrun-{}.1", command.get_name()));
            assert!(page.exists(), "{page:?}");
        }
        assert!(dir.path().join("imrun.1").exists());
    }

    #[test]
    fn the_page_of_imrun_has_the_sections_of_a_command() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().to_owned();
        Manual { directory }.execute().unwrap();
        let page = std::fs::read_to_string(dir.path().join("imrun.1")).unwrap();
        for title in ["EXAMPLES", "EXIT STATUS", "ENVIRONMENT", "FILES"] {
            assert!(page.contains(&format!("\n.SH \"{title}\"\n")), "{title}");
        }
        let page = std::fs::read_to_string(dir.path().join("imrun-run.1")).unwrap();
        assert!(page.contains(".SH \"EXIT STATUS\"") && !page.contains("EXTRA"));
        assert!(
            page.contains("\n\\&  imrun run \\-\\-sink stdio: sha256:"),
            "{page}"
        );
    }

    #[test]
    fn a_page_is_not_written_through_a_symbolic_link() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("imrun.1")).unwrap();
        let directory = dir.path().to_owned();
        Manual { directory }.execute().unwrap();
        assert_eq!(std::fs::read_to_string(victim).unwrap(), "untouched");
        assert!(dir.path().join("imrun.1").metadata().unwrap().len() > 100);
    }

    #[test]
    fn pages_are_written_to_an_existing_directory_only() {
        let directory = PathBuf::from("/nowhere");
        let error = Manual { directory }.execute().unwrap_err();
        assert_eq!(error.exit, crate::base::error::EXIT_REFUSED);
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
