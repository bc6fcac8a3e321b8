//! The value of the header `authorization`: fixed, or in a file that is read again.

use crate::error::{Error, Result};
use crate::files;
use std::path::{Path, PathBuf};

/// Bytes of a file with a header's value.
const MAX: u64 = 64 << 10;

/// The header's value, and the file that it comes from. Tokens in files are replaced while a container
/// runs.
#[derive(Default)]
pub struct Authorization {
    value: Option<String>,
    file: Option<PathBuf>,
    /// Fault of the file when it was read last; the earlier value is kept then.
    fault: Option<String>,
}

impl Authorization {
    /// A value that stays.
    pub fn fixed(value: Option<String>) -> Authorization {
        Authorization {
            value,
            ..Authorization::default()
        }
    }

    /// Reads the value from a file with one line of text.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub fn of_file(file: &Path) -> Result<Authorization> {
        Ok(Authorization {
            value: Some(read(file)?),
            file: Some(file.to_owned()),
            fault: None,
        })
    }

    /// The header's value.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// The reason why the file could not be read again, if there is one.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Reads the file again.
    pub fn renew(&mut self) {
        let Some(file) = &self.file else {
            return;
        };
        self.fault = match read(file) {
            Ok(value) => {
                self.value = Some(value);
                None
            }
            Err(error) => Some(error.to_string()),
        };
    }
}

fn read(file: &Path) -> Result<String> {
    let bytes = files::read_regular(file, MAX)?;
    let wrong = || {
        let why = "is not one line of text, such as: ApiKey KEY";
        Error::usage(format_args!("{file:?}"), why)
    };
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let text = text.trim_end_matches(['\r', '\n']);
    match !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        true => Ok(text.to_owned()),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_replaced_is_read_and_a_broken_file_keeps_the_earlier_one() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "Bearer old\n").unwrap();
        let mut authorization = Authorization::of_file(&file).unwrap();
        assert_eq!(authorization.value(), Some("Bearer old"));
        std::fs::write(&file, "Bearer new\n").unwrap();
        authorization.renew();
        assert_eq!(authorization.value(), Some("Bearer new"));
        std::fs::write(&file, "").unwrap();
        authorization.renew();
        assert_eq!(authorization.value(), Some("Bearer new"));
        assert!(authorization.fault().unwrap().contains("is not one line"));
        std::fs::write(&file, "Bearer third\n").unwrap();
        authorization.renew();
        assert_eq!(authorization.value(), Some("Bearer third"));
        assert_eq!(authorization.fault(), None);
    }
}
