//! `imrun doctor`.

use super::{Global, print};
use crate::base::error::{Error, Result};
use crate::runtime::doctor;
use clap::Args;

/// Show the features of this host, and why others are missing
#[derive(Args)]
pub struct Doctor {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Prints a line for each feature. A missing feature is not an error.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let checks = doctor::examine(&global.store())?;
        if self.json {
            let text = serde_json::to_string_pretty(&checks);
            return print(&format!(
                "{}\n",
                text.map_err(|e| Error::system("doctor", e))?
            ));
        }
        let line = |check: &doctor::Check| {
            let answer = if check.ok { "yes" } else { "no" };
            format!("{:16}  {answer:3}  {}\n", check.name, check.why)
        };
        print(&checks.iter().map(line).collect::<String>())
    }
}
