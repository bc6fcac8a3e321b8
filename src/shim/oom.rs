//! Watch of containers' cgroups for out-of-memory kills, which containerd gets as events.
//!
//! Source: Linux, Documentation/admin-guide/cgroup-v2.rst, memory.events.

use super::pod::Pod;
use crate::base::error::{Context, Result};
use containerd_shim_protos::events::task::TaskOOM;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Watched containers of a pod. The first one starts a thread.
pub struct Watch {
    pod: Arc<Pod>,
    watching: Mutex<Option<Arc<Watching>>>,
}

struct Watching {
    inotify: Inotify,
    files: Mutex<HashMap<WatchDescriptor, Watched>>,
}

struct Watched {
    id: String,
    file: PathBuf,
    kills: u64,
}

impl Watch {
    /// Returns a watch without containers.
    pub fn new(pod: Arc<Pod>) -> Watch {
        Watch {
            pod,
            watching: Mutex::default(),
        }
    }

    /// Watches a container, if its cgroup at `directory` has the memory controller.
    pub fn add(&self, id: &str, directory: &Path) {
        let file = directory.join("memory.events");
        // The file is missing also if the container has ended by now.
        if !file.exists() {
            return;
        }
        if let Err(error) = self.begin().and_then(|watching| watching.add(id, file)) {
            log::warn!("{error}");
        }
    }

    fn begin(&self) -> Result<Arc<Watching>> {
        let mut watching = unpoisoned(&self.watching);
        if let Some(watching) = &*watching {
            return Ok(watching.clone());
        }
        let begun = Arc::new(Watching {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC).context(|| "inotify_init1()")?,
            files: Mutex::default(),
        });
        let (pod, watches) = (self.pod.clone(), begun.clone());
        std::thread::Builder::new()
            .name("oom".into())
            .spawn(move || watches.watch(&pod))
            .context(|| "clone(thread)")?;
        Ok(watching.insert(begun).clone())
    }
}

impl Watching {
    fn add(&self, id: &str, file: PathBuf) -> Result<()> {
        let mut files = unpoisoned(&self.files);
        let watch = self
            .inotify
            .add_watch(&file, AddWatchFlags::IN_MODIFY)
            .context(|| format!("inotify_add_watch({file:?})"))?;
        let watched = Watched {
            id: id.to_owned(),
            file,
            kills: 0,
        };
        files.insert(watch, watched);
        Ok(())
    }

    fn watch(&self, pod: &Pod) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(errno) => return log::warn!("read(inotify): {}", errno.desc()),
            };
            let mut files = unpoisoned(&self.files);
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    files.remove(&event.wd);
                } else if let Some(watched) = files.get_mut(&event.wd)
                    && watched.has_killed()
                {
                    pod.events.send(&TaskOOM {
                        container_id: watched.id.clone(),
                        ..TaskOOM::default()
                    });
                }
            }
        }
    }
}

impl Watched {
    /// Returns true if the kernel killed a process since the last call.
    fn has_killed(&mut self) -> bool {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let now = kills(&text).unwrap_or(self.kills);
        std::mem::replace(&mut self.kills, now) < now
    }
}

fn kills(events: &str) -> Option<u64> {
    let mut lines = events.lines();
    lines.find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

/// Locks a mutex. No code panics while it holds one, so a poisoned one is usable.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_out_of_memory_kill_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.events");
        let mut watched = Watched {
            id: "one".into(),
            file: file.clone(),
            kills: 0,
        };
        let events = |kills| format!("low 0\nmax 3\noom 1\noom_kill {kills}\noom_group_kill 0\n");
        for (count, told) in [(0, false), (1, true), (1, false), (3, true)] {
            std::fs::write(&file, events(count)).unwrap();
            assert_eq!(watched.has_killed(), told, "{count}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(!watched.has_killed());
    }
}
