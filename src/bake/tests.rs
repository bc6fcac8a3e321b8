use super::*;
use crate::image::manifest::{Config, Document, Manifest, Platform};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use tempfile::TempDir;

const BASE: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str) -> Result<Definition> {
    Definition::parse("image.toml", text)
}

/// Makes a directory with files: name, content, mode. A slash at the end of a name makes a directory.
fn directory(files: &[(&str, &str, u32)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content, mode) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.ends_with('/') {
            fs::create_dir_all(&path).unwrap()
        } else {
            fs::write(&path, content).unwrap()
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
    }
    directory
}

fn layer(definition: &str, directory: &Path) -> Result<Vec<u8>> {
    let mut tar = Vec::new();
    parse(definition)?.layer(directory, None, &mut tar)?;
    Ok(tar)
}

/// Lists a tar as lines: "MODE UID:GID PATH[ -> TARGET][ = CONTENT]".
fn listed(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let describe = |entry: std::io::Result<tar::Entry<&[u8]>>| {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(
            (header.mtime().unwrap(), header.username().unwrap()),
            (0, Some(""))
        );
        let (mode, uid, gid) = (
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
        );
        let mut line = format!(
            "{mode:04o} {uid}:{gid} {}",
            String::from_utf8_lossy(&entry.path_bytes())
        );
        if let Some(target) = entry.link_name_bytes() {
            line += &format!(" -> {}", String::from_utf8_lossy(&target));
        }
        if entry.header().entry_type().is_file() {
            line += &format!(" = {}", std::io::read_to_string(&mut entry).unwrap());
        }
        line
    };
    archive.entries().unwrap().map(describe).collect()
}

/// Other engines put a directory in the symlink's place, and hide what it leads to.
#[test]
fn a_path_through_a_symlink_of_the_base_is_written_to_where_that_leads() {
    use crate::image::layer::sample::Tar;
    let base = Tar::new().directory("usr/lib").symlink("lib", "usr/lib");
    let base = crate::image::tree::merge([base.layer()]).unwrap();
    let files = directory(&[("app", "x", 0o644), ("tree/lib/b", "y", 0o644)]);
    let bake = |text: &str| -> Result<Vec<String>> {
        let mut tar = Vec::new();
        let definition = parse(&format!("base = \"{BASE}\"\n{text}"))?;
        definition.layer(files.path(), Some(&base), &mut tar)?;
        Ok(listed(&tar))
    };
    let file =
        |source: &str, path: &str| format!("[[file]]\nsource = \"{source}\"\npath = \"{path}\"\n");
    let text = file("app", "/lib/a") + &file("tree", "/");
    assert_eq!(
        bake(&text).unwrap(),
        ["0644 0:0 usr/lib/a = x", "0644 0:0 usr/lib/b = y"]
    );
    let twice = file("app", "/lib/a") + &file("app", "/usr/lib/a");
    assert!(bake(&twice).unwrap_err().why.contains("appears twice"));
}

#[test]
fn a_full_definition_is_read() {
    let definition = parse(
        r#"
        base = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        entrypoint = ["/bin/app"]
        cmd = ["--serve"]
        env = { A = "b" }
        labels = { "dev.imrun.env" = '{"PORT": {"required": true}}' }
        user = "1000:1000"
        workdir = "/srv"
        stop-signal = "SIGINT"
        [[file]]
        source = "app"
        path = "/bin/app"
        mode = "0755"
        owner = "1000:100"
        "#,
    )
    .unwrap();
    assert_eq!(definition.base, Some(BASE.parse().unwrap()));
    assert_eq!(definition.workdir.unwrap().as_str(), "/srv");
    assert_eq!(definition.files[0].mode, Some(Mode(0o755)));
    assert_eq!(
        definition.files[0].owner,
        Owner {
            uid: 1000,
            gid: 100
        }
    );
    assert_eq!(parse("").unwrap().files, []);
}

#[test]
fn an_invalid_definition_is_refused_with_its_line() {
    let file = |rest: &str| format!("[[file]]\nsource = \"a\"\n{rest}");
    for (text, expected) in [
        (
            "\nentrypiont = []".to_string(),
            "line 2: unknown field `entrypiont`",
        ),
        (
            file("path = \"/a\"\nmod = \"1\""),
            "line 4: unknown field `mod`",
        ),
        (
            "base = \"sha256:00\"".into(),
            "line 1: digest \"sha256:00\": sha256 has 64 hex digits",
        ),
        (
            "base = \"redis:7\"".into(),
            "the algorithm is neither sha256 nor sha512",
        ),
        (file(""), "missing field `path`"),
        (
            file("path = \"a\""),
            "\"a\" is not an absolute and normalised path",
        ),
        (
            file("path = \"/a/../b\""),
            "is not an absolute and normalised path",
        ),
        (
            file("path = \"/a/\""),
            "is not an absolute and normalised path",
        ),
        (
            file("path = \"//a\""),
            "is not an absolute and normalised path",
        ),
        (
            file("path = \"/a/.wh.b\""),
            "is not an absolute and normalised path",
        ),
        (
            file("path = \"/a\"\nmode = \"0888\""),
            "line 4: mode \"0888\" is not an octal number",
        ),
        (
            file("path = \"/a\"\nmode = \"+7\""),
            "is not an octal number",
        ),
        (
            file("path = \"/a\"\nmode = \"17777\""),
            "is not an octal number",
        ),
        (
            file("path = \"/a\"\nmode = 493"),
            "invalid type: integer `493`",
        ),
        (
            file("path = \"/a\"\nowner = \"root:root\""),
            "owner \"root:root\" is not UID:GID",
        ),
        (file("path = \"/a\"\nowner = \"65536:0\""), "is not UID:GID"),
        (file("path = \"/a\"\nowner = \":\""), "is not UID:GID"),
        (
            "env = { \"A=B\" = \"c\" }".into(),
            "variable A=B: a name contains neither",
        ),
        (
            "[labels]\n\"dev.imrun.env\" = \"[]\"".into(),
            "label dev.imrun.env: is not an object",
        ),
        ("a = 1\na = 2".into(), "line 2: duplicate key"),
        ("a =".into(), "line 1:"),
    ] {
        let error = parse(&text).expect_err(&text).to_string();
        assert!(
            error.contains(expected),
            "{error:?} does not say {expected:?}"
        );
    }
    assert!(parse(&" ".repeat(MAX_DEFINITION + 1)).is_err());
}

#[test]
fn a_layer_has_its_files_with_all_parents_once_sorted_by_path() {
    let directory = directory(&[
        ("app", "binary", 0o700),
        ("conf/b", "B", 0o600),
        ("conf/a/x", "X", 0o666),
        ("conf/a-b", "AB", 0o777),
        ("conf/empty/", "", 0o700),
    ]);
    symlink("../elsewhere", directory.path().join("conf/link")).unwrap();
    let text = r#"
        [[file]]
        source = "conf"
        path = "/etc/conf"
        owner = "7:8"
        [[file]]
        source = "app"
        path = "/usr/bin/app"
        [[file]]
        source = "app"
        path = "/usr/bin/suid"
        mode = "4711"
    "#;
    let expected = [
        "0755 0:0 etc/",
        "0755 7:8 etc/conf/",
        "0755 7:8 etc/conf/a/",
        "0755 7:8 etc/conf/a-b = AB",
        "0644 7:8 etc/conf/a/x = X",
        "0644 7:8 etc/conf/b = B",
        "0755 7:8 etc/conf/empty/",
        "0777 7:8 etc/conf/link -> ../elsewhere",
        "0755 0:0 usr/",
        "0755 0:0 usr/bin/",
        "0755 0:0 usr/bin/app = binary",
        "4711 0:0 usr/bin/suid = binary",
    ];
    assert_eq!(listed(&layer(text, directory.path()).unwrap()), expected);
}

#[test]
fn on_a_base_implied_directories_are_left_to_the_base() {
    let directory = directory(&[("tree/lib/x", "X", 0o644), ("tree/new/", "", 0o755)]);
    let text = format!("base = \"{BASE}\"\n[[file]]\nsource = \"tree\"\npath = \"/\"\n");
    let tar = layer(&text, directory.path()).unwrap();
    assert_eq!(listed(&tar), ["0644 0:0 lib/x = X", "0755 0:0 new/"]);
    let tar = layer(&format!("{text}owner = \"1:1\""), directory.path()).unwrap();
    assert_eq!(
        listed(&tar),
        ["0755 1:1 lib/", "0644 1:1 lib/x = X", "0755 1:1 new/"]
    );
}

#[test]
fn long_names_and_targets_get_pax_records() {
    let name = format!("{}/{}", "d".repeat(90), "n".repeat(200));
    let directory = directory(&[(&name, "long", 0o644)]);
    let target = "t".repeat(300);
    symlink(&target, directory.path().join("link")).unwrap();
    let text = "[[file]]\nsource = \".\"\npath = \"/\"";
    let expected = [
        format!("0755 0:0 {}/", "d".repeat(90)),
        format!("0644 0:0 {name} = long"),
        format!("0777 0:0 link -> {target}"),
    ];
    assert_eq!(listed(&layer(text, directory.path()).unwrap()), expected);
}

#[test]
fn no_source_leads_out_of_the_definitions_directory() {
    let outer = directory(&[
        ("secret", "S", 0o644),
        ("inner/own", "O", 0o644),
        ("secrets/x", "X", 0o644),
    ]);
    let inner = outer.path().join("inner");
    symlink("../secrets", inner.join("relative")).unwrap();
    symlink(outer.path().join("secrets"), inner.join("absolute")).unwrap();
    symlink("/proc/self/root", inner.join("magic")).unwrap();
    let secret = outer.path().join("secret");
    for source in [
        "../secret",
        "./../secret",
        secret.to_str().unwrap(),
        "relative/x",
        "absolute/x",
        "relative/",
        "magic/etc/passwd",
    ] {
        let text = format!("[[file]]\nsource = {source:?}\npath = \"/a\"");
        let error = layer(&text, &inner).unwrap_err();
        assert_eq!(
            error.why, "leads out of the definition's directory",
            "{source}"
        );
    }
    let text = "[[file]]\nsource = \"relative\"\npath = \"/a\"";
    assert_eq!(
        listed(&layer(text, &inner).unwrap()),
        ["0777 0:0 a -> ../secrets"]
    );
}

#[test]
fn unusable_sources_are_refused_by_name() {
    let directory = directory(&[("a", "", 0o644), ("d/.wh.a", "", 0o644), ("e/x", "", 0o644)]);
    nix::unistd::mkfifo(
        &directory.path().join("fifo"),
        nix::sys::stat::Mode::S_IRUSR,
    )
    .unwrap();
    for (source, path, expected) in [
        ("missing", "/a", "source missing: No such file or directory"),
        ("", "/a", "source : No such file or directory"),
        (
            "fifo",
            "/a",
            "source fifo: expected a file, a directory or a symlink",
        ),
        (
            "d",
            "/d",
            "source d/.wh.a: has the name of a whiteout, which would remove a file",
        ),
        ("a", "/", "/: is the root, which must be a directory"),
    ] {
        let text = format!("[[file]]\nsource = {source:?}\npath = {path:?}");
        assert_eq!(
            layer(&text, directory.path()).unwrap_err().to_string(),
            expected
        );
    }
    let two = |first: &str, second: &str| {
        format!(
            "[[file]]\nsource = \"a\"\npath = {first:?}\n[[file]]\nsource = \"e\"\npath = {second:?}"
        )
    };
    let clash = layer(&two("/p/x", "/p"), directory.path()).unwrap_err();
    assert_eq!(clash.to_string(), "/p/x: appears twice in the definition");
    let under = layer(&two("/p", "/p/q"), directory.path()).unwrap_err();
    assert_eq!(
        under.to_string(),
        "/p: is not a directory, but the parent of another path"
    );
}

const GOLDEN: &str = r#"
    entrypoint = ["/bin/app", "--fast"]
    cmd = ["serve"]
    user = "65532:65532"
    workdir = "/srv"
    stop-signal = "SIGTERM"
    [env]
    PATH = "/bin"
    LANG = "C.UTF-8"
    [labels]
    title = "golden"
    [[file]]
    source = "bin/app"
    path = "/bin/app"
    [[file]]
    source = "etc"
    path = "/etc"
    owner = "0:5"
"#;

/// Bakes the definition GOLDEN in `directory`. Returns the image and its layer.
fn golden(directory: &Path) -> (Image, Vec<u8>) {
    let definition = parse(GOLDEN).unwrap();
    let tar = layer(GOLDEN, directory).unwrap();
    let own = Layer {
        digest: Digest::sha256(&tar),
        size: tar.len() as u64,
    };
    let platform = Platform::new("linux", "amd64", None);
    (image(&definition, None, &platform, own, None).unwrap(), tar)
}

#[test]
fn one_definition_has_one_digest_whatever_the_umask_and_the_order_of_creation() {
    let mut files = [
        ("bin/app", "#!/bin/sh\n", 0o755),
        ("etc/a.conf", "a = 1\n", 0o644),
        ("etc/deep/er/b.conf", "b = 2\n", 0o644),
        ("etc/nothing/", "", 0o755),
    ];
    let (first, _) = golden(directory(&files).path());
    assert_eq!(
        Digest::sha256(&first.manifest).to_string(),
        "sha256:17c45addf0b80ab5fa6d900b1d9204bf9a7082536baa0d6b2b31b8a209d49495"
    );
    files.reverse();
    // The modes under a umask of 077.
    files.iter_mut().for_each(|(_, _, mode)| *mode &= 0o700);
    assert_eq!(golden(directory(&files).path()).0, first);
}

#[test]
fn a_baked_image_is_accepted_by_the_manifest_parser() {
    let files = [("bin/app", "x", 0o755), ("etc/a", "y", 0o644)];
    let (image, tar) = golden(directory(&files).path());
    let (manifest, config) = read(&image);
    assert_eq!(manifest.config.digest, Digest::sha256(&image.config));
    assert_eq!(manifest.config.size, image.config.len() as u64);
    assert_eq!(manifest.layers[0].digest, Digest::sha256(&tar));
    assert_eq!(manifest.layers[0].digest, config.diff_ids[0]);
    assert_eq!(config.env, ["LANG=C.UTF-8", "PATH=/bin"]);
    assert_eq!(
        (config.entrypoint.len(), config.cmd),
        (2, vec!["serve".to_string()])
    );
    assert_eq!(
        (config.user.as_deref(), config.working_dir.as_deref()),
        (Some("65532:65532"), Some("/srv"))
    );
    assert_eq!(
        (config.labels["title"].as_str(), config.created),
        ("golden", None)
    );
}

fn read(image: &Image) -> (Manifest, Config) {
    let Document::Manifest(manifest) = Document::parse("m", &image.manifest, None).unwrap() else {
        panic!("the manifest was read as an index");
    };
    let config = Config::parse("c", &image.config, manifest.layers.len()).unwrap();
    (manifest, config)
}

fn base_config() -> Config {
    let text = format!(
        r#"{{"os": "linux", "architecture": "arm", "variant": "v6",
        "rootfs": {{"type": "layers", "diff_ids": ["{BASE}"]}},
        "config": {{"Env": ["PATH=/base", "A=base"], "Entrypoint": ["/base"], "Cmd": ["arg"], "User": "5",
        "WorkingDir": "/w", "Labels": {{"a": "base", "b": "base"}}, "StopSignal": "SIGQUIT",
        "ExposedPorts": {{"80/tcp": {{}}}}, "Volumes": {{"/v": {{}}}}}}}}"#
    );
    Config::parse("base", text.as_bytes(), 1).unwrap()
}

/// Returns config and manifest of a definition on the base above.
fn on_base(text: &str) -> (Manifest, Config) {
    let definition = parse(&format!("base = \"{BASE}\"\n{text}")).unwrap();
    let config = base_config();
    let base = Base {
        config: &config,
        sizes: &[1024],
    };
    let own = Layer {
        digest: Digest::sha256(b"own"),
        size: 2048,
    };
    read(&image(&definition, Some(base), &Platform::host(), own, None).unwrap())
}

#[test]
fn an_image_inherits_settings_that_its_definition_lacks() {
    let (manifest, config) = on_base("");
    let mut expected = base_config();
    expected.diff_ids.push(Digest::sha256(b"own"));
    assert_eq!(config, expected);
    assert_eq!(
        manifest.annotations["org.opencontainers.image.base.digest"],
        BASE
    );
    let sizes: Vec<_> = manifest.layers.iter().map(|layer| layer.size).collect();
    assert_eq!(sizes, [1024, 2048]);
    assert_eq!(manifest.layers[0].digest.to_string(), BASE);
}

#[test]
fn a_definition_overrides_its_base_and_an_entrypoint_drops_the_bases_arguments() {
    let (_, config) = on_base(
        "entrypoint = [\"/own\"]\nenv = { A = \"own\", B = \"own\" }\nlabels = { a = \"own\" }",
    );
    assert_eq!(
        (config.entrypoint, config.cmd),
        (vec!["/own".to_string()], vec![])
    );
    assert_eq!(config.env, ["PATH=/base", "A=own", "B=own"]);
    assert_eq!(
        (config.labels["a"].as_str(), config.labels["b"].as_str()),
        ("own", "base")
    );
    let (_, config) = on_base("cmd = [\"own\"]\nuser = \"\"");
    assert_eq!(
        (config.entrypoint, config.cmd, config.user),
        (vec!["/base".to_string()], vec!["own".to_string()], None)
    );
}

#[test]
fn a_missing_or_incomplete_base_is_refused() {
    let config = base_config();
    let base = Base {
        config: &config,
        sizes: &[],
    };
    let own = Layer {
        digest: Digest::sha256(b""),
        size: 0,
    };
    let on_base = parse(&format!("base = \"{BASE}\"")).unwrap();
    let error = image(&on_base, Some(base), &Platform::host(), own, None).unwrap_err();
    assert_eq!(error.to_string(), "base: has 1 diff_ids and 0 layer sizes");
    for (definition, base) in [(on_base, None), (parse("").unwrap(), Some(base))] {
        let error = image(&definition, base, &Platform::host(), own, None).unwrap_err();
        assert_eq!(error.what, "definition");
    }
}

proptest! {
    #[test]
    fn arbitrary_definitions_never_panic(text in "\\PC{0,60}", lines in "((base|env|mode|path|source|owner|\\[\\[file\\]\\]|a)( = )?(\"[/a.0-9:]{0,6}\"|1|\\{\\})?\n){0,6}") {
        let _ = parse(&text);
        let _ = parse(&lines);
    }
}
