//! Handmade tars for tests: a header can have bytes that no tar program writes.
#![allow(clippy::unwrap_used)]

use super::{Layer, Limits, scan};
use crate::base::error::Result;

/// A tar under construction.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Tar {
        Tar::default()
    }

    /// Adds a ustar entry; `adjust` may change its header before the checksum is computed.
    pub(crate) fn raw(
        mut self,
        kind: u8,
        name: impl AsRef<[u8]>,
        link: impl AsRef<[u8]>,
        data: &[u8],
        adjust: impl FnOnce(&mut [u8]),
    ) -> Tar {
        let mut header = [0; 512];
        put(&mut header, 0, name.as_ref());
        put(&mut header, 100, b"0000644\0");
        put(&mut header, 108, b"0001750\0");
        put(&mut header, 116, b"0000144\0");
        put(
            &mut header,
            124,
            format!("{:011o}\0", data.len()).as_bytes(),
        );
        put(&mut header, 136, b"00000000007\0");
        header[156] = kind;
        put(&mut header, 157, link.as_ref());
        put(&mut header, 257, b"ustar\x0000");
        adjust(&mut header);
        checksum(&mut header);
        self.0.extend(header);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, data: &[u8]) -> Tar {
        self.raw(b'0', name, "", data, |_| ())
    }

    pub(crate) fn directory(self, name: impl AsRef<[u8]>) -> Tar {
        self.raw(b'5', name, "", b"", |header| put(header, 100, b"0000711\0"))
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.raw(b'2', name, target, b"", |_| ())
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.raw(b'1', name, target, b"", |_| ())
    }

    pub(crate) fn device(self, name: impl AsRef<[u8]>) -> Tar {
        self.raw(b'4', name, "", b"", |_| ())
    }

    /// Adds a PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        self.raw(b'x', "pax", "", &pax(records), |_| ())
    }

    /// Adds a global PAX header.
    pub(crate) fn global(self, records: &[(&str, &[u8])]) -> Tar {
        self.raw(b'g', "global", "", &pax(records), |_| ())
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    pub(crate) fn scan(self) -> Result<Layer> {
        scan(&self.end()[..], &Limits::default())
    }

    /// Scans a tar that must be valid.
    pub(crate) fn layer(self) -> Layer {
        self.scan().unwrap()
    }
}

pub(crate) fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(crate) fn checksum(header: &mut [u8]) {
    put(header, 148, b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(header, 148, format!("{sum:06o}\0 ").as_bytes());
}

/// Returns records with their lengths.
pub(crate) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|n| *n == rest + n.to_string().len()).unwrap();
        out.extend(format!("{length} {key}=").as_bytes());
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}
