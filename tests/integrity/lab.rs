//! A private store, runtime directory and /run/imrun, and imrun running on them.

use crate::skip;
use nix::unistd::geteuid;
use serde_json::Value;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const IMRUN: &str = env!("CARGO_BIN_EXE_imrun");
const BUSYBOX: &str = "/bin/busybox";
/// Wrappers that run a command in its own mount namespace, where /run/imrun is the lab's. For an ordinary
/// user, XDG_RUNTIME_DIR selects it; mounts are made in a user namespace, or by imrun if there is none.
const ALONE: [(&str, &str); 3] = [
    (
        "unshare -m --propagation private",
        r#"mount --bind "$0/run/imrun" /run/imrun && eval "$1" && shift && exec "$@""#,
    ),
    (
        "unshare -rm --propagation private",
        r#"eval "$1" && shift && exec "$@""#,
    ),
    ("env", r#"eval "$1" && shift && exec "$@""#),
];
/// A text that occurs once in the tar of the upper layer.
pub const DATA: &str = "what the upper layer says";

/// Digests and names of every lab's image.
pub struct Image {
    pub manifest: String,
    pub config: String,
    /// diff_id of the upper layer.
    pub layer: String,
    /// File name of the tree image.
    pub tree: String,
}

/// Store that labs copy.
struct Template {
    directory: tempfile::TempDir,
    image: Image,
}

/// A directory with a copy of the template store.
pub struct Lab {
    directory: tempfile::TempDir,
    template: Arc<Template>,
}

/// Result of a command.
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
    pub events: Vec<Value>,
}

/// Returns true, and skips the test, if images are unpacked: those have no level `sealed`.
pub fn without_sealed() -> bool {
    let unpacked = skip::is_unpacked();
    if unpacked {
        skip::skip("unpacked images have no level sealed");
    }
    unpacked
}

/// Returns true, and skips the test, if images are not unpacked.
pub fn without_unpacked() -> bool {
    let mounted = !skip::is_unpacked();
    if mounted {
        skip::skip("images are not unpacked: set IMRUN_DRIVER=overlay to unpack them");
    }
    mounted
}

/// Returns true if this host can launch containers; otherwise skips the test with the reason.
pub fn can_launch() -> bool {
    let busybox = || {
        fs::metadata(BUSYBOX)
            .is_err()
            .then_some("/bin/busybox is missing")
    };
    let why = skip::missing().or_else(busybox);
    why.inspect(|why| skip::skip(why)).is_none()
}

/// Returns the shared template, which the last lab removes.
fn template() -> Arc<Template> {
    static SHARED: Mutex<Weak<Template>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let template = Arc::new(Template::new());
        *shared = Arc::downgrade(&template);
        template
    })
}

impl Template {
    /// Creates a store with an image of two layers.
    fn new() -> Template {
        let directory = new_directory(Path::new("/var/tmp"));
        let path = |name: &str| directory.path().join(name);
        let imrun = |words: &[&str]| {
            let store = path("store");
            succeed(Command::new(IMRUN).arg("--store").arg(store).args(words))
        };
        let bake = |definition: &str| {
            fs::write(path("image.toml"), definition).unwrap();
            let printed = imrun(&["bake", path("image.toml").to_str().unwrap()]);
            printed.trim().to_owned()
        };
        fs::copy(BUSYBOX, path("busybox")).unwrap();
        fs::write(path("data"), DATA).unwrap();
        let lower = bake("[[file]]\nsource = \"busybox\"\npath = \"/bin/busybox\"");
        let upper =
            "entrypoint = [\"/bin/busybox\"]\n[[file]]\nsource = \"data\"\npath = \"/data\"";
        let manifest = bake(&format!("base = \"{lower}\"\n{upper}"));
        let shown: Value = serde_json::from_str(&imrun(&["inspect", &manifest])).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let tree = PathBuf::from(text(&shown["tree"]["path"]));
        let image = Image {
            config: text(&shown["config"]["digest"]),
            layer: text(&shown["layers"][1]["diffId"]),
            tree: text(&tree.file_name().unwrap().to_str().into()),
            manifest,
        };
        Template { directory, image }
    }
}

fn new_directory(place: &Path) -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("imrun-test-").tempdir_in(place).unwrap()
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Lab {
    /// Creates a lab on the disk.
    pub fn new() -> Lab {
        Lab::beneath(Path::new("/var/tmp"))
    }

    /// Creates a lab on the file system of `place`.
    pub fn beneath(place: &Path) -> Lab {
        let template = template();
        let directory = new_directory(place);
        if geteuid().is_root() {
            fs::create_dir_all("/run/imrun").unwrap();
        }
        fs::create_dir_all(directory.path().join("run/imrun")).unwrap();
        let store = [
            template.directory.path().join("store"),
            directory.path().join("store"),
        ];
        succeed(Command::new("cp").arg("-R").args(store));
        let lab = Lab {
            directory,
            template,
        };
        if skip::is_unpacked() {
            lab.launch("auto", &["true"]).holds("hashed", "none");
        }
        lab
    }

    pub fn image(&self) -> &Image {
        &self.template.image
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the directory of the unpacked image, which contains `root` and `empty`.
    pub fn unpacked(&self) -> PathBuf {
        let mut roots = fs::read_dir(self.path("store/roots")).unwrap();
        roots.next().unwrap().unwrap().path()
    }

    /// Returns the file of an object: a digest is a blob's, a path an unpacked file's, another name a
    /// tree image's.
    pub fn object(&self, name: &str) -> PathBuf {
        if let Some(path) = name.strip_prefix('/') {
            return self.unpacked().join("root").join(path);
        }
        match name.split_once(':') {
            Some((algorithm, hex)) => self.path("store/blobs").join(algorithm).join(hex),
            None => self.path("store/trees").join(name),
        }
    }

    /// Returns the lab's memo of its image.
    pub fn memo(&self) -> PathBuf {
        let mut memos = fs::read_dir(self.path("run/imrun/verified")).unwrap();
        let memo = memos.next().unwrap().unwrap().path();
        assert!(memos.next().is_none());
        memo
    }

    /// Launches the image's /bin/busybox with these arguments at a level.
    pub fn launch(&self, level: &str, words: &[&str]) -> Outcome {
        self.launch_after("true", level, words)
    }

    /// Launches after shell commands whose mounts only this launch sees.
    pub fn launch_after(&self, script: &str, level: &str, words: &[&str]) -> Outcome {
        let status = self.path("status");
        fs::write(&status, "").unwrap();
        let mut command = self.command(script, level, words);
        self.outcome(command.stdin(Stdio::null()).output().unwrap())
    }

    /// Returns the result of a launch that wrote to the lab's status file.
    pub fn outcome(&self, output: std::process::Output) -> Outcome {
        let events = fs::read_to_string(self.path("status")).unwrap();
        Outcome {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            events: events
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        }
    }

    /// Returns a launch without a command; `script` opens descriptor 3, which receives its events.
    pub fn telling(&self, script: &str, level: &str) -> Command {
        let options = [
            "run",
            "--status-fd",
            "3",
            "--sink",
            "stdio:",
            "--integrity",
            level,
        ];
        self.imrun(script, &options)
    }

    /// Returns a launch that is not started yet, with pipes as standard streams.
    pub fn command(&self, script: &str, level: &str, words: &[&str]) -> Command {
        let status = format!("{script} && exec 3>>'{}'", self.path("status").display());
        let mut command = self.telling(&status, level);
        command.args(["-i", &self.image().manifest]).args(words);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Returns any command of imrun.
    pub fn imrun<S: AsRef<OsStr>>(&self, script: &str, words: &[S]) -> Command {
        let (namespaces, alone) = match script.contains("mount") {
            _ if geteuid().is_root() => ALONE[0],
            true => ALONE[1],
            false => ALONE[2],
        };
        let mut namespaces = namespaces.split(' ');
        let mut command = Command::new(namespaces.next().unwrap());
        command.args(namespaces).args(["sh", "-c", alone]);
        command.arg(self.directory.path()).arg(script).arg(IMRUN);
        command.env("XDG_RUNTIME_DIR", self.path("run"));
        command
            .arg("--store")
            .arg(self.path("store"))
            .arg("--root")
            .arg(self.path("root"));
        command.args(words).env("IMRUN_FINGERPRINT_KEY", "key");
        command
    }

    /// Waits until every file of the store is old enough for a memo.
    pub fn settle(&self) {
        let young = |path: &Path| {
            let changed = fs::metadata(path).map(|status| status.ctime());
            let changed = UNIX_EPOCH + Duration::from_secs(changed.unwrap_or(0) as u64 + 1);
            let age = SystemTime::now().duration_since(changed);
            age.unwrap_or_default() <= Duration::from_millis(2100)
        };
        let image = self.image();
        let mut files = [&image.layer, &image.tree]
            .map(|name| self.object(name))
            .to_vec();
        // Renaming the directory is the last step of unpacking an image.
        files.push(self.path("store/roots"));
        while files.iter().any(|path| young(path)) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Launches until the image is known.
    pub fn make_known(&self) {
        self.settle();
        self.launch("auto", &["true"]).holds("hashed", "made");
        self.launch("auto", &["true"]).holds("known", "fits");
    }
}

impl Outcome {
    /// Checks that the container ran, and the level and the memo of the launch.
    #[track_caller]
    pub fn holds(self, level: &str, memo: &str) -> Outcome {
        assert_eq!(self.code, 0, "{self:?}");
        let verified = &self.events[0];
        assert_eq!(verified["integrity"], level, "{self:?}");
        let told = verified["memo"].as_str().unwrap();
        assert!(told.starts_with(memo), "{self:?}");
        self
    }

    /// Checks that nothing ran, and that the error has one line with this text.
    #[track_caller]
    pub fn refused(self, text: &str) -> Outcome {
        assert_eq!((self.code, self.out.as_str()), (125, ""), "{self:?}");
        let line = self.err.lines().next().unwrap_or_default();
        assert!(
            line.starts_with("imrun: ") && line.contains(text),
            "no {text:?}: {self:?}"
        );
        let last = self.events.last().unwrap();
        assert_eq!(last["event"], "refused", "{self:?}");
        self
    }

    /// Checks the reason of the refusal.
    #[track_caller]
    pub fn because(self, reason: &str) {
        assert_eq!(self.events.last().unwrap()["reason"], reason, "{self:?}");
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome {
            code,
            out,
            err,
            events,
        } = self;
        write!(f, "exit {code}\n{out}{err}{events:?}")
    }
}
