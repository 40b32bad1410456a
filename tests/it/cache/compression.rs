//! Large values that travel compressed, and stand in Redis as they are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use redis_gateway::proto::{CacheSetRequest, cache_client::CacheClient};
use tonic::{body::Body, codec::CompressionEncoding::Gzip, transport::Channel};
use tower::ServiceExt as _;

use super::{Stand, fresh, setting};
use crate::harness::python_says;

/// About 1 MiB, as a registry keeps it.
fn tags() -> Bytes {
    let tag = |n: u32| {
        format!(
            "{{\"name\": \"v{n}\", \"manifest_digest\": \"sha256:{:08x}\"}}, ",
            n.wrapping_mul(2_654_435_761)
        )
    };
    (0..18_000).map(tag).collect::<String>().into()
}

fn item(key: &str, value: &Bytes) -> CacheSetRequest {
    CacheSetRequest {
        value: value.clone(),
        ..setting(key, "", true)
    }
}

/// What comes in for a Get, by who compresses and who reads what is compressed, after a Set of the same caller.
async fn came(channel: Channel, sends: bool, reads: bool, key: &str, value: &Bytes) -> usize {
    let came = Arc::new(AtomicUsize::new(0));
    let bytes = came.clone();
    let channel = channel.map_response(move |response: http::Response<Body>| {
        let bytes = bytes.clone();
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                bytes.fetch_add(frame.data_ref().map_or(0, Bytes::len), Relaxed);
                frame
            }))
        })
    });
    let mut client = CacheClient::new(channel);
    if sends {
        client = client.send_compressed(Gzip);
    }
    if reads {
        client = client.accept_compressed(Gzip);
    }
    assert!(client.set(item(key, value)).await.unwrap().into_inner().stored);
    came.store(0, Relaxed);
    let got = client.get(fresh(key)).await.unwrap().into_inner();
    assert!(got.value.as_ref() == Some(value));
    came.load(Relaxed)
}

#[tokio::test]
async fn values_travel_compressed_for_who_compresses_and_stand_as_they_are() {
    let stand = Stand::new(1).await;
    let noise: Bytes = (0..1 << 20).map(|_| rand::random::<u8>()).collect();
    for (what, value, packs) in [
        ("tags", tags(), true),
        ("noise", noise, false),
        ("small", tags().slice(..1_000), false),
    ] {
        for (sends, reads) in [(false, false), (false, true), (true, false), (true, true)] {
            let channel = stand.gateways[0].channel().await;
            let came = came(channel, sends, reads, what, &value).await;
            let stands: Vec<u8> = stand.server.run(&["GET", what]).await;
            assert!(stands == value, "{what}");
            println!("{what}, sends {sends}, reads {reads}: {came} bytes for {}", value.len());
            if packs && sends && reads {
                assert!(came < value.len() / 3, "{came}");
            } else {
                assert!((value.len()..value.len() + 16).contains(&came), "{what}: {came}");
            }
        }
    }
    stand.stop().await;
}

/// As grpcio does it, which says in each call that it reads gzip: whether much less came, with and without compression.
const IN_PYTHON: &str = "
import socket, sys, threading
sys.path.insert(0, 'examples/python')
import grpc, redis
from redisgateway.v1 import cache_pb2 as pb, cache_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
host, gateway, port = sys.argv[1].split(':') + sys.argv[2:]
came = 0
def relay(source, target, counts):
    global came
    while data := source.recv(65536):
        came += len(data) if counts else 0
        target.sendall(data)
def accept(listener):
    while True:
        near, _ = listener.accept()
        far = socket.create_connection((host, int(gateway)))
        for way in ((near, far, False), (far, near, True)):
            threading.Thread(target=relay, args=way, daemon=True).start()
listener = socket.create_server(('127.0.0.1', 0))
threading.Thread(target=accept, args=(listener,), daemon=True).start()
value = b'{\"name\": \"latest\"}, ' * 50_000
def share(compression):
    with grpc.insecure_channel(f'127.0.0.1:{listener.getsockname()[1]}', compression=compression) as channel:
        stub, before = cache_pb2_grpc.CacheStub(channel), came
        assert stub.Set(pb.CacheSetRequest(key='key', value=value, overwrite=True)).stored
        assert stub.Get(pb.CacheGetRequest(key='key')).value == value
        assert redis.Redis(port=int(port)).get('key') == value
        # The channel compresses for all services.
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        return (came - before) / len(value)
print(share(grpc.Compression.Gzip) < 0.1, share(None) >= 1)
";

#[tokio::test]
async fn python_callers_get_them_compressed_if_they_compress() {
    let stand = Stand::new(1).await;
    let gateway = stand.gateways[0].grpc().to_string();
    let port = stand.server.addr().port().to_string();
    assert_eq!(python_says(IN_PYTHON, &[&gateway, &port]).await, "True True");
    stand.stop().await;
}
