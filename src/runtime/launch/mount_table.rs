//! Check of a prepared container's mount table.

use super::mask;
use crate::base::error::{Error, Result};
use std::path::Path;

/// Compares `table`, in the form of /proc/PID/mountinfo (proc_pid_mountinfo(5)), with the expected mount
/// points. `masks` are ids of mounts that may also be present; they hide everything beneath them.
pub(super) fn check(table: &str, expected: &[&str], masks: &[u64]) -> Result<()> {
    let (mut found, mut hiding) = (Vec::new(), Vec::new());
    for line in table.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let [id, _, _, _, point, options, ..] = fields[..] else {
            let why = format_args!("malformed line {line:?}");
            return Err(Error::system("mountinfo", why));
        };
        if !options.split(',').any(|option| option == "ro") {
            let what = format_args!("mount {point:?}");
            return Err(Error::system(what, "is not read-only in the container"));
        }
        if id.parse().is_ok_and(|id| masks.contains(&id)) {
            hiding.push(point);
        } else if !mask::is_mask(point) {
            found.push(point);
        }
    }
    let is_hidden = |point: &str| {
        let beneath = |mask: &&str| Path::new(point).starts_with(mask);
        hiding.iter().any(beneath) && !expected.contains(&point)
    };
    found.retain(|point| !is_hidden(point));
    // A masked path that shows nothing by itself, such as /dev/null, masks itself.
    let own = |point: &&str| expected.contains(point) && !found.contains(point);
    found.extend(hiding.iter().copied().filter(own).collect::<Vec<_>>());
    found.sort_unstable();
    if found != expected {
        return Err(Error::system(
            "mount table",
            format_args!("has {found:?}, not {expected:?}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
30 20 0:30 / / ro,nosuid - erofs none ro
31 30 0:31 / /proc ro,nosuid,nodev,noexec - proc none rw
";

    #[test]
    fn a_mask_hides_what_is_beneath_it_and_no_other_mount_is_allowed() {
        let with = |lines: &str| format!("{TABLE}{lines}");
        let mask = "32 30 0:30 /null /a/b ro - erofs none ro\n";
        let beneath = "33 32 0:30 /null /a/b/c ro - erofs none ro\n";
        let both = with(&[mask, beneath].concat());
        check(&both, &["/", "/proc"], &[32]).unwrap();
        check(&both, &["/", "/proc"], &[33]).unwrap_err();
        check(&with(mask), &["/", "/proc"], &[]).unwrap_err();
        // A mask over one of the container's mounts, and a mask that is such a mount itself.
        let over = with("34 31 0:30 /empty /proc ro - erofs none ro\n");
        check(&over, &["/", "/proc"], &[34]).unwrap();
        check(&over, &["/", "/proc"], &[]).unwrap_err();
        check(TABLE, &["/", "/proc"], &[30]).unwrap();
    }

    #[test]
    fn a_mount_table_passes_only_if_it_is_the_expected_one_and_read_only() {
        check(TABLE, &["/", "/proc"], &[]).unwrap();
        let extra = check(TABLE, &["/"], &[]).unwrap_err();
        assert_eq!(extra.what, "mount table");
        let missing = check(TABLE, &["/", "/proc", "/sys"], &[]).unwrap_err();
        assert_eq!(missing.what, "mount table");
        let writable = TABLE.replace("/proc ro", "/proc rw");
        assert!(
            check(&writable, &["/", "/proc"], &[])
                .unwrap_err()
                .what
                .contains("/proc")
        );
        assert!(check("garbage", &[], &[]).is_err());
    }
}
