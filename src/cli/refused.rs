//! Options and commands of docker and podman that imrun refuses, each with the reason and an alternative.

use crate::base::error::Error;
use clap::Args;

/// Options of `docker run` that imrun recognises and refuses.
#[derive(Args, Default)]
pub struct Refused {
    #[arg(short = 'v', long, hide = true, value_name = "X")]
    volume: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    mount: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    tmpfs: Option<String>,
    #[arg(short = 'p', long, hide = true, value_name = "X")]
    publish: Option<String>,
    #[arg(short = 'd', long, hide = true)]
    detach: bool,
    #[arg(short = 't', long, hide = true)]
    tty: bool,
    #[arg(long, hide = true)]
    privileged: bool,
    #[arg(long, hide = true)]
    read_only: bool,
    #[arg(long, hide = true)]
    rm: bool,
}

impl Refused {
    /// Refuses the first option that is used.
    pub fn check(&self) -> Result<(), Error> {
        let used = [
            (
                self.volume.is_some(),
                "-v",
                "nothing of the host is mounted into a container",
                "bake files into the image, configure by -e, keep state off-box",
            ),
            (
                self.mount.is_some(),
                "--mount",
                "nothing of the host is mounted into a container",
                "bake files into the image, configure by -e, keep state off-box",
            ),
            (
                self.tmpfs.is_some(),
                "--tmpfs",
                "a container has no writable file system, not even in memory",
                "have the app keep scratch data in memory, or send it elsewhere",
            ),
            (
                self.publish.is_some(),
                "-p",
                "imrun forwards no ports",
                "--net host lets the app listen on the host itself",
            ),
            (
                self.detach,
                "-d",
                "imrun is the container's supervisor, and there is no daemon to supervise it",
                "start it in the background: systemd-run imrun run …",
            ),
            (
                self.tty,
                "-t",
                "a container has no terminal",
                "-i gives it standard input without one",
            ),
            (
                self.privileged,
                "--privileged",
                "a container has no capabilities",
                "omit it: most programs need no capabilities",
            ),
            (
                self.read_only,
                "--read-only",
                "every container is read-only",
                "omit it",
            ),
            (
                self.rm,
                "--rm",
                "nothing of a container is left behind",
                "omit it",
            ),
        ];
        match used.into_iter().find(|(used, ..)| *used) {
            Some((_, option, why, hint)) => Err(Error::policy(option, why).hint(hint)),
            None => Ok(()),
        }
    }
}

/// Optional features of a build: name, presence, commands.
const OPTIONAL: [(&str, bool, &[&str]); 4] = [
    (
        "import",
        cfg!(feature = "import"),
        &["import", "bake", "demo"],
    ),
    ("registry", cfg!(feature = "registry"), &["pull", "push"]),
    (
        "manual",
        cfg!(feature = "manual"),
        &["completions", "manual"],
    ),
    (
        "oci",
        cfg!(feature = "oci"),
        &[
            "create", "start", "state", "kill", "delete", "pause", "resume", "list", "features",
            "spec",
        ],
    ),
];

/// Returns the refusal of a command that this build lacks, or that is docker's; `None` for other names.
pub fn command(name: &str) -> Option<Error> {
    let mut absent = OPTIONAL.iter().filter(|(_, there, _)| !there);
    if let Some((feature, ..)) = absent.find(|(.., commands)| commands.contains(&name)) {
        let why = format_args!("this build of imrun is without the feature {feature:?}");
        return Some(Error::unsupported(format_args!("command {name:?}"), why));
    }
    let (why, hint) = match name {
        "exec" => (
            "a running container is never entered",
            "imrun run starts another one of the same image, with another command",
        ),
        "cp" => (
            "files are neither put into a container nor taken out of it",
            "imrun mount DIGEST DIR shows its root, read-only",
        ),
        "logs" => (
            "lines go to the sink and are not kept here",
            "ask the sink: every line has the container's id",
        ),
        "attach" => ("a container has no terminal", "ask the sink for its lines"),
        "build" => (
            "imrun bakes images from definitions",
            "imrun bake FILE; images of other builders: imrun import",
        ),
        "commit" => (
            "a container cannot change, so there is nothing to commit",
            "imrun bake FILE --name N",
        ),
        "restart" | "unpause" | "update" | "checkpoint" | "restore" | "events" => (
            "a container lives and dies with its imrun",
            "imrun run, imrun stop",
        ),
        "login" | "logout" => (
            "imrun keeps no credentials",
            "podman login or docker login: imrun reads what they write",
        ),
        "tag" => (
            "the history of a name is not edited by hand",
            "imrun import --name N, imrun bake --name N, imrun rollback N",
        ),
        "load" | "save" => ("images are imported", "imrun import docker-archive:FILE"),
        _ => return None,
    };
    Some(Error::policy(name, why).hint(hint))
}
