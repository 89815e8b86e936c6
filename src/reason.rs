//! Why a verdict is unknown: each reason's code, its meaning and what to do about it.

use std::fmt;

/// Why no role can be vouched for. The only words about a failure that a client ever sees are
/// [`Reason::code`]; the rest is for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The command line or a `CMONHACHK_…` variable cannot be used.
    BadArguments,
    /// The program itself failed: a defect of cmonhachk.
    InternalError,
    /// There is no defaults file.
    DefaultsMissing,
    /// The defaults file is there but cannot be read.
    DefaultsUnreadable,
    /// The defaults file assigns no address to `RPC_BIND_ADDRESSES`.
    NoBindAddresses,
    /// `RPC_BIND_ADDRESSES` holds loopback addresses only.
    OnlyLoopback,
    /// The interface addresses that a wildcard stands for cannot be read.
    InterfacesUnreadable,
    /// Another check held the lock until this one's time was up.
    LockTimeout,
    /// There is no such s9s program.
    S9sNotFound,
    /// The s9s program is there but may not or cannot be executed.
    S9sNotExecutable,
    /// The system had no room to start s9s.
    S9sNotStarted,
    /// s9s was still running when the time was up, and was killed.
    S9sTimeout,
    /// Somebody else's signal ended s9s.
    S9sKilled,
    /// s9s printed more than is believable, and was killed.
    S9sTooMuchOutput,
    /// s9s exited 2: the controller redirected it and that failed.
    S9sRedirectFailed,
    /// s9s exited 3: the controller refused the user.
    S9sRefused,
    /// s9s exited 5: nothing accepts connections where it looked for the controller.
    S9sNoConnection,
    /// s9s exited 6: it has no user or no credentials.
    S9sNoUser,
    /// s9s exited with a status that is none of the above.
    S9sFailed,
    /// s9s exited 0, but what it printed is no controller list.
    ListUnreadable,
    /// The list holds no controllers.
    NoControllers,
    /// None of this node's addresses has a row in the list.
    NotListed,
    /// Several rows are this node's, and they differ.
    RowsDisagree,
    /// More than one row says leader.
    SeveralLeaders,
    /// This node's row says that it is not online.
    Offline,
    /// This node's row says that it is online but neither leader nor follower.
    NoRole,
}

impl Reason {
    /// Every reason, in the order in which a check can meet them.
    pub const ALL: [Reason; 26] = [
        Reason::BadArguments,
        Reason::InternalError,
        Reason::LockTimeout,
        Reason::DefaultsMissing,
        Reason::DefaultsUnreadable,
        Reason::NoBindAddresses,
        Reason::OnlyLoopback,
        Reason::InterfacesUnreadable,
        Reason::S9sNotFound,
        Reason::S9sNotExecutable,
        Reason::S9sNotStarted,
        Reason::S9sTimeout,
        Reason::S9sKilled,
        Reason::S9sTooMuchOutput,
        Reason::S9sRedirectFailed,
        Reason::S9sRefused,
        Reason::S9sNoConnection,
        Reason::S9sNoUser,
        Reason::S9sFailed,
        Reason::ListUnreadable,
        Reason::NoControllers,
        Reason::NotListed,
        Reason::RowsDisagree,
        Reason::SeveralLeaders,
        Reason::Offline,
        Reason::NoRole,
    ];

    /// The short code that the `Cmonhachk-Reason` header carries. Codes are fixed: HAProxy
    /// configurations and scripts match on them.
    pub fn code(self) -> &'static str {
        self.texts().0
    }

    /// What has happened, as a sentence for the operator.
    pub fn meaning(self) -> &'static str {
        self.texts().1
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(self) -> &'static str {
        self.texts().2
    }

    /// The reason that has this code.
    pub fn from_code(code: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }

    fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Reason::BadArguments => (
                "bad-arguments",
                "cmonhachk was started with an option or a CMONHACHK_ variable that it cannot use.",
                "Syslog names the option. Correct server_args or env in the service file; `cmonhachk --help` lists what there is.",
            ),
            Reason::InternalError => (
                "internal-error",
                "cmonhachk itself failed.",
                "Syslog has the place in the source. Please report it.",
            ),
            Reason::DefaultsMissing => (
                "defaults-missing",
                "There is no defaults file, so this node does not know its own address.",
                "Install the controller's defaults file or name the right one with --cmon-defaults.",
            ),
            Reason::DefaultsUnreadable => (
                "defaults-unreadable",
                "The defaults file is there but cannot be read.",
                "Make it a regular file of at most 1 MiB that the service's user may read.",
            ),
            Reason::NoBindAddresses => (
                "no-bind-addresses",
                "The defaults file assigns no address to RPC_BIND_ADDRESSES.",
                "Add RPC_BIND_ADDRESSES=\"127.0.0.1,ADDRESS\" with this node's address, and restart cmon.",
            ),
            Reason::OnlyLoopback => (
                "only-loopback",
                "RPC_BIND_ADDRESSES names nothing but loopback addresses.",
                "Add this node's address to RPC_BIND_ADDRESSES, and restart cmon.",
            ),
            Reason::InterfacesUnreadable => (
                "interfaces-unreadable",
                "RPC_BIND_ADDRESSES is a wildcard, and the interfaces' addresses cannot be read.",
                "Let the service use netlink sockets, or name this node's address in RPC_BIND_ADDRESSES.",
            ),
            Reason::LockTimeout => (
                "lock-timeout",
                "Another process held the lock file until the time was up.",
                "`fuser -v` on the lock file shows who holds it.",
            ),
            Reason::S9sNotFound => (
                "s9s-not-found",
                "There is no such s9s program.",
                "Install s9s-tools or name the program with --s9s.",
            ),
            Reason::S9sNotExecutable => (
                "s9s-not-executable",
                "The s9s program is there but cannot be executed.",
                "Make it a program that the service's user may execute; a script needs a #! line.",
            ),
            Reason::S9sNotStarted => (
                "s9s-not-started",
                "The system could not start s9s.",
                "Syslog has the system's error. Look for exhausted memory, processes or descriptors.",
            ),
            Reason::S9sTimeout => (
                "s9s-timeout",
                "s9s did not finish in time and was killed.",
                "The controller accepts connections but does not answer: look at cmon and its log. If it is only slow, raise --timeout.",
            ),
            Reason::S9sKilled => (
                "s9s-killed",
                "A signal from elsewhere ended s9s.",
                "Look for the out-of-memory killer in the kernel log, or for a crash of s9s.",
            ),
            Reason::S9sTooMuchOutput => (
                "s9s-too-much-output",
                "s9s printed more than 1 MiB and was killed.",
                "Run `s9s controller --list --long` by hand and look at what it prints.",
            ),
            Reason::S9sRedirectFailed => (
                "s9s-redirect-failed",
                "The controller sent s9s to another controller, and that failed.",
                "Check that this node reaches the others on the RPC port.",
            ),
            Reason::S9sRefused => (
                "s9s-refused",
                "The controller refused the user that s9s named.",
                "Check cmon_user and password in the s9s.conf of the service's user, and that user's rights.",
            ),
            Reason::S9sNoConnection => (
                "s9s-no-connection",
                "s9s found no controller that accepts connections.",
                "Start cmon on this node; check the controller's address in s9s.conf.",
            ),
            Reason::S9sNoUser => (
                "s9s-no-user",
                "s9s has no user name or no credentials.",
                "HOME decides which s9s.conf is read: give the service's user one, or set HOME in the service file.",
            ),
            Reason::S9sFailed => (
                "s9s-failed",
                "s9s ended with an error.",
                "Syslog has its exit status and what it printed.",
            ),
            Reason::ListUnreadable => (
                "list-unreadable",
                "s9s printed something that is no controller list.",
                "Compare `s9s controller --list --long` with the format in the README. Never guessed at: nobody is leader until it is readable.",
            ),
            Reason::NoControllers => (
                "no-controllers",
                "The list holds no controllers.",
                "Enable CMON HA: `s9s controller --enable-cmon-ha`.",
            ),
            Reason::NotListed => (
                "not-listed",
                "None of this node's addresses has a row in the list.",
                "Compare RPC_BIND_ADDRESSES with the IP and NAME columns of `s9s controller --list --long`.",
            ),
            Reason::RowsDisagree => (
                "rows-disagree",
                "Several rows of the list are this node's, and they differ.",
                "Remove the stale row: two controllers are registered under this node's address or name.",
            ),
            Reason::SeveralLeaders => (
                "several-leaders",
                "More than one controller says that it leads.",
                "A split or a handover in progress: if it lasts, look at the network between the controllers and at cmon's log.",
            ),
            Reason::Offline => (
                "offline",
                "The list says that this node's controller is not online.",
                "Look at cmon on this node; the list came from another controller.",
            ),
            Reason::NoRole => (
                "no-role",
                "This node's controller is online but neither leader nor follower.",
                "An election or a start in progress: if it lasts, look at cmon's log.",
            ),
        }
    }
}

/// A reason, with the error that led to it: what failed, on what.
#[derive(Debug)]
pub struct Fault {
    /// What the client is told, and where the operator's advice comes from.
    pub reason: Reason,
    /// What the operator is told. May hold text from files and from s9s: clean it with
    /// [`crate::log::clean`] before it is shown.
    pub detail: anyhow::Error,
}

impl Reason {
    /// A fault with this reason.
    pub fn because(self, detail: impl Into<anyhow::Error>) -> Fault {
        Fault {
            reason: self,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.reason.code(), self.detail)
    }
}
