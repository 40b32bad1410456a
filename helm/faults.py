"""What happens to the gateways of `make monitoring`: nothing to one, and to the other all that has an alert."""

import contextlib
import threading

import traffic
from traffic import Callers, Gateway, Redis, eventually

PATTERNS = [
    traffic.of_build_logs, traffic.of_cache, traffic.of_content_tracker, traffic.of_locks, traffic.of_orchestrator,
    traffic.of_pull_metrics, traffic.of_user_events,
]  # fmt: skip
ENDPOINTS = ("build_logs", "user_events", "pull_metrics", "orchestrator")
# Long, so that a busy machine is no trouble of Redis.
PATIENT = {"connect_timeout": "10s", "command_timeout": "10s", "probe_timeout": "10s"}


def calm(folder, stack):
    """Callers of all patterns on a gateway whose cache has a replica, and callers of one whose cache is on a Cluster."""
    main, primary = (stack.enter_context(Redis(folder, f"calm-{name}")) for name in ("main", "primary"))
    replica = stack.enter_context(Redis(folder, "calm-replica", "--replicaof", f"127.0.0.1 {primary.port}"))
    cache = PATIENT | primary.address() | {"replicas": [f"127.0.0.1:{replica.port}"]}
    endpoints = dict.fromkeys(ENDPOINTS, PATIENT | main.address()) | {"cache": cache}
    gateway = stack.enter_context(Gateway(folder, "calm", {"endpoints": endpoints, "cache": {"near": {"prefixes": ["near/"]}}}))
    settled(gateway)

    node = stack.enter_context(Redis(folder, "calm-node", "--cluster-enabled", "yes", "--cluster-port", traffic.free_port()))
    node.direct().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    eventually(lambda: b"cluster_state:ok" in node.direct().execute_command("CLUSTER", "INFO"), "the cluster is whole")
    endpoints = {"cache": PATIENT | {"cluster": [f"127.0.0.1:{node.port}"]}}
    beside = stack.enter_context(Gateway(folder, "calm-cluster", {"endpoints": endpoints}))

    callers = stack.enter_context(Callers(gateway, *PATTERNS))
    callers.stream(traffic.listen(gateway.channel))
    callers.stream(traffic.tail(gateway.channel))
    callers.stream(traffic.hold(gateway.channel, "kept"))
    callers.watch("building/", acknowledges=True)
    return callers, stack.enter_context(Callers(beside, traffic.of_cache, traffic.of_content_tracker))


def settled(gateway):
    """Waits until the replica's lag is known."""
    lag = "redis_gateway_redis_replica_current_timestamp_seconds"
    eventually(lambda: gateway.total(lag) > 0, "the replica's lag is known")


class Faulty:
    """A gateway in trouble."""

    def __init__(self, folder, stack):
        # Alerts that are right where they fire, and need not.
        self.may_fire = set()
        self.logs, self.main, self.primary = (stack.enter_context(Redis(folder, name)) for name in ("logs", "main", "primary"))
        self.replica = stack.enter_context(Redis(folder, "replica", "--replicaof", f"127.0.0.1 {self.primary.port}"))
        main = PATIENT | self.main.address()
        endpoints = {
            "build_logs": PATIENT | self.logs.address(), "user_events": main, "orchestrator": main,
            "pull_metrics": main | {"command_timeout": "1s"},
            "cache": PATIENT | self.primary.address() | {"replicas": [f"127.0.0.1:{self.replica.port}"]},
        }  # fmt: skip
        settings = {
            "endpoints": endpoints, "readiness": ["build_logs"], "limits": {"max_streams": 12},
            "cache": {"near": {"prefixes": ["near/"]}}, "pull_metrics": {"buffer_bytes": "4KiB"},
            "orchestrator": {"ack_timeout": "100ms", "look_interval": "200ms"},
        }  # fmt: skip
        refuse(self.main, "-config")
        self.gateway = stack.enter_context(Gateway(folder, "faulty", settings))
        settled(self.gateway)
        self.channel = self.gateway.channel
        patterns = (pattern for pattern in PATTERNS if pattern not in (traffic.of_locks, traffic.of_user_events))
        self.callers = stack.enter_context(Callers(self.gateway, *patterns, large_events))

    def stages(self, seen):
        """One trouble after the other; each is a block, whose alerts it tells. `seen` is whether Prometheus has seen a value."""
        return [self.misled(), self.slow(), self.flapping(), self.gone(), self.restarted(seen), self.killed()]

    @contextlib.contextmanager
    def misled(self):
        """Redis answers, but not as it should, and neither do callers."""
        self.lose_locks()
        self.leave_claims()
        self.callers.watch("building/", acknowledges=False)
        self.callers.watch("slow/", acknowledges=False, reads=False)
        listener = traffic.listen(self.channel)
        next(listener)
        self.callers.streams.append(listener)
        self.callers.run(self.callers.repeat, large_keys)
        self.replica.direct().execute_command("REPLICAOF", "127.0.0.1", "1")
        refuse(self.primary, "-client|tracking")
        self.primary.direct().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        refuse(self.logs, "-rpush", "-set")
        self.callers.run(self.callers.repeat, self.one_stream_more)
        yield {
            "RedisGatewayLocksLost", "RedisGatewayLocksStuck", "RedisGatewayClaimsAbandoned", "RedisGatewayPullsCountedTwice",
            "RedisGatewayExpiriesUnacknowledged", "RedisGatewayStreamGaps", "RedisGatewayEventsDropped",
            "RedisGatewayReplicaLags", "RedisGatewayNearCacheOff", "RedisGatewayRedisRefuses", "RedisGatewayCannotWrite",
            "RedisGatewayCallsFail", "RedisGatewayOverloaded", "RedisGatewayNotificationsOff", "RedisGatewayNotReady",
        }  # fmt: skip

    def lose_locks(self):
        """One is deleted under its holder, another one has no end."""
        self.callers.stream(traffic.hold(self.channel, "deleted"))
        self.main.direct().delete("lock:deleted")
        stub = traffic.locks_pb2_grpc.LocksStub(self.channel)
        stub.Acquire(traffic.locks.AcquireRequest(name="stuck"), timeout=20)
        self.callers.streams.append(stub.Acquire.future(traffic.locks.AcquireRequest(name="stuck", wait_ms=600_000), timeout=600))

    def leave_claims(self):
        """Keys of one are another's when it is committed, another one is not seen through; and there is a key that adds nothing."""
        stub, redis = traffic.pull_metrics_pb2_grpc.PullMetricsStub(self.channel), self.main.direct(1)

        def claim(seconds):
            redis.hset(f"pull_events:repo:2:tag:whole:{traffic.DIGEST}", mapping={"repository_id": 2})
            ask = traffic.pulls.ClaimPullsRequest(max_keys=100, lease_seconds=seconds)
            answer = stub.ClaimPulls(ask, timeout=20)
            return answer.keys and answer.claim_id

        lost = eventually(lambda: claim(60), "a claim has keys")
        for key in redis.scan_iter("pull_events:*:processing:*"):
            redis.delete(key)
        stub.CommitClaim(traffic.pulls.CommitClaimRequest(claim_id=lost), timeout=20)
        eventually(lambda: claim(1), "a claim has keys")

    def one_stream_more(self, channel, n):
        """Streams are opened until there is no room for more, and asked for all the same."""
        stream = traffic.tail(channel)
        next(stream)
        self.callers.streams.append(stream)

    @contextlib.contextmanager
    def slow(self):
        """Redis answers late, of some calls too late. Whether it is silent for so long that it counts as down, chance decides."""
        self.may_fire = {"RedisGatewayRedisDown"}
        ended, redis = threading.Event(), self.main.direct()

        def stall():
            while not ended.is_set():
                redis.execute_command("DEBUG", "SLEEP", "1.8")

        thread = threading.Thread(target=stall)
        thread.start()
        try:
            yield {"RedisGatewayCallsSlow", "RedisGatewayRedisTimesOut"}
        finally:
            ended.set()
            thread.join()

    @contextlib.contextmanager
    def flapping(self):
        """Connections are lost each time that they stand again."""
        redis, up, gaps = self.main.direct(), "redis_gateway_redis_up", "redis_gateway_user_events_gaps_total"
        servers = self.gateway.total(up)
        for _ in range(8):
            before = self.gateway.total(gaps)
            for kind in ("normal", "pubsub"):
                redis.execute_command("CLIENT", "KILL", "TYPE", kind)
            again = lambda: self.gateway.total(gaps) > before and self.gateway.total(up) == servers  # noqa: E731, B023
            eventually(again, "the connections stand again")
        yield {"RedisGatewayConnectionsFlap", "RedisGatewaySubscriptionsLost"}

    @contextlib.contextmanager
    def gone(self):
        """No Redis is there."""
        for server in (self.logs, self.main, self.primary, self.replica):
            server.kill()
        self.callers.run(self.callers.repeat, buffered_pulls)
        yield {
            "RedisGatewayRedisDown", "RedisGatewayReplicaDown", "RedisGatewayAnswersDegraded", "RedisGatewayPullsWait",
            "RedisGatewayPullBufferFills", "RedisGatewayPullsLost",
        }  # fmt: skip

    @contextlib.contextmanager
    def restarted(self, seen):
        """The gateway ends, and comes back each time."""
        for _ in range(3):
            self.gateway.kill()
            self.gateway.start()
            self.gateway.serves()
            started = self.gateway.total("process_start_time_seconds")
            eventually(lambda: seen(f'process_start_time_seconds{{namespace="faulty"}} == {started}'), "Prometheus sees it")  # noqa: B023
        yield {"RedisGatewayRestarts"}

    @contextlib.contextmanager
    def killed(self):
        self.gateway.kill()
        yield {"RedisGatewayDown"}


def refuse(server, *rights):
    """Takes rights from the user that the gateway is."""
    server.direct().execute_command("ACL", "SETUSER", "default", *rights)


def large_events(channel, n):
    traffic.of_user_events(channel, n, b'{"text": "%s"}' % (b"x" * 200_000))


def large_keys(channel, n):
    ask = traffic.orchestrator.OrchestratorSetRequest(key=f"slow/{n}", value=b'"%s"' % (b"x" * 200_000))
    traffic.orchestrator_pb2_grpc.OrchestratorStub(channel).Set(ask, timeout=20)


def buffered_pulls(channel, n):
    ask = traffic.pulls.TrackTagPullRequest(repository_id=3, tag=f"v{n}", digest=traffic.DIGEST, buffered=True)
    traffic.pull_metrics_pb2_grpc.PullMetricsStub(channel).TrackTagPull(ask, timeout=20)
