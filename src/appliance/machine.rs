//! Setup of the machine by its first process: file systems, modules, settings, names.

use super::cmdline;
use crate::base::error::{Context, Error, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::{chdir, chroot};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// Directory of modules in the initramfs. Its file `order` lists them, a name per line, in the order of loading.
const MODULES: &str = "/modules";

/// File systems to mount: type, mount point, options.
const FILE_SYSTEMS: [(&str, &str, MsFlags); 4] = [
    ("proc", "/proc", NO_PRIVILEGES),
    ("sysfs", "/sys", NO_PRIVILEGES),
    (
        "devtmpfs",
        "/dev",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
    ),
    ("cgroup2", "/sys/fs/cgroup", NO_PRIVILEGES),
];

const NO_PRIVILEGES: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// Turns the initramfs into a root that can be left (pivot_root(2) refuses the kernel's own), and mounts the file
/// systems that imrun needs. No app sees them.
pub fn mount_all() -> Result<()> {
    const RAMFS: libc::c_long = 0x8584_58f6;
    let found = statfs("/").context(|| "statfs(\"/\")")?.filesystem_type();
    if found != TMPFS_MAGIC && found.0 != RAMFS {
        return Err(Error::unsupported("/", "is not an initramfs")
            .hint("imrun init is the init of an initramfs: docs/appliance.md"));
    }
    let none = None::<&str>;
    directory("/mnt")?;
    mount(Some("/"), "/mnt", none, MsFlags::MS_BIND, none).context(|| "mount(\"/\", MS_BIND)")?;
    chdir("/mnt").context(|| "chdir(\"/mnt\")")?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).context(|| "mount(\"/\", MS_MOVE)")?;
    chroot(".").context(|| "chroot(\".\")")?;
    for (kind, point, flags) in FILE_SYSTEMS {
        directory(point)?;
        mount(Some(kind), point, Some(kind), flags, none)
            .context(|| format!("mount({kind:?}, {point:?})"))?;
    }
    Ok(())
}

/// Makes a directory, unless it exists.
pub fn directory(path: &str) -> Result<()> {
    std::fs::create_dir_all(path).context(|| format!("mkdir({path:?})"))
}

/// Loads the modules of the initramfs, with their parameters from the command line.
pub fn load_modules(line: &[u8]) -> Result<()> {
    let order = Path::new(MODULES).join("order");
    let list = match std::fs::read_to_string(&order) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        list => list.context(|| format!("read({order:?})"))?,
    };
    for name in list.lines() {
        let path = Path::new(MODULES).join(name);
        let file = File::open(&path).context(|| format!("open({path:?})"))?;
        let parameters = cmdline::module_parameters(line, module_of(name));
        let parameters = CString::new(parameters)
            .map_err(|_| Error::usage("kernel command line", "has a NUL byte"))?;
        match finit_module(file.as_fd(), &parameters, ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            // A driver without its device is not needed.
            Err(Errno::ENODEV) => {}
            Err(errno) => return Err(errno).context(|| format!("finit_module({path:?})")),
        }
    }
    Ok(())
}

/// Returns a module's name without its number and suffix: `12-virtio_net.ko` is virtio_net.
fn module_of(name: &str) -> &str {
    let name = name.strip_suffix(".ko").unwrap_or(name);
    match name.split_once('-') {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => name,
    }
}

/// Writes the settings and files that a launch expects. The app may listen on any port: no other runs here.
pub fn write_settings() -> Result<()> {
    for (setting, value) in [
        ("/proc/sys/kernel/dmesg_restrict", "1"),
        ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ] {
        std::fs::write(setting, value).context(|| format!("write({setting:?})"))?;
    }
    directory("/etc")?;
    file("/etc/hosts", || Ok("127.0.0.1 localhost\n".into()))?;
    file("/etc/resolv.conf", || {
        // The answer of the server that the kernel asked for its address (ipconfig.c).
        Ok(std::fs::read_to_string("/proc/net/pnp").unwrap_or_default())
    })?;
    file("/etc/machine-id", machine_id)
}

/// Makes a file, unless it exists.
pub fn file(path: &str, text: impl FnOnce() -> Result<String>) -> Result<()> {
    if Path::new(path).exists() {
        return Ok(());
    }
    std::fs::write(path, text()?).context(|| format!("write({path:?})"))
}

/// Returns the machine id: the machine's UUID, which stays the same after a reboot, else the UUID of this boot.
fn machine_id() -> Result<String> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    let own = std::fs::read_to_string("/sys/class/dmi/id/product_uuid");
    if let Some(id) = own.ok().and_then(|text| uuid_digits(&text)) {
        return Ok(id);
    }
    let boot = std::fs::read_to_string(BOOT).context(|| format!("read({BOOT:?})"))?;
    uuid_digits(&boot).ok_or_else(|| Error::system(BOOT, "is not a UUID"))
}

/// Returns the 32 digits of a UUID; `None` for placeholders that many machines have.
fn uuid_digits(text: &str) -> Option<String> {
    let id: String = text.trim().chars().filter(|c| *c != '-').collect();
    let id = id.to_ascii_lowercase();
    let first = id.chars().next()?;
    let is_id = id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit());
    (is_id && !id.chars().all(|c| c == first)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholder_uuids_are_ignored() {
        let own = "4C4C4544-0042-3510-8053-C7C04F4A5931\n";
        assert_eq!(
            uuid_digits(own).unwrap(),
            "4c4c45440042351080 53c7c04f4a5931".replace(' ', "")
        );
        for text in [
            "",
            "Not Settable",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        ] {
            assert_eq!(uuid_digits(text), None, "{text}");
        }
    }

    #[test]
    fn a_module_is_named_without_its_number() {
        for (name, module) in [
            ("12-virtio_net.ko", "virtio_net"),
            ("i6300esb.ko", "i6300esb"),
            ("8021q.ko", "8021q"),
            ("crc32c-intel.ko", "crc32c-intel"),
        ] {
            assert_eq!(module_of(name), module);
        }
    }
}
