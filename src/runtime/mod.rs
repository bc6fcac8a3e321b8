//! One launch: from a verified image or a bundle to the exit status of its app.

pub mod capabilities;
pub mod cgroup;
pub mod container;
pub mod doctor;
pub mod env;
pub mod id_map;
pub mod integrity;
pub mod launch;
pub mod observe;
pub mod record;
pub mod relay;
pub mod rootfs;
pub mod rootless;
pub mod seccomp;
pub mod state;
pub mod status;
pub mod supervise;
pub mod user;
