//! What the image's config and the request together make of a launch.

use super::subject::{Loaded, Material, Mounted};
use super::{Bundle, EnvFile, Request};
use crate::env::{self, Contract, Environment};
use crate::error::{Context, Error, Result};
use crate::id_map::Ids;
use crate::launch::{Attachment, Spec, reaper};
use crate::observe::OnWrite;
use crate::record::Record;
use crate::rootless;
use crate::ship::SinkUrl;
use crate::store::image::Image;
use crate::supervise::Policy;
use crate::sys::open::openat2;
use crate::sys::process::Pointers;
use crate::user::User;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use serde_json::{Value, json};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Where programs are looked for when the environment does not say (the default of Docker,
/// containerd and Podman).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What programs expect where nobody says otherwise.
const UMASK: u32 = 0o022;

/// A launch, checked and complete.
pub(super) struct Plan {
    /// How the app starts.
    pub spec: Spec,
    /// How it is watched over.
    pub policy: Policy,
    environment: Environment,
}

impl Plan {
    /// Checks the request against what is launched; users are those of `root`, its top directory.
    pub fn new(request: &Request, loaded: &Loaded, root: BorrowedFd<'_>) -> Result<Plan> {
        match (&request.bundle, loaded) {
            (Some(bundle), loaded) => Plan::of_bundle(request, bundle, loaded.image(), root),
            (None, Loaded::Image(image)) => Plan::of_image(request, image, root),
            (None, Loaded::Directory(path)) => Err(Error::usage(
                format_args!("{path:?}"),
                "is a directory, which says nothing of a program",
            )),
        }
    }

    /// The bundle says it all; a label of the image still says what it needs.
    fn of_bundle(
        request: &Request,
        bundle: &Bundle,
        image: Option<&Image>,
        root: BorrowedFd<'_>,
    ) -> Result<Plan> {
        let process = &bundle.process;
        let mut environment = process.env.clone();
        if environment.get("HOME").is_none() {
            let passwd = read_in_root(root, "etc/passwd")?;
            let user = User::resolve(&process.uid.to_string(), passwd.as_deref(), None);
            let home = user.ok().and_then(|user| user.home);
            let home = home.unwrap_or_else(|| b"/".to_vec());
            default(&mut environment, "HOME", OsStr::from_bytes(&home))?;
        }
        if let Some(label) = image.and_then(|image| image.config.labels.get("dev.imrun.env")) {
            Contract::parse(label)?.check(&environment)?;
        }
        let args = process.args.clone();
        environment.check_size(&args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>())?;
        let spec = Spec {
            init: None,
            candidates: candidates(&args[0], &environment)?,
            args: Pointers::new(args),
            env: Pointers::new(environment.to_strings()),
            workdir: absolute("process.cwd", &process.cwd)?,
            hostname: hostname(
                "hostname",
                bundle.hostname.as_deref().unwrap_or("localhost"),
            )?,
            uid: process.uid,
            gid: process.gid,
            groups: process.groups.clone(),
            capabilities: request.capabilities,
            observed: request.on_write != OnWrite::Quiet,
            relayed: request.sinks.iter().all(SinkUrl::is_bare),
            umask: process.umask.unwrap_or(UMASK),
            rlimits: process.rlimits.clone(),
            scheduler: process.scheduler,
            io_priority: process.io_priority,
            personality: bundle.personality,
            oom_score_adj: process.oom_score_adj,
            domainname: bundle.domainname.clone(),
            sysctls: bundle.sysctls.clone(),
            masked: bundle.masked.clone(),
            filter: bundle.filter.clone(),
            descriptors: bundle.descriptors.len() as i32,
            from_bundle: true,
        };
        Ok(Plan {
            spec,
            policy: request.policy,
            environment,
        })
    }

    fn of_image(request: &Request, image: &Image, root: BorrowedFd<'_>) -> Result<Plan> {
        let config = &image.config;
        let user = resolve_user(request, image, root)?;
        let mut environment = Environment::new();
        environment.add_image(&config.env)?;
        default(&mut environment, "PATH", OsStr::new(PATH))?;
        if let Some(home) = &user.home {
            default(&mut environment, "HOME", OsStr::from_bytes(home))?;
        }
        configure(request, &mut environment)?;
        if let Some(label) = config.labels.get("dev.imrun.env") {
            Contract::parse(label)?.check(&environment)?;
        }
        let args = arguments(request, image)?;
        environment.check_size(&args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>())?;
        let policy = policy(request, image)?;
        let workdir = request
            .workdir
            .as_deref()
            .or(config.working_dir.as_deref())
            .unwrap_or("/");
        let candidates = candidates(&args[0], &environment)?;
        let init = request.init.then(|| reaper::arguments(&candidates, &args));
        let spec = Spec {
            init: init.transpose()?.map(Pointers::new),
            candidates,
            args: Pointers::new(args),
            env: Pointers::new(environment.to_strings()),
            workdir: absolute("working directory", workdir)?,
            hostname: match &request.hostname {
                Some(name) => hostname("--hostname", name)?,
                // The same launch gives the same record.
                None => hostname("--hostname", &image.digest.hex()[..12])?,
            },
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            capabilities: request.capabilities,
            observed: request.on_write != OnWrite::Quiet,
            relayed: false,
            umask: UMASK,
            rlimits: Vec::new(),
            scheduler: None,
            io_priority: None,
            personality: 0,
            oom_score_adj: None,
            domainname: None,
            sysctls: Vec::new(),
            masked: request.masked.clone(),
            filter: None,
            descriptors: 0,
            from_bundle: false,
        };
        Ok(Plan {
            spec,
            policy,
            environment,
        })
    }

    /// The program and its arguments, to be shown.
    pub fn args(&self) -> Vec<String> {
        let args = self.spec.args.strings().iter();
        args.map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    /// The launch record.
    pub fn record(
        &self,
        request: &Request,
        loaded: &Loaded,
        material: &Material,
        root: &Mounted,
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
            image: loaded.record(material),
            integrity: material.level(),
            driver: root.record(ids),
            args: self.args(),
            user: json!({ "uid": spec.uid, "gid": spec.gid, "groups": spec.groups }),
            workdir: spec.workdir.to_string_lossy().into_owned(),
            hostname: spec.hostname.to_string_lossy().into_owned(),
            env: self.environment.iter().map(print).collect(),
            network: network.record(),
            bundle: request
                .bundle
                .as_ref()
                .map(|bundle| bundle_record(bundle, spec)),
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

fn sink(url: &SinkUrl) -> Value {
    json!({ "url": url.to_string(), "acknowledgement": url.acknowledgement().as_str() })
}

/// What only a bundle can say.
fn bundle_record(bundle: &Bundle, spec: &Spec) -> Value {
    let text = |text: &CString| text.to_string_lossy().into_owned();
    let sysctls = spec.sysctls.iter().map(
        |one| json!({ "path": text(&one.path), "value": String::from_utf8_lossy(&one.value) }),
    );
    let rlimits = spec
        .rlimits
        .iter()
        .map(|limit| json!({ "resource": limit.resource, "soft": limit.soft, "hard": limit.hard }));
    let scheduler = spec
        .scheduler
        .map(|one| json!({ "policy": one.policy, "flags": one.flags, "nice": one.nice }));
    json!({
        "umask": spec.umask,
        "rlimits": rlimits.collect::<Vec<_>>(),
        "scheduler": scheduler,
        "ioPriority": spec.io_priority,
        "personality": spec.personality,
        "oomScoreAdj": spec.oom_score_adj,
        "domainname": spec.domainname.as_ref().map(text),
        "sysctls": sysctls.collect::<Vec<_>>(),
        "masked": spec.masked.iter().map(text).collect::<Vec<_>>(),
        "filtered": spec.filter.is_some(),
        "descriptors": bundle.descriptors,
        "filterAsks": spec.filter.as_ref().is_some_and(|filter| filter.asks),
        "changes": bundle.changes,
    })
}

fn configure(request: &Request, environment: &mut Environment) -> Result<()> {
    let own = |name: &OsStr| std::env::var_os(name);
    for EnvFile { name, bytes } in &request.env_files {
        environment.add_file(name, bytes, own)?;
    }
    request
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

fn resolve_user(request: &Request, image: &Image, root: BorrowedFd<'_>) -> Result<User> {
    let text = request
        .user
        .as_deref()
        .or(image.config.user.as_deref())
        .unwrap_or("");
    let passwd = read_in_root(root, "etc/passwd")?;
    let group = read_in_root(root, "etc/group")?;
    let mut user = User::resolve(text, passwd.as_deref(), group.as_deref())?;
    // An ordinary user has no group to give but his own, and keeps those that he is in.
    if !rootless::may_set_groups()? {
        user.groups.clear();
    }
    Ok(user)
}

/// A file of the image, by the mount that the app will see; None where there is none.
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
    let limit = crate::user::MAX_DATABASE as u64;
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

/// Entrypoint and command, as the image specification (config.md) and Docker combine them: another
/// entrypoint takes the image's command away, too.
fn arguments(request: &Request, image: &Image) -> Result<Vec<CString>> {
    let config = &image.config;
    let mut args: Vec<OsString> = match &request.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => Vec::new(),
        Some(entrypoint) => vec![entrypoint.clone()],
        None => config.entrypoint.iter().map(OsString::from).collect(),
    };
    if !request.args.is_empty() {
        args.extend(request.args.iter().cloned());
    } else if request.entrypoint.is_none() {
        args.extend(config.cmd.iter().map(OsString::from));
    }
    if args.first().is_none_or(|program| program.is_empty()) {
        return Err(Error::usage(
            format_args!("image {}", image.digest),
            "names no program to run",
        )
        .hint("give one behind the image, or --entrypoint"));
    }
    let strings = args.into_iter().map(|arg| {
        CString::new(arg.into_vec()).map_err(|_| Error::usage("argument", "has a NUL byte"))
    });
    strings.collect()
}

/// Where the program may be: as it is written if it has a slash, else in each directory of PATH.
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

fn policy(request: &Request, image: &Image) -> Result<Policy> {
    let mut policy = request.policy;
    match (request.stop_signal, &image.config.stop_signal) {
        (Some(signal), _) => policy.stop_signal = signal,
        (None, Some(text)) => policy.stop_signal = crate::supervise::signals::parse(text)?,
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
            "is no host name of 1 to 64 letters, digits, '-' and '.'",
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
            Error::unsupported(FILE, crate::error::reason_of(&error)).hint(
                "IMRUN_FINGERPRINT_KEY gives the key for the environment's fingerprints instead",
            )
        })?,
    };
    env::fingerprint_key(configured.as_deref().map(OsStr::as_bytes), &machine_id)
}
