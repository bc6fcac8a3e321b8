//! `imrun demo`: a tour on this machine, from a definition to a refused launch.
#![forbid(unsafe_code)]

pub mod receiver;

use crate::base::error::{Context, EXIT_REFUSED, Error, Result};
use crate::store::Store;
use receiver::{BulkReceiver, Document};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

const IMAGE: &str = include_str!("../../images/hello/image.toml");
const HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));
/// Time limit for a document to arrive over loopback.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the demonstration.
pub fn run() -> Result<u8> {
    let workspace = Workspace::new()?;
    let shown = show(&workspace);
    // The first error is the one to report.
    let removed = workspace.remove();
    shown.and(removed).map(|()| 0)
}

fn show(workspace: &Workspace) -> Result<()> {
    say("1. Bake an image from a definition: the result is the same on every machine.")?;
    let image = workspace.path.join("image.toml");
    let digest = workspace
        .imrun(&["bake", path(&image)?, "--name", "hello"])?
        .expect_success()?;
    let digest = digest.trim();

    say("2. Launch it by its digest: output and records go to a sink over the network.")?;
    let (address, documents) = BulkReceiver::start()?;
    let sink = format!("es+http://{address}");
    let run = ["run", "--sink", &sink, "-e", "GREETING=dear reader", digest];
    workspace.imrun(&run)?.expect_success()?;
    let documents = received(&documents)?;
    documents
        .iter()
        .try_for_each(|document| put(&format!("     {}", summary(&document.source))))?;

    say("3. Every write was refused: there is no writable layer, not even in memory.")?;
    let lines = documents
        .iter()
        .map(|document| field(&document.source, "message"));
    let (refused, allowed): (Vec<_>, Vec<_>) = lines
        .filter(|line| line.starts_with("write "))
        .partition(|line| !line.ends_with("allowed"));
    if refused.is_empty() || !allowed.is_empty() {
        return Err(Error::digest(
            "demo",
            format_args!("the app could write: {allowed:?}"),
        ));
    }
    let attempts = refused.len() + allowed.len();
    put(&format!(
        "   {attempts} attempts, {} refused",
        refused.len()
    ))?;

    say("4. Change one byte of the program in the store, as its owner can.")?;
    workspace.change_one_byte()?;
    workspace.imrun(&run)?.expect_refusal()?;
    say("The launch was refused, and nothing ran. docs/cli.md has the tour.")?;
    Ok(())
}

fn say(line: &str) -> Result<()> {
    put(&format!("\n{line}"))
}

/// Prints a line. Whoever reads them may be gone: an error like any other.
fn put(line: &str) -> Result<()> {
    crate::cli::print(&format!("{line}\n")).map(|_| ())
}

/// Quotes arguments as for a shell.
fn shell_words(arguments: &[&str]) -> String {
    let quoted = arguments.iter().map(|word| {
        if word.contains(' ') {
            format!("'{word}'")
        } else {
            (*word).to_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn path(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::usage(path.display(), "is not UTF-8"))
}

/// Receives all documents of one launch; the last is its exit record.
fn received(documents: &mpsc::Receiver<Document>) -> Result<Vec<Document>> {
    let mut all = Vec::new();
    loop {
        let document = documents
            .recv_timeout(TIMEOUT)
            .map_err(|_| Error::sink("demo", "the exit record did not arrive"))?;
        let last = field(&document.source, "event.dataset") == "imrun.exit";
        all.push(document);
        if last {
            return Ok(all);
        }
    }
}

fn field<'a>(document: &'a Value, name: &str) -> &'a str {
    document
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn summary(document: &Value) -> String {
    const WIDTH: usize = 120;
    let (message, stream) = (field(document, "message"), field(document, "log.iostream"));
    let mut line = format!("{}  {stream:6}  {message}", field(document, "@timestamp"));
    for detail in ["imrun.record", "imrun.lines"] {
        line.extend(document.get(detail).map(|value| format!(" {value}")));
    }
    line.chars().take(WIDTH).collect()
}

/// Temporary directory with a store and runtime state.
struct Workspace {
    path: PathBuf,
}

impl Workspace {
    /// Makes the directory on a disk, from which the kernel mounts images without loop devices.
    fn new() -> Result<Workspace> {
        let path = PathBuf::from(format!("/var/tmp/imrun-demo-{}", std::process::id()));
        fs::create_dir(&path).context(|| format!("mkdir({path:?})"))?;
        let workspace = Workspace { path };
        for (name, bytes) in [("image.toml", IMAGE.as_bytes()), ("hello", HELLO)] {
            let file = workspace.path.join(name);
            fs::write(&file, bytes).context(|| format!("write({file:?})"))?;
        }
        Ok(workspace)
    }

    fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).context(|| format!("rmdir({:?})", self.path))
    }

    /// Runs this program, and shows its command line and its output.
    fn imrun(&self, arguments: &[&str]) -> Result<Outcome> {
        put(&format!("   $ imrun {}", shell_words(arguments)))?;
        let program = std::env::current_exe().context(|| "readlink(\"/proc/self/exe\")")?;
        let mut command = Command::new(program);
        command.args(["--store", path(&self.path.join("store"))?]);
        command.args(["--root", path(&self.path.join("run"))?]);
        let output = command
            .args(arguments)
            .output()
            .context(|| "execve(imrun)")?;
        for text in [&output.stdout, &output.stderr] {
            String::from_utf8_lossy(text)
                .lines()
                .try_for_each(|line| put(&format!("   {line}")))?;
        }
        Ok(Outcome {
            output,
            command: arguments[0].to_owned(),
        })
    }

    /// Changes a byte of the only layer in the store.
    fn change_one_byte(&self) -> Result<()> {
        let store = Store::new(self.path.join("store"));
        let image = store
            .images()?
            .first()
            .map(|digest| crate::store::image::Image::load(&store, digest));
        let image =
            image.unwrap_or_else(|| Err(Error::system("demo", "the store has no image")))?;
        let layer = store.blob_path(&image.config.diff_ids[0]);
        const PROGRAM_OFFSET: usize = 4096;
        let mut bytes = fs::read(&layer).context(|| format!("read({layer:?})"))?;
        bytes[PROGRAM_OFFSET] ^= 1;
        // Where the store has fs-verity, nobody can write to the file itself.
        fs::remove_file(&layer).context(|| format!("unlink({layer:?})"))?;
        fs::write(&layer, bytes).context(|| format!("write({layer:?})"))
    }
}

/// Result of a command of the demonstration.
struct Outcome {
    command: String,
    output: Output,
}

impl Outcome {
    /// Returns the standard output of a successful command.
    fn expect_success(self) -> Result<String> {
        if self.output.status.success() {
            Ok(String::from_utf8_lossy(&self.output.stdout).into_owned())
        } else {
            Err(Error::system(
                format_args!("imrun {}", self.command),
                self.output.status,
            ))
        }
    }

    fn expect_refusal(self) -> Result<()> {
        if self.output.status.code() == Some(i32::from(EXIT_REFUSED)) {
            Ok(())
        } else {
            Err(Error::digest(
                format_args!("imrun {}", self.command),
                "a changed image was launched",
            ))
        }
    }
}
