//! Plan of a launch, derived from the image's config and the request.

use super::subject::{Loaded, MountedRoot, RootFiles};
use super::{Bundle, EnvFile, ImageLaunch, Request, Source};
use crate::base::error::{Context, Error, Result};
use crate::base::sys::open::openat2;
use crate::base::sys::process::Pointers;
use crate::logs::SinkUrl;
use crate::runtime::env::{self, Contract, Environment};
use crate::runtime::id_map::Ids;
use crate::runtime::launch::{Attachment, Settings, Spec, reaper};
use crate::runtime::observe::OnWrite;
use crate::runtime::record::Record;
use crate::runtime::rootless;
use crate::runtime::supervise::Policy;
use crate::runtime::user::User;
use crate::store::image::Image;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use serde_json::{Value, json};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Default of PATH, as in Docker, containerd and Podman.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A complete, checked launch.
pub(super) struct Plan {
    /// Settings of the app's process.
    pub spec: Spec,
    /// Supervision policy.
    pub policy: Policy,
    environment: Environment,
}

/// The parts of a plan that an image's config and a bundle say in different ways.
struct Parts {
    args: Vec<CString>,
    environment: Environment,
    workdir: CString,
    hostname: CString,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    masked: Vec<CString>,
    settings: Settings,
    policy: Policy,
}

impl Plan {
    /// Checks the request against the image or directory. `root` is its top directory; users are looked
    /// up there.
    pub fn new(request: &Request, loaded: &Loaded, root: BorrowedFd<'_>) -> Result<Plan> {
        let parts = match (&request.source, loaded) {
            (Source::Bundle { bundle, .. }, _) => {
                Parts::of_bundle(request, bundle, loaded.image(), root)?
            }
            (Source::Image(launch), Loaded::Image(image)) => {
                Parts::of_image(request, launch, image, root)?
            }
            (Source::Image(_), Loaded::Directory(path)) => {
                let why = "a directory names no program to run";
                return Err(Error::usage(format_args!("{path:?}"), why));
            }
        };
        let (args, environment) = (parts.args, parts.environment);
        environment.check_size(&args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>())?;
        let from_bundle = request.bundle().is_some();
        let candidates = candidates(&args[0], &environment)?;
        let init = request
            .has_init()
            .then(|| reaper::arguments(&candidates, &args));
        let spec = Spec {
            init: init.transpose()?.map(Pointers::new),
            candidates,
            args: Pointers::new(args),
            env: Pointers::new(environment.to_strings()),
            workdir: parts.workdir,
            hostname: parts.hostname,
            uid: parts.uid,
            gid: parts.gid,
            groups: parts.groups,
            capabilities: request.capabilities,
            observed: request.on_write != OnWrite::Quiet,
            relayed: from_bundle && request.sinks.iter().all(SinkUrl::is_bare),
            masked: parts.masked,
            settings: parts.settings,
            from_bundle,
        };
        Ok(Plan {
            spec,
            policy: parts.policy,
            environment,
        })
    }

    /// Returns the program and its arguments, for display.
    pub fn args(&self) -> Vec<String> {
        let args = self.spec.args.strings().iter();
        args.map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    /// Returns the launch record.
    pub fn record(
        &self,
        request: &Request,
        loaded: &Loaded,
        root_files: &RootFiles,
        root: &MountedRoot,
        ids: &Ids,
        network: &Attachment,
    ) -> Result<Record> {
        let spec = &self.spec;
        let key = fingerprint_key()?;
        let print = |(name, value): (&OsStr, &OsStr)| {
            let print = env::fingerprint(&key, name.as_bytes(), value.as_bytes());
            (name.to_string_lossy().into_owned(), print)
        };
        let policy = &self.policy;
        Ok(Record {
            image: loaded.record(root_files),
            integrity: root_files.level(),
            driver: root.record(ids),
            args: self.args(),
            user: json!({ "uid": spec.uid, "gid": spec.gid, "groups": spec.groups }),
            workdir: spec.workdir.to_string_lossy().into_owned(),
            hostname: spec.hostname.to_string_lossy().into_owned(),
            env: self.environment.iter().map(print).collect(),
            network: network.record(),
            bundle: request.bundle().map(|bundle| bundle_record(bundle, spec)),
            init: spec.init.is_some().then(reaper::record),
            limits: request.limits.record(),
            policy: json!({
                "capabilities": spec.capabilities.names(),
                "noNewPrivileges": true,
                "onWrite": request.on_write.as_str(),
                "onStall": format!("{:?}", policy.on_stall).to_lowercase(),
                "stallDeadlineMs": policy.stall_deadline.as_millis() as u64,
                "stopSignal": policy.stop_signal,
                "stopTimeoutMs": policy.stop_timeout.as_millis() as u64,
                "logBuffer": request.log_buffer,
            }),
            sinks: request.sinks.iter().map(sink).collect(),
        })
    }
}

impl Parts {
    /// Makes the parts from a bundle. A label of the image still declares required variables.
    fn of_bundle(
        request: &Request,
        bundle: &Bundle,
        image: Option<&Image>,
        root: BorrowedFd<'_>,
    ) -> Result<Parts> {
        let process = &bundle.process;
        let mut environment = process.env.clone();
        if environment.get("HOME").is_none() {
            let passwd = read_in_root(root, "etc/passwd")?;
            let user = User::resolve(&process.uid.to_string(), passwd.as_deref(), None);
            let home = user.ok().and_then(|user| user.home);
            let home = home.unwrap_or_else(|| b"/".to_vec());
            default(&mut environment, "HOME", OsStr::from_bytes(&home))?;
        }
        if let Some(image) = image {
            check_contract(image, &environment)?;
        }
        Ok(Parts {
            args: process.args.clone(),
            environment,
            workdir: absolute("process.cwd", &process.cwd)?,
            hostname: hostname(
                "hostname",
                bundle.hostname.as_deref().unwrap_or("localhost"),
            )?,
            uid: process.uid,
            gid: process.gid,
            groups: process.groups.clone(),
            masked: bundle.masked.clone(),
            settings: settings(bundle),
            policy: request.policy,
        })
    }

    fn of_image(
        request: &Request,
        launch: &ImageLaunch,
        image: &Image,
        root: BorrowedFd<'_>,
    ) -> Result<Parts> {
        let config = &image.config;
        let user = resolve_user(launch, image, root)?;
        let mut environment = Environment::new();
        environment.add_image(&config.env)?;
        default(&mut environment, "PATH", OsStr::new(PATH))?;
        if let Some(home) = &user.home {
            default(&mut environment, "HOME", OsStr::from_bytes(home))?;
        }
        configure(launch, &mut environment)?;
        check_contract(image, &environment)?;
        let workdir = launch
            .workdir
            .as_deref()
            .or(config.working_dir.as_deref())
            .unwrap_or("/");
        Ok(Parts {
            args: arguments(launch, image)?,
            environment,
            workdir: absolute("working directory", workdir)?,
            hostname: match &launch.hostname {
                Some(name) => hostname("--hostname", name)?,
                // Derived from the digest: the same launch gives the same record.
                None => hostname("--hostname", &image.digest.hex()[..12])?,
            },
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            masked: launch.masked.clone(),
            settings: Settings::default(),
            policy: policy(request, launch, image)?,
        })
    }
}

fn settings(bundle: &Bundle) -> Settings {
    let (process, usual) = (&bundle.process, Settings::default());
    Settings {
        umask: process.umask.unwrap_or(usual.umask),
        rlimits: process.rlimits.clone(),
        scheduler: process.scheduler,
        io_priority: process.io_priority,
        personality: bundle.personality,
        oom_score_adj: process.oom_score_adj,
        domainname: bundle.domainname.clone(),
        sysctls: bundle.sysctls.clone(),
        filter: bundle.filter.clone(),
        descriptors: bundle.descriptors.len() as i32,
    }
}

/// Checks the environment against the variables that the image declares.
fn check_contract(image: &Image, environment: &Environment) -> Result<()> {
    match image.config.labels.get("dev.imrun.env") {
        Some(label) => Contract::parse(label)?.check(environment),
        None => Ok(()),
    }
}

fn sink(url: &SinkUrl) -> Value {
    json!({ "url": url.to_string(), "acknowledgement": url.acknowledgement().as_str() })
}

/// Returns the entry of the launch record for settings that only a bundle has.
fn bundle_record(bundle: &Bundle, spec: &Spec) -> Value {
    let settings = &spec.settings;
    let text = |text: &CString| text.to_string_lossy().into_owned();
    let sysctls = settings.sysctls.iter().map(
        |one| json!({ "path": text(&one.path), "value": String::from_utf8_lossy(&one.value) }),
    );
    let rlimits = settings
        .rlimits
        .iter()
        .map(|limit| json!({ "resource": limit.resource, "soft": limit.soft, "hard": limit.hard }));
    let scheduler = settings
        .scheduler
        .map(|one| json!({ "policy": one.policy, "flags": one.flags, "nice": one.nice }));
    json!({
        "umask": settings.umask,
        "rlimits": rlimits.collect::<Vec<_>>(),
        "scheduler": scheduler,
        "ioPriority": settings.io_priority,
        "personality": settings.personality,
        "oomScoreAdj": settings.oom_score_adj,
        "domainname": settings.domainname.as_ref().map(text),
        "sysctls": sysctls.collect::<Vec<_>>(),
        "masked": spec.masked.iter().map(text).collect::<Vec<_>>(),
        "filtered": settings.filter.is_some(),
        "descriptors": bundle.descriptors,
        "filterAsks": settings.filter.as_ref().is_some_and(|filter| filter.has_listener),
        "changes": bundle.changes,
    })
}

fn configure(launch: &ImageLaunch, environment: &mut Environment) -> Result<()> {
    let own = |name: &OsStr| std::env::var_os(name);
    for EnvFile { name, bytes } in &launch.env_files {
        environment.add_file(name, bytes, own)?;
    }
    launch
        .env
        .iter()
        .try_for_each(|entry| environment.add_argument(entry, own))
}

fn default(environment: &mut Environment, name: &str, value: &OsStr) -> Result<()> {
    match environment.get(name) {
        Some(_) => Ok(()),
        None => environment.set("default", OsStr::new(name), value),
    }
}

fn resolve_user(launch: &ImageLaunch, image: &Image, root: BorrowedFd<'_>) -> Result<User> {
    let text = launch
        .user
        .as_deref()
        .or(image.config.user.as_deref())
        .unwrap_or("");
    let passwd = read_in_root(root, "etc/passwd")?;
    let group = read_in_root(root, "etc/group")?;
    let mut user = User::resolve(text, passwd.as_deref(), group.as_deref())?;
    // An ordinary user cannot set supplementary groups, and keeps his own.
    if !rootless::may_set_groups()? {
        user.groups.clear();
    }
    Ok(user)
}

/// Reads a file of the image through the mount that the app will see; `None` if it does not exist.
fn read_in_root(root: BorrowedFd<'_>, path: &str) -> Result<Option<Vec<u8>>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root, path, how) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
        Err(errno) => {
            return Err(errno).context(|| format!("openat2(root, {path:?}, RESOLVE_IN_ROOT)"));
        }
    };
    if !file
        .metadata()
        .context(|| format!("fstat({path:?})"))?
        .is_file()
    {
        return Ok(None);
    }
    let limit = crate::runtime::user::MAX_DATABASE as u64;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("read({path:?})"))?;
    if bytes.len() as u64 > limit {
        return Err(Error::digest(
            format_args!("/{path}"),
            format_args!("is larger than {limit} bytes"),
        ));
    }
    Ok(Some(bytes))
}

/// Combines entrypoint and command as the image specification (config.md) and Docker do: another
/// entrypoint also discards the image's command.
fn arguments(launch: &ImageLaunch, image: &Image) -> Result<Vec<CString>> {
    let config = &image.config;
    let mut args: Vec<OsString> = match &launch.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => Vec::new(),
        Some(entrypoint) => vec![entrypoint.clone()],
        None => config.entrypoint.iter().map(OsString::from).collect(),
    };
    if !launch.args.is_empty() {
        args.extend(launch.args.iter().cloned());
    } else if launch.entrypoint.is_none() {
        args.extend(config.cmd.iter().map(OsString::from));
    }
    if args.first().is_none_or(|program| program.is_empty()) {
        return Err(Error::usage(
            format_args!("image {}", image.digest),
            "names no program to run",
        )
        .hint("give one after the image, or with --entrypoint"));
    }
    let strings = args.into_iter().map(|arg| {
        CString::new(arg.into_vec()).map_err(|_| Error::usage("argument", "has a NUL byte"))
    });
    strings.collect()
}

/// Returns the candidate paths of the program: itself if it contains a slash, else one in each directory
/// of PATH.
fn candidates(program: &CString, environment: &Environment) -> Result<Vec<CString>> {
    let name = program.as_bytes();
    if name.contains(&b'/') {
        return Ok(vec![program.clone()]);
    }
    let path = environment
        .get("PATH")
        .unwrap_or(OsStr::new(PATH))
        .as_bytes();
    let directories = path
        .split(|byte| *byte == b':')
        .filter(|directory| directory.starts_with(b"/"));
    let paths = directories.map(|directory| CString::new([directory, b"/", name].concat()));
    paths
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::usage("PATH", "has a NUL byte"))
}

fn absolute(what: &str, path: &str) -> Result<CString> {
    let path = if path.is_empty() { "/" } else { path };
    if !path.starts_with('/') {
        return Err(Error::usage(
            format_args!("{what} {path:?}"),
            "is not an absolute path",
        ));
    }
    CString::new(path).map_err(|_| Error::usage(format_args!("{what} {path:?}"), "has a NUL byte"))
}

fn policy(request: &Request, launch: &ImageLaunch, image: &Image) -> Result<Policy> {
    let mut policy = request.policy;
    match (launch.stop_signal, &image.config.stop_signal) {
        (Some(signal), _) => policy.stop_signal = signal,
        (None, Some(text)) => policy.stop_signal = crate::runtime::supervise::signals::parse(text)?,
        (None, None) => {}
    }
    Ok(policy)
}

fn hostname(what: &str, name: &str) -> Result<CString> {
    const MAX: usize = 64; // __NEW_UTS_LEN, uname(2)
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.is_empty() || name.len() > MAX || !name.bytes().all(allowed) {
        return Err(Error::usage(
            format_args!("{what} {name:?}"),
            "expected 1 to 64 letters, digits, '-', '_' and '.'",
        ));
    }
    CString::new(name).map_err(|_| Error::usage(what, "has a NUL byte"))
}

fn fingerprint_key() -> Result<Vec<u8>> {
    const FILE: &str = "/etc/machine-id";
    let configured = std::env::var_os("IMRUN_FINGERPRINT_KEY");
    let machine_id = match configured {
        Some(_) => Vec::new(),
        None => std::fs::read(FILE).map_err(|error| {
            Error::unsupported(FILE, crate::base::error::reason_of(&error))
                .hint("set IMRUN_FINGERPRINT_KEY to a key for the environment's fingerprints")
        })?,
    };
    env::fingerprint_key(configured.as_deref().map(OsStr::as_bytes), &machine_id)
}
