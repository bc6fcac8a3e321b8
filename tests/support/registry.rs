//! A registry that can be told to misbehave: the OCI distribution API over plain HTTP/1.1.

use super::layout::{INDEX, Layout, MANIFEST};
use super::server::{PATIENCE, Server};
use imrun::base::digest::Digest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What is wrong with an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status and these headers, and no body.
    Status(u16, Vec<(&'static str, String)>),
    /// This status with a body of this media type.
    Body(u16, &'static str, Vec<u8>),
    /// This header in place of the right one.
    Header(&'static str, String),
    /// As many bytes of the body, and then the connection is closed.
    Cut(usize),
    /// A body without a stated length that has more at its end, or never ends.
    Longer(Option<Vec<u8>>),
    /// Other bytes of the same length.
    Garbage,
    /// One byte of the body at a time, with a pause after each.
    Drip(Duration),
    /// Nothing, until the server is dropped.
    Silence,
    /// Bytes that are not HTTP.
    Noise,
    /// The whole body, whatever range is asked for.
    NoRange,
    /// The range from this many bytes further on.
    OtherRange(u64),
    /// Answers right, but only when another request for the same has come.
    Meet,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// The path, with its query.
    pub target: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    /// The header of that name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Who may do what.
#[derive(Debug, Clone)]
pub enum Access {
    Everybody,
    /// Whoever sends this `Authorization`.
    Basic(String),
    /// Whoever has the present token; the token server is here too, and gives one to whoever sends
    /// this `Authorization`.
    Bearer(Option<String>),
}

struct State {
    /// By digest.
    blobs: BTreeMap<String, Vec<u8>>,
    /// By tag and by digest: media type and bytes.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// Part of `METHOD TARGET`, what happens then, and how many times more.
    faults: Vec<(String, Fault, usize)>,
    access: Access,
    /// Tokens are numbered; only the last is worth something.
    token: usize,
    requests: Vec<Request>,
}

/// Dropping it closes the port.
pub struct Registry {
    address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
    _server: Server,
}

impl Registry {
    /// An empty registry on a free port of loopback.
    pub fn start() -> Registry {
        let shared = Arc::new((
            Mutex::new(State {
                blobs: BTreeMap::new(),
                manifests: BTreeMap::new(),
                faults: Vec::new(),
                access: Access::Everybody,
                token: 0,
                requests: Vec::new(),
            }),
            Condvar::new(),
        ));
        let own = Arc::clone(&shared);
        let server = Server::start(([127, 0, 0, 1], 0).into(), move |connection| {
            // A connection that breaks off is what these tests are about.
            let _broken = converse(connection, &own);
        });
        Registry {
            address: server.address(),
            shared,
            _server: server,
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// The name of a repository that has all that the registry has.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Serves all blobs of a layout, and the manifest as `app:TAG`.
    pub fn publish(&self, layout: &Layout, manifest: &Value, tag: &str) {
        let mut state = self.state();
        for entry in std::fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let digest = Digest::sha256(&bytes).to_string();
            if let Some(media_type) = media_type(&bytes) {
                state
                    .manifests
                    .insert(digest.clone(), (media_type, bytes.clone()));
            }
            state.blobs.insert(digest, bytes);
        }
        let manifest = state.manifests[manifest["digest"].as_str().unwrap()].clone();
        state.manifests.insert(tag.to_string(), manifest);
    }

    /// The next `times` requests whose `METHOD TARGET` has the text are answered so.
    pub fn fault(&self, text: &str, fault: Fault, times: usize) {
        self.state().faults.push((text.to_string(), fault, times));
    }

    /// Everything works again.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Who may do what from now on.
    pub fn access(&self, access: Access) {
        self.state().access = access;
    }

    /// The present token is worth nothing any more.
    pub fn expire(&self) {
        self.state().token += 1;
    }

    /// What was asked so far; the probe for TLS is not among it.
    pub fn requests(&self) -> Vec<Request> {
        let all = self.state().requests.clone();
        all.into_iter()
            .filter(|request| request.target != "/v2/")
            .collect()
    }

    /// How many requests so far have the text in their `METHOD TARGET`.
    pub fn count(&self, text: &str) -> usize {
        let line = |request: &Request| format!("{} {}", request.method, request.target);
        self.requests()
            .iter()
            .filter(|request| line(request).contains(text))
            .count()
    }

    /// Forgets what was asked.
    pub fn forget(&self) {
        self.state().requests.clear();
    }

    /// A blob that is there.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.state().blobs.get(digest).cloned()
    }

    /// A manifest that is there, by its tag or digest.
    pub fn manifest(&self, reference: &str) -> Option<(String, Vec<u8>)> {
        self.state().manifests.get(reference).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }
}

fn media_type(bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let known = |text: &&str| text.contains("manifest") || [MANIFEST, INDEX].contains(text);
    value["mediaType"]
        .as_str()
        .filter(known)
        .map(str::to_string)
}

fn converse(connection: TcpStream, shared: &(Mutex<State>, Condvar)) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    while let Some(request) = read(&mut reader)? {
        let mut state = shared.0.lock().unwrap();
        state.requests.push(request.clone());
        shared.1.notify_all();
        let fault = take_fault(&mut state.faults, &request);
        let answer = answer(&mut state, &request);
        if let Some(Fault::Meet) = fault {
            let same = |state: &mut State| {
                state
                    .requests
                    .iter()
                    .filter(|other| {
                        other.target == request.target && other.method == request.method
                    })
                    .count()
                    < 2
            };
            let (_state, timeout) = shared.1.wait_timeout_while(state, PATIENCE, same).unwrap();
            assert!(
                !timeout.timed_out(),
                "nobody else asks for {}",
                request.target
            );
        } else {
            drop(state);
        }
        if !send(reader.get_mut(), &request, answer, fault)? {
            return Ok(());
        }
    }
    Ok(())
}

fn take_fault(faults: &mut Vec<(String, Fault, usize)>, request: &Request) -> Option<Fault> {
    let line = format!("{} {}", request.method, request.target);
    let found = faults
        .iter()
        .position(|(text, _, _)| line.contains(text.as_str()))?;
    let (_, fault, times) = &mut faults[found];
    *times -= 1;
    let fault = fault.clone();
    if faults[found].2 == 0 {
        faults.remove(found);
    }
    Some(fault)
}

/// An answer as it should be.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        Answer {
            status,
            headers: headers.iter().map(owned).collect(),
            body: body.to_vec(),
        }
    }

    fn missing(what: &str) -> Answer {
        let body = format!(r#"{{"errors":[{{"code":"{what}","message":"it is not there"}}]}}"#);
        Answer::new(
            404,
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
    }
}

fn answer(state: &mut State, request: &Request) -> Answer {
    let path = request.target.split('?').next().unwrap();
    if path == "/token" {
        return token(state, request);
    }
    if let Some(refusal) = refuse(state, request) {
        return refusal;
    }
    let (kind, name) = path.rsplit_once('/').unwrap();
    match (request.method.as_str(), kind.rsplit('/').next().unwrap()) {
        ("GET", "v2") => Answer::new(200, &[], b"{}"),
        ("GET" | "HEAD", "manifests") => manifest(state, name),
        ("GET" | "HEAD", "blobs") => match state.blobs.get(name) {
            Some(bytes) => Answer::new(200, &[("etag", &format!("{name:?}"))], bytes),
            None => Answer::missing("BLOB_UNKNOWN"),
        },
        ("POST", "uploads") => {
            Answer::new(202, &[("location", "/v2/app/blobs/uploads/1?state=x")], b"")
        }
        ("PUT", "uploads") => take_blob(state, request),
        ("PUT", "manifests") => take_manifest(state, request, name),
        _ => Answer::missing("UNSUPPORTED"),
    }
}

fn manifest(state: &State, reference: &str) -> Answer {
    let Some((media_type, bytes)) = state.manifests.get(reference) else {
        return Answer::missing("MANIFEST_UNKNOWN");
    };
    let digest = Digest::sha256(bytes).to_string();
    let headers = [
        ("content-type", &media_type[..]),
        ("docker-content-digest", &digest),
    ];
    Answer::new(200, &headers, bytes)
}

fn take_blob(state: &mut State, request: &Request) -> Answer {
    let digest = request.target.split_once("digest=").unwrap().1;
    if Digest::sha256(&request.body).to_string() != digest {
        return Answer::new(400, &[], b"");
    }
    state.blobs.insert(digest.to_string(), request.body.clone());
    Answer::new(201, &[], b"")
}

fn take_manifest(state: &mut State, request: &Request, tag: &str) -> Answer {
    let manifest = (
        request.headers["content-type"].clone(),
        request.body.clone(),
    );
    let digest = Digest::sha256(&request.body).to_string();
    state.manifests.insert(tag.to_string(), manifest.clone());
    state.manifests.insert(digest.clone(), manifest);
    Answer::new(201, &[("docker-content-digest", &digest)], b"")
}

fn token(state: &mut State, request: &Request) -> Answer {
    match &state.access {
        Access::Bearer(Some(wanted)) if request.header("authorization") != Some(wanted) => {
            Answer::new(401, &[], b"")
        }
        _ => {
            state.token += 1;
            let body = format!(r#"{{"token":"t{}"}}"#, state.token);
            Answer::new(
                200,
                &[("content-type", "application/json")],
                body.as_bytes(),
            )
        }
    }
}

fn refuse(state: &State, request: &Request) -> Option<Answer> {
    let (wanted, challenge) = match &state.access {
        Access::Everybody => return None,
        Access::Basic(wanted) => (wanted.clone(), "Basic realm=\"test\"".to_string()),
        Access::Bearer(_) => {
            let host = request.header("host").unwrap();
            let challenge = format!(
                "Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"repository:app:pull\""
            );
            (format!("Bearer t{}", state.token), challenge)
        }
    };
    (request.header("authorization") != Some(&wanted))
        .then(|| Answer::new(401, &[("www-authenticate", &challenge)], b""))
}

/// Sends an answer, with what is wrong with it; whether the connection goes on.
fn send(
    to: &mut TcpStream,
    request: &Request,
    mut answer: Answer,
    fault: Option<Fault>,
) -> io::Result<bool> {
    cut_range(request, &mut answer, &fault);
    let mut length = Some(answer.body.len().to_string());
    match &fault {
        Some(Fault::Status(status, headers)) => {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, &value[..]))
                .collect();
            (answer, length) = (Answer::new(*status, &headers, b""), Some("0".into()));
        }
        Some(Fault::Body(status, media_type, body)) => {
            length = Some(body.len().to_string());
            answer = Answer::new(*status, &[("content-type", media_type)], body);
        }
        Some(Fault::Header("content-length", value)) => length = Some(value.clone()),
        Some(Fault::Header(name, value)) => {
            answer.headers.insert(name.to_string(), value.clone());
        }
        Some(Fault::Garbage) => answer.body.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::Longer(_)) => length = None,
        Some(Fault::Noise) => {
            to.write_all(b"\x16\x03\x01 no http here\r\n\r\n")?;
            return Ok(false);
        }
        Some(Fault::Silence) => {
            // Until the peer, or this server, has enough of it.
            let _closed = to.read(&mut [0]);
            return Ok(false);
        }
        _ => {}
    }
    to.write_all(head(&answer, length).as_bytes())?;
    match request.method.as_str() {
        "HEAD" => Ok(true),
        _ => send_body(to, &answer.body, &fault),
    }
}

/// Leaves what the request asks for.
fn cut_range(request: &Request, answer: &mut Answer, fault: &Option<Fault>) {
    let further = match fault {
        Some(Fault::NoRange) => return,
        Some(Fault::OtherRange(further)) => *further,
        _ => 0,
    };
    let Some(range) = request.header("range").filter(|_| answer.status == 200) else {
        return;
    };
    let first = range
        .strip_prefix("bytes=")
        .unwrap()
        .strip_suffix('-')
        .unwrap();
    let (first, total) = (first.parse::<u64>().unwrap() + further, answer.body.len());
    answer.body.drain(..first as usize);
    answer.status = 206;
    let range = format!("bytes {first}-{}/{total}", total - 1);
    answer.headers.insert("content-range".into(), range);
}

fn head(answer: &Answer, length: Option<String>) -> String {
    let mut head = format!("HTTP/1.1 {} Status\r\n", answer.status);
    match length {
        Some(length) => head += &format!("content-length: {length}\r\n"),
        None => head += "transfer-encoding: chunked\r\n",
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}

/// Sends a body; whether the connection goes on.
fn send_body(to: &mut TcpStream, body: &[u8], fault: &Option<Fault>) -> io::Result<bool> {
    let mut chunk = |bytes: &[u8]| {
        let size = format!("{:x}\r\n", bytes.len());
        to.write_all(&[size.as_bytes(), bytes, b"\r\n"].concat())
    };
    match fault {
        Some(Fault::Longer(more)) => {
            chunk(body)?;
            if let Some(more) = more {
                chunk(more)?;
                chunk(b"")?;
                return Ok(false);
            }
            loop {
                chunk(&[b' '; 4096])?;
            }
        }
        Some(Fault::Drip(pause)) => {
            for byte in body {
                to.write_all(&[*byte])?;
                std::thread::sleep(*pause);
            }
        }
        Some(Fault::Cut(bytes)) => to.write_all(&body[..*bytes])?,
        _ => {
            to.write_all(body)?;
            return Ok(!matches!(fault, Some(Fault::Header("content-length", _))));
        }
    }
    Ok(false)
}

/// Reads a request; none at the end of the connection, or where it is not HTTP.
fn read(from: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut start = String::new();
    if from.read_line(&mut start)? == 0 {
        return Ok(None);
    }
    let words: Vec<&str> = start.split_whitespace().collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return Ok(None);
    };
    let mut request = Request {
        method: method.into(),
        target: target.into(),
        headers: BTreeMap::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        request
            .headers
            .insert(name.to_ascii_lowercase(), value.trim().into());
    }
    let length = request
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    from.take(length).read_to_end(&mut request.body)?;
    Ok(Some(request))
}
