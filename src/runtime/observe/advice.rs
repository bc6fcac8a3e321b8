//! Advice: settings that stop well-known programs from writing files.

use super::report::Effect;

/// A piece of advice and the attempts that it applies to.
#[derive(Debug, PartialEq, Eq)]
pub struct Advice {
    /// Prefix of the program's file name; empty applies to every program.
    program: &'static str,
    /// Attempt that it applies to.
    trigger: Trigger,
    /// The setting, as shown to the user.
    pub setting: &'static str,
    /// Documentation of the setting.
    source: &'static str,
}

/// Kinds of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    /// A path that contains this text.
    Path(&'static str),
    /// A change of the process's user or groups.
    Ids,
    /// One of these calls.
    Call(&'static [&'static str]),
}

const fn advice(
    program: &'static str,
    path: &'static str,
    setting: &'static str,
    source: &'static str,
) -> Advice {
    advice_for(program, Trigger::Path(path), setting, source)
}

const fn advice_for(
    program: &'static str,
    trigger: Trigger,
    setting: &'static str,
    source: &'static str,
) -> Advice {
    Advice {
        program,
        trigger,
        setting,
        source,
    }
}

/// Advice, in the order in which it is tried.
const TABLE: &[Advice] = &[
    advice(
        "python",
        "__pycache__",
        "python: -e PYTHONDONTWRITEBYTECODE=1",
        "docs.python.org/3/using/cmdline.html#envvar-PYTHONDONTWRITEBYTECODE",
    ),
    advice(
        "",
        ".pyc",
        "python: -e PYTHONDONTWRITEBYTECODE=1",
        "docs.python.org/3/using/cmdline.html#envvar-PYTHONDONTWRITEBYTECODE",
    ),
    advice(
        "python",
        ".python_history",
        "python: run a script; the interactive shell keeps a history (-I does not)",
        "docs.python.org/3/library/site.html",
    ),
    advice(
        "nginx",
        "nginx.pid",
        "nginx: -g 'pid /dev/null;'",
        "nginx.org/en/docs/ngx_core_module.html#pid",
    ),
    advice(
        "nginx",
        "/log/nginx",
        "nginx: -e stderr, and access_log /dev/stdout",
        "nginx.org/en/docs/ngx_core_module.html#error_log",
    ),
    advice(
        "nginx",
        "temp",
        "nginx: create its temporary directories in the image (client_body_temp_path, proxy_temp_path and the others): nginx creates missing ones at the start",
        "nginx.org/en/docs/http/ngx_http_core_module.html#client_body_temp_path",
    ),
    advice(
        "nginx",
        "/var/lib/nginx",
        "nginx: create its temporary directories in the image (client_body_temp_path, proxy_temp_path and the others): nginx creates missing ones at the start",
        "nginx.org/en/docs/http/ngx_http_core_module.html#client_body_temp_path",
    ),
    advice(
        "redis",
        ".rdb",
        "redis: --save ''",
        "redis.io/docs/latest/operate/oss_and_stack/management/persistence",
    ),
    advice(
        "redis",
        "temp-",
        "redis: --save ''",
        "redis.io/docs/latest/operate/oss_and_stack/management/persistence",
    ),
    advice(
        "redis",
        "appendonly",
        "redis: --appendonly no",
        "redis.io/docs/latest/operate/oss_and_stack/management/persistence",
    ),
    advice(
        "redis",
        ".pid",
        "redis: --pidfile ''",
        "redis.io/docs/latest/operate/oss_and_stack/management/config",
    ),
    advice(
        "java",
        "hsperfdata",
        "java: -XX:-UsePerfData, or -e JAVA_TOOL_OPTIONS=-XX:-UsePerfData",
        "docs.oracle.com/en/java/javase/21/docs/specs/man/java.html",
    ),
    advice(
        "java",
        "coredump_filter",
        "java: -XX:+UnlockDiagnosticVMOptions -XX:-DumpPrivateMappingsInCore -XX:-DumpSharedMappingsInCore",
        "github.com/openjdk/jdk17u, src/hotspot/os/linux/globals_linux.hpp",
    ),
    advice(
        "java",
        "hs_err_pid",
        "java: -XX:ErrorFile=/dev/stderr",
        "docs.oracle.com/en/java/javase/21/docs/specs/man/java.html",
    ),
    advice(
        "",
        "hsperfdata",
        "java: -XX:-UsePerfData, or -e JAVA_TOOL_OPTIONS=-XX:-UsePerfData",
        "docs.oracle.com/en/java/javase/21/docs/specs/man/java.html",
    ),
    advice(
        "bash",
        ".bash_history",
        "bash: -e HISTFILE=/dev/null",
        "gnu.org/software/bash/manual/bash.html#Bash-History-Facilities",
    ),
    advice(
        "bash",
        "/sh-thd",
        "bash: a here-document longer than a pipe goes to a file; printf … | does not",
        "gnu.org/software/bash/manual/bash.html#Here-Documents",
    ),
    advice(
        "php-fpm",
        ".pid",
        "php-fpm: pid = /dev/null in php-fpm.conf",
        "php.net/manual/en/install.fpm.configuration.php",
    ),
    advice(
        "php-fpm",
        ".sock",
        "php-fpm: listen = 9000, an address instead of a socket path",
        "php.net/manual/en/install.fpm.configuration.php",
    ),
    advice(
        "php-fpm",
        ".log",
        "php-fpm: error_log = /dev/stderr",
        "php.net/manual/en/install.fpm.configuration.php",
    ),
    advice(
        "haproxy",
        ".pid",
        "haproxy: no -p and no pidfile",
        "docs.haproxy.org/2.6/management.html#3",
    ),
    advice(
        "haproxy",
        ".sock",
        "haproxy: no stats socket with a path",
        "docs.haproxy.org/2.6/configuration.html#3.1-stats%20socket",
    ),
    advice(
        "memcached",
        ".pid",
        "memcached: no -P",
        "docs.memcached.org",
    ),
    advice(
        "postgres",
        "",
        "postgres: it needs a data directory and shared memory, and cannot run in a read-only container",
        "postgresql.org/docs/current/runtime.html",
    ),
    advice(
        "sqlite",
        "-journal",
        "sqlite: open the database with file:…?immutable=1",
        "sqlite.org/uri.html#uriimmutable",
    ),
    advice(
        "",
        "-journal",
        "sqlite: open the database with file:…?immutable=1",
        "sqlite.org/uri.html#uriimmutable",
    ),
    advice(
        "node",
        ".npm",
        "npm: run node itself, or -e npm_config_cache=/dev/null",
        "docs.npmjs.com/cli/using-npm/config#cache",
    ),
    advice(
        "node",
        "v8-compile-cache",
        "node: -e NODE_DISABLE_COMPILE_CACHE=1",
        "nodejs.org/api/cli.html#node_disable_compile_cache1",
    ),
    advice(
        "less",
        ".lesshst",
        "less: -e LESSHISTFILE=-",
        "man7.org/linux/man-pages/man1/less.1.html",
    ),
    advice(
        "psql",
        ".psql_history",
        "psql: -e PSQL_HISTORY=/dev/null",
        "postgresql.org/docs/current/app-psql.html",
    ),
    advice_for(
        "",
        Trigger::Call(&["mq_open", "shmget", "msgget", "semget"]),
        "message queues and shared memory are not available: keep state in another service",
        "docs/kernel.md",
    ),
    advice_for(
        "nginx",
        Trigger::Ids,
        "nginx: start it as its user (--user www-data); its directive user then has no effect",
        "nginx.org/en/docs/ngx_core_module.html#user",
    ),
    advice_for(
        "php-fpm",
        Trigger::Ids,
        "php-fpm: start it as its user (--user www-data); user and group of a pool then have no effect",
        "php.net/manual/en/install.fpm.configuration.php",
    ),
    advice_for(
        "haproxy",
        Trigger::Ids,
        "haproxy: start it as its user (--user), without user, group and chroot in its configuration",
        "docs.haproxy.org/2.6/configuration.html#3.1-user",
    ),
    advice_for(
        "memcached",
        Trigger::Ids,
        "memcached: start it as its user (--user), without -u",
        "docs.memcached.org",
    ),
    advice_for(
        "",
        Trigger::Ids,
        "setuid, setgid and setgroups always fail (EPERM), and many daemons then exit silently: start the program as its user (--user), and remove the change of user from its configuration",
        "docs/side-effects.md",
    ),
    advice_for(
        "",
        Trigger::Call(&["chroot"]),
        "chroot always fails (EPERM): disable it in the program's configuration; the container has a root of its own",
        "docs/side-effects.md",
    ),
];

/// Calls that change a process's user or groups.
const IDS: [&str; 7] = [
    "setuid",
    "setreuid",
    "setresuid",
    "setgid",
    "setregid",
    "setresgid",
    "setgroups",
];

/// Returns the advice for an attempt, if there is any.
pub fn about(effect: &Effect) -> Option<&'static Advice> {
    let program = effect.executable.as_deref().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    let mut advice = TABLE.iter();
    advice.find(|advice| program.starts_with(advice.program) && advice.trigger.fits(effect))
}

impl Trigger {
    fn fits(self, effect: &Effect) -> bool {
        let paths = [effect.path.as_deref(), effect.resolved.as_deref()];
        match self {
            Trigger::Path(part) => paths.iter().flatten().any(|path| path.contains(part)),
            Trigger::Ids => IDS.contains(&effect.syscall),
            Trigger::Call(names) => names.contains(&effect.syscall),
        }
    }

    /// Returns true if everything that `other` matches also matches this.
    #[cfg(test)]
    fn covers(self, other: Trigger) -> bool {
        match (self, other) {
            (Trigger::Path(part), Trigger::Path(longer)) => longer.contains(part),
            (one, other) => one == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn effect(executable: &str, path: &str) -> Effect {
        Effect {
            syscall: "openat",
            path: Some(path.into()),
            resolved: None,
            errno: "EROFS".into(),
            executable: Some(executable.into()),
            details: json!({}),
        }
    }

    #[test]
    fn the_program_and_the_path_choose_the_advice() {
        let setting = |program, path| about(&effect(program, path)).map(|advice| advice.setting);
        let python = setting(
            "/usr/bin/python3.11",
            "/app/__pycache__/a.cpython-311.pyc.140",
        );
        assert!(python.unwrap().contains("PYTHONDONTWRITEBYTECODE"));
        assert!(
            setting("/usr/sbin/nginx", "/run/nginx.pid")
                .unwrap()
                .contains("pid /dev/null")
        );
        assert_eq!(setting("/bin/app", "/run/app.pid"), None);
    }

    #[test]
    fn a_program_that_cannot_change_its_user_gets_advice_to_start_as_that_user() {
        let setting = |program: &str, syscall| {
            let effect = Effect {
                syscall,
                path: None,
                ..effect(program, "")
            };
            about(&effect).map_or("", |advice| advice.setting)
        };
        assert!(setting("/usr/sbin/nginx", "setgid").contains("--user www-data"));
        assert!(setting("/usr/sbin/unheard-of", "setgroups").contains("--user"));
        assert!(setting("/usr/sbin/unheard-of", "chroot").contains("root"));
        assert!(setting("/usr/sbin/unheard-of", "shmget").contains("shared memory"));
        assert_eq!(setting("/usr/sbin/unheard-of", "mkdir"), "");
    }

    #[test]
    fn every_piece_of_advice_has_a_source_and_is_reachable() {
        for (index, advice) in TABLE.iter().enumerate() {
            assert!(!advice.source.is_empty() && !advice.setting.is_empty());
            let hidden = TABLE[..index].iter().find(|before| {
                advice.program.starts_with(before.program) && before.trigger.covers(advice.trigger)
            });
            assert_eq!(hidden, None, "hides {advice:?}");
        }
    }
}
