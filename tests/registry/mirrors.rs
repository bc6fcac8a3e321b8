//! Mirrors in the host's configuration: asked first, and skipped if they fail.

use crate::support::host::Host;
use crate::support::layout::Packing;
use crate::support::outcome::Outcome;
use crate::support::registry::{Fault, Registry};
use crate::{Served, assert_whole, host, imrun};

/// An image `HOST/app:1`, and another registry as its mirror.
struct Mirrored {
    served: Served,
    mirror: Registry,
}

impl Mirrored {
    fn new(host: &Host) -> Mirrored {
        let served = Served::new(host, Packing::Gzip);
        let mirror = Registry::start();
        mirror.publish(&served.layout, &served.manifest, "1");
        Mirrored { served, mirror }
    }

    /// Writes a registries.conf; `more` is added to the registry's rule.
    fn rules(&self, host: &Host, more: &str) -> String {
        let (registry, mirror) = (self.served.registry.authority(), self.mirror.authority());
        let text = format!(
            "[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n[[registry.mirror]]\nlocation = \"{mirror}\"\n{more}"
        );
        host.write("registries.conf", text).display().to_string()
    }

    /// Writes a directory of hosts.toml files with one for the registry.
    fn hosts(&self, host: &Host, text: &str) -> String {
        let directory = format!("certs.d/{}", self.served.registry.authority());
        let text = text.replace("MIRROR", &self.mirror.authority());
        host.write(&format!("{directory}/hosts.toml"), text);
        host.path("certs.d").display().to_string()
    }
}

fn pull(host: &Host, name: &str, variable: &str, value: &str) -> Outcome {
    imrun(host, &["pull", name], &[(variable, value)])
}

const RULES: &str = "CONTAINERS_REGISTRIES_CONF";
const HOSTS: &str = "IMRUN_HOSTS_DIR";

#[test]
fn a_whole_image_comes_from_the_mirror_that_has_it() {
    let host = host!();
    let mirrored = Mirrored::new(&host);
    let file = mirrored.rules(&host, "");
    let pulled = pull(&host, &mirrored.served.tag(), RULES, &file).exits(0);
    assert_eq!(pulled.line(), mirrored.served.digest());
    assert_eq!(mirrored.served.registry.requests().len(), 0);
    assert_whole(&host, mirrored.served.digest());

    let other = host!();
    let hosts = "[host.\"http://MIRROR\"]\n[host.\"http://MIRROR\".header]\nx-team = \"a\"";
    let directory = mirrored.hosts(&other, hosts);
    mirrored.mirror.forget();
    pull(&other, &mirrored.served.tag(), HOSTS, &directory).exits(0);
    assert_eq!(mirrored.served.registry.requests().len(), 0);
    let asked = mirrored.mirror.requests();
    let namespace = format!("?ns={}", mirrored.served.registry.authority());
    for request in &asked {
        assert_eq!(request.header("x-team"), Some("a"), "{request:?}");
        assert!(request.target.ends_with(&namespace), "{request:?}");
    }
    assert_whole(&other, mirrored.served.digest());
}

#[test]
fn a_mirror_that_fails_or_sends_wrong_data_is_skipped_and_named() {
    for (line, fault) in [
        ("HEAD", Fault::Status(500, Vec::new())),
        ("manifests", Fault::Status(404, Vec::new())),
        ("GET /v2/app/manifests", Fault::Garbage),
        ("GET /v2/app/blobs", Fault::Garbage),
        ("GET /v2/app/blobs", Fault::Status(403, Vec::new())),
        ("GET /v2/app/blobs", Fault::Cut(10)),
        ("", Fault::Noise),
    ] {
        let host = host!();
        let mirrored = Mirrored::new(&host);
        let file = mirrored.rules(&host, "");
        mirrored.mirror.fault(line, fault.clone(), usize::MAX);
        let pulled = pull(&host, &mirrored.served.tag(), RULES, &file);
        let pulled = pulled.of(&format!("{line} {fault:?}")).exits(0);
        assert!(pulled.err.contains("asking the next server"), "{pulled:?}");
        assert_whole(&host, mirrored.served.digest());
    }
}

#[test]
fn a_mirror_with_a_wrong_layer_is_named_and_the_next_mirror_is_asked() {
    let host = host!();
    let mirrored = Mirrored::new(&host);
    let liar = Registry::start();
    liar.publish(&mirrored.served.layout, &mirrored.served.manifest, "1");
    let layer = format!("GET /v2/app/blobs/{}", mirrored.served.layer(1));
    liar.fault(&layer, Fault::Garbage, usize::MAX);
    let registry = &mirrored.served.registry;
    registry.fault("", Fault::Status(403, Vec::new()), usize::MAX);
    let text = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        registry.authority(),
        liar.authority(),
        mirrored.mirror.authority()
    );
    let file = host.write("registries.conf", text).display().to_string();
    let pulled = pull(&host, &mirrored.served.tag(), RULES, &file).exits(0);
    let named = format!(
        "the mirror {} failed, asking the next server",
        liar.authority()
    );
    assert!(pulled.err.contains(&named), "{pulled:?}");
    assert_eq!(registry.requests().len(), 0);
    assert_whole(&host, mirrored.served.digest());
}

#[test]
fn a_transfer_resumes_at_the_registry_where_the_mirror_stopped() {
    let host = host!();
    let mirrored = Mirrored::new(&host);
    let layer = mirrored.served.layer(0);
    let half = mirrored.mirror.blob(&layer).unwrap().len() / 2;
    let line = format!("GET /v2/app/blobs/{layer}");
    mirrored.mirror.fault(&line, Fault::Cut(half), 1);
    mirrored
        .mirror
        .fault(&line, Fault::Status(404, Vec::new()), usize::MAX);
    let file = mirrored.rules(&host, "");
    pull(&host, &mirrored.served.tag(), RULES, &file).exits(0);
    let asked = mirrored.served.registry.requests();
    let range = asked.iter().find_map(|request| request.header("range"));
    assert!(
        range.is_some_and(|range| range.starts_with("bytes=")),
        "{asked:?}"
    );
    assert_whole(&host, mirrored.served.digest());
}

#[test]
fn a_mirror_that_may_not_resolve_tags_is_asked_only_for_blobs() {
    let host = host!();
    let mirrored = Mirrored::new(&host);
    let directory = mirrored.hosts(&host, "[host.\"http://MIRROR\"]\ncapabilities = [\"pull\"]");
    pull(&host, &mirrored.served.tag(), HOSTS, &directory).exits(0);
    assert_eq!(mirrored.mirror.count("manifests/1"), 0);
    assert!(mirrored.mirror.count("blobs/") > 0);
    assert_eq!(mirrored.served.registry.count("blobs/"), 0);
}

#[test]
fn a_push_goes_to_no_mirror_and_no_request_to_a_blocked_registry() {
    let host = host!();
    let mirrored = Mirrored::new(&host);
    let file = mirrored.rules(&host, "");
    let name = mirrored.served.tag();
    imrun(
        &host,
        &["import", "--keep-blobs", &mirrored.served.layout.source()],
        &[],
    )
    .exits(0);
    mirrored.mirror.forget();
    let push = ["push", mirrored.served.digest(), &name];
    imrun(&host, &push, &[(RULES, &file)]).exits(0);
    assert_eq!(mirrored.mirror.requests().len(), 0);
    mirrored.served.registry.forget();
    let blocked = host.write(
        "blocked.conf",
        format!(
            "[[registry]]\nlocation = \"{}\"\nblocked = true",
            mirrored.served.registry.authority()
        ),
    );
    let blocked = blocked.display().to_string();
    imrun(&host, &push, &[(RULES, &blocked)]).refused("is blocked by");
    pull(&host, &name, RULES, &blocked).refused("is blocked by");
    assert_eq!(mirrored.served.registry.requests().len(), 0);
}

#[test]
fn an_invalid_configuration_file_ends_the_pull_and_is_named() {
    let host = host!();
    let mirrored = Mirrored::new(&host);
    let file = host
        .write("registries.conf", "[[registry")
        .display()
        .to_string();
    pull(&host, &mirrored.served.tag(), RULES, &file)
        .refused("registries.conf: is not a valid registries.conf");
    let directory = mirrored.hosts(&host, "server = 1");
    pull(&host, &mirrored.served.tag(), HOSTS, &directory)
        .refused("hosts.toml: is not a valid hosts.toml");
}
