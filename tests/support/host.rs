//! A host of its own for each test: an empty store, its own runtime state, and imrun on them.
//!
//! A host that is dropped has looked for what its containers may have left behind.

use super::launch::{Launch, events};
use super::outcome::Outcome;
use super::server::PATIENCE;
use super::skip::missing;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// imrun, as it was built for this test.
pub const IMRUN: &str = env!("CARGO_BIN_EXE_imrun");
/// The one program of the test image, static: Debian's package busybox-static.
pub const BUSYBOX: &str = "/bin/busybox";
/// EROFS mounts no file of a tmpfs.
const DISK: &str = "/var/tmp";

/// The definition of the image that most tests launch.
const DEFINITION: &str = r#"
cmd = ["sh"]
[[file]]
source = "busybox"
path = "/"
"#;

/// A directory on a disk with a store and a runtime directory in it.
pub struct Host {
    directory: tempfile::TempDir,
    busybox: OnceCell<String>,
    launches: AtomicUsize,
}

/// The test's own host. Where none can be had, the test says why, and is over.
#[macro_export]
macro_rules! host {
    () => {
        match $crate::support::host::Host::new() {
            Ok(host) => host,
            Err(why) => return $crate::support::skip::skip(why),
        }
    };
}

impl Host {
    /// Makes a host without images, or says what is missing.
    pub fn new() -> Result<Host, &'static str> {
        match missing() {
            Some(why) => Err(why),
            None => Ok(Host {
                directory: tempfile::Builder::new()
                    .prefix("imrun-test-")
                    .tempdir_in(DISK)
                    .unwrap(),
                busybox: OnceCell::new(),
                launches: AtomicUsize::new(0),
            }),
        }
    }

    /// A path in the host's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file into the host's own directory.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// The path of a blob, or of a tree image, in the store.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.path("store/blobs").join(digest.replace(':', "/"))
    }

    /// Runs a command of imrun that launches nothing.
    pub fn imrun<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        self.imrun_reading(args, Stdio::null())
    }

    /// The same with a standard input.
    pub fn imrun_reading<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: impl Into<Stdio>,
    ) -> Outcome {
        let mut command = self.command(args);
        let output = command.stdin(input).output().unwrap();
        Outcome::new(format!("{command:?}"), output, Vec::new())
    }

    /// imrun on the store and the runtime directory of this host, to be started.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(IMRUN);
        let (store, root) = (self.path("store"), self.path("root"));
        command.arg("--store").arg(store).arg("--root").arg(root);
        command.args(args);
        command.env_remove("IMRUN_STORE").env_remove("IMRUN_SINK");
        command
    }

    /// Imports a source; the manifest's digest.
    pub fn import(&self, source: impl AsRef<OsStr>) -> String {
        self.imrun([OsStr::new("import"), source.as_ref()])
            .exits(0)
            .line()
    }

    /// The digests of all blobs.
    pub fn blobs(&self) -> BTreeSet<String> {
        let list = |name: &'static str| {
            std::fs::read_dir(self.path("store/blobs").join(name))
                .into_iter()
                .flatten()
        };
        let file = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let named =
            |name: &'static str| list(name).map(move |entry| format!("{name}:{}", file(entry)));
        named("sha256").chain(named("sha512")).collect()
    }

    /// Bakes a definition; the image's digest.
    pub fn bake(&self, definition: &str) -> String {
        let file = self.write("image.toml", definition);
        self.imrun([OsStr::new("bake"), file.as_os_str()])
            .exits(0)
            .line()
    }

    /// Bakes an image on the test image that differs in what the definition says.
    pub fn bake_busybox(&self, definition: &str) -> String {
        self.bake(&format!("base = {:?}\n{definition}", self.busybox()))
    }

    /// The digest of the test image: busybox, its names and a few files.
    pub fn busybox(&self) -> &str {
        self.busybox.get_or_init(|| {
            fill_busybox(&self.path("busybox"));
            self.bake(DEFINITION)
        })
    }

    /// Bakes the test image once more.
    pub fn bake_again(&self) {
        assert_eq!(self.bake(DEFINITION), self.busybox());
    }

    /// A launch of the test image.
    pub fn launch(&self) -> Launch<'_> {
        self.launch_of(self.busybox())
    }

    /// A launch of another image.
    pub fn launch_of(&self, image: &str) -> Launch<'_> {
        let number = self.launches.fetch_add(1, Ordering::Relaxed);
        let status = self.path(&format!("status-{number}"));
        Launch::new(self, image, status)
    }

    /// Sweeps until no entry of a container is left. What dies holds its entry's lock a moment longer than
    /// it can be seen.
    pub fn sweep(&self) {
        wait_until_empty(|| {
            self.imrun(["ps"]).exits(0);
            self.entries()
        });
    }

    /// What is in the runtime directory, but for the directories that stay.
    fn entries(&self) -> Vec<String> {
        let mut found = files_below(&self.path("root"));
        found.retain(|path| !path.ends_with("root/names") && !path.ends_with("root/ids"));
        found
    }

    /// The commands that name this host's directory.
    fn processes(&self) -> Vec<String> {
        let own = self.directory.path().to_str().unwrap();
        processes()
            .filter(|command| command.contains(own))
            .collect()
    }

    /// What containers of this host have left, if anything.
    fn leftovers(&self) -> Vec<String> {
        let own = self.directory.path().to_str().unwrap();
        let mut found = self.entries();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains(own))
                .map(String::from),
        );
        found.extend(loop_devices().filter(|file| file.contains(own)));
        found.extend(self.processes());
        found.extend(self.cgroups());
        found
    }

    /// The cgroups of the containers that were started here.
    fn cgroups(&self) -> Vec<String> {
        let parent = imrun::runtime::cgroup::hierarchy().unwrap().join("imrun");
        let launches = 0..self.launches.load(Ordering::Relaxed);
        let events = launches.flat_map(|number| events(&self.path(&format!("status-{number}"))));
        let ids = events.filter_map(|event| Some(parent.join(event["id"].as_str()?)));
        ids.filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect()
    }

    fn assert_nothing_left(&self) {
        wait_until_empty(|| self.leftovers());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed has been heard already, and may have left anything.
        if std::thread::panicking() {
            self.imrun(["ps"]);
        } else {
            self.assert_nothing_left();
        }
    }
}

fn fill_busybox(top: &Path) {
    let program = std::fs::read(BUSYBOX).unwrap_or_else(|error| {
        panic!("{BUSYBOX}: {error}: these tests need it, Debian's package is busybox-static")
    });
    std::fs::create_dir_all(top.join("bin")).unwrap();
    std::fs::create_dir_all(top.join("etc")).unwrap();
    std::fs::create_dir_all(top.join("home/app")).unwrap();
    let list = Command::new(BUSYBOX).arg("--list").output().unwrap();
    for name in String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", top.join("bin").join(name)).unwrap();
    }
    let write = |name: &str, mode: u32, bytes: &[u8]| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::write(top.join(name), bytes).unwrap();
        std::fs::set_permissions(top.join(name), permissions).unwrap();
    };
    write("bin/busybox", 0o755, &program);
    write("bin/orphan", 0o755, b"#!/no/such/interpreter\n");
    write("etc/notes", 0o644, b"not a program\n");
    write(
        "etc/passwd",
        0o644,
        b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
    );
    write(
        "etc/group",
        0o644,
        b"root:x:0:\napp:x:1001:\nlogs:x:2000:app\nhuge:x:4294967295:\n",
    );
}

fn wait_until_empty(list: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + PATIENCE / 6;
    while !list().is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:#?}", list());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn files_below(directory: &Path) -> Vec<String> {
    let Ok(list) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let below = |path: PathBuf| [vec![path.display().to_string()], files_below(&path)].concat();
    list.flat_map(|entry| below(entry.unwrap().path()))
        .collect()
}

fn loop_devices() -> impl Iterator<Item = String> {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten();
    let file = |device: PathBuf| std::fs::read_to_string(device.join("loop/backing_file")).ok();
    devices.filter_map(move |entry| file(entry.unwrap().path()))
}

fn processes() -> impl Iterator<Item = String> {
    let all = std::fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let command = |process: PathBuf| std::fs::read(process.join("cmdline")).ok();
    all.filter_map(command)
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
}
