//! Why a verdict is unknown: one table of each reason's code, its meaning and what to do about it.

/// Makes the enum, and from the same rows its codes, meanings and advice.
macro_rules! reasons {
    ($($reason:ident $code:literal $meaning:literal $advice:literal)*) => {
        /// Why no role is certain. [`Reason::code`] is the only text about a failure that a client ever
        /// sees; the rest is for the operator.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $(#[doc = $meaning] $reason,)*
        }

        impl Reason {
            /// Every reason, in the order in which a check can meet them.
            pub const ALL: [Reason; [$($code,)*].len()] = [$(Reason::$reason,)*];

            /// Code, meaning and advice.
            const fn texts(self) -> [&'static str; 3] {
                match self {
                    $(Reason::$reason => [$code, $meaning, $advice],)*
                }
            }
        }
    };
}

reasons! {
    BadArguments "bad-arguments"
        "cmonhachk cannot use an option, a CMONHACHK_ variable, or /etc/default/cmonhachk."
        "Syslog names it. Correct that file or the options in the service file; `cmonhachk --help` lists them. The service's user must be able to read the file."
    InternalError "internal-error"
        "cmonhachk itself failed."
        "Syslog has the place in the source. Report it to the maintainer of the package (`dpkg -s cmonhachk` or `rpm -qi cmonhachk` names it), with that line and the version."
    Maintenance "maintenance"
        "The maintenance file is there, so s9s is not run."
        "Remove the file when the work is done. --explain shows its text."
    Stuck "stuck"
        "The check did not end in time, because a file or a program that it needs did not answer."
        "Syslog names what it was reading or running. Look for a network file system, a disk or an on-access scanner that does not answer. While there is an s9s that cannot be killed, s9s is not run again."
    LockTimeout "lock-timeout"
        "No verdict of another check came in time, and too little of the time was left to run s9s."
        "A single such response means that a check was disturbed. If it lasts, `lslocks` shows which process holds the lock."
    LockUnusable "lock-unusable"
        "The lock file cannot be used, so s9s is not run. Without the lock, each check would be one more login."
        "Syslog says what is wrong. The folder of the lock file must exist, belong to the service's user, and be writable for no other user. As root, make it, and under systemd then restart cmonhachk.service:\n  install -d -m 700 -o cmonhachk /run/cmonhachk\nIf syslog names boot_id, let the service read /proc/sys."
    DefaultsMissing "defaults-missing"
        "There is no defaults file, so this node does not know its own address."
        "Install the controller's defaults file, name the right one with --cmon-defaults, or set --node."
    DefaultsUnreadable "defaults-unreadable"
        "The defaults file is there but cannot be read."
        "Make it a regular file of at most 1 MiB that the service's user can read."
    ControllerPool "controller-pool"
        "This controller is in a Controller Pool, in which all controllers are active."
        "A pool has no leader, so let HAProxy check only the UI. cmonhachk recognises a pool by --pool in EXTRA_OPTS of the defaults file."
    DefaultsUnclear "defaults-unclear"
        "The defaults file has a line that only a shell can evaluate, or RPC_BIND_ADDRESSES has a word that is neither an address nor a host name."
        "Syslog has it. The file can have comments and plain assignments, one on a line, and RPC_BIND_ADDRESSES a list of addresses and host names without ports and variables. If it needs more, set --node."
    NoBindAddresses "no-bind-addresses"
        "RPC_BIND_ADDRESSES, or --node, has no address."
        "Add RPC_BIND_ADDRESSES=\"127.0.0.1,ADDRESS\" with this node's address and restart cmon, or set --node."
    OnlyLoopback "only-loopback"
        "RPC_BIND_ADDRESSES, or --node, has only loopback addresses."
        "Add this node's address to RPC_BIND_ADDRESSES and restart cmon, or set --node to it."
    AnotherNode "another-node"
        "RPC_BIND_ADDRESSES names another machine: no interface of this one has its address. The defaults file may be a copy from another node."
        "Put this node's own address into RPC_BIND_ADDRESSES and restart cmon. If the list has an address that this machine does not have (NAT, a container), set --node to it."
    InterfacesUnreadable "interfaces-unreadable"
        "The addresses of this machine's interfaces cannot be read, so RPC_BIND_ADDRESSES cannot be compared with them."
        "Allow the service to use netlink sockets, or set --node to this node's address."
    S9sNotFound "s9s-not-found"
        "There is no such s9s program."
        "Install s9s-tools or name the program with --s9s."
    S9sNotExecutable "s9s-not-executable"
        "The s9s program is there but cannot be executed."
        "The service's user must be able to execute it. A script needs a #! line."
    S9sNotStarted "s9s-not-started"
        "The system could not start s9s, or the check itself."
        "Syslog has the system's error. Look whether memory, processes or descriptors are exhausted, and whether /dev/null is there."
    S9sTimeout "s9s-timeout"
        "s9s did not finish in time and was killed."
        "The controller, or the leader to which it redirects s9s, does not answer. Look at cmon and its log there, and at the network. If the controller is only slow, raise --timeout."
    S9sKilled "s9s-killed"
        "A signal that cmonhachk did not send ended s9s."
        "Look for the out-of-memory killer in the kernel log, or for a crash of s9s."
    S9sTooMuchOutput "s9s-too-much-output"
        "s9s printed more than 512 KiB."
        "Run `s9s controller --list --long` on the command line and look at what it prints."
    S9sRedirectFailed "s9s-redirect-failed"
        "The controller redirected s9s to a leader that it could not reach."
        "An election is in progress, or the leader is down. If it lasts, look at cmon on the other nodes, and check that this node reaches them on the RPC port."
    S9sTryAgain "s9s-try-again"
        "The controller is starting, or asks to try again later."
        "Wait. If it lasts, look at cmon and its log."
    S9sSuspended "s9s-user-suspended"
        "The controller has suspended the user that s9s named. s9s is not run again until the back-off ends (--backoff)."
        "First correct the password in the s9s.conf of the service's user, or the user is suspended again. Then enable the user in ClusterControl and touch that s9s.conf, which ends the back-off."
    S9sRefused "s9s-refused"
        "The controller refused the user that s9s named. Each check would be one more failed login, so s9s is not run again until the back-off ends (--backoff)."
        "Syslog has the controller's words. Check cmon_user and password in the s9s.conf of the service's user, and the rights of that user. Then touch that s9s.conf, which ends the back-off."
    S9sLoginFailed "s9s-login-failed"
        "The login failed, but not because of the user or the password. After a short back-off, s9s is run again."
        "Syslog has the controller's words. Look at cmon, its log and its database."
    S9sNoSuchHost "s9s-no-such-host"
        "s9s cannot find the host that it was told to ask."
        "Check the controller's address in s9s.conf and in CMON_CONTROLLER, and the resolver of this node."
    S9sNoTls "s9s-no-tls"
        "The TLS handshake between s9s and the controller failed."
        "Check that the port in s9s.conf is the RPC port of a controller that speaks TLS. If it is, look at cmon's log."
    S9sNoConnection "s9s-no-connection"
        "The controller that s9s asks, or the leader to which it is redirected, accepts no connections."
        "Syslog has the address. If it is the address of this node, start cmon here. If it is the address of another node, an election is in progress or the leader is down. If s9s.conf or CMON_CONTROLLER names the other node, remove it there, because each node must ask its own controller."
    S9sConfUnreadable "s9s-conf-unreadable"
        "s9s cannot read one of its s9s.conf files."
        "Syslog has the line. Correct the s9s.conf of the service's user, or /etc/s9s.conf."
    S9sNoCredentials "s9s-no-credentials"
        "The user that s9s.conf names has no password, and no key that s9s can read."
        "Syslog has the words of s9s. Add cmon_password to the s9s.conf of the service's user, or put a key without a passphrase into the folder of that file. The user must be able to read the key: cmonhachk(8), CREDENTIALS."
    S9sNoUser "s9s-no-user"
        "No s9s.conf names a user."
        "Give the service's user one. As root, this copies root's:\n  install -o cmonhachk -m 600 -t /var/lib/cmonhachk/.s9s /root/.s9s/s9s.conf /root/.s9s/*.key\nA separate cmon user is better: cmonhachk(8), CREDENTIALS."
    S9sFailed "s9s-failed"
        "s9s ended with an error."
        "Syslog has its exit status and what it printed."
    ListUnreadable "list-unreadable"
        "s9s printed something that is no controller list."
        "Compare `s9s controller --list --long` with the format in cmonhachk(8). Until the list is readable, no node is leader."
    NoControllers "no-controllers"
        "The list holds no controllers."
        "Either CMON HA is not enabled here, or this is a Controller Pool, which has no leader, or this is not the controller that manages your clusters. Do not enable CMON HA just to fix this: afterwards, every cluster of that controller must be imported again."
    NotListed "not-listed"
        "None of this node's addresses has a row in the list."
        "Compare RPC_BIND_ADDRESSES with the IP and NAME columns of `s9s controller --list --long`."
    RowsDisagree "rows-disagree"
        "Several rows of the list have an address or a name of this node, and they differ."
        "Two controllers are registered under this node's address or name. Remove the stale one."
    SeveralLeaders "split"
        "More than one controller says that it leads."
        "A split or a handover is in progress. If it lasts, look at the network between the controllers and at cmon's log."
    Offline "offline"
        "The list says that this node's controller is not online."
        "Look at cmon on this node. The list came from another controller."
    NoRole "no-role"
        "This node's controller is online but neither leader nor follower."
        "An election or a start is in progress. If it lasts, look at cmon's log."
}

impl Reason {
    /// The short code that the `Cmonhachk-Reason` header carries. Codes are fixed: HAProxy
    /// configurations and scripts match on them.
    pub fn code(self) -> &'static str {
        self.texts()[0]
    }

    /// What has happened, as a sentence for the operator.
    pub fn meaning(self) -> &'static str {
        self.texts()[1]
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(self) -> &'static str {
        self.texts()[2]
    }

    /// The reason that has this code.
    pub fn from_code(code: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// Whether the controller refused the user or the password: asking again may get the user suspended.
    pub fn is_refusal(self) -> bool {
        matches!(self, Reason::S9sRefused | Reason::S9sSuspended)
    }

    /// A fault with this reason.
    pub fn because(self, detail: impl Into<anyhow::Error>) -> Fault {
        Fault {
            reason: self,
            detail: detail.into(),
        }
    }
}

/// A reason, with the error that led to it: what failed, on what.
#[derive(Debug)]
pub struct Fault {
    /// What the client is told.
    pub reason: Reason,
    /// What the operator is told. It can hold any text: clean it before it is shown.
    pub detail: anyhow::Error,
}
