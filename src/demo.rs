//! `imrun demo`: the whole way on this machine, from a definition to a refused launch.
#![forbid(unsafe_code)]

pub mod receiver;

use crate::error::{Context, EXIT_REFUSED, Error, Result};
use crate::store::Store;
use receiver::{BulkReceiver, Document};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

const IMAGE: &str = include_str!("../images/hello/image.toml");
const HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));
/// How long a document may take from one end of loopback to the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows the whole way on this machine.
pub fn run() -> Result<u8> {
    let stage = Stage::new()?;
    let shown = show(&stage);
    // The first error is the one to tell.
    let removed = stage.remove();
    shown.and(removed).map(|()| 0)
}

fn show(stage: &Stage) -> Result<()> {
    say("1. An image is made from a definition: the same bytes on every machine.")?;
    let image = stage.path.join("image.toml");
    let digest = stage
        .imrun(&["bake", path(&image)?, "--name", "hello"])?
        .expect_success()?;
    let digest = digest.trim();

    say("2. It is launched by its digest; lines and records go to a sink over the network.")?;
    let (address, documents) = BulkReceiver::start()?;
    let sink = format!("es+http://{address}");
    let run = ["run", "--sink", &sink, "-e", "GREETING=dear reader", digest];
    stage.imrun(&run)?.expect_success()?;
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

    say("4. One byte of the program is changed in the store, as its owner can.")?;
    stage.change_one_byte()?;
    stage.imrun(&run)?.expect_refusal()?;
    say("Nothing of it ran. That was imrun; README.md has the tour.")?;
    Ok(())
}

fn say(line: &str) -> Result<()> {
    put(&format!("\n{line}"))
}

/// Prints a line. Whoever reads them may be gone: an error like any other.
fn put(line: &str) -> Result<()> {
    crate::cli::print(&format!("{line}\n")).map(|_| ())
}

/// As it would be typed.
fn shell_words(arguments: &[&str]) -> String {
    let quoted = arguments.iter().map(|word| match word.contains(' ') {
        true => format!("'{word}'"),
        false => (*word).to_owned(),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn path(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::usage(path.display(), "is not UTF-8"))
}

/// All documents of one launch: the last is its exit record.
fn received(documents: &mpsc::Receiver<Document>) -> Result<Vec<Document>> {
    let mut all = Vec::new();
    loop {
        let document = documents
            .recv_timeout(PATIENCE)
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

/// A directory of its own, with a store and a runtime state.
struct Stage {
    path: PathBuf,
}

impl Stage {
    /// On a disk: the kernel reads an image's files from there without loop devices.
    fn new() -> Result<Stage> {
        let path = PathBuf::from(format!("/var/tmp/imrun-demo-{}", std::process::id()));
        fs::create_dir(&path).context(|| format!("mkdir({path:?})"))?;
        let stage = Stage { path };
        for (name, bytes) in [("image.toml", IMAGE.as_bytes()), ("hello", HELLO)] {
            let file = stage.path.join(name);
            fs::write(&file, bytes).context(|| format!("write({file:?})"))?;
        }
        Ok(stage)
    }

    fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).context(|| format!("rmdir({:?})", self.path))
    }

    /// Runs this very program, and shows its command line and its output.
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

    /// Changes a byte of the one layer, behind the back of everybody.
    fn change_one_byte(&self) -> Result<()> {
        let store = Store::new(self.path.join("store"));
        let image = store
            .images()?
            .first()
            .map(|digest| crate::store::image::Image::load(&store, digest));
        let image =
            image.unwrap_or_else(|| Err(Error::system("demo", "the store has no image")))?;
        let layer = store.blob_path(&image.config.diff_ids[0]);
        fs::set_permissions(&layer, fs::Permissions::from_mode(0o644))
            .context(|| format!("chmod({layer:?})"))?;
        let file = fs::OpenOptions::new().write(true).read(true).open(&layer);
        let file = file.context(|| format!("open({layer:?})"))?;
        let mut byte = [0];
        const INSIDE_THE_PROGRAM: u64 = 4096;
        file.read_exact_at(&mut byte, INSIDE_THE_PROGRAM)
            .and_then(|()| file.write_all_at(&[byte[0] ^ 1], INSIDE_THE_PROGRAM))
            .context(|| format!("write({layer:?})"))
    }
}

/// How a command of the demonstration ended.
struct Outcome {
    command: String,
    output: Output,
}

impl Outcome {
    /// Its standard output.
    fn expect_success(self) -> Result<String> {
        match self.output.status.success() {
            true => Ok(String::from_utf8_lossy(&self.output.stdout).into_owned()),
            false => Err(Error::system(
                format_args!("imrun {}", self.command),
                self.output.status,
            )),
        }
    }

    fn expect_refusal(self) -> Result<()> {
        match self.output.status.code() == Some(i32::from(EXIT_REFUSED)) {
            true => Ok(()),
            false => Err(Error::digest(
                format_args!("imrun {}", self.command),
                "a changed image was launched",
            )),
        }
    }
}
