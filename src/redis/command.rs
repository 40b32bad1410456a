//! Each command ever sent, with one short function each, and whether it may be sent twice.

use std::marker::PhantomData;

use bytes::Bytes;

use super::info::Info;
use super::slot::{Range, slot};

/// May be sent twice: it changes nothing. Without an answer, nothing was changed.
#[derive(Debug, Clone, Copy)]
pub enum Repeatable {}

/// Changes data, so it is never sent twice by the gateway. Without an answer its outcome is unknown.
#[derive(Debug, Clone, Copy)]
pub enum Once {}

/// The answer to one question, carried by a command's type: may this be sent twice?
pub trait Repeat: Send + 'static {
    /// True if it may.
    const REPEATABLE: bool;
}

impl Repeat for Repeatable {
    const REPEATABLE: bool = true;
}

impl Repeat for Once {
    const REPEATABLE: bool = false;
}

/// One command with its arguments, whether it may be sent twice (`R`), and what its reply is read as (`T`).
#[derive(Debug)]
pub struct Command<R, T> {
    pub(super) name: &'static str,
    pub(super) args: Vec<Bytes>,
    reply: PhantomData<fn() -> (R, T)>,
}

impl<R, T> Clone for Command<R, T> {
    fn clone(&self) -> Self {
        Command::new(self.name, self.args.clone())
    }
}

impl<R, T> Command<R, T> {
    pub(super) fn new(name: &'static str, args: Vec<Bytes>) -> Self {
        Command {
            name,
            args,
            reply: PhantomData,
        }
    }
}

impl<R, T> Command<R, T> {
    /// The slot of the first of its keys; none if any server will do. Commands of several slots are nobody's.
    pub(super) fn slot(&self) -> Option<u16> {
        let key = match self.name {
            "EVALSHA" => self.args.get(2),
            "CLIENT" | "CLUSTER" | "CONFIG" | "INFO" | "PING" | "PUBLISH" | "SCAN" | "SCRIPT" | "TIME" | "DBSIZE" => {
                None
            }
            "MEMORY" => self.args.get(1),
            _ => self.args.first(),
        };
        key.map(|key| slot(key))
    }
}

/// Whether a `SET` takes a key that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leaves it as it is: `NX`.
    Keep,
    /// Replaces it, its TTL too.
    Replace,
}

/// `PING`
pub fn ping() -> Command<Repeatable, Bytes> {
    Command::new("PING", Vec::new())
}

/// `MULTI`: `OK`; from now on commands are only queued, and dropped with the connection.
pub(super) fn multi() -> Command<Repeatable, Bytes> {
    Command::new("MULTI", Vec::new())
}

/// `PING text`: the text.
pub(super) fn echo_ping(text: Bytes) -> Command<Repeatable, Bytes> {
    Command::new("PING", vec![text])
}

/// `CLIENT INFO`: what the server knows of this connection, `sub=` its subscriptions among it.
pub(super) fn client_info() -> Command<Repeatable, Bytes> {
    Command::new("CLIENT", vec![Bytes::from_static(b"INFO")])
}

/// `CLIENT SETNAME name`: what `CLIENT LIST` shows of this connection. `OK`.
pub(super) fn client_setname(name: &'static str) -> Command<Repeatable, Bytes> {
    let args = [b"SETNAME".as_slice(), name.as_bytes()].map(Bytes::from_static);
    Command::new("CLIENT", args.into())
}

/// `PING` on a connection that has subscribed by RESP2: `pong`, and the text.
pub(super) fn subscribed_ping() -> Command<Repeatable, (Bytes, Bytes)> {
    Command::new("PING", Vec::new())
}

/// `CLIENT ID`: the number of this connection.
pub fn client_id() -> Command<Repeatable, i64> {
    Command::new("CLIENT", vec![Bytes::from_static(b"ID")])
}

/// `CLIENT TRACKING ON REDIRECT id BCAST PREFIX prefix …`: tells the connection of that number of each key that is changed and
/// begins so.
pub(super) fn client_tracking(id: i64, prefixes: &[Bytes]) -> Command<Repeatable, Bytes> {
    let words = ["TRACKING", "ON", "REDIRECT"].map(|word| Bytes::from_static(word.as_bytes()));
    let mut args = Vec::from(words);
    args.extend([Bytes::from(id.to_string()), Bytes::from_static(b"BCAST")]);
    for prefix in prefixes {
        args.extend([Bytes::from_static(b"PREFIX"), prefix.clone()]);
    }
    Command::new("CLIENT", args)
}

/// `CLIENT LIST`: a line for each connection.
pub fn client_list() -> Command<Repeatable, Bytes> {
    Command::new("CLIENT", vec![Bytes::from_static(b"LIST")])
}

/// `CLIENT NO-TOUCH ON`: `OK`; what this connection reads does not count as used. From Redis 7.2 on.
pub fn client_no_touch() -> Command<Repeatable, Bytes> {
    let words = [b"NO-TOUCH".as_slice(), b"ON"].map(Bytes::from_static);
    Command::new("CLIENT", words.into())
}

/// `INFO section`: what the server says of itself.
pub fn info(section: &'static str) -> Command<Repeatable, Info> {
    Command::new("INFO", vec![Bytes::from_static(section.as_bytes())])
}

/// `READONLY`: `OK`; a replica of a Cluster then answers reads itself.
pub(super) fn readonly() -> Command<Repeatable, Bytes> {
    Command::new("READONLY", Vec::new())
}

/// `ASKING`: `OK`; the next command may be for a slot that is on its way to the server.
pub(super) fn asking() -> Command<Repeatable, Bytes> {
    Command::new("ASKING", Vec::new())
}

/// `CLUSTER SLOTS`: which servers have which slots.
pub(super) fn cluster_slots() -> Command<Repeatable, Vec<Range>> {
    Command::new("CLUSTER", vec![Bytes::from_static(b"SLOTS")])
}

/// `CLUSTER INFO`: whether the cluster serves, as the server sees it, and how old its view is.
pub fn cluster_info() -> Command<Repeatable, Info> {
    Command::new("CLUSTER", vec![Bytes::from_static(b"INFO")])
}

/// `TIME`: seconds since 1970 UTC, and microseconds.
pub fn time() -> Command<Repeatable, (Bytes, Bytes)> {
    Command::new("TIME", Vec::new())
}

/// `GET key`: the value, or none.
pub fn get(key: Bytes) -> Command<Repeatable, Option<Bytes>> {
    Command::new("GET", vec![key])
}

/// `MGET key …`: one value, or none, for each key in turn; a key of another type is none.
pub fn mget(keys: Vec<Bytes>) -> Command<Repeatable, Vec<Option<Bytes>>> {
    Command::new("MGET", keys)
}

/// `SET key value [NX] [EX seconds]`: `OK`, or none if `NX` found the key there.
pub fn set(key: Bytes, value: Bytes, existing: Existing, ttl: Option<u64>) -> Command<Once, Option<Bytes>> {
    let mut args = Vec::with_capacity(5);
    args.extend([key, value]);
    if existing == Existing::Keep {
        args.push(Bytes::from_static(b"NX"));
    }
    if let Some(seconds) = ttl {
        args.extend([Bytes::from_static(b"EX"), number(seconds)]);
    }
    Command::new("SET", args)
}

/// `DEL key …`: how many were there.
pub fn del(keys: Vec<Bytes>) -> Command<Once, i64> {
    Command::new("DEL", keys)
}

/// `EXPIRE key seconds`: whether the key was there.
pub fn expire(key: Bytes, seconds: u64) -> Command<Once, bool> {
    Command::new("EXPIRE", vec![key, number(seconds)])
}

/// `TTL key`: seconds left, -1 without a TTL, -2 without a key.
pub fn ttl(key: Bytes) -> Command<Repeatable, i64> {
    Command::new("TTL", vec![key])
}

/// `PTTL key`: milliseconds left, -1 without a TTL, -2 without a key. One whose time is over is gone by this, and all hear of it.
pub fn pttl(key: Bytes) -> Command<Repeatable, i64> {
    Command::new("PTTL", vec![key])
}

/// `TYPE key`: `none` without a key.
pub fn type_of(key: Bytes) -> Command<Repeatable, Bytes> {
    Command::new("TYPE", vec![key])
}

/// `MEMORY USAGE key`: bytes that a key takes, by a sample of five where it has many parts; none without a key.
pub fn memory_usage(key: Bytes) -> Command<Repeatable, Option<i64>> {
    Command::new("MEMORY", vec![Bytes::from_static(b"USAGE"), key])
}

/// `DBSIZE`: how many keys there are.
pub fn dbsize() -> Command<Repeatable, i64> {
    Command::new("DBSIZE", Vec::new())
}

/// `LLEN key`: the list's length.
pub fn llen(key: Bytes) -> Command<Repeatable, i64> {
    Command::new("LLEN", vec![key])
}

/// `LINDEX key index`: the entry, by -1 the last one; none past the ends.
pub fn lindex(key: Bytes, index: i64) -> Command<Repeatable, Option<Bytes>> {
    Command::new("LINDEX", vec![key, Bytes::from(index.to_string())])
}

/// `RPUSH key value …`: the list's new length.
pub fn rpush(key: Bytes, values: impl IntoIterator<Item = Bytes>) -> Command<Once, i64> {
    Command::new("RPUSH", std::iter::once(key).chain(values).collect())
}

/// `HGETALL key`: fields and values in turn; empty without a key.
pub fn hgetall(key: Bytes) -> Command<Repeatable, Vec<Bytes>> {
    Command::new("HGETALL", vec![key])
}

/// `SCAN cursor MATCH pattern COUNT count`: where to go on, and keys that were found; 0 is the beginning and the end.
pub fn scan(cursor: u64, pattern: impl Into<Bytes>, count: u64) -> Command<Repeatable, (Bytes, Vec<Bytes>)> {
    let (matching, counting) = (Bytes::from_static(b"MATCH"), Bytes::from_static(b"COUNT"));
    let args = vec![number(cursor), matching, pattern.into(), counting, number(count)];
    Command::new("SCAN", args)
}

/// `PUBLISH channel message`: how many subscribers got it.
pub fn publish(channel: Bytes, message: Bytes) -> Command<Once, i64> {
    Command::new("PUBLISH", vec![channel, message])
}

/// `CONFIG GET parameter`: its name and its value.
pub fn config_get(parameter: &'static str) -> Command<Repeatable, Vec<Bytes>> {
    let args = vec![Bytes::from_static(b"GET"), Bytes::from_static(parameter.as_bytes())];
    Command::new("CONFIG", args)
}

/// `CONFIG SET parameter value`: `OK`.
pub fn config_set(parameter: &'static str, value: Bytes) -> Command<Once, Bytes> {
    let args = vec![Bytes::from_static(b"SET"), Bytes::from_static(parameter.as_bytes())];
    Command::new("CONFIG", args.into_iter().chain([value]).collect())
}

/// `BLPOP key … seconds`: the key that had an element, and the element; none when the time ran out.
pub(super) fn blpop(keys: &[Bytes], seconds: f64) -> Command<Once, Option<(Bytes, Bytes)>> {
    let timeout = Bytes::from(format!("{seconds:.3}"));
    Command::new("BLPOP", keys.iter().cloned().chain([timeout]).collect())
}

/// `EVALSHA sha1 numkeys key … arg …`
pub(super) fn evalsha<R, T>(sha1: &'static str, keys: Vec<Bytes>, args: Vec<Bytes>) -> Command<R, T> {
    let mut all = Vec::with_capacity(2 + keys.len() + args.len());
    all.extend([Bytes::from_static(sha1.as_bytes()), number(keys.len() as u64)]);
    all.extend(keys);
    all.extend(args);
    Command::new("EVALSHA", all)
}

/// `SCRIPT LOAD` of [`NOTHING`]: its SHA-1.
pub fn load_nothing() -> Command<Repeatable, Bytes> {
    script_load(NOTHING.0)
}

/// `EVALSHA` of [`NOTHING`]: 1.
pub fn eval_nothing() -> Command<Repeatable, i64> {
    evalsha(NOTHING.1, Vec::new(), Vec::new())
}

/// A script that does nothing, and its SHA-1.
const NOTHING: (&str, &str) = ("return 1", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");

/// `SCRIPT LOAD source`: its SHA-1.
pub(super) fn script_load(source: &'static str) -> Command<Repeatable, Bytes> {
    Command::new(
        "SCRIPT",
        vec![Bytes::from_static(b"LOAD"), Bytes::from_static(source.as_bytes())],
    )
}

/// A number as Redis takes it.
pub fn number(n: u64) -> Bytes {
    Bytes::from(n.to_string())
}
