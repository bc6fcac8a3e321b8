use super::*;
use crate::error::Reason;

fn url(text: &str) -> SinkUrl {
    text.parse().unwrap()
}

fn refused(text: &str) -> Error {
    text.parse::<SinkUrl>().unwrap_err()
}

#[test]
fn all_parts_of_a_url_are_understood() {
    let url = url("es+http://us%65r:p%3A%40%2f@[::1]:9200/a/b/?index=logs-x&_msg_field=message");
    assert_eq!(url.scheme(), Scheme::Elastic);
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
fn the_shortest_urls_are_taken() {
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
fn neither_display_nor_debug_shows_what_could_be_secret() {
    let url = url("es+http://user:hunter2@es:9200/p?index=i&key=hunter2&hunter2");
    let shown = "es+http://***@es:9200/p?index=i&key=***&***";
    assert_eq!(url.to_string(), shown);
    assert_eq!(format!("{url:?}"), format!("SinkUrl({shown})"));
}

#[test]
fn errors_show_nothing_secret_however_wrong_the_text_is() {
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
        "splunk://user:hunter2@es:9200",
        "es+http:user:hunter2@es:9200",
    ] {
        let error = refused(text);
        assert!(
            !format!("{error:?}").contains("hunter2"),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn an_unknown_scheme_is_a_usage_error_that_lists_the_known() {
    let error = refused("splunk://es:9200");
    assert_eq!(error.reason, Reason::Usage);
    assert_eq!(error.hint.unwrap(), format!("known are {KNOWN}"));
    for scheme in [Scheme::Elastic, Scheme::Json, Scheme::Stdio] {
        assert!(KNOWN.contains(scheme.as_str()));
    }
}

#[test]
fn schemes_that_are_not_there_yet_are_refused_by_name() {
    for scheme in NOT_YET {
        let error = refused(&format!("{scheme}://host:1"));
        assert_eq!(error.reason, Reason::Unsupported);
        assert_eq!(error.why, format!("{scheme} is not there yet"));
    }
}

#[test]
fn what_is_not_exact_is_refused() {
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
        "stdio",
        "stdio://",
        "stdio:x",
        "ES+HTTP://es:9200",
    ] {
        assert_eq!(refused(text).reason, Reason::Usage, "{text:?}");
    }
}
