use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc;

/// A server that answers each connection with the next of `answers`; what it was sent.
fn server(answers: Vec<&'static str>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let (sent, received) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut connection, _) = listener.accept().expect("a connection");
            let mut reader = BufReader::new(connection.try_clone().expect("a copy"));
            let (mut text, mut length) = (String::new(), 0);
            while !text.ends_with("\r\n\r\n") {
                let start = text.len();
                reader.read_line(&mut text).expect("a line");
                if let Some(value) = text[start..].strip_prefix("Content-Length: ") {
                    length = value.trim().parse().expect("a number");
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the body");
            let body = String::from_utf8(body).expect("text");
            sent.send(text + &body).expect("somebody reads it");
            connection.write_all(answer.as_bytes()).expect("an answer");
        }
    });
    (endpoint, received)
}

fn connect(endpoint: &str) -> TcpStream {
    TcpStream::connect(endpoint.trim_start_matches("http://")).expect("a connection")
}

/// Asks on a connection that stays open; the answer up to the end of `last`.
fn ask(mut connection: &TcpStream, request: &str, last: &str) -> String {
    connection
        .write_all(request.as_bytes())
        .expect("it is sent");
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(last) {
        connection.read_exact(&mut byte).expect("an answer");
        text.push(char::from(byte[0]));
    }
    text
}

const PUT: &str = "PUT /hives/home/a%20b?x-id=1 HTTP/1.1\r\nhost: 127.0.0.1:1\r\n\
                   Authorization: AWS4-HMAC-SHA256 SignedHeaders=host, Signature=0f\r\n\
                   Content-Length: 5\r\n\r\nbytes";

#[test]
fn what_a_client_signed_arrives_as_it_was_sent_and_answers_come_whole() {
    let (endpoint, received) = server(vec![
        "HTTP/1.0 200 OK\r\nETag: \"t\"\r\nConnection: close\r\n\r\ndone",
        "HTTP/1.1 206 Part\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
    ]);
    let proxy = Proxy::to(&endpoint, 0);
    let connection = connect(&proxy.door("a"));
    let answer = ask(&connection, PUT, "done");
    assert!(
        answer.contains("\r\nETag: \"t\"\r\nContent-Length: 4\r\n"),
        "{answer}"
    );
    assert!(!answer.contains("close"), "{answer}");
    assert_eq!(received.recv().expect("a request"), PUT);
    let answer = ask(&connection, "GET /hives/home/b HTTP/1.1\r\n\r\n", "abcde");
    assert!(
        answer.contains(" 206 ") && answer.contains("Content-Length: 5"),
        "{answer}"
    );
    // The length of what a HEAD does not bring.
    let answer = ask(
        &connection,
        "HEAD /hives/home/c HTTP/1.1\r\n\r\n",
        "\r\n\r\n",
    );
    assert!(answer.contains("Content-Length: 77"), "{answer}");

    let seen: Vec<(String, String)> = proxy
        .log()
        .iter()
        .map(|logged| {
            (
                logged.kind().into(),
                logged.key("home").expect("in the root"),
            )
        })
        .collect();
    let expected = [("put", "a%20b"), ("get", "b"), ("head", "c")];
    assert_eq!(seen, expected.map(|(kind, key)| (kind.into(), key.into())));
    assert!(proxy.log().iter().all(|logged| logged.client == "a"));
}

#[test]
fn faults_are_refusals_losses_and_a_server_that_nobody_reaches() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (endpoint, received) = server(vec![ok; 3]);
    let proxy = Proxy::to(&endpoint, 0);
    let door = proxy.door("a");
    let connection = connect(&door);
    proxy.refuse_one_in(1);
    let answer = ask(&connection, PUT, "</Error>");
    assert!(
        answer.contains(" 503 ") && answer.contains("SlowDown"),
        "{answer}"
    );
    assert!(received.try_recv().is_err(), "the server has not seen it");
    proxy.refuse_one_in(0);

    proxy.lose_one_in(1);
    let mut lost = connect(&door);
    lost.write_all(PUT.as_bytes()).expect("it is sent");
    assert_eq!(lost.read(&mut [0]).expect("an end"), 0);
    assert_eq!(received.recv().expect("the server has done it"), PUT);
    proxy.lose_one_in(0);

    proxy.set_unreachable(true);
    let cut = |mut connection: &TcpStream| {
        let _ = connection.write_all(PUT.as_bytes());
        !matches!(connection.read(&mut [0]), Ok(1))
    };
    assert!(cut(&connection), "one that was open");
    assert!(cut(&connect(&door)), "and a new one");
    assert!(received.try_recv().is_err(), "the server has not seen it");
    proxy.set_unreachable(false);
    proxy.set_latency(Duration::from_millis(30));
    let began = proxy.now();
    ask(&connect(&door), PUT, "ok");
    assert!(proxy.now() - began >= Duration::from_millis(30));

    let outcomes = proxy.log().into_iter().map(|logged| logged.outcome);
    let outcomes: Vec<Outcome> = outcomes.collect();
    assert_eq!(outcomes[..2], [Outcome::Refused, Outcome::Lost]);
    assert_eq!(outcomes.last(), Some(&Outcome::Answered(200)));
}

#[test]
fn the_last_put_is_done_and_nobody_is_told() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (endpoint, received) = server(vec![ok; 2]);
    let proxy = Proxy::to(&endpoint, 0);
    let door = proxy.door("a");
    proxy.unreachable_after_put("a%20b");
    let mut connection = connect(&door);
    ask(&connection, "GET /hives/home/a%20b HTTP/1.1\r\n\r\n", "ok");
    received.recv().expect("one that is no PUT");
    connection.write_all(PUT.as_bytes()).expect("it is sent");
    assert!(!matches!(connection.read(&mut [0]), Ok(1)), "no answer");
    assert_eq!(received.recv().expect("the server has done it"), PUT);
    assert!(!matches!(connect(&door).read(&mut [0]), Ok(1)), "cut");
    let outcomes = proxy.log().into_iter().map(|logged| logged.outcome);
    let outcomes: Vec<Outcome> = outcomes.collect();
    assert_eq!(outcomes, [Outcome::Answered(200), Outcome::Lost]);
}
