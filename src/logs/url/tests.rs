use super::*;
use crate::base::error::Reason;

fn url(text: &str) -> SinkUrl {
    text.parse().unwrap()
}

fn refused(text: &str) -> Error {
    text.parse::<SinkUrl>().unwrap_err()
}

#[test]
fn all_parts_of_a_url_are_understood() {
    let url = url("es+http://us%65r:p%3A%40%2f@[::1]:9200/a/b/?index=logs-x&_msg_field=message");
    assert_eq!(url.scheme().protocol, Protocol::Elastic);
    assert_eq!(url.address, "[::1]:9200");
    assert_eq!(url.path, "/a/b");
    assert_eq!(url.index.as_deref(), Some("logs-x"));
    assert_eq!(url.parameters, ["_msg_field=message"]);
    let credentials = url.credentials.unwrap();
    assert_eq!(
        (&credentials.user[..], &credentials.password[..]),
        (&b"user"[..], &b"p:@/"[..])
    );
}

#[test]
fn the_shortest_urls_are_accepted() {
    assert_eq!(url("stdio:").to_string(), "stdio:");
    assert_eq!(url("json+tcp://10.0.0.1:5000").address, "10.0.0.1:5000");
    assert_eq!(
        url("json+tcp://logs.example:5000/").address,
        "logs.example:5000"
    );
    let plain = url("es+http://es:9200/");
    assert!(plain.path.is_empty() && plain.index.is_none() && plain.credentials.is_none());
}

#[test]
fn neither_display_nor_debug_shows_secrets() {
    let url = url("es+http://user:hunter2@es:9200/p?index=i&send.key=hunter2&send.hunter2");
    let shown = "es+http://***@es:9200/p?index=i&key=***&***";
    assert_eq!(url.to_string(), shown);
    assert_eq!(format!("{url:?}"), format!("SinkUrl({shown})"));
}

#[test]
fn errors_show_no_secrets_of_any_invalid_text() {
    for text in [
        "user:hunter2@es:9200",
        "es+http://user:hunter2@es",
        "es+http://user:hunter2@es:0",
        "es+http://user:hunter2@@:1",
        "es+http://user:hunter2/x@es:9200/",
        "es+http://user:hunter2?x@es:9200/",
        "es+http://user:hunter2#@es/",
        "es+http://user:hunter2%zz@es:9200/",
        "es+http://es:9200/#?key=hunter2",
        "es+http://es:9200/?index=&key=hunter2",
        "json+tcp://user:hunter2@es:9200",
        "es+https://user:hunter2@es:9200?key=hunter2",
        "es+https://es:9200?api_key=hunter2&cert=x",
        "forward+tcp://es:9200?shared_key=hunter2",
        "splunk://user:hunter2@es:9200",
        "es+http:user:hunter2@es:9200",
        "es+http://es:9200?hunter2",
        "es+http://es:9200?idnex=hunter2",
    ] {
        let error = refused(text);
        assert!(
            !format!("{error:?}").contains("hunter2"),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn an_unknown_scheme_is_a_usage_error_that_lists_the_known_ones() {
    let error = refused("splunk://es:9200");
    assert_eq!(error.reason, Reason::Usage);
    assert_eq!(error.hint.unwrap(), format!("known are {KNOWN}"));
    for scheme in SCHEMES {
        assert!(KNOWN.contains(scheme.name));
    }
}

#[test]
fn each_protocol_has_parameters_of_its_own() {
    let es = url(
        "es+https://es:1?ca=/a%20b&cert=c&key=k&api_key=a%3d&compression=gzip&parse=json&refresh=true",
    );
    let tls = tls::Settings {
        ca: Some("/a b".into()),
        client: Some(tls::Client {
            cert: "c".into(),
            key: "k".into(),
        }),
    };
    assert_eq!(es.tls, tls);
    assert!(es.gzip && es.parse);
    assert_eq!(es.parameters, ["refresh=true"]);
    assert_eq!(es.authorization().unwrap().value(), Some("ApiKey a="));
    assert_eq!(
        es.to_string(),
        "es+https://es:1?compression=gzip&parse=json&api_key=***&refresh=***"
    );
    let syslog = url("syslog+tls://s:6514?facility=local7");
    assert_eq!(syslog.facility, Some(23));
    assert_eq!(syslog.to_string(), "syslog+tls://s:6514?facility=local7");
    assert_eq!(
        url("forward+tcp://f:24224?tag=a.b").tag.as_deref(),
        Some("a.b")
    );
    assert_eq!(
        url("otlp+http://c:4318/x?send.tenant=1").parameters,
        ["tenant=1"]
    );
}

#[test]
fn each_scheme_has_the_acknowledgement_of_its_protocol() {
    for (scheme, word) in [
        ("es+http", "protocol"),
        ("es+https", "protocol"),
        ("otlp+http", "protocol"),
        ("otlp+https", "protocol"),
        ("forward+tcp", "protocol"),
        ("forward+tls", "protocol"),
        ("syslog+tcp", "transport"),
        ("syslog+tls", "transport"),
        ("syslog+udp", "none"),
        ("json+tcp", "transport"),
        ("json+tls", "transport"),
    ] {
        assert_eq!(
            url(&format!("{scheme}://h:1")).acknowledgement().as_str(),
            word
        );
    }
    assert_eq!(url("stdio:").acknowledgement().as_str(), "unshipped");
}

#[test]
fn the_authorization_of_a_file_is_one_line() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("key");
    let sink = url(&format!("otlp+http://c:1?authorization={}", file.display()));
    assert!(!sink.to_string().contains("authorization"));
    assert!(sink.authorization().is_err());
    for (content, taken) in [
        ("Bearer x y\n", true),
        ("Bearer x\r\ny: z", false),
        ("\n", false),
        ("é", false),
    ] {
        std::fs::write(&file, content).unwrap();
        let value = sink.authorization();
        assert_eq!(value.is_ok(), taken, "{content:?}");
        assert!(!taken || value.unwrap().value() == Some("Bearer x y"));
    }
}

#[test]
fn inexact_urls_are_refused() {
    for text in [
        "",
        "es+http",
        "es+http:",
        "es+http:es:9200",
        "es+http://",
        "es+http://es",
        "es+http://es:",
        "es+http://:9200",
        "es+http://es:65536",
        "es+http://es:+1",
        "es+http://e s:9200",
        "es+http://es\r\nx:9200",
        "es+http://[::1:9200",
        "es+http://[es]:9200",
        "es+http://es:9200/a b",
        "es+http://es:9200/\r\nx: y",
        "es+http://es:9200/?index=",
        "es+http://es:9200/?index=a%2fb",
        "es+http://es:9200/?index=%0a",
        "json+tcp://es:9200/path",
        "json+tcp://es:9200?x",
        "es+http://es:9200?ca=x&compression=brotli",
        "es+https://es:9200?cert=x",
        "es+https://es:9200?ca=",
        "es+https://es:9200?ca=%00",
        "es+http://u:p@es:9200?api_key=x",
        "es+http://es:9200?api_key=a%0d%0ab",
        "es+http://es:9200?parse=xml",
        "syslog+tcp://s:1?facility=none",
        "syslog+tcp://s:1?parse=json",
        "syslog+udp://s:1?ca=x",
        "syslog+tcp://s:1/path",
        "forward+tcp://user@f:1",
        "forward+tcp://f:1?tag=",
        "json+tls://j:1?api_key=x",
        "stdio",
        "stdio://",
        "stdio:x",
        "ES+HTTP://es:9200",
        "es+http://es:9200?index=a&index=b",
        "es+http://es:9200?send.=x",
    ] {
        assert_eq!(refused(text).reason, Reason::Usage, "{text:?}");
    }
}

#[test]
fn a_mistyped_parameter_is_an_error_that_names_it() {
    for (text, name) in [
        (
            "es+http://es:9200?idnex=logs",
            "es+http has no parameter idnex",
        ),
        (
            "es+http://es:9200?Index=logs",
            "es+http has no parameter Index",
        ),
        (
            "es+http://es:9200?ca=/ca.pem",
            "es+http has no parameter ca",
        ),
        (
            "es+https://es:9200?compresion=gzip",
            "es+https has no parameter compresion",
        ),
        (
            "otlp+http://c:4318?index=logs",
            "otlp+http has no parameter index",
        ),
        (
            "otlp+http://c:4318?autorization=/f",
            "otlp+http has no parameter autorization",
        ),
        (
            "forward+tcp://f:1?tga=x",
            "forward+tcp has no parameter tga",
        ),
        (
            "syslog+tls://s:1?facilty=user",
            "syslog+tls has no parameter facilty",
        ),
        ("json+tcp://j:1?parse_json", "json+tcp has no parameter"),
    ] {
        let error = refused(text);
        assert_eq!(error.why, name, "{text}");
        assert!(error.hint.unwrap().starts_with("it has "));
    }
    let sent = url("es+http://es:9200?send.idnex=x&pipeline=p&_stream_fields=a");
    assert_eq!(
        sent.parameters,
        ["idnex=x", "pipeline=p", "_stream_fields=a"]
    );
}
