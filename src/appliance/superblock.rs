//! Detection of a block device's file system and label, for the file systems that can hold a store.
//!
//! Sources: Linux, fs/ext4/ext4.h, fs/erofs/erofs_fs.h, fs/squashfs/squashfs_fs.h.

use std::ffi::CStr;

/// Number of bytes to read from the start of a device.
pub const SIZE: usize = 2048;

/// A file system that can hold a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Type, as mount(2) takes it.
    pub kind: &'static CStr,
    /// Label; empty if there is none. squashfs never has one.
    pub label: String,
}

/// Parses the first bytes of a device; `None` if the file system is unknown.
pub fn read(bytes: &[u8]) -> Option<Superblock> {
    let has = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    let label = |offset: usize| {
        let field = bytes.get(offset..offset + 16).unwrap_or_default();
        let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    if has(1024, &0xe0f5_e1e2_u32.to_le_bytes()) {
        let (kind, label) = (c"erofs", label(1024 + 64));
        Some(Superblock { kind, label })
    } else if has(1024 + 56, &0xef53_u16.to_le_bytes()) {
        let (kind, label) = (c"ext4", label(1024 + 120));
        Some(Superblock { kind, label })
    } else if has(0, b"hsqs") {
        let (kind, label) = (c"squashfs", String::new());
        Some(Superblock { kind, label })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    /// Returns the image that `program` makes of 8 MiB and an empty directory.
    fn made(program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
        let scratch = tempfile::tempdir().unwrap();
        let (image, empty) = (scratch.path().join("image"), scratch.path().join("empty"));
        std::fs::create_dir(&empty).unwrap();
        let place = |argument: &&str| match *argument {
            "IMAGE" => image.clone().into_os_string(),
            "EMPTY" => empty.clone().into_os_string(),
            other => other.into(),
        };
        let made = Command::new(program)
            .args(arguments.iter().map(place))
            .output();
        match made {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            // The program is not on every build machine.
            Err(_) => return None,
        }
        Some(std::fs::read(image).unwrap())
    }

    #[test]
    fn images_of_the_file_systems_tools_are_recognised() {
        let sixteen = "sixteen-letters-";
        let ext4 = |label| ["-q", "-t", "ext4", "-L", label, "IMAGE", "8M"];
        for (program, arguments, kind, label) in [
            ("mke2fs", &ext4("store")[..], c"ext4", "store"),
            ("mke2fs", &ext4(sixteen), c"ext4", sixteen),
            ("mkfs.erofs", &["--quiet", "IMAGE", "EMPTY"], c"erofs", ""),
            ("mksquashfs", &["EMPTY", "IMAGE", "-quiet"], c"squashfs", ""),
        ] {
            let Some(mut bytes) = made(program, arguments) else {
                println!("skipped: {program} is not installed");
                continue;
            };
            let named = |label: &str| {
                let label = label.to_string();
                Some(Superblock { kind, label })
            };
            assert_eq!(read(&bytes[..SIZE]), named(label), "{program}");
            if kind == c"erofs" {
                // Older versions of mkfs.erofs set no label: erofs_fs.h, volume_name.
                bytes[1024 + 64..][..5].copy_from_slice(b"store");
                assert_eq!(read(&bytes[..SIZE]), named("store"));
            }
        }
    }

    #[test]
    fn short_input_is_no_file_system() {
        assert_eq!(read(b""), None);
        assert_eq!(read(&[0; SIZE]), None);
    }

    const MAGICS: [(usize, &[u8]); 3] = [
        (1024, b"\xe2\xe1\xf5\xe0"),
        (1080, b"\x53\xef"),
        (0, b"hsqs"),
    ];

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_as_a_superblock(bytes in proptest::collection::vec(any::<u8>(), 0..SIZE), kind in 0..3usize) {
            let mut bytes = bytes;
            let (offset, magic) = MAGICS[kind];
            if let Some(place) = bytes.get_mut(offset..offset + magic.len()) {
                place.copy_from_slice(magic);
                prop_assert!(read(&bytes).is_some());
            }
        }
    }
}
