//! A receiver of the bulk API that can be told to misbehave.

use super::server::{PATIENCE, Server};
use imrun::cli::demo::receiver::{Document, bulk_answer, parse, read_request, respond};
use std::collections::HashSet;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// How requests are answered from now on.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// As Elasticsearch does.
    Well,
    /// As VictoriaLogs does: without items.
    WithoutItems,
    /// With this status, storing nothing.
    Status(u16),
    /// Stores the documents, sends half of the answer, and closes.
    Half,
    /// With text that is no answer to a bulk request, storing nothing.
    Garbage,
    /// With bytes that are not HTTP, storing nothing.
    Noise,
    /// Not at all, until told otherwise; storing nothing.
    Stall,
    /// Stores the documents and closes without an answer.
    Close,
    /// With this status for each document whose message contains the text, storing the others.
    Item(u16, &'static str),
}

#[derive(Debug)]
struct State {
    answer: Answer,
    requests: usize,
    refused: Vec<String>,
    authorizations: HashSet<Option<String>>,
    targets: HashSet<String>,
    ids: HashSet<String>,
    documents: Vec<Document>,
}

/// The receiver: what it has stored survives its being killed.
pub struct Bulk {
    server: Option<Server>,
    address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Bulk {
    /// Listens on a free port.
    pub fn start(answer: Answer) -> Bulk {
        let shared = Arc::new((
            Mutex::new(State {
                answer,
                requests: 0,
                refused: Vec::new(),
                authorizations: HashSet::new(),
                targets: HashSet::new(),
                ids: HashSet::new(),
                documents: Vec::new(),
            }),
            Condvar::new(),
        ));
        let server = serve(([127, 0, 0, 1], 0).into(), &shared);
        Bulk {
            address: server.address(),
            server: Some(server),
            shared,
        }
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers so from now on; requests that are stalled are answered so too.
    pub fn answer(&self, answer: Answer) {
        self.state().answer = answer;
        self.shared.1.notify_all();
    }

    /// Closes all connections, and the port; a request that is stalled is stored and not answered.
    pub fn kill(&mut self) {
        if matches!(self.state().answer, Answer::Stall) {
            self.answer(Answer::Close);
        }
        self.server = None;
    }

    /// Opens the port again.
    pub fn restart(&mut self) {
        self.server = Some(serve(self.address, &self.shared));
    }

    /// Waits until `condition` holds for what was stored and the number of requests.
    pub fn wait(&self, what: &str, condition: impl Fn(&[Document], usize) -> bool) {
        let waits = |state: &mut State| !condition(&state.documents, state.requests);
        let (state, timeout) = self
            .shared
            .1
            .wait_timeout_while(self.state(), PATIENCE, waits)
            .unwrap();
        // A panic that holds it would be the end of all tests.
        drop(state);
        assert!(!timeout.timed_out(), "never seen: {what}");
    }

    /// What was stored, in the order of arrival.
    pub fn documents(&self) -> Vec<Document> {
        self.state().documents.clone()
    }

    /// What was wrong with requests, if anything.
    pub fn refused(&self) -> Vec<String> {
        self.state().refused.clone()
    }

    /// All values of the header `authorization` so far.
    pub fn authorizations(&self) -> HashSet<Option<String>> {
        self.state().authorizations.clone()
    }

    /// All paths with their queries so far.
    pub fn targets(&self) -> HashSet<String> {
        self.state().targets.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(address: SocketAddr, shared: &Arc<(Mutex<State>, Condvar)>) -> Server {
    let shared = Arc::clone(shared);
    Server::start(address, move |connection| {
        // A connection that breaks off is what these tests are about.
        let _broken = converse(connection, &shared);
    })
}

fn converse(connection: TcpStream, shared: &(Mutex<State>, Condvar)) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    while let Some(request) = read_request(&mut reader)? {
        let parsed = parse(&request);
        let mut state = shared.0.lock().unwrap();
        state.requests += 1;
        state.targets.insert(request.target.clone());
        state.authorizations.insert(request.authorization.clone());
        shared.1.notify_all();
        let stalls = |state: &mut State| matches!(state.answer, Answer::Stall);
        state = shared.1.wait_while(state, stalls).unwrap();
        let batch = match parsed {
            Ok(batch) => batch,
            Err(why) => {
                state.refused.push(why);
                return respond(reader.get_mut(), 400, b"{}");
            }
        };
        let answer = state.answer;
        let statuses = store(&mut state, batch);
        drop(state);
        shared.1.notify_all();
        let body = bulk_answer(&statuses).to_string();
        let to = reader.get_mut();
        match answer {
            Answer::Well | Answer::Item(..) => respond(to, 200, body.as_bytes())?,
            Answer::WithoutItems => respond(to, 200, br#"{"took":0,"errors":false}"#)?,
            Answer::Status(status) => respond(to, status, br#"{"error":"told so"}"#)?,
            Answer::Garbage => respond(to, 200, b"<html>welcome</html>")?,
            Answer::Noise => to.write_all(b"\x16\x03\x01 no http here\r\n\r\n")?,
            Answer::Half => {
                let mut whole = Vec::new();
                respond(&mut whole, 200, body.as_bytes())?;
                return to.write_all(&whole[..whole.len() / 2]);
            }
            Answer::Close => return Ok(()),
            Answer::Stall => unreachable!("waited for its end"),
        }
    }
    Ok(())
}

/// Stores what the present answer stores, and returns a status for each document.
fn store(state: &mut State, batch: Vec<Document>) -> Vec<u16> {
    let statuses = batch.into_iter().map(|document| match state.answer {
        Answer::Status(_) | Answer::Garbage | Answer::Noise | Answer::Stall => 503,
        Answer::Item(status, text)
            if document.source["message"].as_str().unwrap().contains(text) =>
        {
            status
        }
        _ if state.ids.insert(document.id.clone().unwrap()) => {
            state.documents.push(document);
            201
        }
        _ => 409,
    });
    statuses.collect()
}
