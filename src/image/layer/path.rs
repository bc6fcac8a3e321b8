//! Names in a tar: normalises them and recognises whiteouts.

use super::{NAME_LIMIT, PATH_LIMIT, refuse};
use crate::base::error::Result;

/// Meaning of a name in a layer (OCI image specification, layer.md, "Representing Changes").
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    Path(Box<[u8]>),
    Whiteout(Box<[u8]>),
    Opaque(Box<[u8]>),
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Returns the name without leading slash, `.` and empty components; `..` is resolved within the name.
pub(super) fn normalise(raw: &[u8]) -> Result<Box<[u8]>> {
    if raw.is_empty() {
        return Err(refuse("the name is empty"));
    }
    if raw.contains(&0) {
        return Err(refuse("the name contains a NUL"));
    }
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if path.is_empty() => return Err(refuse("the name leads out of the root")),
            b".." => path.truncate(split(&path).0.len()),
            _ if component.len() > NAME_LIMIT => {
                return Err(refuse(format_args!(
                    "a component is longer than {NAME_LIMIT} bytes"
                )));
            }
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    if path.len() > PATH_LIMIT {
        return Err(refuse(format_args!(
            "the path is longer than {PATH_LIMIT} bytes"
        )));
    }
    Ok(path.into_boxed_slice())
}

/// Splits a normalised path into its parent and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Normalises a name and recognises whiteouts.
pub(super) fn interpret(raw: &[u8]) -> Result<Name> {
    let path = normalise(raw)?;
    let (parent, last) = split(&path);
    if parent
        .split(|byte| *byte == b'/')
        .any(|component| component.starts_with(WHITEOUT))
    {
        return Err(refuse("a parent directory has the name of a whiteout"));
    }
    if last == OPAQUE {
        return Ok(Name::Opaque(parent.into()));
    }
    let Some(hidden) = last.strip_prefix(WHITEOUT) else {
        return Ok(Name::Path(path));
    };
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(refuse("the whiteout names nothing"));
    }
    Ok(Name::Whiteout(match parent {
        b"" => hidden.into(),
        _ => [parent, b"/", hidden].concat().into_boxed_slice(),
    }))
}
