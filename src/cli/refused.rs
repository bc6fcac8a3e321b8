//! Options and commands of docker and podman that imrun refuses, each with the reason and an alternative.

use crate::base::error::Error;

/// Spellings of an option, the reason why imrun does not have it, and what to do instead.
type Refusal = (&'static [&'static str], &'static str, &'static str);

const MOUNTS: &str = "nothing of the host is mounted into a container";
const BAKE: &str = "bake files into the image, configure by -e, keep state off-box";
const NAMESPACES: &str = "every container has namespaces of its own";
const LEAVE_OUT: &str = "leave it out";
const LIMITS: &str = "a container's limits are --memory, --cpus and --pids";
const NETWORKS: &str = "imrun makes no networks";
const NET: &str = "--net host, or --net ns:PATH for a network namespace that you made";
const HEALTH: &str = "imrun runs nothing beside the app";

/// Options of `docker run` and `podman run`.
const OPTIONS: [Refusal; 37] = [
    (&["-v", "--volume"], MOUNTS, BAKE),
    (&["--mount"], MOUNTS, BAKE),
    (&["--volumes-from"], MOUNTS, BAKE),
    (
        &["--tmpfs"],
        "a container has no writable file system, not even in memory",
        "have the app keep scratch data in memory, or send it elsewhere",
    ),
    (
        &["--shm-size"],
        "a container has no writable /dev/shm",
        "have the app share memory without names: memfd_create, mmap",
    ),
    (
        &["--device", "--gpus"],
        "no device of the host is given to a container",
        "run a program that needs a device on the host itself",
    ),
    (
        &["-p", "--publish"],
        "imrun forwards no ports",
        "--net host lets the app listen on the host itself",
    ),
    (
        &["-P", "--publish-all"],
        "imrun forwards no ports",
        "--net host lets the app listen on the host itself",
    ),
    (
        &["--rw", "--writable", "--overlay"],
        "every container is read-only, there is no other kind",
        LEAVE_OUT,
    ),
    (&["--expose"], "an exposed port changes nothing", LEAVE_OUT),
    (
        &["-d", "--detach"],
        "imrun is its container's supervisor and has no daemon to leave it to",
        "start it in the background: systemd-run imrun run …",
    ),
    (
        &["-t", "--tty"],
        "a container has no terminal",
        "-i gives it standard input without one",
    ),
    (
        &["-a", "--attach"],
        "a container has no terminal",
        "--sink stdio: shows its output here",
    ),
    (
        &["--privileged"],
        "a container has no capabilities",
        "leave it out: most programs need none",
    ),
    (
        &["--cap-drop"],
        "a container has no capabilities that it could lose",
        "leave it out; --cap-add gives single ones",
    ),
    (
        &["--security-opt"],
        "every container is confined in the same way",
        LEAVE_OUT,
    ),
    (
        &["--read-only"],
        "every container is read-only, there is no other kind",
        LEAVE_OUT,
    ),
    (
        &["--rm"],
        "nothing of a container is left behind in any case",
        LEAVE_OUT,
    ),
    (&["--pid"], NAMESPACES, LEAVE_OUT),
    (&["--ipc"], NAMESPACES, LEAVE_OUT),
    (&["--uts"], NAMESPACES, LEAVE_OUT),
    (&["--userns"], NAMESPACES, LEAVE_OUT),
    (&["--cgroupns"], NAMESPACES, LEAVE_OUT),
    (
        &["--restart"],
        "imrun ends with its container",
        "systemd starts it again: Restart=on-failure in the unit that runs imrun",
    ),
    (
        &["--log-driver", "--log-opt"],
        "a container's output goes to a sink",
        "--sink URL says where it is shipped (docs/sinks.md)",
    ),
    (
        &["--health-cmd", "--health-interval", "--no-healthcheck"],
        HEALTH,
        "let the service manager ask the app over the network",
    ),
    (
        &["--add-host"],
        "a container has the names of its image, or of the host under --net host",
        "bake /etc/hosts, or --dns ADDRESS",
    ),
    (&["--link"], NETWORKS, NET),
    (&["--ip", "--ip6", "--mac-address"], NETWORKS, NET),
    (&["--network-alias"], NETWORKS, NET),
    (
        &["--ulimit"],
        LIMITS,
        "set others where imrun is started: ulimit, or Limit… of a systemd unit",
    ),
    (
        &["--memory-swap", "--memory-reservation"],
        LIMITS,
        "--memory: there is no swap beyond it",
    ),
    (
        &["-c", "--cpu-shares", "--cpuset-cpus", "--cpu-quota"],
        LIMITS,
        "--cpus N",
    ),
    (&["--pids-limit"], LIMITS, "--pids N"),
    (
        &["--pull"],
        "a digest names one image for ever",
        "imrun pull NAME prints the digest to run",
    ),
    (
        &["--platform"],
        "a digest names the image of one platform",
        "imrun pull --platform P NAME prints its digest",
    ),
    (
        &["--cidfile", "--pidfile"],
        "imrun writes no files about a container",
        "--status-fd N: its first event has the id",
    ),
];

/// The refusal of an option of docker's, if `option` is one; it may have a value behind `=`.
pub fn option(option: &str) -> Option<Error> {
    let name = option.split('=').next()?;
    let (names, why, hint) = OPTIONS.iter().find(|(names, ..)| names.contains(&name))?;
    // `-v` is named as such where `--volume` was typed, too; others of a row are different options.
    let shown = if names[0].len() == 2 { names[0] } else { name };
    Some(Error::policy(shown, why).hint(hint))
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
        &["completions", "complete", "manual"],
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
        "rmi" => ("images are removed by their digest", "imrun rm DIGEST"),
        "top" => (
            "a container is looked at from outside",
            "imrun ps; ps(1) and top(1) of the host show its processes",
        ),
        "wait" | "rename" | "port" | "container" => (
            "a container lives and dies with its imrun",
            "imrun run, imrun ps, imrun stop",
        ),
        "image" | "system" => (
            "the store has its own commands",
            "imrun images, imrun rm, imrun gc",
        ),
        "volume" => (MOUNTS, BAKE),
        "network" => (NETWORKS, NET),
        "compose" | "swarm" | "service" | "stack" => (
            "imrun run launches one container",
            "a systemd unit for each: imrun run …",
        ),
        "search" => (
            "imrun pulls from registries and does not search them",
            "imrun pull NAME",
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
