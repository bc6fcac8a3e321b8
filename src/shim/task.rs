//! Implementation of containerd's task API (version 2).

use super::events;
use super::metrics;
use super::oom::Watch;
use super::pod::{Container, Pod};
use super::runtime::{Runtime, Streams};
use crate::base::error::{Error, Reason, Result};
use crate::oci::container::{freeze, kill, processes, start};
use crate::oci::state::ContainerDir;
use containerd_shim_protos::Task;
use containerd_shim_protos::api::*;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskIO, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::ttrpc::error::get_rpc_status;
use containerd_shim_protos::ttrpc::{self, Code, TtrpcContext};
use std::path::PathBuf;
use std::sync::Arc;

/// The task service of a pod.
pub struct Service {
    pod: Arc<Pod>,
    runtime: Runtime,
    watch: Watch,
}

type Answer<T> = ttrpc::Result<T>;

/// Converts an error to a ttrpc status.
fn refusal(error: Error) -> ttrpc::Error {
    let code = match error.reason {
        Reason::Usage if error.why.ends_with("does not exist") => Code::NOT_FOUND,
        Reason::Policy => Code::FAILED_PRECONDITION,
        _ => Code::UNKNOWN,
    };
    let text = match &error.hint {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    };
    get_rpc_status(code, text)
}

/// Refuses a call that imrun does not implement.
fn refuse<T>(what: &str, why: &str) -> Answer<T> {
    Err(get_rpc_status(
        Code::UNIMPLEMENTED,
        format!("{what}: {why}"),
    ))
}

/// Refuses an exec ID: a container has no processes besides its own.
fn require_init(exec_id: &str) -> Result<()> {
    match exec_id {
        "" => Ok(()),
        _ => Err(Error::usage(
            format_args!("process {exec_id:?}"),
            "does not exist",
        )),
    }
}

impl Service {
    /// Returns the service of a pod.
    pub fn new(pod: Arc<Pod>, runtime: Runtime, watch: Watch) -> Service {
        Service {
            pod,
            runtime,
            watch,
        }
    }

    fn create_container(&self, request: &CreateTaskRequest) -> Result<i32> {
        let (id, bundle) = (&request.id, PathBuf::from(&request.bundle));
        let creation = self.pod.begin_creation(id);
        check(request)?;
        let watch = self.pod.watch_exits();
        // request.rootfs, which containerd has unpacked, is never mounted.
        let image = self.runtime.image(&self.pod, id)?;
        let streams = Streams {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        let (pid, stdin) = self
            .runtime
            .create(&self.pod, id, &bundle, &image, &streams)?;
        self.pod.events.send(&created(request, pid));
        let container = Container {
            bundle,
            streams,
            stdin,
            pid,
            exit: None,
            starting: false,
        };
        self.pod.add(creation, container, &watch);
        Ok(pid)
    }

    fn start_container(&self, id: &str) -> Result<i32> {
        let pid = self.pod.begin_start(id)?;
        let started = start(&self.runtime.root, id);
        let begin = || {
            if started.is_ok() {
                self.pod.events.send(&TaskStart {
                    container_id: id.to_owned(),
                    pid: pid as u32,
                    ..TaskStart::default()
                });
            }
        };
        self.pod.finish_start(id, begin)?;
        started?;
        self.watch.add(id, &self.cgroup(id)?);
        Ok(pid)
    }

    fn delete_container(&self, id: &str) -> Result<DeleteResponse> {
        let bundle = self.pod.with(id, |container| container.bundle.clone())?;
        let status = self.state_of(id)?.status.enum_value();
        if matches!(status, Ok(Status::RUNNING | Status::PAUSED)) {
            let error = Error::policy(format_args!("container {id:?}"), "is running");
            return Err(error.hint("kill it first"));
        }
        self.runtime.delete(&self.pod, id, &bundle)?;
        // The process has ended, but may not be reaped yet.
        let exit = self.pod.await_end(id)?;
        let pid = self.pod.with(id, |container| container.pid as u32)?;
        let exited_at = MessageField::some(events::timestamp(exit.at));
        self.pod.remove(id);
        self.pod.events.send(&TaskDelete {
            container_id: id.to_owned(),
            pid,
            exit_status: exit.code,
            exited_at: exited_at.clone(),
            ..TaskDelete::default()
        });
        Ok(DeleteResponse {
            pid,
            exit_status: exit.code,
            exited_at,
            ..DeleteResponse::default()
        })
    }

    fn state_of(&self, id: &str) -> Result<StateResponse> {
        if self.pod.is_creating(id) {
            // A client that closes standard input queries the state first.
            return Ok(StateResponse {
                id: id.to_owned(),
                status: EnumOrUnknown::new(Status::CREATED),
                ..StateResponse::default()
            });
        }
        let phase = || {
            let place = ContainerDir::of(&self.runtime.root, id)?;
            place.phase(&place.read()?)
        };
        self.pod.with(id, |container| {
            let status = match container.exit {
                Some(_) => Status::STOPPED,
                None => status(phase()?),
            };
            let streams = container.streams.clone();
            let exit = container.exit;
            Ok(StateResponse {
                id: id.to_owned(),
                bundle: container.bundle.display().to_string(),
                pid: container.pid as u32,
                status: EnumOrUnknown::new(status),
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
                exit_status: exit.map_or(0, |exit| exit.code),
                exited_at: exit.map(|exit| events::timestamp(exit.at)).into(),
                ..StateResponse::default()
            })
        })?
    }

    fn signal(&self, request: &KillRequest) -> Result<()> {
        require_init(&request.exec_id)?;
        let ended = self.pod.with(&request.id, |container| container.exit)?;
        if ended.is_some() && !request.all {
            return Err(Error::usage(
                format_args!("container {:?}", request.id),
                "has ended: its process does not exist",
            ));
        }
        let signal = i32::try_from(request.signal).unwrap_or(-1);
        kill(&self.runtime.root, &request.id, signal, request.all)
    }

    /// Returns the directory of a container's cgroup.
    fn cgroup(&self, id: &str) -> Result<PathBuf> {
        let known = ContainerDir::of(&self.runtime.root, id)?.read()?;
        let none = || Error::usage(format_args!("container {id:?}"), "has no cgroup yet");
        Ok(crate::runtime::cgroup::hierarchy()?.join(known.cgroup.ok_or_else(none)?.place))
    }
}

/// Refuses requests for terminals and checkpoints.
fn check(request: &CreateTaskRequest) -> Result<()> {
    if request.terminal {
        return Err(Error::policy("terminal", "a container has no terminal")
            .hint("its output goes to the sink"));
    }
    if !request.checkpoint.is_empty() {
        let why = "a container lives and dies with its imrun";
        return Err(Error::policy("checkpoint", why));
    }
    Ok(())
}

fn created(request: &CreateTaskRequest, pid: i32) -> TaskCreate {
    TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: MessageField::some(TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            ..TaskIO::default()
        }),
        pid: pid as u32,
        ..TaskCreate::default()
    }
}

fn status(phase: crate::oci::state::Phase) -> Status {
    use crate::oci::state::Phase;
    match phase {
        Phase::Creating | Phase::Created => Status::CREATED,
        Phase::Running => Status::RUNNING,
        Phase::Paused => Status::PAUSED,
        Phase::Stopped => Status::STOPPED,
    }
}

impl Task for Service {
    fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Answer<CreateTaskResponse> {
        let pid = self.create_container(&request).map_err(refusal)?;
        Ok(CreateTaskResponse {
            pid: pid as u32,
            ..CreateTaskResponse::default()
        })
    }

    fn start(&self, _: &TtrpcContext, request: StartRequest) -> Answer<StartResponse> {
        require_init(&request.exec_id).map_err(refusal)?;
        let pid = self.start_container(&request.id).map_err(refusal)?;
        Ok(StartResponse {
            pid: pid as u32,
            ..StartResponse::default()
        })
    }

    fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Answer<DeleteResponse> {
        require_init(&request.exec_id).map_err(refusal)?;
        self.delete_container(&request.id).map_err(refusal)
    }

    fn state(&self, _: &TtrpcContext, request: StateRequest) -> Answer<StateResponse> {
        require_init(&request.exec_id).map_err(refusal)?;
        self.state_of(&request.id).map_err(refusal)
    }

    fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Answer<WaitResponse> {
        require_init(&request.exec_id).map_err(refusal)?;
        let exit = self.pod.await_end(&request.id).map_err(refusal)?;
        Ok(WaitResponse {
            exit_status: exit.code,
            exited_at: MessageField::some(events::timestamp(exit.at)),
            ..WaitResponse::default()
        })
    }

    fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Answer<Empty> {
        self.signal(&request).map_err(refusal)?;
        Ok(Empty::default())
    }

    fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Answer<PidsResponse> {
        let mut pids = processes(&self.runtime.root, &request.id).map_err(refusal)?;
        if pids.is_empty() {
            // After a restart containerd assumes that a shim without processes never had a task, and would not query
            // the exit of this one (core/runtime/v2/shim_load.go).
            let ended = self.pod.with(&request.id, |container| container.pid);
            pids.push(ended.map_err(refusal)?);
        }
        let info = |pid| ProcessInfo {
            pid: pid as u32,
            ..ProcessInfo::default()
        };
        Ok(PidsResponse {
            processes: pids.into_iter().map(info).collect(),
            ..PidsResponse::default()
        })
    }

    fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Answer<Empty> {
        freeze(&self.runtime.root, &request.id, true).map_err(refusal)?;
        self.pod.events.send(&TaskPaused {
            container_id: request.id,
            ..TaskPaused::default()
        });
        Ok(Empty::default())
    }

    fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Answer<Empty> {
        freeze(&self.runtime.root, &request.id, false).map_err(refusal)?;
        self.pod.events.send(&TaskResumed {
            container_id: request.id,
            ..TaskResumed::default()
        });
        Ok(Empty::default())
    }

    fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Answer<StatsResponse> {
        let metrics = self.cgroup(&request.id).and_then(|dir| metrics::read(&dir));
        Ok(StatsResponse {
            stats: MessageField::some(metrics.map_err(refusal)?),
            ..StatsResponse::default()
        })
    }

    fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Answer<Empty> {
        if request.stdin {
            self.pod.close_stdin(&request.id).map_err(refusal)?;
        }
        Ok(Empty::default())
    }

    fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Answer<ConnectResponse> {
        // The first call comes before a container exists.
        let pid = self.pod.with(&request.id, |container| container.pid);
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid.unwrap_or(0) as u32,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Answer<Empty> {
        self.pod.shut_down();
        Ok(Empty::default())
    }

    fn exec(&self, _: &TtrpcContext, _: ExecProcessRequest) -> Answer<Empty> {
        refuse("exec", "a running container is never entered")
    }

    fn resize_pty(&self, _: &TtrpcContext, _: ResizePtyRequest) -> Answer<Empty> {
        refuse("resize", "a container has no terminal")
    }

    fn update(&self, _: &TtrpcContext, _: UpdateTaskRequest) -> Answer<Empty> {
        refuse(
            "update",
            "a container's limits are those of its launch record",
        )
    }

    fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Answer<Empty> {
        refuse("checkpoint", "a container lives and dies with its imrun")
    }
}
