//! What the settings of one endpoint mean together.

use super::{
    Endpoint, EndpointName, Password, Server, Tls,
    draft::EndpointDraft,
    load::Chosen,
    problem::{Place, Problem},
    table::table,
};

/// Whether anything is set for the endpoint.
pub(super) fn configured(chosen: &Chosen, name: EndpointName) -> bool {
    chosen.values().any(|(setting, _)| setting.endpoint() == Some(name))
}

/// The checks of one endpoint.
pub(super) struct Checks<'a> {
    pub name: EndpointName,
    pub chosen: &'a mut Chosen,
    pub problems: &'a mut Vec<Problem>,
    pub warnings: &'a mut Vec<Problem>,
}

impl Checks<'_> {
    /// The endpoint; none if it names no server, which is a problem then.
    pub(super) fn build(mut self, mut draft: EndpointDraft) -> Option<Endpoint> {
        match self.one_of("host", "socket") {
            Some("host") => draft.socket = None,
            _ => draft.host = draft.host.filter(|_| draft.socket.is_none()),
        }
        match self.one_of("password", "password_file") {
            Some("password") => draft.password_file = None,
            _ => draft.password = draft.password.filter(|_| draft.password_file.is_none()),
        }
        self.server();
        self.tls(&draft);
        if self.given("username") && !self.given("password") && !self.given("password_file") {
            self.warn(
                "username",
                "is used without a password: right only for a user with nopass",
            );
        }
        let password = match (draft.password, draft.password_file) {
            (_, Some(file)) => Some(Password::File(file)),
            (Some(password), None) => Some(Password::Inline(password)),
            (None, None) => None,
        };
        let tls = draft.tls.then_some(Tls {
            ca_file: draft.ca_file,
            cert_file: draft.cert_file,
            key_file: draft.key_file,
            insecure: draft.insecure,
        });
        let server = match (draft.host, draft.socket) {
            (Some(host), _) => Server::Tcp { host, port: draft.port },
            (None, socket) => Server::Unix(socket?),
        };
        Some(Endpoint {
            server,
            replicas: draft.replicas,
            max_staleness: draft.max_staleness,
            db: draft.db,
            username: draft.username,
            password,
            tls,
            connect_timeout: draft.connect_timeout,
            command_timeout: draft.command_timeout,
            max_in_flight: draft.max_in_flight,
            probe_interval: draft.probe_interval,
            probe_timeout: draft.probe_timeout,
            reconnect_max_delay: draft.reconnect_max_delay,
        })
    }

    /// Of two that exclude each other, the one that is given. A higher layer's takes the place of a lower layer's; two
    /// in one layer are a problem.
    fn one_of(&mut self, first: &'static str, second: &'static str) -> Option<&'static str> {
        let places = (self.place(first).cloned(), self.place(second).cloned());
        match places {
            (None, None) => None,
            (Some(_), None) => Some(first),
            (None, Some(_)) => Some(second),
            (Some(a), Some(b)) if a.layer() > b.layer() => {
                self.chosen.remove(self.path(second).as_str());
                Some(first)
            }
            (Some(a), Some(b)) if a.layer() < b.layer() => {
                self.chosen.remove(self.path(first).as_str());
                Some(second)
            }
            (Some(a), Some(_)) => {
                self.problem(second, &format!("{first} is set too ({a}): keep one"));
                None
            }
        }
    }

    fn server(&mut self) {
        if self.given("socket") {
            match self.place("port").map(Place::layer) {
                None => {}
                // The port of a host that a higher layer's socket has replaced.
                Some(port) if self.place("socket").is_some_and(|socket| socket.layer() > port) => {
                    self.chosen.remove(self.path("port").as_str());
                }
                Some(_) if self.given("host") => {}
                Some(_) => self.problem(
                    "port",
                    "a socket has no port: leave it out, or set host instead of socket",
                ),
            }
        } else if !self.given("host") {
            let name = self.name.as_str();
            let first = table().iter().find(|setting| {
                setting.endpoint() == Some(self.name) && self.chosen.contains_key(setting.path.as_str())
            });
            if let Some((_, given)) = first.and_then(|setting| self.chosen.get(setting.path.as_str())) {
                let what = format!("endpoints.{name} names no server: set endpoints.{name}.host or .socket");
                let problem = Problem::new(&given.place, what);
                self.problems.push(problem);
            }
        }
    }

    fn tls(&mut self, draft: &EndpointDraft) {
        if !self.given("tls.enabled") {
            for leaf in ["tls.ca_file", "tls.cert_file", "tls.key_file", "tls.verify"] {
                if self.given(leaf) {
                    self.problem(
                        leaf,
                        "does nothing without TLS: set tls.enabled to true, or to false if that is meant",
                    );
                }
            }
            return;
        }
        if !draft.tls {
            return;
        }
        if self.given("socket") && !self.given("host") {
            self.problem(
                "tls.enabled",
                "a socket has no TLS: set host instead of socket, or tls.enabled to false",
            );
        }
        for (one, other) in [("tls.cert_file", "tls.key_file"), ("tls.key_file", "tls.cert_file")] {
            if self.given(one) && !self.given(other) {
                self.problem(one, &format!("needs {other} beside it"));
            }
        }
        if draft.insecure {
            let what = "the server's certificate is not checked: anyone on the way can read and change what is sent";
            self.warn("tls.verify", what);
        }
    }

    fn path(&self, leaf: &str) -> String {
        format!("endpoints.{}.{leaf}", self.name.as_str())
    }

    fn given(&self, leaf: &str) -> bool {
        self.chosen.contains_key(self.path(leaf).as_str())
    }

    fn place(&self, leaf: &str) -> Option<&Place> {
        self.chosen.get(self.path(leaf).as_str()).map(|(_, given)| &given.place)
    }

    fn problem(&mut self, leaf: &str, what: &str) {
        if let Some((_, given)) = self.chosen.get(self.path(leaf).as_str()) {
            self.problems.push(given.problem(&given.place, what));
        }
    }

    fn warn(&mut self, leaf: &str, what: &str) {
        if let Some((_, given)) = self.chosen.get(self.path(leaf).as_str()) {
            self.warnings.push(given.problem(&given.place, what));
        }
    }
}
