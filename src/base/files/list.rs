//! Names in directories.

use crate::base::error::{Context, Result};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Returns the names in a directory, sorted. Bytes that are not UTF-8 are replaced.
pub fn names(directory: &Path) -> Result<Vec<String>> {
    read_names(directory).context(|| format!("readdir({directory:?})"))
}

/// Returns the names in a directory as [`names`] does; none if the directory does not exist.
pub fn names_if_there(directory: &Path) -> Result<Vec<String>> {
    match read_names(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names.context(|| format!("readdir({directory:?})")),
    }
}

fn read_names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(directory)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_a_missing_directory_has_none_only_if_it_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "c", "a"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(names(dir.path()).unwrap(), ["a", "b", "c"]);
        assert_eq!(names_if_there(dir.path()).unwrap(), ["a", "b", "c"]);
        let missing = dir.path().join("missing");
        assert!(names_if_there(&missing).unwrap().is_empty());
        assert!(names(&missing).unwrap_err().what.contains("missing"));
        assert!(
            names_if_there(&dir.path().join("a")).is_err(),
            "a file has no names"
        );
    }
}
