use super::*;
use proptest::prelude::*;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Parses the required parameters and `more`.
fn line(more: &str) -> String {
    format!("console=ttyS0 imrun.image={A} imrun.sink=stdio: {more}\n")
}

fn parsed(more: &str) -> Settings {
    parse(line(more).as_bytes()).unwrap()
}

fn refused(more: &str) -> Error {
    parse(line(more).as_bytes()).unwrap_err()
}

#[test]
fn missing_parameters_have_defaults() {
    let settings = parsed("");
    assert_eq!(settings.image.to_string(), A);
    assert_eq!((settings.fallback, settings.address), (None, None));
    assert_eq!(settings.fallback_within, FALLBACK_WITHIN);
    assert_eq!(settings.store, StoreLocation::Path("/var/lib/imrun".into()));
    assert_eq!(settings.options, ["--sink=stdio:", "--net=host"]);
    assert!(settings.arguments.is_empty());
}

#[test]
fn every_parameter_is_read() {
    let settings = parsed(&format!(
        "imrun.store=LABEL=data imrun.fallback={B} imrun.fallback-within=2m imrun.env.LEVEL=a=b \
         imrun.env.EMPTY= imrun.net=none imrun.memory=64M ip=10.0.0.2 quiet imrun.on-exit=reboot"
    ));
    assert_eq!(settings.store, StoreLocation::Label("data".into()));
    assert_eq!(settings.fallback.unwrap().to_string(), B);
    assert_eq!(settings.fallback_within, Duration::from_secs(120));
    assert_eq!(settings.address.unwrap(), b"10.0.0.2");
    let expected = [
        "--sink=stdio:",
        "--net=none",
        "--memory=64M",
        "--env=LEVEL=a=b",
        "--env=EMPTY=",
    ];
    assert_eq!(settings.options, expected);
}

#[test]
fn quotes_work_as_in_the_kernel() {
    let settings =
        parsed(r#"imrun.env.A="two words" "imrun.env.B=x y" imrun.env.C=a"b c"d -- serve "a b""#);
    let expected = ["--env=A=two words", "--env=B=x y", "--env=C=a\"b c\"d"];
    assert_eq!(settings.options[2..], expected);
    assert_eq!(settings.arguments, ["serve", "a b"]);
}

#[test]
fn words_after_two_dashes_are_arguments_of_the_app() {
    let settings = parsed("-- imrun.bogus=1 -- --port 80");
    assert_eq!(settings.arguments, ["imrun.bogus=1", "--", "--port", "80"]);
}

#[test]
fn invalid_parameters_are_refused_by_name() {
    for (more, what, why) in [
        ("imrun.bogus=1", "imrun.bogus", "not a parameter"),
        ("imrun.env=A=1", "imrun.env", "not a parameter"),
        ("imrun.volume=/:/", "imrun.volume", "not a parameter"),
        ("imrun.env.A", "imrun.env.A", "no value"),
        ("imrun.env.=1", "imrun.env.", "has no name of a variable"),
        ("imrun.env.A=1 imrun.env.A=2", "imrun.env.A", "twice"),
        ("imrun.store=", "imrun.store", "no value"),
        ("imrun.store=data", "imrun.store=data", "absolute path"),
        ("imrun.store=LABEL=", "imrun.store=LABEL=", "absolute path"),
        ("imrun.image=sha256:12", "imrun.image", "twice"),
        ("imrun.fallback=redis:7", "imrun.fallback=redis:7", ""),
        ("imrun.fallback-within=1m", "imrun.fallback", "is not on"),
        ("imrun.on-exit=halt", "imrun.on-exit=halt", "poweroff"),
        ("imrun.net=none imrun.net=host", "imrun.net", "twice"),
    ] {
        let error = refused(more);
        assert_eq!(error.what, what, "{more}");
        assert!(error.why.contains(why), "{more}: {error}");
    }
    for (line, what) in [
        (
            format!("imrun.sink=stdio: {}", "x".repeat(3000)),
            "kernel command line",
        ),
        ("imrun.sink=stdio:".into(), "imrun.image"),
        (format!("imrun.image={A}"), "imrun.sink"),
    ] {
        assert_eq!(parse(line.as_bytes()).unwrap_err().what, what);
    }
}

#[test]
fn the_value_of_a_variable_is_in_no_error() {
    for more in ["imrun.env.A=SECRET imrun.env.A=SECRET", "imrun.env.=SECRET"] {
        let error = refused(more);
        assert!(!format!("{error} {:?}", error.hint).contains("SECRET"));
    }
}

#[test]
fn on_exit_is_read_despite_invalid_parameters() {
    for (line, end) in [
        ("", OnExit::PowerOff),
        ("imrun.on-exit=reboot imrun.bogus", OnExit::Reboot),
        ("imrun.on-exit=panic imrun.on-exit=halt", OnExit::Panic),
        ("imrun.on-exit=halt", OnExit::PowerOff),
        ("-- imrun.on-exit=panic", OnExit::PowerOff),
    ] {
        assert_eq!(on_exit(line.as_bytes()), end, "{line}");
    }
}

#[test]
fn a_module_gets_its_parameters_with_dashes_as_underscores() {
    let line = b"virtio_net.napi-tx=1 i6300esb.heartbeat=5 virtio-net.csum quiet -- i6300esb.x=1";
    assert_eq!(module_parameters(line, "i6300esb"), b"heartbeat=5");
    assert_eq!(module_parameters(line, "virtio_net"), b"napi-tx=1 csum");
    assert_eq!(module_parameters(line, "loop"), b"");
}

proptest! {
    #[test]
    fn any_bytes_are_settings_or_an_error_of_one_line(line: Vec<u8>) {
        on_exit(&line);
        module_parameters(&line, "loop");
        if let Err(error) = parse(&line) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn words_similar_to_parameters_never_panic(words in proptest::collection::vec(r#"(imrun\.(env\.[A-Z"]{0,3}|store|on-exit|image|fallback)|ip|--)[="]{0,2}[a-z0-9:." =]{0,20}"#, 0..8)) {
        let line = words.join(" ");
        on_exit(line.as_bytes());
        if let Ok(settings) = parse(line.as_bytes()) {
            prop_assert!(settings.options.len() >= 2);
        }
    }

    #[test]
    fn a_value_without_quotes_is_unchanged(value in r#"[!#-~]{1,200}"#) {
        let settings = parsed(&format!("imrun.env.V={value}"));
        let expected = OsString::from(format!("--env=V={value}"));
        prop_assert_eq!(settings.options.last(), Some(&expected));
    }
}
