//! `imrun check`: an image's side effects, for the pipeline that makes it.

use super::run::Run;
use super::{Global, print, values};
use crate::container::Outcome;
use crate::error::{Error, Result};
use crate::observe::{OnWrite, Report};
use crate::supervise::signals;
use crate::sys::process;
use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::time::Duration;

const EXAMPLES: &str = "Examples:
  imrun check sha256:…                        run it for 10 seconds
  imrun check --for 1m -e MODE=test app@sha256:… serve

Exit codes: 0 it tried to change nothing; 1 it tried to, or ended by itself and not with 0; 125 it was not started. The app's own output goes to
standard error, unless --sink names another place.";

/// Launch an image for a while, and list what it tried to change
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Check {
    /// How long it runs before it is stopped
    #[arg(long = "for", default_value = "10s", value_parser = values::duration, value_name = "TIME")]
    time: Duration,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: Run,
}

impl Check {
    /// Prints the report; 1 when there is something in it, or the app failed before it was stopped.
    pub fn execute(mut self, global: &Global, typed: &[OsString]) -> Result<u8> {
        if self.run.sink.is_empty() {
            self.run.sink.push("stdio:".into());
        }
        let given = self.run.read_given(typed)?;
        self.run.close_inherited()?;
        // Standard output carries the result alone.
        let result = process::exchange_stdout()
            .map_err(|errno| Error::system("dup2(2, 1)", errno.desc()))?;
        let time = self.time;
        let outcome = self.run.launch(global, given, |request| {
            request.on_write = OnWrite::Check;
            request.policy.run_for = Some(time);
        });
        process::restore_stdout(result).map_err(|errno| Error::system("dup2(1)", errno.desc()))?;
        let outcome = outcome?;
        print(&match self.json {
            true => format!("{:#}\n", as_json(&outcome)),
            false => as_table(&outcome.effects) + &ending(&outcome).unwrap_or_default(),
        })?;
        let failed = outcome.by_itself.is_some() && outcome.code != 0;
        Ok(u8::from(failed || !outcome.effects.is_clean()))
    }
}

/// The line about an app that ended before it was stopped.
fn ending(outcome: &Outcome) -> Option<String> {
    let seconds = outcome.by_itself?.as_secs_f64();
    let how = match outcome.signal {
        Some(signal) => format!("by {}", signals::name(signal)),
        None => format!("with {}", outcome.code),
    };
    let mut text = format!("ended {how} after {seconds:.1} s\n");
    if outcome.code == 0 {
        text += "hint: a server must stay in the foreground: what it leaves behind is killed with process 1\n";
    }
    Some(text)
}

fn as_json(outcome: &Outcome) -> Value {
    let report = &outcome.effects;
    let effects = report.effects();
    let effects: Vec<_> = effects
        .map(|(effect, count)| effect.fields(count))
        .collect();
    json!({
        "exit": outcome.code,
        "endedAfter": outcome.by_itself.map(|time| time.as_secs_f64()),
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
        let path = effect.shown().unwrap_or("-").escape_debug();
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
