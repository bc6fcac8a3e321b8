//! `imrun completions`, `imrun manual`: files for packages of imrun.

use super::{Cli, print};
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// Commands of the feature `manual`.
#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Print completions for a shell
    #[command(hide = true)]
    Completions(Completions),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Manual(Manual),
}

impl Command {
    /// Runs the command. Returns its exit code.
    pub fn execute(self) -> Result<u8> {
        match self {
            Command::Completions(completions) => completions.execute(),
            Command::Manual(manual) => manual.execute(),
        }
    }
}

/// Print completions for a shell
#[derive(Args)]
pub struct Completions {
    /// Shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn execute(self) -> Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "imrun", &mut script);
        print(&String::from_utf8_lossy(&script))
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
            return Err(Error::usage(
                format_args!("{:?}", self.directory),
                "is not a directory",
            ));
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
    let page = clap_mangen::Man::new(command);
    let file = directory.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text)
        .context(|| format!("write({file:?})"))?;
    files::replace(&file, &text, files::PUBLIC)
}

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
