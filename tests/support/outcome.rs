//! What a command of imrun ended with.

use serde_json::Value;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;

/// Exit code, output and status events; each check fails with all of it.
pub struct Outcome {
    command: String,
    /// The exit code; 128+n when signal n ended imrun itself.
    pub code: i32,
    /// Standard output, as it came.
    pub bytes: Vec<u8>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// What was written to `--status-fd`.
    pub events: Vec<Value>,
}

impl Outcome {
    /// The outcome of `command`.
    pub fn new(command: String, output: Output, events: Vec<Value>) -> Outcome {
        let status = output.status;
        Outcome {
            command,
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap()),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
            events,
        }
    }

    /// The same, of a case of several that a failure names.
    pub fn of(mut self, case: &str) -> Outcome {
        self.command = format!("{case}: {}", self.command);
        self
    }

    /// The exit code is this one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Outcome {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Standard output is this text.
    #[track_caller]
    pub fn prints(self, text: &str) -> Outcome {
        assert_eq!(self.out, text, "{self:?}");
        self
    }

    /// Standard output has no error in it, and one line, which is returned.
    #[track_caller]
    pub fn line(self) -> String {
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        self.out.trim_end().to_owned()
    }

    /// Standard error is one line of imrun's that has the text, and perhaps a hint.
    #[track_caller]
    pub fn says(self, text: &str) -> Outcome {
        let errors: Vec<_> = self
            .err
            .lines()
            .filter(|line| !line.starts_with("hint: "))
            .collect();
        let [error] = errors[..] else {
            panic!("not one line: {self:?}")
        };
        assert!(
            error.starts_with("imrun: ") && error.contains(text),
            "{text:?} is not in {self:?}"
        );
        self
    }

    /// Standard error ends with a hint that has the text.
    #[track_caller]
    pub fn hints(self, text: &str) -> Outcome {
        let last = self.err.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("hint: ") && last.contains(text),
            "{text:?} is no hint of {self:?}"
        );
        self
    }

    /// Nothing ran: exit code 125, an error that has the text, and nothing on standard output.
    #[track_caller]
    pub fn refused(self, text: &str) -> Outcome {
        self.exits(125).prints("").says(text)
    }

    /// The last status event is a refusal for that reason.
    #[track_caller]
    pub fn because(self, reason: &str) -> Outcome {
        let last = self.events.last().unwrap_or(&Value::Null);
        assert_eq!(
            (&last["event"], &last["reason"]),
            (&"refused".into(), &reason.into()),
            "{self:?}"
        );
        self
    }

    /// The only status event of that name.
    #[track_caller]
    pub fn event(&self, name: &str) -> &Value {
        let events: Vec<_> = self
            .events
            .iter()
            .filter(|event| event["event"] == name)
            .collect();
        let [event] = events[..] else {
            panic!("not one {name:?}: {self:?}")
        };
        event
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome {
            command,
            code,
            out,
            err,
            events,
            ..
        } = self;
        writeln!(
            f,
            "{command}\nexit {code}\n--- standard output\n{out}--- standard error\n{err}--- events"
        )?;
        events.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}
