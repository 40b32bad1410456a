"""What examples/python/flush.py writes, where a test with a gateway could not see it: order, age, half a transaction."""

import itertools
import unittest
from unittest import mock

from peer import Database

import flush
from redisgateway.v1 import pull_metrics_pb2 as pb

A, B = "sha256:aa", "sha256:bb"


def key(name, digest=A, count=1, last=None, tag="latest"):
    return pb.ClaimedKey(
        name=name, repository_id=1, tag=tag, digest=digest, pull_count=count, last_pull_timestamp=last
    )


def claim(*keys):
    """A claim with the sums of its keys, as long as no two of them add to the same row."""
    manifests, tags = [], []
    for k in keys:
        fields = dict(repository_id=1, digest=k.digest, pull_count=k.pull_count)
        if k.HasField("last_pull_timestamp"):
            fields["last_pull_timestamp"] = k.last_pull_timestamp
        manifests.append(pb.ManifestPulls(**fields))
        if k.tag:
            tags.append(pb.TagPulls(tag=k.tag, **fields))
    return pb.ClaimPullsResponse(claim_id="claim", keys=keys, manifests=manifests, tags=tags)


class DatabaseTest(unittest.TestCase):
    def setUp(self):
        self.database = Database(":memory:")
        self.addCleanup(self.database.sql.close)

    def rows(self, table):
        return self.database.sql.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()

    def names(self):
        return [row[0] for row in self.database.sql.execute("SELECT name FROM flushed_keys ORDER BY name")]

    def at(self, day):
        return mock.patch.object(flush.time, "time", lambda: day * flush.DAY)

    def test_a_key_adds_once_and_the_rest_of_its_claim_with_it(self):
        self.assertEqual(self.database.write(claim(key("one", count=3, last=5))), 0)
        self.assertEqual(self.database.write(claim(key("one", count=3, last=5), key("two", B, 4, tag=""))), 1)
        self.assertEqual(self.rows("manifest_pulls"), [(1, A, 3, 5), (1, B, 4, None)])
        self.assertEqual(self.rows("tag_pulls"), [(1, "latest", A, 3, 5)])

    def test_the_latest_pull_keeps_its_digest_in_any_order(self):
        keys = [key("one", A, 1, 10), key("two", B, 2, 20), key("three", A, 4)]
        for order in itertools.permutations(keys):
            self.setUp()
            for k in order:
                self.database.write(claim(k))
            self.assertEqual(self.rows("tag_pulls"), [(1, "latest", B, 7, 20)])
            self.assertEqual(self.rows("manifest_pulls"), [(1, A, 5, 10), (1, B, 2, 20)])

    def test_a_name_ages_once_its_key_is_deleted(self):
        with self.at(0):
            self.database.write(claim(key("gone"), key("stands", B, tag="")))
            self.database.deleted(["gone"])
        with self.at(7):
            self.database.write(claim())
            self.assertEqual(self.names(), ["gone", "stands"])
        with self.at(8):
            self.database.write(claim())
            self.assertEqual(self.names(), ["stands"])
        with self.at(366):
            self.database.write(claim())
            self.assertEqual(self.names(), [])

    def test_a_key_that_comes_back_is_known_and_its_name_young_again(self):
        with self.at(0):
            self.database.write(claim(key("one")))
            self.database.deleted(["one"])
        for day in [6, 12, 18]:
            with self.at(day):
                self.assertEqual(self.database.write(claim(key("one"))), 1)
        self.assertEqual(self.rows("manifest_pulls"), [(1, A, 1, None)])

    def test_a_write_that_fails_leaves_nothing(self):
        with mock.patch.object(self.database, "forget", side_effect=flush.sqlite3.OperationalError):
            with self.assertRaises(flush.sqlite3.OperationalError):
                self.database.write(claim(key("one")))
        self.assertEqual(self.rows("manifest_pulls") + self.rows("tag_pulls") + self.names(), [])
        self.assertEqual(self.database.write(claim(key("one"))), 0)


if __name__ == "__main__":
    unittest.main()
