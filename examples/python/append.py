"""append.py BUILD_ID FILE: appends the lines of a file to a build's log, each once, whatever happens to connections."""

import sys

from client import Service, lines_of
from redisgateway.v1 import build_logs_pb2 as pb, build_logs_pb2_grpc

BATCH_ENTRIES = 500
BATCH_BYTES = 1 << 20


def batches(entries):
    batch, size = [], 0
    for entry in entries:
        if batch and (len(batch) == BATCH_ENTRIES or size + entry.ByteSize() > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.ByteSize()
    if batch:
        yield batch


def main(build_id, path):
    logs = Service(pb, build_logs_pb2_grpc.BuildLogsStub)
    entries = [pb.LogEntry(message=pb.LogMessage(message=line)) for line in lines_of(path)]
    # A page's answer names the log's length too: a build that has a log is continued.
    length = logs.call("ListEntries", pb.ListEntriesRequest(build_id=build_id, start=-1, page_size=1)).length
    for batch in batches(entries):
        request = pb.CompareAndAppendRequest(build_id=build_id, entries=batch, expected_length=length)
        answer = logs.call("CompareAndAppend", request)
        if not answer.appended:
            sys.exit(f"{build_id}: another writer is at this log: expected length {length}, found {answer.length}")
        length = answer.length
    print(f"{build_id}: {len(entries)} entries appended, length now {length}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
