//! History and rollback of names.

use crate::support::host::Host;
use crate::support::layout::{Packing, program, tar};
use crate::{Served, host, imrun, pull};

/// Pulls two images in turn with the same name. Returns their digests.
fn two(host: &Host, served: &Served) -> [String; 2] {
    let first = pull(host, &served.tag()).exits(0).line();
    let newer = served
        .layout
        .publish_image(&[&program(), &tar(&[("a", "2")])], Packing::Gzip);
    served.registry.publish(&served.layout, &newer, "1");
    [first, pull(host, &served.tag()).exits(0).line()]
}

/// Returns the digests in a name's history, latest first.
fn history(host: &Host, name: &str) -> Vec<String> {
    let history = imrun(host, &["history", "--json", name], &[]).exits(0).out;
    let history: Vec<serde_json::Value> = serde_json::from_str(&history).unwrap();
    history
        .iter()
        .map(|change| change["digest"].as_str().unwrap_or("-").to_string())
        .collect()
}

#[test]
fn a_name_has_a_history_and_can_be_rolled_back() {
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
    // Rolling back to the current digest changes nothing.
    imrun(&host, &["rollback", &name, "--to", &second], &[]).exits(0);
    assert_eq!(history(&host, &name).len(), 4);
    host.launch_of(&second).run().exits(0).prints("ran\n");
}

#[test]
fn a_rollback_to_an_unknown_or_removed_image_is_refused() {
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
        .refused("is no longer in the store")
        .hints(&first);
}

#[test]
fn a_name_is_found_as_given_and_in_dockers_full_form() {
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
