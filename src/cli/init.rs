//! `imrun init`: the first process of an appliance (docs/appliance.md).

use super::{RunAlone, report, wrong_usage};
use crate::appliance::{self, Attempt};
use crate::base::error::{Error, Result};
use crate::runtime::container::Source;
use crate::runtime::status::Status;
use clap::Parser;
use std::ffi::OsString;
use std::path::Path;

/// Returns true if the kernel started this program as its init. The arguments are then unknown parameters of the
/// kernel command line, and are ignored.
pub fn is_requested(args: &[OsString]) -> bool {
    let named = args.first().map(Path::new).and_then(Path::file_name);
    std::process::id() == 1 && named.is_some_and(|name| name == "init")
}

/// Runs the appliance. Returns only if the kernel is to panic.
pub fn execute() -> Result<u8> {
    if std::process::id() != 1 {
        return Err(
            Error::usage("imrun init", "must be the first process of a machine")
                .hint("imrun run launches an image on a host"),
        );
    }
    Ok(appliance::run(&|attempt| {
        launch(attempt).unwrap_or_else(|error| {
            report(&error);
            error.exit
        })
    }))
}

fn launch(attempt: Attempt) -> Result<u8> {
    let number = attempt.status_number();
    let mut words = vec![format!("--status-fd={number}").into(), "--store".into()];
    words.push(attempt.store.into_os_string());
    words.extend(attempt.arguments);
    let alone = RunAlone::try_parse_from(words).map_err(|error| wrong_usage(&error));
    let RunAlone { run, global } = match alone {
        Ok(alone) => alone,
        Err(error) => {
            Status::to_descriptor(number)?.refused(&error)?;
            return Err(error);
        }
    };
    let instead_of = attempt.instead_of;
    let given = run.read_input(&[])?;
    let outcome = run.launch(&global, given, |request| {
        if let Source::Image(launch) = &mut request.source {
            launch.masked = appliance::MASKED.map(Into::into).to_vec();
            launch.instead_of = instead_of;
        }
    });
    outcome.map(|outcome| outcome.code)
}
