//! Files: bounded reads and atomic writes of files that the caller names, and imrun's own private files.
//!
//! Modes do not depend on the umask. A file of an unexpected type, such as a device, is refused.
#![forbid(unsafe_code)]

mod list;
mod private;
mod read;
mod remove;
mod write;

pub use list::{names, names_if_there};
pub use private::{close_to_others, create_directory, make_directory, open_private};
pub use read::{quietly, read, read_if_there, read_regular};
pub use remove::remove_tree;
pub use write::{append, create_new, replace};

/// Mode of imrun's own directories.
const DIRECTORY: u32 = 0o700;
/// Mode of imrun's own files.
pub const PRIVATE: u32 = 0o600;
/// Mode of files that imrun writes for its caller, which hold no secret.
pub const PUBLIC: u32 = 0o644;
