//! Hostile bytes.

use super::super::sample::{checksum, pax};
use super::*;
use proptest::prelude::*;

fn any_tar() -> impl Strategy<Value = Vec<u8>> {
    let name = "[a-c./]{0,6}|\\.wh\\.[a-c]";
    let entry = (
        prop::sample::select(b"01234567xgLKS\0".to_vec()),
        name,
        name,
        prop::collection::vec(any::<u8>(), 0..600),
    );
    let numbers = prop::collection::vec(
        (
            prop::sample::select(vec![
                "size",
                "uid",
                "mtime",
                "GNU.sparse.map",
                "GNU.sparse.size",
                "GNU.sparse.major",
                "GNU.sparse.minor",
                "GNU.sparse.realsize",
                "GNU.sparse.offset",
                "path",
                "SCHILY.xattr.user.x",
            ]),
            "[0-9,.-]{0,6}",
        ),
        0..4,
    );
    prop::collection::vec((entry, numbers), 0..6).prop_map(|entries| {
        let mut tar = Tar::new();
        for ((kind, name, link, data), records) in entries {
            let records: Vec<(&str, &[u8])> = records
                .iter()
                .map(|(key, value)| (*key, value.as_bytes()))
                .collect();
            let data = if matches!(kind, b'x' | b'g') {
                pax(&records)
            } else {
                data
            };
            tar = tar.raw(kind, name, link, &data, |_| ());
        }
        tar.end()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = scan(&bytes[..], &Limits::default());
    }

    #[test]
    fn mutated_tars_never_panic_and_yield_normal_paths(
        mut tar in any_tar(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        for (at, byte) in changes {
            let at = at.index(tar.len());
            tar[at] = byte;
            let block = at - at % 512;
            // Half of the changes get a correct checksum.
            if byte % 2 == 0 && block + 512 <= tar.len() {
                checksum(&mut tar[block..block + 512]);
            }
        }
        if let Ok(layer) = scan(&tar[..], &Limits::default()) {
            prop_assert_eq!(layer.size, tar.len() as u64);
            for entry in &layer.entries {
                prop_assert!(entry.path.len() <= PATH_LIMIT);
                prop_assert!(entry.path.is_empty() || entry.path.split(|b| *b == b'/').all(
                    |part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0)));
                if let Kind::File { size, offset } = entry.kind {
                    prop_assert!(offset % 512 == 0 && offset + size <= layer.size);
                }
            }
        }
    }
}
