//! What the settings of one endpoint mean together.

use super::{
    Cluster, Endpoint, EndpointName, Password, Server, Tls,
    draft::EndpointDraft,
    load::Chosen,
    problem::{Place, Problem},
    table::table,
};

impl Endpoint {
    /// The user that it logs in as: Redis' own, unless another is configured.
    pub fn user(&self) -> &str {
        self.username.as_deref().unwrap_or("default")
    }
}

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
        for single in ["host", "socket"] {
            match self.one_of(single, "cluster") {
                Some("cluster") if single == "host" => draft.host = None,
                Some("cluster") => draft.socket = None,
                Some(_) => draft.cluster.clear(),
                None => {}
            }
        }
        match self.one_of("password", "password_file") {
            Some("password") => draft.password_file = None,
            _ => draft.password = draft.password.filter(|_| draft.password_file.is_none()),
        }
        self.server();
        self.cluster(&draft);
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
            (None, Some(socket)) => Server::Unix(socket),
            (None, None) => {
                (draft.replicas, draft.db) = (Vec::new(), 0);
                draft.cluster.first()?.clone()
            }
        };
        Some(Endpoint {
            server,
            cluster: (!draft.cluster.is_empty()).then_some(Cluster {
                servers: draft.cluster,
                read_from_replicas: draft.read_from_replicas,
            }),
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
        if self.given("cluster") {
            self.replaced_by(
                "cluster",
                "port",
                "a Cluster's servers have their ports with them: leave it out",
            );
        } else if self.given("socket") {
            if !self.given("host") {
                let what = "a socket has no port: leave it out, or set host instead of socket";
                self.replaced_by("socket", "port", what);
            }
        } else if !self.given("host") {
            let name = self.name.as_str();
            let first = table().iter().find(|setting| {
                setting.endpoint() == Some(self.name) && self.chosen.contains_key(setting.path.as_str())
            });
            if let Some((_, given)) = first.and_then(|setting| self.chosen.get(setting.path.as_str())) {
                let mut what = format!("endpoints.{name} names no server: set endpoints.{name}.host or .socket");
                if self.name == EndpointName::Cache {
                    what.push_str(" or .cluster");
                }
                let problem = Problem::new(&given.place, what);
                self.problems.push(problem);
            }
        }
    }

    /// What a Cluster excludes, and what it is needed for.
    fn cluster(&mut self, draft: &EndpointDraft) {
        if !self.given("cluster") {
            for single in ["host", "socket"] {
                let what = "does nothing without cluster: a single server's replicas are named in replicas";
                self.replaced_by(single, "read_from_replicas", what);
            }
            return;
        }
        let refused = match self.name {
            EndpointName::Cache => None,
            EndpointName::BuildLogs => Some("its health is checked on one server"),
            EndpointName::UserEvents | EndpointName::Locks => Some("a lock and its signal lie in different slots"),
            EndpointName::PullMetrics => Some("a flush looks through the keys of one server"),
            EndpointName::Orchestrator => Some("its scripts and notifications need one server"),
        };
        if let Some(why) = refused {
            let name = self.name.as_str();
            self.problem("cluster", &format!("{name} cannot be on a Cluster: {why}"));
        }
        let what = "a Cluster tells of its replicas by itself: set read_from_replicas instead";
        self.replaced_by("cluster", "replicas", what);
        if draft.db != 0 {
            self.replaced_by("cluster", "db", "a Cluster has no other database than 0");
        }
    }

    /// A setting that has no meaning beside `other`, where that is given: dropped if it is a lower layer's, else a problem.
    fn replaced_by(&mut self, other: &str, leaf: &str, what: &str) {
        let (Some(other), Some(own)) = (self.place(other), self.place(leaf)) else {
            return;
        };
        if other.layer() > own.layer() {
            self.chosen.remove(self.path(leaf).as_str());
        } else {
            self.problem(leaf, what);
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
