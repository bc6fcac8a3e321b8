//! `imrun check`: reports an image's side effects, for the pipeline that builds it.

use super::run::Run;
use super::{Global, print, values};
use crate::base::error::{Error, Result};
use crate::base::sys::process;
use crate::runtime::observe::{OnWrite, Report};
use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::time::Duration;

const EXAMPLES: &str = "Examples:
  imrun check sha256:…                        run it for 10 seconds
  imrun check --for 1m -e MODE=test app@sha256:… serve

Exit codes: 0 no attempt to write, 1 some, 125 the app was not started. The app's own output goes to
standard error, unless --sink is given.";

/// Launch an image for a while, and list its attempts to write
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Check {
    /// Stop the app after this time
    #[arg(long = "for", default_value = "10s", value_parser = values::duration, value_name = "TIME")]
    time: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: Run,
}

impl Check {
    /// Prints the report. Returns 1 if it contains side effects.
    pub fn execute(mut self, global: &Global, typed: &[OsString]) -> Result<u8> {
        if self.run.sink.is_empty() {
            self.run.sink.push("stdio:".into());
        }
        self.run.refuse_policy()?;
        let given = self.run.read_input(typed)?;
        self.run.close_inherited()?;
        // Standard output contains the report only.
        let result = process::redirect_stdout_to_stderr()
            .map_err(|errno| Error::system("dup2(2, 1)", errno.desc()))?;
        let time = self.time;
        let outcome = self.run.launch(global, given, |request| {
            request.on_write = OnWrite::Check;
            request.policy.run_for = Some(time);
        });
        process::restore_stdout(result).map_err(|errno| Error::system("dup2(1)", errno.desc()))?;
        let outcome = outcome?;
        print(&if self.json {
            format!("{:#}\n", as_json(&outcome.effects, outcome.code))
        } else {
            as_table(&outcome.effects)
        })?;
        Ok(u8::from(!outcome.effects.is_clean()))
    }
}

fn as_json(report: &Report, code: u8) -> Value {
    let effects = report.effects();
    let effects: Vec<_> = effects
        .map(|(effect, count)| effect.fields(count))
        .collect();
    json!({
        "exit": code,
        "attempts": report.attempts(),
        "unread": report.unread(),
        "sideEffects": effects,
        "advice": report.advice(),
    })
}

fn as_table(report: &Report) -> String {
    let mut text = String::new();
    if !report.is_clean() {
        text = format!("{:>7}  {:12}  {:8}  PATH\n", "COUNT", "CALL", "ERRNO");
    }
    for (effect, count) in report.effects() {
        let path = effect.display_path().unwrap_or("-").escape_debug();
        text += &format!(
            "{count:7}  {:12}  {:8}  {path}\n",
            effect.syscall, effect.errno
        );
    }
    for piece in report.advice() {
        text += &format!("hint: {piece}\n");
    }
    text
}
