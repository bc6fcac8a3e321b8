//! Value of the header `authorization`: fixed, or from a file that can be read again.

use crate::base::error::{Error, Result};
use crate::base::files;
use std::path::{Path, PathBuf};

/// Maximum bytes of a file with a header's value.
const MAX: u64 = 64 << 10;

/// Value of the header, and the file it comes from. Tokens in files are replaced while a container runs.
#[derive(Default)]
pub struct Authorization {
    value: Option<String>,
    file: Option<PathBuf>,
    /// Error of the last attempt to read the file; the earlier value remains in use.
    fault: Option<String>,
}

impl Authorization {
    /// Creates a value that does not change.
    pub fn fixed(value: Option<String>) -> Authorization {
        Authorization {
            value,
            ..Authorization::default()
        }
    }

    /// Reads the value from a file with one line of text.
    ///
    /// # Errors
    /// A file that cannot be read or contains anything else.
    pub fn of_file(file: &Path) -> Result<Authorization> {
        Ok(Authorization {
            value: Some(read(file)?),
            file: Some(file.to_owned()),
            fault: None,
        })
    }

    /// Returns the header's value.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// Returns the reason why the file could not be read again, if any.
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
    if !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        Ok(text.to_owned())
    } else {
        Err(wrong())
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
