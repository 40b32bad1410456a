"""health.py [SERVICE]: asks grpc.health.v1; fails unless the answer is SERVING."""

import sys

from grpc_health.v1 import health_pb2, health_pb2_grpc

from client import TIMEOUT, channel


def main(service=""):
    stub = health_pb2_grpc.HealthStub(channel())
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT, wait_for_ready=True)
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(f"{service or 'gateway'}: {name}")
    sys.exit(answer.status != health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    main(*sys.argv[1:])
