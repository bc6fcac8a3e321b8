//! `--status-fd`: events of a launch, one JSON object per line.
#![forbid(unsafe_code)]

use crate::base::error::{Context, Error, Result};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;

/// Receiver of status events; discards them without a descriptor.
#[derive(Default)]
pub struct Status {
    file: Option<File>,
}

impl Status {
    /// Sends events to the inherited descriptor `number`.
    pub fn to_descriptor(number: i32) -> Result<Status> {
        let file = crate::base::sys::process::inherited(number)
            .map_err(|errno| Error::usage(format_args!("--status-fd {number}"), errno.desc()))?;
        Ok(Status {
            file: Some(file.into()),
        })
    }

    /// Writes one event; `fields` is an object.
    pub fn event(&self, name: &str, mut fields: Value) -> Result<()> {
        let Some(mut file) = self.file.as_ref() else {
            return Ok(());
        };
        fields["event"] = json!(name);
        file.write_all(format!("{fields}\n").as_bytes())
            .context(|| "write(--status-fd)")
    }

    /// Reports that nothing of the image ran, with the reason.
    pub fn refused(&self, error: &Error) -> Result<()> {
        let fields = json!({
            "reason": error.reason.as_str(),
            "error": error.to_string(),
            "hint": error.hint,
            "code": error.exit,
        });
        self.event("refused", fields)
    }
}
