//! `imrun completions`, `imrun manual`: what packages of imrun install beside it.

use super::{Cli, print};
use crate::error::{Context, Error, Result};
use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

/// What a build without `manual` has not.
#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Print a shell's completions
    #[command(hide = true)]
    Completions(Completions),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Manual(Manual),
}

impl Command {
    /// Runs it; the exit code.
    pub fn execute(self) -> Result<u8> {
        match self {
            Command::Completions(completions) => completions.execute(),
            Command::Manual(manual) => manual.execute(),
        }
    }
}

/// Print a shell's completions
#[derive(Args)]
pub struct Completions {
    /// The shell
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
    /// It must be there
    directory: PathBuf,
}

impl Manual {
    /// One page for imrun, one for each command.
    pub fn execute(self) -> Result<u8> {
        if !self.directory.is_dir() {
            return Err(Error::usage(
                format_args!("{:?}", self.directory),
                "is no directory",
            ));
        }
        clap_mangen::generate_to(Cli::command(), &self.directory)
            .context(|| format!("write({:?})", self.directory))?;
        Ok(0)
    }
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
    fn pages_go_into_a_directory_that_is_there() {
        let directory = PathBuf::from("/nowhere");
        let error = Manual { directory }.execute().unwrap_err();
        assert_eq!(error.exit, crate::error::EXIT_REFUSED);
    }

    #[test]
    fn the_description_of_the_command_line_has_no_contradictions() {
        Cli::command().debug_assert();
    }
}
