//! Clients of a check, and the responders that serve them.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

use crate::cluster::{GET, PATIENCE, wait_until, waits_for_a_verdict};

/// Starts `command` with a new connection as all three standard descriptors.
pub fn connect(command: &mut Command) -> Client {
    try_connect(command, b"").unwrap()
}

/// The same, with a request that is there before the check starts: a check does not wait for one that
/// is late, and its form decides the answer.
pub fn requesting(command: &mut Command, request: &[u8]) -> Client {
    try_connect(command, request).unwrap()
}

/// The same for a command that may fail to start.
pub fn try_connect(command: &mut Command, request: &[u8]) -> io::Result<Client> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.write_all(request).unwrap();
    let socket: OwnedFd = listener.accept().unwrap().0.into();
    let responder = command
        .stdin(socket.try_clone().unwrap())
        .stdout(socket.try_clone().unwrap())
        .stderr(socket.try_clone().unwrap())
        .spawn()?;
    // The command keeps its copies of the socket for the next spawn. While they are open here,
    // the client would never see the end of the connection.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Ok(Client { stream, responder })
}

/// Waits until all of these checks but one wait for the lock. That one runs s9s.
pub fn wait_until_all_but_one_wait(clients: &[Client]) {
    wait_until("all but one wait for the lock", || {
        let waiting = clients
            .iter()
            .filter(|client| waits_for_a_verdict(client.responder.id()));
        waiting.count() + 1 == clients.len()
    });
}

/// A client, and the responder that serves it.
pub struct Client {
    pub stream: TcpStream,
    pub responder: Child,
}

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// All that comes until the connection's orderly end; a reset is an error.
    pub fn receive(&mut self) -> String {
        receive(&mut self.stream)
    }

    /// Whether the answer has not begun.
    pub fn is_waiting(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let nothing = self.stream.peek(&mut [0]).is_err();
        self.stream.set_nonblocking(false).unwrap();
        nothing
    }

    /// Waits until the responder exits, which it does with status 0.
    pub fn is_left(&mut self) {
        exits(&mut self.responder);
    }

    /// The answer, after which the client closes and the responder exits with status 0.
    pub fn answer(mut self) -> String {
        let answer = self.receive();
        let _ = self.stream.shutdown(Shutdown::Both);
        self.is_left();
        answer
    }
}

/// Opens a connection to a served port and sends a request on it.
pub fn ask(address: SocketAddrV4, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    stream
}

/// Waits until the responder exits, which it does with status 0.
pub fn exits(responder: &mut Child) {
    let start = Instant::now();
    while responder.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            responder.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(responder.wait().unwrap().code(), Some(0));
}

/// All that comes until the connection's orderly end; a reset is an error.
pub fn receive(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the connection ends in good order");
    answer
}

/// A request that comes from this address.
pub fn ask_from(own: impl Into<IpAddr>, to: impl Into<SocketAddr>) -> TcpStream {
    let mut client = connect_from(own, to);
    // One that is turned away may be gone already.
    let _ = client.write_all(GET);
    client
}

/// A connection that comes from this address.
pub fn connect_from(own: impl Into<IpAddr>, to: impl Into<SocketAddr>) -> TcpStream {
    let (own, to) = (SocketAddr::new(own.into(), 0), to.into());
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let client = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    socket::bind(client.as_raw_fd(), &SockaddrStorage::from(own)).unwrap();
    socket::connect(client.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    let client = TcpStream::from(client);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Whether the other side has closed this connection, also if it has sent something before.
pub fn is_closed(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let end = client.peek(&mut [0]);
    client.set_nonblocking(false).unwrap();
    !end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
