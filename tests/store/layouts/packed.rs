//! Faults in the bytes of layers and archives.

use super::*;

#[test]
fn a_blob_that_is_not_exactly_one_compressed_layer_is_refused() {
    let packed = |kind: &'static str, bytes: Vec<u8>| {
        move |l: &Layout| {
            let layer = l.add(&format!("{LAYER}{kind}"), &bytes);
            let config = l.add_json(CONFIG, &layout::config(&[&small()]));
            publish(l, l.add_manifest(&config, &[layer]));
        }
    };
    let (gz, zst) = (gzip(&small()), zstd::encode_all(&small()[..], 1).unwrap());
    let mut wrong_crc = gz.clone();
    let crc = wrong_crc.len() - 8;
    wrong_crc[crc] ^= 1;
    let cut = |bytes: &[u8]| bytes[..bytes.len() - 9].to_vec();
    let followed = |bytes: &[u8]| [bytes, b"garbage"].concat();
    refuse(&[
        ("gzip cut", &packed("+gzip", cut(&gz)), "layer sha256:"),
        (
            "gzip followed",
            &packed("+gzip", followed(&gz)),
            "layer sha256:",
        ),
        ("gzip CRC", &packed("+gzip", wrong_crc), "layer sha256:"),
        ("zstd cut", &packed("+zstd", cut(&zst)), "layer sha256:"),
        (
            "zstd followed",
            &packed("+zstd", followed(&zst)),
            "layer sha256:",
        ),
        ("gzip as plain", &packed("", gz), "layer sha256:"),
        ("nothing", &packed("+gzip", Vec::new()), "layer sha256:"),
    ]);
}

#[test]
fn a_layer_that_leaves_the_root_or_replaces_the_runtimes_files_is_refused() {
    let layer = |bytes: Vec<u8>| move |l: &Layout| drop(l.publish_image(&[&bytes], Packing::Gzip));
    let link = |name: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_link(&mut header, name, "/etc").unwrap();
        tar.into_inner().unwrap()
    };
    let mut climbing = small();
    climbing[..5].copy_from_slice(b"../xx");
    let sum: u32 = climbing[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        })
        .sum();
    climbing[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for (name, bytes, text) in [
        ("climbing", climbing, ".."),
        ("dev", link("dev"), "/dev"),
        ("proc", link("proc"), "/proc"),
        ("sys", link("sys"), "/sys"),
        ("no tar", vec![b'x'; 1024], "layer"),
        ("half a tar", small()[..512].to_vec(), "layer"),
    ] {
        let Some(outcome) = import(layer(bytes)) else {
            return;
        };
        outcome.of(name).refused(text);
    }
}

#[test]
fn archives_that_are_invalid_or_incomplete_are_refused() {
    let host = host!();
    let import = |transport: &str, bytes: &[u8]| {
        let file = host.write("archive", bytes);
        host.imrun([
            "import".into(),
            format!("{transport}-archive:{}", file.display()),
        ])
    };
    let docker = |entries: Value, files: &[(&str, Vec<u8>)]| {
        let manifest = ("manifest.json", entries.to_string().into_bytes());
        import("docker", &tar(&[&[manifest], files].concat()))
    };
    let config = || {
        (
            "config.json",
            layout::config(&[&small()]).to_string().into_bytes(),
        )
    };
    let entry = |layer: &str| json!([{ "Config": "config.json", "RepoTags": ["app:1"], "Layers": [layer] }]);
    let two = json!([entry("layer.tar")[0], { "Config": "other.json", "RepoTags": ["app:2"], "Layers": [] }]);

    docker(
        entry("layer.tar"),
        &[config(), ("layer.tar", tar(&[("etc/a", "2")]))],
    )
    .refused("diff_id");
    docker(entry("layer.tar"), &[config()]).refused("layer.tar");
    docker(entry("layer.tar"), &[("layer.tar", small())]).refused("config.json");
    docker(entry("../layer.tar"), &[config()]).refused("cannot name a member");
    docker(entry("/layer.tar"), &[config()]).refused("layer.tar: is not in");
    docker(two, &[config(), ("layer.tar", small())]).refused("has several images: app:1, app:2");
    docker(json!([]), &[]).refused("has no image");
    docker(json!({}), &[]).refused("manifest.json");

    for transport in ["oci", "docker"] {
        import(transport, b"").refused("");
        import(transport, b"not a tar").refused("archive");
        import(transport, &gzip(b"not a tar")).refused("archive");
        import(transport, &gzip(&small())[..40]).refused("archive");
        import(transport, &small())
            .refused(&format!(": is not in {}", host.path("archive").display()));
    }
    let file = fs::File::open(host.write("archive", small())).unwrap();
    host.imrun_reading(["import", "-"], file)
        .refused("standard input: has neither an index.json");
    host.imrun(["import", "-"]).refused("standard input");
    host.imrun(["import", "oci:/no/such/layout"])
        .refused("/no/such/layout");
    host.imrun(["import", "dir:/etc"])
        .refused("source \"dir:/etc\"")
        .hints("oci:DIR");
    host.imrun(["verify"]).exits(0).prints("");
    docker(entry("layer.tar"), &[config(), ("layer.tar", small())]).exits(0);
}
