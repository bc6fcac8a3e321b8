//! What a name meant, and means again.

use crate::support::host::Host;
use crate::support::layout::{Packing, program, tar};
use crate::{Served, host, imrun, pull};

/// Pulls two images in turn by one name; their digests.
fn two(host: &Host, served: &Served) -> [String; 2] {
    let first = pull(host, &served.tag()).exits(0).line();
    let newer = served
        .layout
        .publish_image(&[&program(), &tar(&[("a", "2")])], Packing::Gzip);
    served.registry.publish(&served.layout, &newer, "1");
    [first, pull(host, &served.tag()).exits(0).line()]
}

/// The digests that the history of a name has, the latest first.
fn history(host: &Host, name: &str) -> Vec<String> {
    let history = imrun(host, &["history", "--json", name], &[]).exits(0).out;
    let history: Vec<serde_json::Value> = serde_json::from_str(&history).unwrap();
    history
        .iter()
        .map(|change| change["digest"].as_str().unwrap_or("-").to_string())
        .collect()
}

#[test]
fn a_name_has_a_history_and_can_be_rolled_back_in_it() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let name = served.tag();
    let [first, second] = two(&host, &served);
    assert_ne!(first, second);
    assert_eq!(history(&host, &name), [&second[..], &first]);
    let lines = imrun(&host, &["history", &name], &[]).exits(0).out;
    assert!(
        lines
            .lines()
            .next()
            .unwrap()
            .ends_with(&format!("  {second}")),
        "{lines}"
    );

    assert_eq!(
        imrun(&host, &["rollback", &name], &[]).exits(0).line(),
        first
    );
    host.launch_of(&name)
        .run()
        .refused("is a name")
        .hints(&first);
    assert_eq!(
        imrun(&host, &["rollback", &name, "--to", &second], &[])
            .exits(0)
            .line(),
        second
    );
    assert_eq!(
        history(&host, &name),
        [&second[..], &first, &second, &first]
    );
    // What it means already is no change.
    imrun(&host, &["rollback", &name, "--to", &second], &[]).exits(0);
    assert_eq!(history(&host, &name).len(), 4);
    host.launch_of(&second).run().exits(0).prints("ran\n");
}

#[test]
fn what_a_name_never_meant_or_what_is_gone_is_refused() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let name = served.tag();
    imrun(&host, &["history", &name], &[]).refused("is not known in the store");
    imrun(&host, &["rollback", &name], &[]).refused("is not known in the store");
    pull(&host, &name).exits(0);
    imrun(&host, &["rollback", &name], &[]).refused("has never meant another image");
    let other = served.layer(0);
    imrun(&host, &["rollback", &name, "--to", &other], &[]).refused("has never meant sha256:");
    let [first, _] = two(&host, &served);
    host.imrun(["gc", "--keep", "1"]).exits(0);
    imrun(&host, &["rollback", &name], &[])
        .refused("is not in the store any more")
        .hints(&first);
}

#[test]
fn a_name_is_known_as_it_was_given_and_as_docker_reads_it() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    host.imrun(["import", "--name", "mine", &served.layout.source()])
        .exits(0);
    host.imrun([
        "import",
        "--name",
        "docker.io/library/redis:latest",
        &served.layout.source(),
    ])
    .exits(0);
    assert_eq!(history(&host, "mine"), [served.digest()]);
    assert_eq!(history(&host, "redis"), [served.digest()]);
    host.launch_of("redis:latest")
        .run()
        .refused("is a name")
        .hints(served.digest());
    assert_eq!(
        pull(&host, &served.pinned()).exits(0).line(),
        served.digest()
    );
    assert_eq!(history(&host, served.digest()), [served.digest()]);
}
