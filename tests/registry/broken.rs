//! Broken connections and busy registries.

use crate::support::layout::{Layout, Packing, tar};
use crate::support::registry::{Fault, Registry};
use crate::{Served, assert_whole, host, imrun, pull};

/// Serves an image whose lower layer does not fit into one read.
fn served(host: &crate::support::host::Host) -> (Served, usize) {
    let served = Served::new(host, Packing::Gzip);
    let size = served.registry.blob(&served.layer(0)).unwrap().len();
    assert!(size > 200_000, "the layer has {size} bytes");
    (served, size)
}

#[test]
fn a_broken_transfer_resumes_where_it_stopped() {
    let host = host!();
    let (served, size) = served(&host);
    let layer = served.layer(0);
    served.registry.fault(
        &format!("GET /v2/app/blobs/{layer}"),
        Fault::Cut(size / 2),
        1,
    );
    pull(&host, &served.tag()).exits(0);
    assert_whole(&host, served.digest());
    let requests = served.registry.requests();
    let ranges: Vec<_> = requests
        .iter()
        .filter(|r| r.target.contains(&layer))
        .map(|r| r.header("range"))
        .collect();
    assert_eq!(ranges, [None, Some(&format!("bytes={}-", size / 2)[..])]);
    let resumed = requests
        .iter()
        .rfind(|r| r.target.contains(&layer))
        .unwrap();
    assert_eq!(resumed.header("if-range"), Some(&format!("{layer:?}")[..]));
}

#[test]
fn a_transfer_from_a_registry_without_ranges_starts_again() {
    let host = host!();
    let (served, size) = served(&host);
    let line = format!("GET /v2/app/blobs/{}", served.layer(0));
    served.registry.fault(&line, Fault::Cut(size / 2), 1);
    served.registry.fault(&line, Fault::NoRange, 1);
    pull(&host, &served.tag()).exits(0);
    assert_eq!(served.registry.count(&line), 2);
    assert_whole(&host, served.digest());
}

#[test]
fn an_answer_with_another_range_than_requested_is_refused() {
    let host = host!();
    let (served, size) = served(&host);
    let line = format!("GET /v2/app/blobs/{}", served.layer(0));
    served.registry.fault(&line, Fault::Cut(size / 2), 1);
    served.registry.fault(&line, Fault::OtherRange(1), 1);
    pull(&host, &served.tag()).refused(&format!(
        "sends another range than the one from byte {}",
        size / 2
    ));
    let wrong_total = Fault::Header(
        "content-range",
        format!("bytes {}-{}/{}", size / 2, size - 1, size + 1),
    );
    served.registry.fault(&line, Fault::Cut(size / 2), 1);
    served.registry.fault(&line, wrong_total, 1);
    pull(&host, &served.tag()).refused("sends another range");
}

#[test]
fn a_transfer_that_breaks_repeatedly_is_given_up() {
    let host = host!();
    let (served, _) = served(&host);
    let line = format!("GET /v2/app/blobs/{}", served.layer(0));
    served.registry.fault(&line, Fault::Cut(1), usize::MAX);
    pull(&host, &served.tag()).refused("the registry closes the connection");
    assert_eq!(served.registry.count(&line), 5);
}

#[test]
fn a_registry_that_does_not_answer_is_retried_and_then_given_up() {
    let host = host!();
    let (served, _) = served(&host);
    let line = format!("GET /v2/app/blobs/{}", served.layer(0));
    let args = ["pull", "--timeout", "300ms", &served.tag()];
    served.registry.fault(&line, Fault::Silence, 1);
    imrun(&host, &args, &[]).exits(0);
    let other = host!();
    served.registry.fault(&line, Fault::Silence, usize::MAX);
    imrun(&other, &args, &[]).refused("no answer before the timeout");
}

#[test]
fn a_busy_registry_is_retried_after_the_delay_it_requests() {
    for status in [429, 500, 502, 503, 504] {
        let host = host!();
        let (served, _) = served(&host);
        let after = vec![("retry-after", "0".to_string())];
        for line in [
            "HEAD /v2/app/manifests/1",
            &format!("GET /v2/app/manifests/{}", served.digest()),
            &served.layer(1),
        ] {
            served
                .registry
                .fault(line, Fault::Status(status, after.clone()), 2);
        }
        pull(&host, &served.tag()).of(&status.to_string()).exits(0);
        assert_eq!(served.registry.count(&served.layer(1)), 3);
    }
}

#[test]
fn a_registry_that_stays_busy_is_given_up() {
    let host = host!();
    let (served, _) = served(&host);
    served
        .registry
        .fault("HEAD", Fault::Status(503, Vec::new()), usize::MAX);
    pull(&host, &served.tag()).refused("the registry answers 503");
    assert_eq!(served.registry.requests().len(), 5);
    served.registry.heal();
    served.registry.forget();
    let later = vec![("retry-after", "3600".to_string())];
    served
        .registry
        .fault("HEAD", Fault::Status(429, later), usize::MAX);
    pull(&host, &served.tag())
        .refused("the registry answers 429")
        .hints("retry in 3600 s");
    assert_eq!(served.registry.requests().len(), 1);
}

#[test]
fn a_failed_pull_keeps_its_complete_layers() {
    let host = host!();
    let registry = Registry::start();
    let layout = Layout::new(host.path("layout"));
    let tars: Vec<_> = ["1", "2", "3", "4", "5", "6"]
        .iter()
        .map(|text| tar(&[("a", *text)]))
        .collect();
    let tars: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
    let image = layout.publish_image(&tars, Packing::Gzip);
    registry.publish(&layout, &image, "1");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(layout.blob(&image)).unwrap()).unwrap();
    let last = manifest["layers"][5]["digest"].as_str().unwrap();
    registry.fault(last, Fault::Status(500, Vec::new()), usize::MAX);
    pull(&host, &registry.name("app:1")).refused("the registry answers 500");
    assert_eq!(host.blobs().len(), 5);
    registry.heal();
    registry.forget();
    pull(&host, &registry.name("app:1")).exits(0);
    assert_eq!(
        registry.count("GET /v2/app/blobs/"),
        2,
        "the config and the last layer"
    );
}
